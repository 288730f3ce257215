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
    at: Mapping[str, Path] | None = None,
    roles: Collection[str] = ROLES,
) -> list[str]:
    """What is wrong with a record, in words; nothing where it holds.

    `key` is the public key that must have signed it; `at` says where what plays a role ("model",
    "data", ...) lies now, a folder or file, if not where it was. Only files of these `roles` are
    looked at: where a model is used, its rows need not be. KdlibError: it is no record, or the key
    is none.
    """
    body = read(path)
    found = [] if key is None else _signature(path, record.public_key(key))
    if key is None and path.with_name(record.ENVELOPE).exists():
        found = _same_bytes(path, _envelope(path))
    named = [one for one in body["subject"] if one["name"].split("/")[0] in roles]
    return found + _files(named, path.parent, at or {})


def held(path: Path, key: Path | None) -> list[str]:
    """What is shown by a record without faults, in words."""
    body = read(path)
    said = [f"{len(body['subject'])} files are those that were audited."]
    found = body["predicate"]
    said.append(f"The gate: {found['kdlib_verdict']}, under {found['configuration'][0]['name']}.")
    for one in found.get("kdlib_earlier", []):  # older records have none
        said.append(f"Before, under {one['policy']} ({one['sha256'][:8]}): {one['verdict']}.")
    who = f"Signed by the key of {key}." if key else "Not checked: who wrote it; name a --key."
    return [*said, who]


def read(path: Path) -> dict[str, Any]:
    """A record, of which only the form is checked; KdlibError where it is none."""
    body = _json(path)
    try:
        known = (body["_type"], body["predicateType"]) == (record.STATEMENT, record.PREDICATE)
        for one in body["subject"]:
            known &= len(one["digest"]["sha256"]) == 64 and one["name"].count("/") == 1
            known &= isinstance(one["annotations"]["kdlib_path"], str)
        known &= len(body["subject"]) > 0 and "kdlib_verdict" in body["predicate"]
    except (TypeError, KeyError, AttributeError):
        known = False
    if not known:
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
        signatures = [base64.b64decode(one["sig"]) for one in envelope["signatures"]]
        return {"kind": str(envelope["payloadType"]), "payload": payload, "signatures": signatures}
    except (TypeError, KeyError, ValueError):
        where = path.with_name(record.ENVELOPE)
        raise KdlibError(f"{where} is no DSSE envelope; sign the record again") from None


def _same_bytes(path: Path, envelope: Mapping[str, Any]) -> list[str]:
    same = envelope["payload"] == path.read_bytes()
    return [] if same else [f"{path.name} has changed since it was signed"]


def _signature(path: Path, key: Any) -> list[str]:
    from cryptography.exceptions import InvalidSignature

    if not path.with_name(record.ENVELOPE).exists():
        return [f"{path.name} is not signed: there is no {record.ENVELOPE} beside it"]
    envelope = _envelope(path)
    signed = record.pae(envelope["payload"], envelope["kind"])
    for one in envelope["signatures"]:
        try:
            key.verify(one, signed)
        except InvalidSignature:
            continue
        wrong = [] if envelope["kind"] == record.PAYLOAD else [f"{path.name}: not a statement"]
        return wrong + _same_bytes(path, envelope)
    return [f"{path.name} was not signed by this key ({record.key_id(key)[:16]}...)"]


def _files(subject: Sequence[Mapping[str, Any]], folder: Path, at: Mapping[str, Path]) -> list[str]:
    found: list[str] = []
    listed: dict[str, tuple[Path, set[str]]] = {}
    for one in subject:
        name, was = one["name"], folder / one["annotations"]["kdlib_path"]
        role, file = name.split("/")
        there = at.get(role, was if role not in record.FOLDERS else was.parent)
        path = there / file if role in record.FOLDERS else there
        if role in record.FOLDERS:
            listed.setdefault(role, (there, set()))[1].add(file)
        if not path.is_file():
            found.append(f"{name} is missing: there is no {path}")
        elif record.sha256(path) != one["digest"]["sha256"]:
            found.append(f"{name} has changed: {path} is another file than was audited")
    for role, (there, known) in listed.items():
        names = {one.name for one in record.inside(there)} if there.is_dir() else set()
        more = sorted(names - known)
        found += [f"{role}/{name} was not there when it was audited" for name in more]
    return found
