"""A model card and an ML-BOM of the model of a gated audit, both from its record alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, StrictUndefined

from kdlib import runs
from kdlib.audit import bom, record, verifying
from kdlib.errors import KdlibError

CARD, BOM = "card.md", "bom.cdx.json"
TEMPLATE = Path(__file__).with_name("card.md.j2")
# By measure: what is counted, or asked, at its setting.
MEANING = {
    "exact_rate": "the response's first {at:g} tokens (all, where it is shorter) come out word for "
    "word, given the prompt",
    "near_verbatim": "{at:.0%} of the response's tokens come out, each after the true ones before",
    "extractable": "the rest of the response comes out word for word, given the prompt and the "
    "first {at:.0%} of it",
    "discoverable": "the response's first 50 tokens come out word for word in one of {at:g} "
    "sampled answers, with a chance of one half",
    "greedy_run": "somewhere in the response {at:g} tokens in a row come out word for word, given "
    "all before them",
    "prompt_run": "somewhere in the prompt {at:g} tokens in a row come out word for word, given "
    "all before them",
    "edit_similarity": "{at:.0%} of the characters of a greedy answer are the response's (edit "
    "similarity)",
    "longest_run": "{at:.0%} of the response's words come in a row in a greedy answer",
    "secret_rate": "of {at}s with named strings, such as telephone numbers: one of them comes out "
    "word for word, given what stands before it",
    "secret_preferred": "of {at}s with named strings: one is likelier than a made-up one in its "
    "place (0.5 is a guess)",
    "auc": "who knows the score `{at}` of a training and a held-out response tells which is which "
    "(AUC; 0.5 is a guess)",
    "tpr_1pct": "a training response is found by the score `{at}` while 1 in 100 held-out ones is "
    "accused wrongly (0.01 is a guess)",
    "tpr_01pct": "a training response is found by the score `{at}` while 1 in 1,000 held-out ones "
    "is accused wrongly (0.001 is a guess)",
}
WHOLE = "the whole response comes out word for word, with its end, given the prompt"


@dataclass(frozen=True)
class Licence:
    """A licence by its identifier in the SPDX list, or another one by name and address."""

    name: str
    listed: bool
    link: str | None


def licence(name: str, link: str | None = None) -> Licence:
    """The licence that is meant; KdlibError: neither listed nor with a link to its text."""
    listed = bom.library("spdx").fixup_id(name)
    if listed is None and not (name.strip() and link):
        problem = f"--license {name}: the SPDX list of licences has no such identifier"
        raise KdlibError(f"{problem}; for another licence give its text's address, --license-link")
    return Licence(listed or name.strip(), listed is not None, link)


def write(path: Path, terms: Licence) -> list[Path]:
    """Write CARD and BOM beside a record; their paths.

    KdlibError: it is no record, one of another version, or the BOM does not fit its schema.
    """
    body, digest = verifying.read(path), record.sha256(path)
    try:
        texts = {CARD: card(body["predicate"], body["subject"], terms)}
        texts[BOM] = bom.text(body, digest, terms.name, terms.listed, terms.link)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"{path} lacks what a card needs ({type(error).__name__}: {error})"
        raise KdlibError(f"{problem}; run the audit again with this version") from None
    for name, text in texts.items():
        runs.write_text(path.with_name(name), text)
    return [path.with_name(name) for name in texts]


def card(predicate: Mapping[str, Any], subject: list[dict[str, Any]], terms: Licence) -> str:
    """The model card: metadata as the Hugging Face hub reads them, then the audit in words."""
    names, files = (
        predicate["kdlib_models"],
        {entry["name"]: entry["digest"]["sha256"] for entry in subject},
    )
    data_name = next(name for name in files if name.startswith("data/"))
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type="training-rows",
            dataset_name=data_name.removeprefix("data/"),
            dataset_revision=files[data_name],
            metric_type=measure["measure"],
            metric_name=measure["name"],
            metric_value=measure["value"],
            metric_args={name: measure[name] for name in ("lo", "hi", "below")}
            | {name: int(measure[name]) for name in ("n", "n_held_out")},
        )
        for measure in predicate["kdlib_measures"]
        if measure["value"] is not None
    ]
    license_fields: dict[str, Any] = {"license": terms.name.lower()}
    if not terms.listed:
        license_fields = {"license": "other", "license_name": terms.name}
    reference = names.get("reference", "")
    metadata = ModelCardData(
        **license_fields,
        license_link=terms.link,
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=reference if "/" in reference else None,  # a name of the hub, no folder's
        tags=["memorization"],
        model_name=names["model"],
        eval_results=results or None,
    )
    jinja = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.filters["meaning"] = meaning
    template = jinja.from_string(TEMPLATE.read_text("utf-8"))
    text = template.render(
        found=predicate, names=names, rows=data_name, policy=predicate["configuration"][0]
    )
    return str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{text}\n"))


def meaning(measure: Mapping[str, Any]) -> str:
    """What a measure of a record says, in words."""
    if (measure["measure"], measure["at"]) == ("exact_rate", 0):
        return WHOLE
    return MEANING[measure["measure"]].format(at=measure["at"])
