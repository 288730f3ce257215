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


def licence(word: str, link: str | None = None) -> Licence:
    """The licence that is meant; KdlibError: neither listed nor with a link to its text."""
    listed = bom.library("spdx").fixup_id(word)
    if listed is None and not (word.strip() and link):
        what = f"--license {word}: the SPDX list of licences has no such identifier"
        raise KdlibError(f"{what}; for another licence give its text's address, --license-link")
    return Licence(listed or word.strip(), listed is not None, link)


def write(path: Path, given: Licence) -> list[Path]:
    """Write CARD and BOM beside a record; their paths.

    KdlibError: it is no record, one of another version, or the BOM does not fit its schema.
    """
    body, digest = verifying.read(path), record.sha256(path)
    try:
        made = {CARD: card(body["predicate"], body["subject"], given)}
        made[BOM] = bom.text(body, digest, given.name, given.listed, given.link)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{path} lacks what a card needs ({type(error).__name__}: {error})"
        raise KdlibError(f"{what}; run the audit again with this version") from None
    for name, text in made.items():
        runs.write_text(path.with_name(name), text)
    return [path.with_name(name) for name in made]


def card(found: Mapping[str, Any], subject: list[dict[str, Any]], given: Licence) -> str:
    """The model card: metadata as the Hugging Face hub reads them, then the audit in words."""
    names, files = found["kdlib_models"], {one["name"]: one["digest"]["sha256"] for one in subject}
    rows = next(name for name in files if name.startswith("data/"))
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type="training-rows",
            dataset_name=rows.removeprefix("data/"),
            dataset_revision=files[rows],
            metric_type=one["measure"],
            metric_name=one["name"],
            metric_value=one["value"],
            metric_args={name: one[name] for name in ("lo", "hi", "below")}
            | {name: int(one[name]) for name in ("n", "n_held_out")},
        )
        for one in found["kdlib_measures"]
        if one["value"] is not None
    ]
    licensed: dict[str, Any] = {"license": given.name.lower()}
    if not given.listed:
        licensed = {"license": "other", "license_name": given.name}
    reference = names.get("reference", "")
    data = ModelCardData(
        **licensed,
        license_link=given.link,
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
    text = template.render(found=found, names=names, rows=rows, policy=found["configuration"][0])
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n"))


def meaning(one: Mapping[str, Any]) -> str:
    """What a measure of a record says, in words."""
    if (one["measure"], one["at"]) == ("exact_rate", 0):
        return WHOLE
    return MEANING[one["measure"]].format(at=one["at"])
