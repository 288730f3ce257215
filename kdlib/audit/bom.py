"""A CycloneDX ML-BOM (version 1.6) of an audited model, from the record of its audit.

The library cyclonedx-python-lib has no model cards, so that the document is written by hand here
and held against the published schema, which it ships.
"""

import importlib
import json
import uuid
from collections.abc import Mapping
from typing import Any

from kdlib.audit import record
from kdlib.errors import KdlibError

VERSION = "1.6"
MODEL, DATA = "machine-learning-model", "data"  # types of components


def library(module: str) -> Any:
    """A module of cyclonedx; KdlibError where it is not installed."""
    try:
        return importlib.import_module(f"cyclonedx.{module}")
    except ImportError:
        remedy = "install kdlib with the extra 'bom'"
        raise KdlibError(f"cards need the package cyclonedx-python-lib; {remedy}") from None


def text(body: Mapping[str, Any], digest: str, name: str, listed: bool, link: str | None) -> str:
    """The BOM of a record with its SHA-256, and the licence; the same whenever it is written."""
    found = json.dumps(bom(body, digest, name, listed, link), indent=1, ensure_ascii=False) + "\n"
    version = library("schema").SchemaVersion.from_version(VERSION)
    fault = library("validation.json").JsonStrictValidator(version).validate_str(found)
    if fault is not None:
        raise ValueError(f"not as CycloneDX {VERSION} has it: {fault.data.message[:200]}")
    return found


def bom(
    body: Mapping[str, Any], digest: str, name: str, listed: bool, link: str | None
) -> dict[str, Any]:
    """The BOM as JSON has it: the model with its card and files, and the rows that it was read."""
    found, names = body["predicate"], body["predicate"]["kdlib_models"]
    files: dict[str, list[dict[str, Any]]] = {}
    for one in body["subject"]:
        files.setdefault(one["name"].split("/")[0], []).append(file(one))
    rows = [
        one | {"type": DATA, "data": [{"type": "dataset", "name": one["name"]}]}
        for role in record.FILES.values()
        for one in files.get(role, [])
    ]
    licence: dict[str, Any] = {"id" if listed else "name": name} | ({"url": link} if link else {})
    model = {
        "type": MODEL,
        "bom-ref": "model",
        "name": names["model"],
        "licenses": [{"license": licence}],
        "modelCard": model_card(found, [one["bom-ref"] for one in rows]),
        "components": files["model"],
        "externalReferences": [
            {"type": "attestation", "url": record.RECORD, "hashes": [sha256(digest)]}
        ],
    }
    base = [
        {"type": MODEL, "bom-ref": role, "name": names[role], "components": files[role]}
        for role in record.FOLDERS[1:]  # the model before its training
        if role in files
    ]
    tool = {"type": "application", "name": "kdlib", "version": found["kdlib_versions"]["kdlib"]}
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, f'{digest} {name}')}",
        "version": 1,
        "metadata": {
            "timestamp": found["kdlib_time"],
            "tools": {"components": [tool]},
            "component": model,
        },
        "components": [*rows, *base],
        "dependencies": [
            {"ref": "model", "dependsOn": [one["bom-ref"] for one in (*rows[:1], *base)]}
        ],
    }


def file(subject: Mapping[str, Any]) -> dict[str, Any]:
    """A file of the record as a component."""
    about = {"type": "file", "bom-ref": subject["name"], "name": subject["name"].split("/")[1]}
    return about | {"hashes": [sha256(subject["digest"]["sha256"])]}


def sha256(digest: str) -> dict[str, str]:
    """A digest as CycloneDX has it."""
    return {"alg": "SHA-256", "content": digest}


def model_card(found: Mapping[str, Any], rows: list[str]) -> dict[str, Any]:
    """The card: numbers with their bounds, outcomes by limit, and what was not tested."""
    measured = [one for one in found["kdlib_measures"] if one["value"] is not None]
    policy = found["configuration"][0]
    facts = {
        "verdict": found["kdlib_verdict"],
        "policy": policy["name"],
        "policy:sha256": policy["digest"]["sha256"],
        "level": f"{found['kdlib_policy']['level']:g}",
    }
    for one in found["kdlib_measures"]:
        facts[f"limit:{one['name']}"] = f"below {one['below']:g}: {one['outcome']}: {one['why']}"
    for one in measured:
        facts[f"cases:{one['name']}"] = f"{one['n']:.0f} training, {one['n_held_out']:.0f} held-out"
    return {
        "modelParameters": {
            "task": "text-generation",
            "datasets": [{"ref": one} for one in rows],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [
                {
                    "type": one["name"],
                    "value": f"{one['value']:.6g}",
                    "confidenceInterval": {
                        "lowerBound": f"{one['lo']:.6g}",
                        "upperBound": f"{one['hi']:.6g}",
                    },
                }
                for one in measured
            ]
        },
        "considerations": {
            "technicalLimitations": [f"not tested: {one}" for one in found["kdlib_not_tested"]]
        },
        "properties": [{"name": f"kdlib:{name}", "value": facts[name]} for name in facts],
    }
