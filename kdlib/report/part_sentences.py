"""The sentences of the study's further parts, notebooks 14 to 17; see `sentences`."""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from kdlib.analysis.equal_usefulness import VISIBLE
from kdlib.analysis.own_claims import GAIN
from kdlib.analysis.plane import BEFORE
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
from kdlib.report import lookups
from kdlib.report.from_scratch import TAUGHT_BY_TEXT
from kdlib.report.lookups import Sentence, difference, share
from kdlib.stats import row_text

OBJECTIVES = {
    "forward_kl": "forward KL",
    "reverse_kl": "reverse KL",
    "generalized_jsd": "generalized JSD",
}
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
    told = [f"{name} {share(ends[f'{one} on rows'])}" for one, name in OBJECTIVES.items()]
    text = f"at the end SFT memorizes {share(ends['sft'])} of the rows, and of students that read "
    text += f"the rows likewise, with {', with '.join(told)}; SFT's "
    return f"{text}objective on the teacher's greedy text {share(ends[TAUGHT_BY_TEXT])}."


def _apart(settings: Profile) -> str:
    """Where the teacher's text is the row itself, and where it is another text."""
    count = lookups.lines(settings.name, "by_recited").groupby("recited")["n"].first()
    parts = lookups.lines(settings.name, "fit_by_recited", recited="False")
    left = parts.set_index("method")["at_end"]
    text = f"of {count.sum()} rows {count.get(True, 0)} are what the "
    text += "teacher recites, and read either way; of the others SFT "
    text += f"memorizes {left['sft']:.1%}, its objective on the teacher's text "
    most = max(left[f"{objective} on rows"] for objective in OBJECTIVES)
    return f"{text}{left[TAUGHT_BY_TEXT]:.1%}, and a divergence on the rows at most {most:.1%}."


def _as_closely(settings: Profile) -> str:
    """What an objective leaves where SFT fits the rows as closely."""
    least = lookups.lines(settings.name, "least_loss").set_index("method").to_dict("index")
    told = []
    for objective, name in OBJECTIVES.items():
        one = least[f"{objective} on rows"]
        told.append(f"{name} {one['loss']:.2f}, {one['own']:.1%} and {one['sft']:.1%}")
    own = least["sft"]
    text = f"who fits the rows less closely recites less: SFT comes to {own['loss']:.2f} nats per "
    text += "token on them; the least loss that it has in common with students of a divergence on "
    text += "the rows, and what they and SFT memorize there: "
    return f"{text}{'; '.join(told)}."


def _fits(settings: Profile) -> str:
    """What reading the teacher's text leaves where it is the row, and at the mean loss of all."""
    wanted = {"method": TAUGHT_BY_TEXT}
    by_part = [
        (where, lookups.line(settings.name, "fit_by_recited", recited=recited, **wanted))
        for recited, where in {
            "True": "of rows that this text repeats, at equal loss on these",
            "False": "of the others likewise",
        }.items()
    ]
    whole = lookups.line(settings.name, "cause_same_fit", **wanted)
    told = [*by_part, ("at an equal mean loss on all", whole)]
    text = "; ".join(f"{where}, {_points_or_none(line)}" for where, line in told)
    text = f"SFT's objective on the teacher's text leaves, minus SFT: {text}"
    return f"{text}."


def _judged_cause(settings: Profile) -> str:
    verdicts = lookups.lines(settings.name, "claims_cause").set_index("claim")["verdict"]
    fits = lookups.lines(settings.name, "convergence", metric="same_fit")
    text = "by the rules that were written beforehand: A3 "
    text += f"{verdicts['A3']} (of all rows together, at the end of training); A4 {verdicts['A4']}"
    if fits["value"].isna().all():
        text += " (with four times the steps, too, neither method fits the rows so closely that "
        text += f"either it or SFT memorizes {VISIBLE:.0%} there)"
    return f"{text}."


def _points_or_none(line: dict[str, Any]) -> str:
    """A difference to SFT, or that there is no common loss at which to take one."""
    missing = f"no loss in common at which either memorizes {VISIBLE:.0%}"
    return missing if pd.isna(line["value"]) else difference(line)


def judged(name: str, settings: Profile) -> str:
    """The verdicts of a part's claims."""
    lines = lookups.lines(settings.name, name)
    told = "; ".join(f"{claim} {verdict}" for claim, verdict in lines[["claim", "verdict"]].values)
    return f"By the rules that were written beforehand: {told}."


