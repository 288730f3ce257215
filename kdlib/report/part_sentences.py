"""The sentences of the study's further parts, notebooks 14 to 17; see `sentences`."""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from kdlib.analysis.cause import DIVERGENCES
from kdlib.analysis.equal_usefulness import VISIBLE
from kdlib.analysis.own_claims import GAIN
from kdlib.analysis.plane import BEFORE
from kdlib.config.exact_match import WINDOW
from kdlib.config.life import (
    AFRESH,
    KEPT,
    MODELS,
    PREDECESSOR,
    RETRAINED,
    TRAINED,
    UNLEARNED,
)
from kdlib.config.methods import label
from kdlib.config.profile import TEACHER, Profile
from kdlib.report import lookups, sensitivity
from kdlib.report.from_scratch import TAUGHT_BY_TEXT
from kdlib.report.lookups import Sentence, difference, share
from kdlib.report.usefulness_sentences import with_more_steps
from kdlib.stats import row_text

SIDES = {  # of claims of `analysis.plane`: when they are compared, and who
    "B1": ("stopped early where both are as useful", "distilled students", label("sft")),
    "B2": ("with the goldfish loss, stopped so", label("word_kd"), label("sft")),
}

COPIES = ("word for word", "near copies", "longest run")
RELEASED = (*COPIES, "personal data", "usefulness")  # told of each step
WAYS = (TEACHER, TRAINED, PREDECESSOR, AFRESH)


def _grid(settings: Profile) -> str:
    """What students memorize at the end that read the rows, or the teacher's text as SFT does."""
    ends = lookups.lines(settings.name, "cause").set_index("method").to_dict("index")
    shares = [f"{name} {share(ends[f'{key} on rows'])}" for key, name in DIVERGENCES.items()]
    text = f"at the end SFT memorizes {share(ends['sft'])} of the rows, and of students that read "
    text += f"the rows likewise, with {', with '.join(shares)}; SFT's "
    return f"{text}objective on the teacher's greedy text {share(ends[TAUGHT_BY_TEXT])}."


def _apart(settings: Profile) -> str:
    """Where the teacher's text is the row itself, and where it is another text."""
    counts = lookups.lines(settings.name, "by_recited").groupby("recited")["n"].first()
    fits = lookups.lines(settings.name, "fit_by_recited", recited="False")
    rates = fits.set_index("method")["at_end"]
    text = f"of {counts.sum()} rows the teacher's greedy text repeats the first {WINDOW} tokens of "
    text += f"{counts.get(True, 0)}, so that these are read either way; of the others SFT "
    text += f"memorizes {rates['sft']:.1%}, its objective on the teacher's text "
    highest = max(rates[f"{objective} on rows"] for objective in DIVERGENCES)
    return f"{text}{rates[TAUGHT_BY_TEXT]:.1%}, and a divergence on the rows at most {highest:.1%}."


def _as_closely(settings: Profile) -> str:
    """What an objective leaves where SFT fits the rows as closely."""
    least = lookups.lines(settings.name, "least_loss").set_index("method").to_dict("index")
    phrases = []
    for objective, name in DIVERGENCES.items():
        line = least[f"{objective} on rows"]
        phrases.append(f"{name} {line['loss']:.2f}, {line['own']:.1%} and {line['sft']:.1%}")
    fits = lookups.lines(settings.name, "cause_same_fit").set_index("method")
    gaps = [
        f"{name} {_points_or_none(fits.loc[f'{objective} on rows'].to_dict())}"
        for objective, name in DIVERGENCES.items()
    ]
    text = "some of this is how closely the rows are fitted: SFT comes to "
    text += f"{least['sft']['loss']:.2f} nats per token on them; the least loss that it has in "
    text += "common with students of a divergence on the rows, and what they and SFT memorize "
    text += f"there: {'; '.join(phrases)}. As a mean over the losses that both pass, minus SFT: "
    return f"{text}{'; '.join(gaps)}."


def _fits(settings: Profile) -> str:
    """What reading the teacher's text leaves where it is the row, and at the mean loss of all."""
    filters = {"method": TAUGHT_BY_TEXT}
    by_part = [
        (scope, lookups.line(settings.name, "fit_by_recited", recited=recited, **filters))
        for recited, scope in {
            "True": "of rows that this text repeats, at equal loss on these",
            "False": "of the others likewise",
        }.items()
    ]
    overall = lookups.line(settings.name, "cause_same_fit", **filters)
    lines = [*by_part, ("at an equal mean loss on all", overall)]
    text = "; ".join(f"{scope}, {_points_or_none(line)}" for scope, line in lines)
    text = f"SFT's objective on the teacher's text leaves, minus SFT: {text}"
    return f"{text}."


