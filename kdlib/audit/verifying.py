"""Whether a record holds: its signature, and the files that it names."""

import base64
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdlib.audit import record
from kdlib.errors import KdlibError

ROLES = (*record.FOLDERS, *record.FILES.values())


def faults(
    path: Path,
    key: Path | None = None,
    locations: Mapping[str, Path] | None = None,
    roles: Collection[str] = ROLES,
) -> list[str]:
    """What is wrong with a record, in words; nothing where it holds.

    `key` is the public key that must have signed it; `locations` say where what plays a role
    ("model", "data", ...) lies now, a folder or file, if not where it was. Only files of these
    `roles` are looked at: where a model is used, its rows need not be. KdlibError: it is no record,
    or the key is none.
    """
    body = read(path)
    problems = [] if key is None else _signature(path, record.public_key(key))
    if key is None and path.with_name(record.ENVELOPE).exists():
        problems = _same_bytes(path, _envelope(path))
    subjects = [subject for subject in body["subject"] if subject["name"].split("/")[0] in roles]
    return problems + _files(subjects, path.parent, locations or {})


def held(path: Path, key: Path | None) -> list[str]:
    """What is shown by a record without faults, in words."""
    body = read(path)
    lines = [f"{len(body['subject'])} files are those that were audited."]
    predicate = body["predicate"]
    lines.append(
        f"The gate: {predicate['kdlib_verdict']}, under {predicate['configuration'][0]['name']}."
    )
    for earlier in predicate.get("kdlib_earlier", []):  # older records have none
        lines.append(
            f"Before, under {earlier['policy']} ({earlier['sha256'][:8]}): {earlier['verdict']}."
        )
    signer = f"Signed by the key of {key}." if key else "Not checked: who wrote it; name a --key."
    return [*lines, signer]


def read(path: Path) -> dict[str, Any]:
    """A record, of which only the form is checked; KdlibError where it is none."""
    body = _json(path)
    try:
        valid = (body["_type"], body["predicateType"]) == (record.STATEMENT, record.PREDICATE)
        for subject in body["subject"]:
            valid &= len(subject["digest"]["sha256"]) == 64 and subject["name"].count("/") == 1
            valid &= isinstance(subject["annotations"]["kdlib_path"], str)
        valid &= len(body["subject"]) > 0 and "kdlib_verdict" in body["predicate"]
    except (TypeError, KeyError, AttributeError):
        valid = False
    if not valid:
        raise KdlibError(f"{path} is no record of an audit; name its {record.RECORD}")
    return body


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise KdlibError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise KdlibError(f"{path} is not valid JSON") from None


def _envelope(path: Path) -> dict[str, Any]:
    envelope = _json(path.with_name(record.ENVELOPE))
    try:
        payload = base64.b64decode(envelope["payload"], validate=True)
        signatures = [base64.b64decode(signature["sig"]) for signature in envelope["signatures"]]
        return {"kind": str(envelope["payloadType"]), "payload": payload, "signatures": signatures}
    except (TypeError, KeyError, ValueError):
        location = path.with_name(record.ENVELOPE)
        raise KdlibError(f"{location} is no DSSE envelope; sign the record again") from None


def _same_bytes(path: Path, envelope: Mapping[str, Any]) -> list[str]:
    same = envelope["payload"] == path.read_bytes()
    return [] if same else [f"{path.name} has changed since it was signed"]


def _signature(path: Path, key: Any) -> list[str]:
    from cryptography.exceptions import InvalidSignature

    if not path.with_name(record.ENVELOPE).exists():
        return [f"{path.name} is not signed: there is no {record.ENVELOPE} beside it"]
    envelope = _envelope(path)
    signed = record.pae(envelope["payload"], envelope["kind"])
    for signature in envelope["signatures"]:
        try:
            key.verify(signature, signed)
        except InvalidSignature:
            continue
        problems = [] if envelope["kind"] == record.PAYLOAD else [f"{path.name}: not a statement"]
        return problems + _same_bytes(path, envelope)
    return [f"{path.name} was not signed by this key ({record.key_id(key)[:16]}...)"]


def _files(
    subject: Sequence[Mapping[str, Any]], folder: Path, locations: Mapping[str, Path]
) -> list[str]:
    problems: list[str] = []
    folders: dict[str, tuple[Path, set[str]]] = {}
    for entry in subject:
        name, recorded = entry["name"], folder / entry["annotations"]["kdlib_path"]
        role, file = name.split("/")
        location = locations.get(role, recorded if role not in record.FOLDERS else recorded.parent)
        path = location / file if role in record.FOLDERS else location
        if role in record.FOLDERS:
            folders.setdefault(role, (location, set()))[1].add(file)
        if not path.is_file():
            problems.append(f"{name} is missing: there is no {path}")
        elif record.sha256(path) != entry["digest"]["sha256"]:
            problems.append(f"{name} has changed: {path} is another file than was audited")
    for role, (location, expected) in folders.items():
        present = (
            {file.name for file in record.model_files(location)} if location.is_dir() else set()
        )
        added = sorted(present - expected)
        problems += [f"{role}/{name} was not there when it was audited" for name in added]
    return problems
