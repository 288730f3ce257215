"""The claims, our own (A), of the paper (C) and its companions (D, E): statement, rule, judge.

Statements and rules were written before any reported seed was run; where a rule changed since, a
comment says so. A judge takes tables and says confirmed, refuted (neither: open) and on what
evidence, looking at the paper's methods alone. Taught in notebooks 10 to 14.
"""

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import pandas as pd

from kdlib.analysis import cause, companion_claims
from kdlib.analysis.companion_claims import Judged
from kdlib.analysis.rates import MODEL, natural
from kdlib.config.methods import DISTILLED, PAPER, label
from kdlib.stats import ALPHA, Line, difference, each, judgeable, judged, row_text, wilson

GAIN = 0.05  # of the member rows: what distilling has to leave less, not to be refuted (A1, A2)
LEAST = 0.02  # of the member rows: less than this more than of held-out rows is "zero" (C5)
FRACTION = 0.5  # of the teacher's parameters and bytes: what a student may cost at most (C6)


class Claim(NamedTuple):
    """What is claimed, and how it is judged."""

    statement: str
    rule: str  # when it counts as confirmed or refuted
    judge: Callable[..., Judged]


def judge(name: str, **tables: Any) -> dict[str, str]:
    """A ledger line: claim, statement, rule, verdict (confirmed, refuted, open), evidence."""
    statement, rule, judges = CLAIMS[name]
    needed = inspect.signature(judges).parameters  # the tables that this judge reads
    confirmed, refuted, evidence = judges(**{table: tables[table] for table in needed})
    verdict = "confirmed" if confirmed else "refuted" if refuted else "open"
    facts = {"claim": name, "statement": statement, "rule": rule, "verdict": verdict}
    return facts | {"evidence": evidence}


def ledger(names: Iterable[str], **tables: Any) -> pd.DataFrame:
    """The lines of these claims, see `judge`."""
    return pd.DataFrame([judge(name, **tables) for name in names])


def _pooled(differences: pd.DataFrame, comparison: str, metric: str) -> pd.DataFrame:
    chosen = differences[differences["method"].isin(PAPER)].astype({"same_sign": bool})
    chosen = chosen.query("seed == 'all' and comparison == @comparison and metric == @metric")
    return judged(chosen)


def _named(row: pd.Series) -> str:
    against, size = row["against"].split(maxsplit=1)
    name = f"{label(row['method'])} {row['size']} less {label(against)} {size}"
    return f"{name}: {row_text(row, form='+.3f')}"


def _below(gaps: pd.DataFrame) -> pd.Series:
    """Which lie below 0, where all have to: without correction (see `stats.judged`)."""
    return (gaps["p"] < ALPHA) & (gaps["value"] < 0) & judgeable(gaps) & gaps["same_sign"]


def _all_below(comparison: str, metric: str, differences: pd.DataFrame) -> Judged:
    gaps = _pooled(differences, comparison, metric)
    if not len(gaps):
        return False, False, "no two students to compare"
    below, above = _below(gaps), (gaps["direction"] == "above") & gaps["same_sign"]
    evidence = f"{below.sum()} of {len(gaps)} differences lie below 0 with every seed agreeing"
    most = _named(gaps.loc[gaps["value"].idxmax()])
    return below.all(), above.any(), f"{evidence}, {above.sum()} above; the greatest is {most}"


def _unproven(beats: pd.DataFrame, metric: str) -> str:
    """Why nothing is said by a metric; empty where the teacher beats every trivial answer in it."""
    beats = beats[beats["metric"] == metric]
    lost = beats[~beats["beats"].astype(bool)]
    if not len(beats) or not len(lost):
        return "" if len(beats) else "usefulness was not measured"
    worst = lost.loc[lost["value"].idxmin()]
    gap = f"{worst['metric']} less that of '{worst['against']}' {row_text(worst, form='+.3f')}"
    return (
        f"no verdict: the teacher does not beat {len(lost)} of {len(beats)} trivial answers; {gap}"
    )