def _ended(settings: Profile) -> str:
    """What students memorize at the end, beside SFT where its loss is as high; who fits too little.

    A line for each that memorizes VISIBLE, or at whose loss SFT does.
    """
    lines = lookups.lines(settings.name, "defences_at_end").set_index("method")
    sft, others = lines.loc["sft"].to_dict(), lines.drop(["sft", BEFORE])
    visible = others[["value", "sft_there"]].max(axis=1) >= VISIBLE
    told = [
        f"{label(name)} {share(one)} and {one['sft_there']:.1%}"
        for name, one in others[visible].to_dict("index").items()
    ]
    text = f"trained to the end SFT ({settings.probe_size} size) memorizes {share(sft)} of the "
    text += "rows; others, and SFT on its way where it fits the rows "
    text += f"as closely: {'; '.join(told) or 'none that memorizes ' + format(VISIBLE, '.0%')}"
    if not visible.all():
        text += f"; under {VISIBLE:.0%} both, so that they fit the rows less, and no protection is "
        text += f"seen: {', '.join(map(label, others.index[~visible]))} (a loss with goldfish "
        text += "counts the tokens that it leaves out, and compares nothing)"
    text += "; of these pairs no interval of the difference was computed, and a mean loss hides "
    return f"{text}how rows differ, such as those that the teacher repeats ([14](14_cause.ipynb))."


def _planted(settings: Profile) -> str:
    """Planted records written at the end, and by which students that fit the rows hardly any."""
    lines = lookups.lines(settings.name, "defences_at_end").set_index("method")
    if "records" not in lines or not lines["records_n"].gt(0).all():
        raise lookups.NotRun
    fit = lines[lines["value"] >= VISIBLE]
    told = ", ".join(f"{label(one)} {lines['records'][one]:.1%}" for one in ("sft", "word_kd"))
    copies = f"{min(settings.data.repetitions)} to {max(settings.data.repetitions)}"
    few = [label(one) for one in fit.index[(fit["records"] * fit["records_n"]).round() <= 1]]
    text = f"of {lines['records_n'].max():.0f} planted personal records, in {copies} copies, are "
    text += f"written at the end: {told}; one at most by {', '.join(few) or 'none'}, of students "
    text += f"that memorize {VISIBLE:.0%} of the rows (without duplicates each record is read in "
    return f"{text}one copy, and what was scrubbed cannot be written)."


def _contrast(contrast: str, settings: Profile) -> str:
    when, one, other = SIDES[contrast]
    gap = lookups.line(settings.name, "contrasts", method=contrast, metric="memorized")
    text = f"{when}, {one} ({settings.probe_size} size) and {other}"
    if not gap["gained"]:
        return f"{text} gain too little usefulness in common to be compared."
    text = f"{text} memorize {gap['own']:.1%} and {gap['sft']:.1%}: {difference(gap)}"
    few = f"; SFT memorizes under {2 * GAIN:.0%}, so that there is little to save"
    return f"{text}{few * (gap['sft'] < 2 * GAIN)}."


def _plane(settings: Profile) -> str:
    areas = lookups.lines(settings.name, "hypervolumes").set_index(["measure", "front"])
    one, other, gap = (
        areas.loc[("verbatim", front)].to_dict() for front in ("one", "other", "difference")
    )
    if pd.isna(gap["value"]):
        return "SFT gains nothing in usefulness, so that there is no plane to be covered."
    near = areas.loc[("near_verbatim", "difference"), "value"]
    if np.isclose(near, gap["value"], rtol=1e-6):
        text = "the most useful of all points memorize nothing, so that the areas of the plane "
        return f"{text}compare usefulness alone and say nothing of memorization."
    text = "of the plane (1: as useful as SFT at its best, nothing memorized; more, where more "
    text += f"useful) distilled students cover {row_text(one)}, what is cheaper {row_text(other)}: "
    return f"{text}difference {row_text(gap, form='+.3f')}."


def takes_away(settings: Profile) -> str:
    """What each step of a release surely takes away and costs, and what is left behind the last."""
    lines = lookups.lines(settings.name, "release_steps", kind="change")
    told, dear = [], []
    for step, changes in lines.groupby("step", sort=False):
        less = set(changes.loc[changes["hi"] < 0, "measure"])
        gone = ["copies"] if less.issuperset(COPIES) else [one for one in COPIES if one in less]
        gone += ["personal data"] * ("personal data" in less)
        told.append(f"{step}, {' and '.join(gone) or 'nothing'}")
        dear += [str(step)] * ("usefulness" in less)
    near = {"kind": "level", "measure": "near copies"}
    left = lookups.lines(settings.name, "release_steps", **near).iloc[-1].to_dict()
    alone = lookups.of_first(settings.name, lines.loc[lines["measure"] == COPIES[0], "n"].min())
    text = f"what each step takes away by its interval{alone}: {'; '.join(told)}; a fall in "
    text += f"usefulness was seen {'at ' + ' and '.join(dear) if dear else 'at none'}"
    return f"{text}; near copies of {share(left)} of the rows still come out."


