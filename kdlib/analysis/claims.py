"""The claims, our own (A, B, F), of the paper (C), its companions (D, E): statement, rule, judge.

Statements and rules were written before any reported seed was run; where a rule changed since, a
comment says so. A judge takes tables and says confirmed, refuted (neither: open) and on what
evidence, looking at the paper's methods alone. Intervals are over seeds, then groups, see `stats`.
Taught in notebooks 10 to 16.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri

from kdlib import runs
from kdlib.analysis import cause, companion_claims, life_claims, own_claims, plane
from kdlib.analysis.own_claims import Judged, named, taught
from kdlib.analysis.rates import MODEL, natural
from kdlib.config.methods import DISTILLED, label
from kdlib.stats import (
    ALPHA,
    MIN_GROUPS,
    MIN_SEEDS,
    Line,
    difference,
    each,
    holm,
    is_significant,
    judgeable,
    judged,
    p_of_none,
    row_text,
    wilson,
)

ZERO_MARGIN = 0.02  # of the member rows: less than this more than of held-out rows is "zero" (C5)
FRACTION = 0.5  # of the teacher's parameters and bytes: what a student may cost at most (C6)
MAX_SFT_RANGE = (
    0.1  # of the member rows: as much at every size is what SFT memorizes within this (C4)
)
FEW = f"no verdict with fewer than {MIN_SEEDS} training runs"
COMPARED = {  # comparison and metric of `rates.differences`
    "C1": ("to_sft", "exact_rate"),
    "C2": ("to_sft", "usefulness"),
    "C3": ("order", "exact_rate"),
    "C4": ("size", "of_sft"),
}


class Claim(NamedTuple):
    """What is claimed, and how it is judged."""

    statement: str
    rule: str  # when it counts as confirmed or refuted
    judge: Callable[..., Judged]
    trained: bool = True  # rests on trained models, so that MIN_SEEDS are needed


def judge(name: str, seeds: int, **tables: Any) -> dict[str, str]:
    """A ledger line: claim, statement, rule, verdict (confirmed, refuted, open), evidence.

    `seeds` are how many training runs of each model the tables are of.
    """
    statement, rule, judge_function, trained = CLAIMS[name]
    needed = inspect.signature(judge_function).parameters  # the tables that this judge reads
    confirmed, refuted, evidence = judge_function(**{table: tables[table] for table in needed})
    verdict = "confirmed" if confirmed else "refuted" if refuted else "open"
    if trained:
        rule = f"{rule}; {FEW}"
    if trained and seeds < MIN_SEEDS:
        verdict, evidence = "open", f"{FEW}; {evidence}"
    facts = {"claim": name, "statement": statement, "rule": rule, "verdict": verdict}
    return facts | {"evidence": evidence}


def ledger(names: Iterable[str], seeds: int, **tables: Any) -> pd.DataFrame:
    """The lines of these claims, see `judge`."""
    return pd.DataFrame([judge(name, seeds, **tables) for name in names])


def made_at(ledger: pd.DataFrame, folders: Mapping[str, Iterable[Path]]) -> pd.DataFrame:
    """A ledger with column commit: those at which models were made, by their names' folders."""
    manifests = (runs.read_manifest(folder) for paths in folders.values() for folder in paths)
    commits = dict.fromkeys(str(manifest["commit"]) for manifest in manifests if manifest)
    return ledger.assign(commit=" ".join(commits))


