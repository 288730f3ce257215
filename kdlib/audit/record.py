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
from kdlib.audit.policy import Read
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
NEVER = (  # whatever the settings
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
        found = cached_file(str(packaged.resolve(model)), "config.json", local_files_only=True)
    except OSError:
        found = None
    if found is None:
        raise KdlibError(f"the files of '{model}' are not here, so no record can name them")
    return Path(found).parent


def files(settings: AuditSettings) -> dict[str, Path]:
    """The audited files by their name in a record, such as "model/config.json"."""
    given = settings.model_dump()
    found = {
        f"{role}/{given[name].name}": given[name] for name, role in FILES.items() if given[name]
    }
    for role in FOLDERS:
        if given[role]:
            found |= {f"{role}/{one.name}": one for one in inside(folder_of(given[role]))}
    return found


def digests(settings: AuditSettings) -> dict[str, str]:
    """The SHA-256 of the audited files by their name in a record.

    KdlibError: a model has weights where none are looked for.
    """
    found = files(settings)
    for name, path in found.items():
        if name.endswith(".index.json"):
            shards = set(json.loads(path.read_text("utf-8"))["weight_map"].values())
            if lost := sorted(shards - {one.name for one in inside(path.parent)}):
                lies = f"{path} names {lost[0]}, which lies in no file beside it"
                raise KdlibError(f"{lies}, so that no record could bind it; put it there")
    return {name: sha256(path) for name, path in found.items()}


def require_same(settings: AuditSettings, known: Mapping[str, str]) -> None:
    """Refuse a record of other files than were measured."""
    if digests(settings) != known:
        changed = "the model or the data has changed since it was measured"
        raise KdlibError(f"{changed}; remove {settings.out} and run the command again")


def inside(folder: Path) -> list[Path]:
    """The files that a model is read from: none of folders below, no hidden ones, no Markdown."""
    there = (one for one in folder.iterdir() if not one.name.startswith("."))
    return sorted(one for one in there if one.is_file() and one.suffix != ".md")


def statement(
    settings: AuditSettings, asked: Read, table: pd.DataFrame, about: Mapping[str, Any]
) -> dict[str, Any]:
    """The record: `table` is of `gate.judged`, `about` of `command.write_report`.

    KdlibError: the files are not those that were measured, `about["files"]`.
    """
    require_same(settings, about["files"])
    subject = [
        {
            "name": name,
            "digest": {"sha256": about["files"][name]},
            "annotations": {"kdlib_path": os.path.relpath(path, settings.out)},
        }
        for name, path in files(settings).items()
    ]
    verdict, names = gate.outcome(table), table.groupby("outcome")["name"].agg(list)
    facts = ("precision", "limit", "device", "vocabulary", "rows", "secrets", "detected", "decode")
    how = {name: about[name] for name in facts}
    how |= {"columns": settings.columns, "template": settings.template.model_dump()}
    template = settings.template.model_dump_json().encode()
    predicate = {
        "result": RESULT[verdict],
        "configuration": [{"name": asked.name, "digest": {"sha256": asked.sha256}}],
        **{field: names.get(one, []) for one, field in TESTS.items()},
        "kdlib_verdict": verdict,
        "kdlib_measures": json.loads(table.to_json(orient="records", double_precision=6)),
        "kdlib_policy": asked.policy.model_dump(mode="json"),
        "kdlib_earlier": _earlier(settings.out, asked),
        "kdlib_left_out": about["left_out"],
        "kdlib_audit": how | {"template_sha256": hashlib.sha256(template).hexdigest()},
        "kdlib_cost": about["cost"],
        "kdlib_models": names_of(settings),
        "kdlib_not_tested": untested(settings, about),
        "kdlib_versions": {"kdlib": version("kdlib"), "commit": runs.commit(), **runs.versions()},
        "kdlib_time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    kind = {"_type": STATEMENT, "predicateType": PREDICATE}
    return kind | {"subject": subject, "predicate": predicate}


def _earlier(folder: Path, asked: Read) -> list[dict[str, str]]:
    """What this audit said under other policies before, from the record that is replaced."""
    before: list[dict[str, str]] = []
    with suppress(OSError, ValueError, KeyError, TypeError):  # no record yet
        found = json.loads((folder / RECORD).read_text("utf-8"))["predicate"]
        (policy,) = found["configuration"]
        last = {"policy": policy["name"], "sha256": policy["digest"]["sha256"]}
        last |= {"verdict": found["kdlib_verdict"], "time": found["kdlib_time"]}
        before = [*found.get("kdlib_earlier", []), last]
    return [one for one in before if one["sha256"] != asked.sha256]


def names_of(settings: AuditSettings) -> dict[str, str]:
    """What the models are called, by role: their folder's own name, or the name that was given."""
    given = {role: one for role in FOLDERS if (one := getattr(settings, role))}
    return {r: Path(one).resolve().name if Path(one).is_dir() else one for r, one in given.items()}


def untested(settings: AuditSettings, about: Mapping[str, Any]) -> list[str]:
    """What this audit says nothing about, in words."""
    said = []
    if settings.held_out is None:
        said.append("guessing: no held-out rows were given, so none of it is told from memory")
    if settings.reference is None:
        said.append("attacks that know the model before its training: none was given")
    if about["detected"] and about["prompts"]:
        kinds = ", ".join(scrubbing.KINDS)
        said.append(f"named strings: there is no column secrets; looked for by form: {kinds}")
    for part in PARTS if about["prompts"] else ():
        if part not in about["secret_parts"]:
            said.append(f"strings in {part}s: none was found in the training rows")
    said += [f"runs in prompts: none has {at} tokens" for at in about["short"]]
    said += about["unlimited"]
    if not about["decode"]:
        said.append("edit distances of what is written freely: no row was answered (--decode)")
    if not about["prompts"]:
        why = "the tokenizer does not say where in the text its tokens stand"
        said.append(f"prompts and strings: {why}")
    reasons = {
        "too_long": "do not fit",
        "empty": "are empty",
        "cut": "are measured to the limit only",
    }
    for split, counts in about["rows"].items():
        told = [f"{counts[key]:,} {words}" for key, words in reasons.items() if counts[key]]
        if told:
            said.append(f"{split.replace('_', '-')} rows, of which {', '.join(told)}")
        if counts.get("lost"):
            said.append(f"{counts['lost']:,} strings, which stand behind a cut or at the beginning")
        if counts.get("unfound"):
            said.append(f"{counts['unfound']:,} strings of the column secrets stand in no row")
        if counts["measured"] > SAMPLE:
            said.append(f"{split.replace('_', '-')} rows but for {SAMPLE:,} drawn uniformly")
    return said + list(NEVER)


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
    return b" ".join([b"DSSEv1", *(b"%d %s" % (len(one), one) for one in parts)])


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
    wanted = f"an Ed25519 {kind} key in PEM, without a password"
    with suppress(ValueError, TypeError):
        raw = path.read_bytes()
        if kind == "private":
            key: Any = serialization.load_pem_private_key(raw, None)
        else:
            key = serialization.load_pem_public_key(raw)
        if isinstance(key, ed25519.Ed25519PrivateKey | ed25519.Ed25519PublicKey):
            return key
    raise KdlibError(f"key file {path} holds no such key; it needs {wanted}")


def key_id(key: Any) -> str:
    """SHA-256 of a public key (DER), 64 hex digits."""
    from cryptography.hazmat.primitives import serialization as forms

    how = (forms.Encoding.DER, forms.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(key.public_bytes(*how)).hexdigest()
