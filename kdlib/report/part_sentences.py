"""The sentences of the study's further parts, notebooks 14 to 17; see `sentences`."""

from functools import partial
from typing import Any

import pandas as pd

from kdlib.analysis.equal_usefulness import VISIBLE
from kdlib.analysis.own_claims import GAIN
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
from kdlib.report.lookups import Sentence, difference, share
from kdlib.stats import row_text

TEXTS = {"teacher": "the teacher's", "student": "the student's own"}
OBJECTIVES = {
    "forward_kl": "forward KL",
    "reverse_kl": "reverse KL",
    "generalized_jsd": "generalized JSD",
}
TAUGHT_BY_TEXT = "cross_entropy on teacher"  # of `study.variations`: sequence-level KD, greedy
SIDES = {  # of claims of `analysis.plane`: when they are compared, and who
    "B1": ("stopped early where both are as useful", "distilled students", label("sft")),
    "B2": ("with the goldfish loss, stopped so", label("word_kd"), label("sft")),
}

RELEASED = ("word for word", "near copies", "longest run", "usefulness")  # told of each step
WAYS = (TEACHER, TRAINED, PREDECESSOR, AFRESH)


def _effects(settings: Profile) -> str:
    texts = {
        one: lookups.line(settings.name, "effects", text=one, objective="nan") for one in TEXTS
    }
    text = "; ".join(f"{TEXTS[one]}, {difference(line)}" for one, line in texts.items())
    alone = lookups.of_probed(settings)
    return f"what is memorized where other text is read, compared with the rows{alone}: {text}."


def _objectives(settings: Profile) -> str:
    lines = {
        one: lookups.line(settings.name, "effects", text="nan", objective=one) for one in OBJECTIVES
    }
    text = "; ".join(f"{OBJECTIVES[one]}, {difference(line)}" for one, line in lines.items())
    alone = lookups.of_probed(settings)
    return f"Where a divergence is minimized, compared with cross-entropy{alone}: {text}."


def _as_closely(settings: Profile) -> str:
    """How closely students fit the rows in the end, and what they memorize where SFT fits as well.

    Of those that read the rows: an objective that fits them less leaves less for that alone.
    """
    ends = lookups.lines(settings.name, "cause_paths").groupby("method", sort=False)["nats"].last()
    fits = lookups.lines(settings.name, "cause_same_fit").set_index("method").to_dict("index")
    told = []
    for objective, name in OBJECTIVES.items():
        gap = _points_or_none(fits[f"{objective} on rows"])
        told.append(f"{name} {ends[f'{objective} on rows']:.2f}, {gap}")
    text = (
        f"at the end the rows cost SFT {ends['sft']:.2f} nats per token; what students that read "
    )
    text += "them with a divergence pay, and memorize minus SFT at equal loss"
    return f"{text}{lookups.of_probed(settings)}: {'; '.join(told)}."


def _fits(settings: Profile) -> str:
    """What reading the teacher's text leaves where it is the row, and at the mean loss of all."""
    wanted = {"method": TAUGHT_BY_TEXT}
    by_part = [
        (where, lookups.line(settings.name, "fit_by_recited", recited=recited, **wanted))
        for recited, where in {
            "True": "of rows that the teacher's text repeats, at equal loss on these",
            "False": "of the others likewise",
        }.items()
    ]
    whole = lookups.line(settings.name, "cause_same_fit", **wanted)
    told = [*by_part, ("at an equal mean loss on all", whole)]
    text = "; ".join(f"{where}, {_points_or_none(line)}" for where, line in told)
    text = f"a student that reads the teacher's text memorizes, minus SFT: {text}"
    return f"{text}{lookups.of_probed(settings)}."


def _points_or_none(line: dict[str, Any]) -> str:
    """A difference to SFT, or that there is no common loss at which to take one."""
    missing = f"no loss in common at which either memorizes {VISIBLE:.0%}"
    return missing if pd.isna(line["value"]) else difference(line)


def judged(name: str, settings: Profile) -> str:
    """The verdicts of a part's claims."""
    lines = lookups.lines(settings.name, name)
    told = "; ".join(f"{claim} {verdict}" for claim, verdict in lines[["claim", "verdict"]].values)
    return f"By the rules that were written beforehand: {told}{lookups.of_probed(settings)}."