def _judged_cause(settings: Profile) -> str:
    verdicts = lookups.lines(settings.name, "claims_cause").set_index("claim")["verdict"]
    fits = lookups.lines(settings.name, "convergence", metric="same_fit")
    text = "by the rules that were written beforehand: A3 "
    text += f"{verdicts['A3']} (of all rows together, at the end of training); A4 {verdicts['A4']}"
    text += lookups.too_few_seeds(lookups.probed(settings))
    if fits["value"].isna().all():
        path = lookups.lines(settings.name, "cause_paths").groupby("method", sort=False)["nats"]
        losses = (f"for {name}, from {path.first()[name]:.2f} to {path.last()[name]:.2f}"
                  for name in fits["method"])  # fmt: skip
        text += "; with four times the steps, too, neither method fits the rows so closely that "
        text += f"either it or SFT memorizes {VISIBLE:.0%} there, so that neither can be found "
        text += f"protective: the loss on the rows went, {'; '.join(losses)}"
    return f"{text}."


def _points_or_none(line: dict[str, Any]) -> str:
    """A difference to SFT, or that there is no common loss at which to take one."""
    missing = f"no loss in common at which either memorizes {VISIBLE:.0%}"
    return missing if pd.isna(line["value"]) else difference(line)


def judged(name: str, settings: Profile) -> str:
    """The verdicts of a part's claims."""
    lines = lookups.lines(settings.name, name)
    text = "; ".join(f"{claim} {verdict}" for claim, verdict in lines[["claim", "verdict"]].values)
    return f"By the rules that were written beforehand: {text}."


def _ended(settings: Profile) -> str:
    """What students memorize at the end, beside SFT where its loss is as high; who fits too little.

    A line for each that memorizes VISIBLE, or at whose loss SFT does.
    """
    lines = lookups.lines(settings.name, "defences_at_end").set_index("method")
    sft, students = lines.loc["sft"].to_dict(), lines.drop(["sft", BEFORE])
    visible = students[["value", "sft_there"]].max(axis=1) >= VISIBLE
    shares = [
        f"{label(name)} {share(line)} and {line['sft_there']:.1%}"
        for name, line in students[visible].to_dict("index").items()
    ]
    text = f"trained to the end SFT ({settings.probe_size} size) memorizes {share(sft)} of the "
    text += "rows; others, and SFT on its way where it fits the rows "
    text += f"as closely: {'; '.join(shares) or 'none that memorizes ' + format(VISIBLE, '.0%')}"
    if not visible.all():
        text += f"; under {VISIBLE:.0%} both, so that they fit the rows less, and no protection is "
        text += f"seen: {', '.join(map(label, students.index[~visible]))} (a loss with goldfish "
        text += "counts the tokens that it leaves out, and compares nothing)"
    text += "; of these pairs no interval of the difference was computed, and a mean loss hides "
    return f"{text}how rows differ, such as those that the teacher repeats ([14](14_cause.ipynb))."


def _planted(settings: Profile) -> str:
    """Planted records written at the end, and which students that fit the rows write hardly any."""
    lines = lookups.lines(settings.name, "defences_at_end").set_index("method")
    if "records" not in lines or not lines["records_n"].gt(0).all():
        raise lookups.NotRun
    fit = lines[lines["value"] >= VISIBLE]
    rates = ", ".join(f"{label(name)} {lines['records'][name]:.1%}" for name in ("sft", "word_kd"))
    copies = f"{min(settings.data.repetitions)} to {max(settings.data.repetitions)}"
    safe = [label(name) for name in fit.index[(fit["records"] * fit["records_n"]).round() <= 1]]
    text = f"of {lines['records_n'].max():.0f} planted personal records, in {copies} copies, are "
    text += f"written at the end: {rates}; one at most by {', '.join(safe) or 'none'}, of students "
    text += f"that memorize {VISIBLE:.0%} of the rows (without duplicates each record is read in "
    return f"{text}one copy, and what was scrubbed cannot be written)."


def _contrast(contrast: str, settings: Profile) -> str:
    condition, students, baseline = SIDES[contrast]
    gap = lookups.line(settings.name, "contrasts", method=contrast, metric="memorized")
    text = f"{condition}, {students} ({settings.probe_size} size) and {baseline}"
    if not gap["gained"]:
        return f"{text} gain too little usefulness in common to be compared."
    text = f"{text} memorize {gap['own']:.1%} and {gap['sft']:.1%}: {difference(gap)}"
    caveat = f"; SFT memorizes under {2 * GAIN:.0%}, so that there is little to save"
    return f"{text}{caveat * (gap['sft'] < 2 * GAIN)}."


def _plane(settings: Profile) -> str:
    areas = lookups.lines(settings.name, "hypervolumes").set_index(["measure", "front"])
    kd, cheap, gap = (
        areas.loc[("verbatim", front)].to_dict() for front in ("one", "other", "difference")
    )
    if pd.isna(gap["value"]):
        return "SFT gains nothing in usefulness, so that there is no plane to be covered."
    near = areas.loc[("near_verbatim", "difference"), "value"]
    if np.isclose(near, gap["value"], rtol=1e-6):
        text = "the most useful of all points memorize nothing, so that the areas of the plane "
        return f"{text}compare usefulness alone and say nothing of memorization."
    text = "of the plane (1: as useful as SFT at its best, nothing memorized; more, where more "
    text += f"useful) distilled students cover {row_text(kd)}, what is cheaper {row_text(cheap)}: "
    return f"{text}difference {row_text(gap, form='+.3f')}."


