"""The record of a gated audit: verdict and numbers, bound to the files by their digests.

record.json is an in-toto Statement v1 with the test-result predicate; what is ours in it begins
with kdlib_. It holds no text of any row. Signed, the same bytes stand in record.dsse.json, too: a
DSSE v1 envelope with an Ed25519 signature. Who has neither key nor files can read it, and nothing
more: a record that nobody signed is what its owner says.
"""

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from transformers.utils import cached_file

from kdlib import runs
from kdlib.audit import gate
from kdlib.audit.policy import PolicyFile
from kdlib.audit.secrets import PARTS
from kdlib.audit.summary import SAMPLE
from kdlib.config.sections import AuditSettings
from kdlib.data import scrubbing
from kdlib.errors import KdlibError
from kdlib.model import packaged

RECORD, ENVELOPE = "record.json", "record.dsse.json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"
PAYLOAD = "application/vnd.in-toto+json"
RESULT = {gate.PASS: "PASSED", gate.FAIL: "FAILED", gate.UNDECIDED: "WARNED"}
TESTS = {gate.PASS: "passedTests", gate.FAIL: "failedTests", gate.UNDECIDED: "warnedTests"}
FILES = {"data": "data", "held_out": "held-out"}  # settings that name a file, and their role
FOLDERS = ("model", "reference")
NEVER_TESTED = (  # whatever the settings
    "other prompts than these rows' own in this template, and dialogues",
    "text that comes back in other words or another language",
    "names, and other personal data without a form, that no column secrets names",
    "what filters around the model hold back, or let through",
    "models that are trained further, quantized or merged after this audit",
)


def sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_of(model: str) -> Path:
    """Where the files of a model lie that was loaded: a folder, a package's, or the hub's cache."""
    try:
        config = cached_file(str(packaged.resolve(model)), "config.json", local_files_only=True)
    except OSError:
        config = None
    if config is None:
        raise KdlibError(f"the files of '{model}' are not here, so no record can name them")
    return Path(config).parent


def files(settings: AuditSettings) -> dict[str, Path]:
    """The audited files by their name in a record, such as "model/config.json"."""
    values = settings.model_dump()
    paths = {
        f"{role}/{values[name].name}": values[name] for name, role in FILES.items() if values[name]
    }
    for role in FOLDERS:
        if values[role]:
            paths |= {f"{role}/{path.name}": path for path in model_files(folder_of(values[role]))}
    return paths


def digests(settings: AuditSettings) -> dict[str, str]:
    """The SHA-256 of the audited files by their name in a record.

    KdlibError: a model has weights where none are looked for.
    """
    paths = files(settings)
    for name, path in paths.items():
        if name.endswith(".index.json"):
            shards = set(json.loads(path.read_text("utf-8"))["weight_map"].values())
            if missing := sorted(shards - {shard.name for shard in model_files(path.parent)}):
                problem = f"{path} names {missing[0]}, which lies in no file beside it"
                raise KdlibError(f"{problem}, so that no record could bind it; put it there")
    return {name: sha256(path) for name, path in paths.items()}


def require_same(settings: AuditSettings, expected: Mapping[str, str]) -> None:
    """Refuse a record of other files than were measured."""
    if digests(settings) != expected:
        problem = "the model or the data has changed since it was measured"
        raise KdlibError(f"{problem}; remove {settings.out} and run the command again")


def model_files(folder: Path) -> list[Path]:
    """The files that a model is read from: none of folders below, no hidden ones, no Markdown."""
    visible = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path for path in visible if path.is_file() and path.suffix != ".md")