def lines(
    stopped: pd.DataFrame, same_fit: pd.DataFrame, differences: pd.DataFrame, tuples: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """The lines (value, lo, hi) on which claims of notebook 10 are judged, by claim."""
    tables = (
        table[table["method"].isin(DISTILLED)]
        for table in (stopped.query("metric == 'memorized'"), same_fit)
    )
    pooled = {name: _pooled(differences, *pair) for name, pair in COMPARED.items()}
    return dict(zip(("A1", "A2"), tables, strict=True)) | pooled | {"C5": member_gains(tuples)}


def _pooled(differences: pd.DataFrame, comparison: str, metric: str) -> pd.DataFrame:
    rows = differences[differences["method"].isin(DISTILLED)]
    return rows.query("seed == 'all' and comparison == @comparison and metric == @metric")


def _named(row: pd.Series) -> str:
    against, size = row["against"].split(maxsplit=1)
    name = f"{label(row['method'])} {row['size']} minus {label(against)} {size}"
    return f"{name}: {row_text(row, form='+.3f')}"


def _all_below(claim: str, differences: pd.DataFrame) -> Judged:
    gaps = _pooled(differences, *COMPARED[claim])
    column = "hit_groups" if claim == "C4" else "discordant"
    if not len(gaps):
        return False, False, "no two students to compare"
    below, above = (
        is_significant(gaps, column) & (gaps["value"] < 0),
        judged(gaps, by=column)["direction"] == "above",
    )
    highest = _named(gaps.loc[gaps["value"].fillna(-np.inf).idxmax()])
    evidence = f"{below.sum()} of {len(gaps)} differences lie below 0, {above.sum()} above"
    return below.all(), above.any(), f"{evidence}; the highest: {highest}"


def _smaller_share_of_sft(differences: pd.DataFrame) -> Judged:
    gaps = _pooled(differences, *COMPARED["C4"])
    sft = gaps.reindex(columns=["sft", "sft_larger"]).to_numpy()
    if len(gaps) and sft.max() - sft.min() > MAX_SFT_RANGE:
        span = f"SFT memorizes {sft.min():.3f} to {sft.max():.3f} of the rows by size"
        return False, False, f"no verdict: {span}, more than {MAX_SFT_RANGE} apart"
    return _all_below("C4", differences)


def _keeps_usefulness(differences: pd.DataFrame, over_trivial: pd.DataFrame) -> Judged:
    proven, note = taught(over_trivial)
    gaps = _pooled(differences, *COMPARED["C2"])
    margin = gaps["margin"]
    passed = (gaps["lo"] > -margin) & judgeable(gaps, "groups")
    failed = (gaps["hi"] < -margin) & (judged(gaps, "p_limit", "groups")["p_holm"] < ALPHA)
    evidence = f"{passed.sum()} of {len(gaps)} differences lie above minus the margin (as useful), "
    evidence += f"{failed.sum()} below it (less useful)"
    margins = gaps.dropna(subset="margin").groupby("size", sort=False)["margin"].first()
    spans = ", ".join(f"{size} {value:.3f}" for size, value in margins.items())
    evidence += f"; the margin by size: {spans or 'none'}"
    if margin.isna().any():
        evidence += f"; {named(gaps[margin.isna()])}: no margin, as SFT adds nothing"
    lowest = _named(gaps.loc[gaps["value"].idxmin()])
    evidence = f"{evidence}; the lowest: {lowest}; {note}"
    return proven and passed.all(), proven and failed.any(), evidence


def _never_zero(tuples: pd.DataFrame, differences: pd.DataFrame) -> Judged:
    learned = _pooled(differences, "to_base", "usefulness").set_index(MODEL)["lo"] > 0
    gains = member_gains(tuples).set_index(MODEL, drop=False)
    learned = learned.reindex(gains.index, fill_value=False)
    above, counted = (gains["lo"] > ZERO_MARGIN) & judgeable(gains, "hit_groups"), gains[learned]
    significant = judged(counted, "p_limit", "groups")["p_holm"] < ALPHA
    below = significant & (counted["hi"] < ZERO_MARGIN)
    evidence = f"{(above & learned).sum()} of {len(gains)} distilled students memorize over "
    evidence += (
        f"{ZERO_MARGIN:.0%} more of the member than of the held-out rows, {below.sum()} less "
    )
    evidence += "(after Holm's correction)"
    if len(counted):
        lowest = counted.loc[counted["value"].idxmin()]
        evidence += f"; the least: {label(lowest['method'])} {lowest['size']} {row_text(lowest)} "
        evidence += f"({lowest['hit_groups']} different responses"
        p = judged(counted, "p_limit", "groups").loc[lowest.name, "p_holm"]
        evidence += f", p of a difference of {ZERO_MARGIN:.0%} after Holm's correction {p:.3f})"
    if not learned.all():
        evidence += f"; no more useful than before fine-tuning: {named(gains[~learned])}"
    return (above & learned).all(), below.any(), evidence


def member_gains(tuples: pd.DataFrame) -> pd.DataFrame:
    """Memorized share of the member rows minus that of the held-out rows, by distilled student.

    Columns: method, size, value, lo, hi, p, p_limit (of being ZERO_MARGIN), groups, hit_groups.
    """
    return each(natural(tuples[tuples["method"].isin(DISTILLED)]), MODEL, _member_gain)


def _member_gain(rows: pd.DataFrame) -> Line:
    hit, groups = rows["hit"].to_numpy(float), rows["group"]
    member = (rows["split"] == "member").to_numpy()
    record = difference(groups, hit, member, rows["seed"])
    record["p_limit"] = difference(groups, hit - ZERO_MARGIN * member, member, rows["seed"])["p"]
    if not hit.any():  # no draw knows of rows that were not seen
        n_groups = groups[member].nunique()
        record |= {"hi": wilson(0, n_groups)[1], "p_limit": p_of_none(n_groups, ZERO_MARGIN)}
    return record | {"groups": groups.nunique(), "hit_groups": groups[hit > 0].nunique()}


def _what_stays(odds: pd.DataFrame) -> Judged:
    # "rows enough to be fitted": until after the reference run of attributes alone, now of all
    # columns of the fit, seeds and sorts, too
    both = ["copies", "rarity"]
    lacking = [name for name in both if name not in set(odds["attribute"])]
    odds = odds.query("attribute in @both and method in @DISTILLED and note == ''")
    lines = [
        f"{label(row['method'])} {row['size']}, {row['attribute']}: {row_text(row, form='.2f')}"
        for row in odds.to_dict("records")
    ]
    evidence = "; ".join(lines) or "no distilled student has rows enough to be fitted"
    if lacking:
        evidence += f"; it cannot be confirmed here: fewer than {MIN_GROUPS} different responses "
        evidence += f"differ from the rest in {' and in '.join(lacking)}, too few to be fitted"
    confirmed = set(odds["attribute"]) == set(both) and (odds["lo"] > 1).all()
    # of Wald's test, whose interval this is
    z = np.log(odds["value"]) / (np.log(odds["hi"] / odds["lo"]) / (2 * ndtri(1 - ALPHA / 2)))
    below = (odds["value"] < 1) & (holm(2 * ndtr(-z.abs())) < ALPHA)
    return confirmed, below.any(), evidence


def _cheaper(costs: pd.DataFrame) -> Judged:
    numbers = costs.set_index("seed")[["parameters", "file_bytes", "ms_per_token"]]
    is_student = (costs["method"] != "teacher").to_numpy()
    ratio = numbers[is_student] / numbers[~is_student].loc[numbers.index[is_student]]
    cheap = (ratio[["parameters", "file_bytes"]] <= FRACTION).all(axis=1)
    spans = ", ".join(f"{name} {x.min():.2f} to {x.max():.2f}" for name, x in ratio.items())
    evidence = f"{cheap.sum()} of {len(cheap)} students (sizes by seeds) cost at most half in "
    evidence += "parameters and bytes"
    return cheap.all(), not cheap.any(), f"{evidence}; as shares of the teacher: {spans}"


PAPER_CLAIMS = {
    "C1": Claim(
        "At the end of training, every distilled student memorizes less than SFT of its size.",
        "all after as many steps (MiniLLM's come after its start from SFT); confirmed if for every "
        "size and method the difference to SFT lies below 0 (its whole interval, by 10 different "
        "responses or more); refuted if one lies above 0 after Holm's correction",
        partial(_all_below, "C1"),
    ),
    "C2": Claim(
        "It keeps the usefulness of the SFT student.",
        # until now in ROUGE-L alone, by sizes where SFT beats every trivial answer
        "usefulness as in A1, at the end of training; the margin is a fifth of what SFT, at the "
        "end, adds to the model before fine-tuning; confirmed if every difference to SFT lies "
        "above minus the margin; refuted if one lies below that after Holm's correction; a student "
        "where SFT adds nothing leaves it open; no verdict unless the teacher, after its best "
        "epoch, beats every trivial answer with its interval",
        _keeps_usefulness,
    ),
    "C3": Claim(
        "Methods that use the teacher's probabilities memorize least, MiniLLM least of all.",
        "confirmed if at every size MiniLLM < word-level KD < sequence-level KD (beams, "
        "the teacher's text, which is the row itself where the teacher memorized it), all "
        "differences below 0 (their whole intervals, by 10 different responses or more); refuted "
        "if one of them lies above 0 after Holm's correction",
        partial(_all_below, "C3"),
    ),
    "C4": Claim(
        "The smaller a distilled student, the smaller its share of what SFT of its size memorizes.",
        # until now the difference to SFT, which is smaller where SFT memorizes less
        "what a method memorizes, as a share of what SFT does, at each size minus the same at the "
        "next larger; confirmed if all lie below 0 (their whole intervals); refuted if one lies "
        "above 0 after Holm's correction; only by 10 different responses or more that SFT "
        "memorizes at both sizes, and the method at one; no verdict where what SFT memorizes "
        "differs by more than 10% of the rows between sizes",
        _smaller_share_of_sft,
    ),
    "C5": Claim(
        "It never reaches zero. (Which rows stay is not asked here.)",
        "a student counts if it learned: its held-out answers are more useful than those before "
        "fine-tuning, its interval above 0; confirmed if every distilled student counts, and its "
        "member rate minus the held-out rate lies above 2% (its whole interval, by 10 different "
        "responses or more); refuted if that of one that counts lies "
        "below 2% after Holm's correction",
        _never_zero,
    ),
    "C5b": Claim(
        "What stays are rows that occur often, and rows that are unlike all others (2506.16170).",
        "in the model of all attributes (notebook 12, intervals over groups alone, for the seeds "
        "that are there), for each of the paper's distilled methods "
        "that has rows enough to be fitted: confirmed if the odds ratios of copies and of rarity "
        "have their whole intervals above 1 in all of them; refuted if one of the two lies below 1 "
        "in one of them after Holm's correction; open otherwise, or if none is fitted",
        _what_stays,
    ),
    "C6": Claim(
        "The student costs at most half of the teacher. (The sizes were chosen so: no finding.)",
        "arithmetic of the sizes that were chosen, not a finding; confirmed if in every seed every "
        "student has at most half of its teacher's parameters and bytes; refuted if none has; "
        "milliseconds per token stand beside it and are not judged",
        _cheaper,
        trained=False,
    ),
}
FURTHER = companion_claims.CLAIMS | cause.CLAIMS | plane.CLAIMS | life_claims.CLAIMS
CLAIMS = {
    name: Claim(*parts) for name, parts in (own_claims.CLAIMS | PAPER_CLAIMS | FURTHER).items()
}