def _steps(measure: str, settings: Profile) -> str:
    changes = lookups.lines(settings.name, "release_steps", kind="change")
    lines = changes[changes["measure"] == measure]
    steps = (f"{row['step']} {row_text(row, form='+.3f')}" for row in lines.to_dict("records"))
    counts = changes.loc[changes["measure"] == COPIES[0], "n"]  # personal data are in few rows
    scope = lookups.of_first(settings.name, counts.min())
    return f"{measure}, each step minus the one before: {'; '.join(steps)}{scope}."


def _generations(settings: Profile) -> str:
    lines = lookups.lines(settings.name, "life_generations", kind="level", measure="old rows")
    rates, last = [], lines["generation"].max()
    for way in (name for name in WAYS if name in set(lines["way"])):
        levels = lines[lines["way"] == way].set_index("generation").to_dict("index")
        rates.append(f"{way} {levels[0]['value']:.1%}, then {share(levels[last])}")
    filters = {"kind": "level", "measure": "told by the loss", "generation": str(last)}
    aucs = lookups.lines(settings.name, "life_generations", **filters)["value"]
    text = f"of the first rows are recited at first, and after {last} updates: {'; '.join(rates)}; "
    text += "their loss is lower than a held-out row's, then, too, with a chance of "
    return f"{text}{aucs.min():.3f} to {aucs.max():.3f}."


def _comes_back(settings: Profile) -> str:
    lines = lookups.lines(settings.name, "life_relearning", read="True")
    last = lines["epoch"].max()
    end = lines[lines["epoch"] == last]
    deleted, unseen = (end[end["deleted"].map(str) == flag] for flag in ("True", "False"))
    shares = [
        f"{MODELS[row['done'], row['who']]} {share(row)}" for row in deleted.to_dict("records")
    ]
    text = f"after {last:g} epochs of relearning deleted rows are "
    text += f"recited by: {'; '.join(shares)}; of rows that were never read at most "
    return f"{text}{unseen['value'].max():.1%}."


def _price(settings: Profile) -> str:
    """What unlearning takes from the teacher, and what it leaves of the deleted rows."""

    def values(measure: str, form: str) -> str:
        lines = [
            lookups.line(settings.name, "life_deleted", done=done, who=TEACHER, measure=measure)
            for done in (KEPT, UNLEARNED, RETRAINED)
        ]
        return ", ".join(f"{line['value']:{form}}" for line in lines)

    text = f"of the deleted rows the teacher recites {values('deleted rows', '.1%')} as it was, "
    text += f"unlearned, retrained without them; of the kept rows {values('kept rows', '.1%')}; "
    text += f"held-out rows cost it {values('held-out nats', '.2f')} nats per token; its loss is "
    text += "lower on a deleted row than on a held-out one with a chance of "
    return f"{text}{values('told by the loss', '.3f')}."


def _records(settings: Profile) -> str:
    """Who still recites the deleted personal records."""
    lines = lookups.lines(settings.name, "life_deleted", measure="deleted records")
    counts = [
        f"{MODELS[row['done'], row['who']]} {row['value'] * row['n']:.0f}"
        for row in lines.to_dict("records")
    ]
    n = int(lines["n"].max())
    return f"of {n} deleted personal records are recited: {'; '.join(counts)}."


def _judged_life(settings: Profile) -> str:
    """The verdicts on F1 to F4 with their evidence."""
    lines = lookups.lines(settings.name, "claims_life").to_dict("records")
    verdicts = "; ".join(f"{row['claim']} {row['verdict']} ({row['evidence']})" for row in lines)
    text = "by their rules (those of F3 and F4 were narrowed, and unlearning changed, after first "
    return f"{text}runs on these seeds): {verdicts}."


OF: dict[str, list[tuple[str, Sentence]]] = {  # as in `sentences`
    "14_cause": [
        ("cause", sensitivity.other_models),
        ("cause", _grid),
        ("cause", _apart),
        ("cause", _as_closely),
        ("cause", _fits),
        ("cause", _judged_cause),
        ("cause", with_more_steps),
    ],
    "15_defences": [
        ("defences", _ended),
        ("defences", _planted),
        ("defences", partial(_contrast, "B1")),
        ("defences", partial(_contrast, "B2")),
        ("defences", _plane),
        ("defences", partial(judged, "claims_defences")),
    ],
    "16_life_cycle": [
        ("life", _generations),
        ("life", _price),
        ("life", _records),
        ("life", _comes_back),
        ("life", _judged_life),
    ],
    "17_release": [("release", partial(_steps, measure)) for measure in RELEASED],
}