def statement(
    settings: AuditSettings, policy_file: PolicyFile, table: pd.DataFrame, audit: Mapping[str, Any]
) -> dict[str, Any]:
    """The record: `table` is of `gate.judged`, `audit` of `command.write_report`.

    KdlibError: the files are not those that were measured, `audit["files"]`.
    """
    require_same(settings, audit["files"])
    subject = [
        {
            "name": name,
            "digest": {"sha256": audit["files"][name]},
            "annotations": {"kdlib_path": os.path.relpath(path, settings.out)},
        }
        for name, path in files(settings).items()
    ]
    verdict, names = gate.outcome(table), table.groupby("outcome")["name"].agg(list)
    keys = ("precision", "limit", "device", "vocabulary", "rows", "secrets", "detected", "decode")
    fields = {name: audit[name] for name in keys}
    fields |= {"columns": settings.columns, "template": settings.template.model_dump()}
    template = settings.template.model_dump_json().encode()
    predicate = {
        "result": RESULT[verdict],
        "configuration": [{"name": policy_file.name, "digest": {"sha256": policy_file.sha256}}],
        **{field: names.get(outcome, []) for outcome, field in TESTS.items()},
        "kdlib_verdict": verdict,
        "kdlib_measures": json.loads(table.to_json(orient="records", double_precision=6)),
        "kdlib_policy": policy_file.policy.model_dump(mode="json"),
        "kdlib_earlier": _earlier(settings.out, policy_file),
        "kdlib_left_out": audit["left_out"],
        "kdlib_audit": fields | {"template_sha256": hashlib.sha256(template).hexdigest()},
        "kdlib_cost": audit["cost"],
        "kdlib_models": names_of(settings),
        "kdlib_not_tested": untested(settings, audit),
        "kdlib_versions": {"kdlib": version("kdlib"), "commit": runs.commit(), **runs.versions()},
        "kdlib_time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    header = {"_type": STATEMENT, "predicateType": PREDICATE}
    return header | {"subject": subject, "predicate": predicate}


def _earlier(folder: Path, policy_file: PolicyFile) -> list[dict[str, str]]:
    """What this audit said under other policies before, from the record that is replaced."""
    earlier: list[dict[str, str]] = []
    with suppress(OSError, ValueError, KeyError, TypeError):  # no record yet
        predicate = json.loads((folder / RECORD).read_text("utf-8"))["predicate"]
        (policy,) = predicate["configuration"]
        last = {"policy": policy["name"], "sha256": policy["digest"]["sha256"]}
        last |= {"verdict": predicate["kdlib_verdict"], "time": predicate["kdlib_time"]}
        earlier = [*predicate.get("kdlib_earlier", []), last]
    return [entry for entry in earlier if entry["sha256"] != policy_file.sha256]


def names_of(settings: AuditSettings) -> dict[str, str]:
    """What the models are called, by role: their folder's own name, or the name that was given."""
    models = {role: name for role in FOLDERS if (name := getattr(settings, role))}
    return {
        role: Path(name).resolve().name if Path(name).is_dir() else name
        for role, name in models.items()
    }


def untested(settings: AuditSettings, audit: Mapping[str, Any]) -> list[str]:
    """What this audit says nothing about, in words."""
    gaps = []
    if settings.held_out is None:
        gaps.append("guessing: no held-out rows were given, so none of it is told from memory")
    if settings.reference is None:
        gaps.append("attacks that know the model before its training: none was given")
    if audit["detected"] and audit["prompts"]:
        kinds = ", ".join(scrubbing.KINDS)
        gaps.append(f"named strings: there is no column secrets; looked for by form: {kinds}")
    for part in PARTS if audit["prompts"] else ():
        if part not in audit["secret_parts"]:
            gaps.append(f"strings in {part}s: none was found in the training rows")
    gaps += [f"runs in prompts: none has {length} tokens" for length in audit["short"]]
    gaps += audit["unlimited"]
    if not audit["decode"]:
        gaps.append("edit distances of what is written freely: no row was answered (--decode)")
    if not audit["prompts"]:
        reason = "the tokenizer does not say where in the text its tokens stand"
        gaps.append(f"prompts and strings: {reason}")
    reasons = {
        "too_long": "do not fit",
        "empty": "are empty",
        "cut": "are measured to the limit only",
    }
    for split, counts in audit["rows"].items():
        parts = [f"{counts[key]:,} {phrase}" for key, phrase in reasons.items() if counts[key]]
        if parts:
            gaps.append(f"{split.replace('_', '-')} rows, of which {', '.join(parts)}")
        if counts.get("lost"):
            gaps.append(f"{counts['lost']:,} strings, which stand behind a cut or at the beginning")
        if counts.get("unfound"):
            gaps.append(f"{counts['unfound']:,} strings of the column secrets stand in no row")
        if counts["measured"] > SAMPLE:
            gaps.append(f"{split.replace('_', '-')} rows but for {SAMPLE:,} drawn uniformly")
    return gaps + list(NEVER_TESTED)


def write(folder: Path, body: Mapping[str, Any], key: Any = None) -> Path:
    """Write the record, with its envelope where there is a key (of `private_key`); its path."""
    text = json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    (folder / ENVELOPE).unlink(missing_ok=True)  # it signs another record
    runs.write_text(folder / RECORD, text)
    if key is not None:
        payload = text.encode()
        signature = {"keyid": key_id(key.public_key()), "sig": _base64(key.sign(pae(payload)))}
        envelope = {"payloadType": PAYLOAD, "payload": _base64(payload), "signatures": [signature]}
        runs.write_text(folder / ENVELOPE, json.dumps(envelope, indent=1) + "\n")
    return folder / RECORD


def pae(payload: bytes, kind: str = PAYLOAD) -> bytes:
    """What is signed: DSSE's pre-authentication encoding of the payload and its type."""
    parts = (kind.encode(), payload)
    return b" ".join([b"DSSEv1", *(b"%d %s" % (len(part), part) for part in parts)])


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def private_key(path: Path) -> Any:
    """An Ed25519 key that signs, from a PEM file without a password."""
    return _key(path, "private")


def public_key(path: Path) -> Any:
    """An Ed25519 key that checks signatures, from a PEM file."""
    return _key(path, "public")


def _key(path: Path, kind: str) -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        remedy = "install kdlib with the extra 'sign'"
        raise KdlibError(f"keys need the package cryptography; {remedy}") from None
    if not path.is_file():
        raise KdlibError(f"key file {path} does not exist")
    expected = f"an Ed25519 {kind} key in PEM, without a password"
    with suppress(ValueError, TypeError):
        raw = path.read_bytes()
        if kind == "private":
            key: Any = serialization.load_pem_private_key(raw, None)
        else:
            key = serialization.load_pem_public_key(raw)
        if isinstance(key, ed25519.Ed25519PrivateKey | ed25519.Ed25519PublicKey):
            return key
    raise KdlibError(f"key file {path} holds no such key; it needs {expected}")


def key_id(key: Any) -> str:
    """SHA-256 of a public key (DER), 64 hex digits."""
    from cryptography.hazmat.primitives import serialization as forms

    encoding = (forms.Encoding.DER, forms.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(key.public_bytes(*encoding)).hexdigest()