def _ended(settings: Profile) -> str:
    """What students with a defence memorize at the end, minus SFT, the cheap ones, then with KD."""
    lines = lookups.lines(settings.name, "defences_at_end").set_index("method")
    sft = lines.loc["sft"].to_dict()
    told = [
        f"{label(name)} {100 * one['less']:+.1f} [{100 * one['less_lo']:+.1f}, "
        f"{100 * one['less_hi']:+.1f}]"
        for name, one in lines.drop("sft").to_dict("index").items()
    ]
    text = f"trained to the end SFT ({settings.probe_size} size) memorizes {share(sft)} of the "
    text += f"rows{lookups.of_probed(settings)}; minus SFT, in percentage points: "
    return f"{text}{', '.join(told)}."


def _contrast(contrast: str, settings: Profile) -> str:
    when, one, other = SIDES[contrast]
    gap = lookups.line(settings.name, "contrasts", method=contrast, metric="memorized")
    text = f"{when}, {one} ({settings.probe_size} size) and {other}"
    text += lookups.of_probed(settings)
    if not gap["gained"]:
        return f"{text} gain too little usefulness in common to be compared."
    text = f"{text} memorize {gap['own']:.1%} and {gap['sft']:.1%}: {difference(gap)}"
    few = f"; SFT memorizes under {2 * GAIN:.0%}, so that there is little to save"
    return f"{text}{few * (gap['sft'] < 2 * GAIN)}."


def _plane(settings: Profile) -> str:
    one, other, gap = (
        lookups.line(settings.name, "hypervolumes", measure="verbatim", front=front)
        for front in ("one", "other", "difference")
    )
    if pd.isna(gap["value"]):
        return "SFT gains nothing in usefulness, so that there is no plane to be covered."
    text = "of the plane (1: as useful as SFT at its best, nothing memorized) distilled students "
    text += f"cover {row_text(one)}, what is cheaper {row_text(other)}: difference "
    return f"{text}{row_text(gap, form='+.3f')}{lookups.of_probed(settings)}."


def _steps(measure: str, settings: Profile) -> str:
    lines = lookups.lines(settings.name, "release_steps", kind="change", measure=measure)
    told = (f"{one['step']} {row_text(one, form='+.3f')}" for one in lines.to_dict("records"))
    alone = lookups.of_first(settings.name, lines["n"].min())
    return f"{measure}, each step minus the one before: {'; '.join(told)}{alone}."


def _generations(settings: Profile) -> str:
    lines = lookups.lines(settings.name, "life_generations", kind="level", measure="old rows")
    told, last = [], lines["generation"].max()
    for way in (one for one in WAYS if one in set(lines["way"])):
        own = lines[lines["way"] == way].set_index("generation").to_dict("index")
        told.append(f"{way} {own[0]['value']:.1%}, then {share(own[last])}")
    text = f"of the first rows are recited at first, and after {last} updates"
    return f"{text}{lookups.of_probed(settings)}: {'; '.join(told)}."


def _comes_back(settings: Profile) -> str:
    lines = lookups.lines(settings.name, "life_relearning", read="True")
    last = lines["epoch"].max()
    end = lines[lines["epoch"] == last]
    gone, never = (end[end["deleted"].map(str) == one] for one in ("True", "False"))
    told = [f"{MODELS[one['done'], one['who']]} {share(one)}" for one in gone.to_dict("records")]
    text = f"after {last:g} epochs of relearning{lookups.of_probed(settings)} deleted rows are "
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
    text += f"held-out rows cost it {told('held-out nats', '.2f')} nats per token; its loss ranks "
    text += "a deleted row above a held-out one with a chance of "
    return f"{text}{told('told by the loss', '.3f')}{lookups.of_probed(settings)}."


def _records(settings: Profile) -> str:
    """Who still recites the deleted personal records."""
    lines = lookups.lines(settings.name, "life_deleted", measure="deleted records")
    told = [
        f"{MODELS[one['done'], one['who']]} {one['value'] * one['n']:.0f}"
        for one in lines.to_dict("records")
    ]
    count = int(lines["n"].max())
    where = lookups.of_probed(settings)
    return f"of {count} deleted personal records{where} are recited: {'; '.join(told)}."


def _judged_life(settings: Profile) -> str:
    """The verdicts on F1 to F4 with their evidence."""
    lines = lookups.lines(settings.name, "claims_life").to_dict("records")
    told = "; ".join(f"{one['claim']} {one['verdict']} ({one['evidence']})" for one in lines)
    text = "by their rules (F4's was narrowed, and unlearning changed, after first runs on these "
    return f"{text}seeds){lookups.of_probed(settings)}: {told}."


OF: dict[str, list[tuple[str, Sentence]]] = {  # as in `sentences`
    "14_cause": [
        ("cause", _effects),
        ("cause", _objectives),
        ("cause", _as_closely),
        ("cause", _fits),
        ("cause", partial(judged, "claims_cause")),
    ],
    "15_defences": [
        ("defences", _ended),
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