def _steps(measure: str, settings: Profile) -> str:
    changes = lookups.lines(settings.name, "release_steps", kind="change")
    lines = changes[changes["measure"] == measure]
    told = (f"{one['step']} {row_text(one, form='+.3f')}" for one in lines.to_dict("records"))
    whole = changes.loc[changes["measure"] == COPIES[0], "n"]  # personal data are in few rows
    alone = lookups.of_first(settings.name, whole.min())
    return f"{measure}, each step minus the one before: {'; '.join(told)}{alone}."


def _generations(settings: Profile) -> str:
    lines = lookups.lines(settings.name, "life_generations", kind="level", measure="old rows")
    told, last = [], lines["generation"].max()
    for way in (one for one in WAYS if one in set(lines["way"])):
        own = lines[lines["way"] == way].set_index("generation").to_dict("index")
        told.append(f"{way} {own[0]['value']:.1%}, then {share(own[last])}")
    wanted = {"kind": "level", "measure": "told by the loss", "generation": str(last)}
    still = lookups.lines(settings.name, "life_generations", **wanted)["value"]
    text = f"of the first rows are recited at first, and after {last} updates: {'; '.join(told)}; "
    text += "their loss is lower than a held-out row's, then, too, with a chance of "
    return f"{text}{still.min():.3f} to {still.max():.3f}."


def _comes_back(settings: Profile) -> str:
    lines = lookups.lines(settings.name, "life_relearning", read="True")
    last = lines["epoch"].max()
    end = lines[lines["epoch"] == last]
    gone, never = (end[end["deleted"].map(str) == one] for one in ("True", "False"))
    told = [f"{MODELS[one['done'], one['who']]} {share(one)}" for one in gone.to_dict("records")]
    text = f"after {last:g} epochs of relearning deleted rows are "
    text += f"recited by: {'; '.join(told)}; of rows that were never read at most "
    return f"{text}{never['value'].max():.1%}."


def _price(settings: Profile) -> str:
    """What unlearning takes from the teacher, and what it leaves of the deleted rows."""

    def told(measure: str, form: str) -> str:
        found = [
            lookups.line(settings.name, "life_deleted", done=done, who=TEACHER, measure=measure)
            for done in (KEPT, UNLEARNED, RETRAINED)
        ]
        return ", ".join(f"{one['value']:{form}}" for one in found)

    text = f"of the deleted rows the teacher recites {told('deleted rows', '.1%')} as it was, "
    text += f"unlearned, retrained without them; of the kept rows {told('kept rows', '.1%')}; "
    text += f"held-out rows cost it {told('held-out nats', '.2f')} nats per token; its loss is "
    text += "lower on a deleted row than on a held-out one with a chance of "
    return f"{text}{told('told by the loss', '.3f')}."


def _records(settings: Profile) -> str:
    """Who still recites the deleted personal records."""
    lines = lookups.lines(settings.name, "life_deleted", measure="deleted records")
    told = [
        f"{MODELS[one['done'], one['who']]} {one['value'] * one['n']:.0f}"
        for one in lines.to_dict("records")
    ]
    count = int(lines["n"].max())
    return f"of {count} deleted personal records are recited: {'; '.join(told)}."


def _judged_life(settings: Profile) -> str:
    """The verdicts on F1 to F4 with their evidence."""
    lines = lookups.lines(settings.name, "claims_life").to_dict("records")
    told = "; ".join(f"{one['claim']} {one['verdict']} ({one['evidence']})" for one in lines)
    text = "by their rules (those of F3 and F4 were narrowed, and unlearning changed, after first "
    return f"{text}runs on these seeds): {told}."


OF: dict[str, list[tuple[str, Sentence]]] = {  # as in `sentences`
    "14_cause": [
        ("cause", _grid),
        ("cause", _apart),
        ("cause", _as_closely),
        ("cause", _fits),
        ("cause", _judged_cause),
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
    "17_release": [("release", partial(_steps, one)) for one in RELEASED],
}
