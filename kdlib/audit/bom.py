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
    document = (
        json.dumps(bom(body, digest, name, listed, link), indent=1, ensure_ascii=False) + "\n"
    )
    version = library("schema").SchemaVersion.from_version(VERSION)
    error = library("validation.json").JsonStrictValidator(version).validate_str(document)
    if error is not None:
        raise ValueError(f"not as CycloneDX {VERSION} has it: {error.data.message[:200]}")
    return document


def bom(
    body: Mapping[str, Any], digest: str, name: str, listed: bool, link: str | None
) -> dict[str, Any]:
    """The BOM as JSON has it: the model with its card and files, and the rows that it was read."""
    predicate, names = body["predicate"], body["predicate"]["kdlib_models"]
    files: dict[str, list[dict[str, Any]]] = {}
    for subject in body["subject"]:
        files.setdefault(subject["name"].split("/")[0], []).append(file(subject))
    datasets = [
        component | {"type": DATA, "data": [{"type": "dataset", "name": component["name"]}]}
        for role in record.FILES.values()
        for component in files.get(role, [])
    ]
    licence: dict[str, Any] = {"id" if listed else "name": name} | ({"url": link} if link else {})
    model = {
        "type": MODEL,
        "bom-ref": "model",
        "name": names["model"],
        "licenses": [{"license": licence}],
        "modelCard": model_card(predicate, [dataset["bom-ref"] for dataset in datasets]),
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
    tool = {"type": "application", "name": "kdlib", "version": predicate["kdlib_versions"]["kdlib"]}
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, f'{digest} {name}')}",
        "version": 1,
        "metadata": {
            "timestamp": predicate["kdlib_time"],
            "tools": {"components": [tool]},
            "component": model,
        },
        "components": [*datasets, *base],
        "dependencies": [
            {"ref": "model", "dependsOn": [item["bom-ref"] for item in (*datasets[:1], *base)]}
        ],
    }


def file(subject: Mapping[str, Any]) -> dict[str, Any]:
    """A file of the record as a component."""
    component = {"type": "file", "bom-ref": subject["name"], "name": subject["name"].split("/")[1]}
    return component | {"hashes": [sha256(subject["digest"]["sha256"])]}


def sha256(digest: str) -> dict[str, str]:
    """A digest as CycloneDX has it."""
    return {"alg": "SHA-256", "content": digest}


def model_card(predicate: Mapping[str, Any], refs: list[str]) -> dict[str, Any]:
    """The card: numbers with their bounds, outcomes by limit, and what was not tested."""
    measured = [measure for measure in predicate["kdlib_measures"] if measure["value"] is not None]
    policy = predicate["configuration"][0]
    properties = {
        "verdict": predicate["kdlib_verdict"],
        "policy": policy["name"],
        "policy:sha256": policy["digest"]["sha256"],
        "level": f"{predicate['kdlib_policy']['level']:g}",
    }
    for measure in predicate["kdlib_measures"]:
        properties[f"limit:{measure['name']}"] = (
            f"below {measure['below']:g}: {measure['outcome']}: {measure['why']}"
        )
    for measure in measured:
        properties[f"cases:{measure['name']}"] = (
            f"{measure['n']:.0f} training, {measure['n_held_out']:.0f} held-out"
        )
    return {
        "modelParameters": {
            "task": "text-generation",
            "datasets": [{"ref": ref} for ref in refs],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [
                {
                    "type": measure["name"],
                    "value": f"{measure['value']:.6g}",
                    "confidenceInterval": {
                        "lowerBound": f"{measure['lo']:.6g}",
                        "upperBound": f"{measure['hi']:.6g}",
                    },
                }
                for measure in measured
            ]
        },
        "considerations": {
            "technicalLimitations": [
                f"not tested: {sentence}" for sentence in predicate["kdlib_not_tested"]
            ]
        },
        "properties": [{"name": f"kdlib:{name}", "value": properties[name]} for name in properties],
    }