def _keeps_utility(differences: pd.DataFrame, beats: pd.DataFrame) -> Judged:
    gaps = _pooled(differences, "to_sft", "rougeL").dropna(subset="margin")
    if not len(gaps):
        return False, False, "SFT adds nothing to the model before fine-tuning"
    if unproven := _unproven(beats, "rougeL"):
        return False, False, unproven
    kept = (gaps["lo"] > -gaps["margin"]) & judgeable(gaps, "groups")
    lost = (gaps["hi"] < -gaps["margin"]) & (gaps["direction"] == "below") & gaps["same_sign"]
    margins = sorted(gaps["margin"])
    evidence = f"{kept.sum()} of {len(gaps)} differences lie above the margin, {lost.sum()} below"
    evidence += f" (-{margins[0]:.3f} to -{margins[-1]:.3f})"
    least = _named(gaps.loc[gaps["value"].idxmin()])
    return kept.all(), lost.any(), f"{evidence}; the least is {least}"


def _less_at_equal_usefulness(stopped: pd.DataFrame, beats: pd.DataFrame) -> Judged:
    if unproven := _unproven(beats, "usefulness"):
        return False, False, unproven
    lines = stopped[stopped["method"].isin(PAPER)].set_index(["size", "method"])
    useful = lines[lines["metric"] == "useful"]
    gaps = judged(lines[lines["metric"] == "memorized"].astype({"same_sign": bool}))
    as_useful = (useful["lo"] > -useful["margin"]).reindex(gaps.index)
    less, none = _below(gaps) & as_useful, gaps["lo"] > -GAIN
    evidence = (
        f"{less.sum()} of {len(gaps)} distilled students memorize less than SFT stopped where"
    )
    evidence += f" it is as useful; a gain of {GAIN:.0%} of the rows is excluded for {none.sum()}"
    (size, method), most = gaps["value"].idxmin(), gaps.loc[gaps["value"].idxmin()]
    evidence += f"; the greatest gain is {label(method)} {size}: {row_text(most, form='+.3f')}"
    return less.all(), not less.any() and none.all(), evidence


def _less_at_equal_fit(same_fit: pd.DataFrame) -> Judged:
    gaps = same_fit[same_fit["method"].isin(PAPER)].dropna(subset="value")
    if not len(gaps):
        return False, False, "no two paths pass the same member loss where rows are memorized"
    below = (gaps["p"] < ALPHA) & (gaps["value"] < 0)
    none = gaps["lo"] > -GAIN
    evidence = (
        f"{below.sum()} of {len(gaps)} distilled students memorize less than SFT at the same "
    )
    evidence += f"member loss; a gain of {GAIN:.0%} is excluded for {none.sum()}"
    most = gaps.loc[gaps["value"].idxmin()]
    evidence += (
        f"; the greatest: {label(most['method'])} {most['size']} {row_text(most, form='+.3f')}"
    )
    return below.all(), not below.any() and none.all(), evidence


def _never_zero(tuples: pd.DataFrame) -> Judged:
    rows = natural(tuples[tuples["method"].isin(DISTILLED)])
    gains = each(rows, MODEL, _member_gain)
    above = (gains["lo"] > LEAST) & judgeable(gains, "hit_groups")
    below = (gains["hi"] < LEAST) & judgeable(gains, "groups")
    evidence = (
        f"{above.sum()} of {len(gains)} distilled students memorize over {LEAST:.0%} more of "
    )
    evidence += f"the member than of the held-out rows, {below.sum()} less"
    least = gains.loc[gains["value"].idxmin()]
    evidence += f"; the least: {label(least['method'])} {least['size']} {row_text(least)} "
    evidence += f"({least['hit_groups']} different responses)"
    return above.all(), below.any(), evidence


def _member_gain(rows: pd.DataFrame) -> Line:
    """Memorized share of a model's member rows less that of its held-out rows, of all seeds."""
    hit, groups = rows["hit"].to_numpy(float), rows["group"]
    member = (rows["split"] == "member").to_numpy()
    found = difference(groups, hit, member, rows["seed"])
    if not hit.any():  # no draw knows of rows that were not seen
        found["hi"] = wilson(0, groups[member].nunique())[1]
    return found | {"groups": groups.nunique(), "hit_groups": groups[hit > 0].nunique()}


def _what_stays(odds: pd.DataFrame) -> Judged:
    both = ["copies", "rarity"]
    odds = odds.query("attribute in @both and method in @DISTILLED and note == ''")
    lines = [
        f"{label(row['method'])} {row['size']}, {row['attribute']}: {row_text(row, form='.2f')}"
        for row in odds.to_dict("records")
    ]
    evidence = "; ".join(lines) or "no distilled student has rows enough to be fitted"
    confirmed = set(odds["attribute"]) == set(both) and (odds["lo"] > 1).all()
    return confirmed, (odds["hi"] < 1).any(), evidence


def _cheaper(costs: pd.DataFrame) -> Judged:
    numbers = costs.set_index("seed")[["parameters", "file_bytes", "ms_per_token"]]
    taught = (costs["method"] != "teacher").to_numpy()
    ratio = numbers[taught] / numbers[~taught].loc[numbers.index[taught]]
    half = (ratio[["parameters", "file_bytes"]] <= FRACTION).all(axis=1)
    spans = ", ".join(f"{name} {one.min():.2f} to {one.max():.2f}" for name, one in ratio.items())
    evidence = f"{half.sum()} of {len(half)} students cost at most half in parameters and bytes"
    return half.all(), not half.any(), f"{evidence}; as shares of the teacher: {spans}"


CLAIMS = {
    "A1": Claim(
        "At equal usefulness, distilling leaves less of the rows than stopping SFT early.",
        "each distilled student and SFT of its size are stopped, by half of the groups, where both "
        "are as useful (their held-out answers: the mean of ROUGE-L and sentence similarity; where "
        "none were noted the held-out loss) and memorize least; on the other "
        "half: confirmed if every one of the paper's students memorizes less, every seed agreeing, "
        "and is not less useful by a fifth of what SFT adds; refuted if none does, and a gain of "
        "5% of the rows is excluded for all; no verdict unless the teacher beats every trivial "
        "answer in usefulness",
        _less_at_equal_usefulness,
    ),
    "A2": Claim(
        "Where it fits the rows as closely, a distilled student recites less than SFT.",
        "mean difference in memorization over the member losses that both paths pass: confirmed if "
        "its interval lies below 0 for all of the paper's students; refuted if for none, and a "
        "gain of 5% of the rows is excluded for all",
        _less_at_equal_fit,
    ),
    "C1": Claim(
        "After as many steps, every distilled student memorizes less than SFT of its size.",
        "confirmed if for every size and method the difference to SFT lies below 0, every seed "
        "agreeing; refuted if one lies above 0 after Holm's correction, every seed agreeing",
        partial(_all_below, "to_sft", "exact_rate"),
    ),
    "C2": Claim(
        "It keeps the usefulness (held-out ROUGE-L) of the SFT student.",
        "confirmed if every difference to SFT lies above minus a fifth of what SFT adds to the "
        "model before fine-tuning; refuted if one lies below that, every seed agreeing; no verdict "
        "unless the teacher beats every trivial answer in ROUGE-L",
        _keeps_utility,
    ),
    "C3": Claim(
        "Methods that use the teacher's probabilities memorize least, MiniLLM least of all.",
        "confirmed if at every size MiniLLM < word-level KD < sequence-level KD (beams), every "
        "seed agreeing; refuted if one of these differences lies above 0 after Holm's correction, "
        "every seed agreeing",
        partial(_all_below, "order", "exact_rate"),
    ),
    "C4": Claim(
        "The smaller the student, the less distilling leaves of what SFT of its size leaves.",
        "the difference to SFT (whose length is set so that it memorizes about as much at every "
        "size) at each size less that at the next larger: confirmed if all lie below 0, every seed "
        "agreeing; refuted if one lies above 0 after Holm's correction, every seed agreeing",
        partial(_all_below, "size", "less_than_sft"),
    ),
    "C5": Claim(
        "It never reaches zero. (Which rows stay is not asked here.)",
        "confirmed if for every distilled student the member rate less the held-out rate lies "
        "above 2%, by 10 different responses or more; refuted if for one of them it lies below 2%",
        _never_zero,
    ),
    "C5b": Claim(
        "What stays are rows that occur often, and rows that are unlike all others (2506.16170).",
        "in the model of all attributes (notebook 12), for each of the paper's distilled methods "
        "that has rows enough to be fitted: confirmed if the odds ratios of copies and of rarity "
        "have their whole intervals above 1 in all of them; refuted if one of the two has its "
        "whole interval below 1 in one of them; open otherwise, or if none is fitted",
        _what_stays,
    ),
    "C6": Claim(
        "The student costs at most half of the teacher.",
        "confirmed if in every seed every student has at most half of its teacher's parameters and "
        "bytes; refuted if none has; milliseconds per token stand beside it and are not judged",
        _cheaper,
    ),
} | {name: Claim(*parts) for name, parts in (companion_claims.CLAIMS | cause.CLAIMS).items()}
