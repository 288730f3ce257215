"""The claims, of the paper (C) and its companions (D, E): statement, rule and judge of each.

Statements and rules were written before any reported seed was run; where a rule changed since, a
comment says so. A judge takes tables and says confirmed, refuted (neither: open) and on what
evidence, looking at the paper's methods alone, but for E2. Taught in notebooks 10 to 13.
"""

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import pandas as pd

from kdlib.analysis.rates import MODEL, natural
from kdlib.config.methods import DISTILLED, PAPER, label
from kdlib.stats import newcombe, row_text

MARGIN = 0.01  # of ROUGE-L: less than this is "the same utility" (claim C2)
PUBLISHED_AUC = (0.54, 0.83)  # of students in 2508.07054

Judged = tuple[bool, bool, str]  # confirmed, refuted, evidence


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
    return chosen.query("seed == 'all' and comparison == @comparison and metric == @metric")


def _named(row: pd.Series) -> str:
    against, size = row["against"].split(maxsplit=1)
    name = f"{label(row['method'])} {row['size']} less {label(against)} {size}"
    return f"{name}: {row_text(row, form='+.3f')}"


def _all_below(comparison: str, differences: pd.DataFrame) -> Judged:
    gaps = _pooled(differences, comparison, "exact_rate")
    if not len(gaps):
        return False, False, "no two students to compare"
    below = (gaps["hi"] < 0) & (gaps["value"] < 0) & gaps["same_sign"]
    above = (gaps["lo"] > 0) & gaps["same_sign"]
    evidence = f"{below.sum()} of {len(gaps)} differences lie below 0 with every seed agreeing"
    most = _named(gaps.loc[gaps["value"].idxmax()])
    return below.all(), above.any(), f"{evidence}, {above.sum()} above; the greatest is {most}"


def _keeps_utility(differences: pd.DataFrame) -> Judged:
    gaps = _pooled(differences, "to_sft", "rougeL")
    kept, lost = gaps["lo"] > -MARGIN, (gaps["hi"] < -MARGIN) & gaps["same_sign"]
    evidence = f"{kept.sum()} of {len(gaps)} differences lie above -{MARGIN}, {lost.sum()} below"
    least = _named(gaps.loc[gaps["value"].idxmin()])
    return kept.all(), lost.any(), f"{evidence}; the least is {least}"


def _never_zero(tuples: pd.DataFrame) -> Judged:
    rows = natural(tuples[tuples["method"].isin(DISTILLED)]).groupby([*MODEL, "split"])
    counts = rows["hit"].agg(["sum", "count"]).unstack("split").swaplevel(axis=1)
    numbers = counts[["member", "held_out"]].itertuples(index=False)  # hits and rows of each
    above, hits = sum(newcombe(*one)[0] > 0 for one in numbers), counts["member", "sum"]
    method, size = hits.idxmin()
    evidence = f"{above} of {len(hits)} distilled students memorize more member than held-out rows"
    evidence += f"; the fewest member rows, {hits.min()} over all seeds, has {label(method)} {size}"
    return above == len(hits), hits.min() == 0, evidence


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
    # until the second reference run milliseconds per token counted too: a verdict hung on noise
    numbers = costs.set_index("seed")[["parameters", "file_bytes", "ms_per_token"]]
    taught = (costs["method"] != "teacher").to_numpy()
    ratio = numbers[taught] / numbers[~taught].loc[numbers.index[taught]]
    cheaper = (ratio[["parameters", "file_bytes"]] < 1).all(axis=1)
    spans = ", ".join(f"{name} {one.min():.2f} to {one.max():.2f}" for name, one in ratio.items())
    evidence = f"{cheaper.sum()} of {len(cheaper)} students cost less in parameters and bytes"
    return cheaper.all(), not cheaper.any(), f"{evidence}; as shares of the teacher: {spans}"


def _share(metric: str, limit: float, more: bool, shares: pd.DataFrame) -> Judged:
    pooled = shares.query("method == 'word_kd' and size == 'all' and seed == 'all'")
    row = pooled.set_index("metric").loc[metric]
    evidence = row_text(row, form=".1%") + (f" of {row['n']:.0f} rows" if row["n"] else "")
    above, below = row["lo"] > limit, row["hi"] < limit
    return *((above, below) if more else (below, above)), evidence


def _text_passes_on_more(contrasts: pd.DataFrame) -> Judged:
    chosen = contrasts.query("method == 'seq_kd_beam' and size == 'all'").set_index("metric")
    row, ratio = chosen.loc["difference"], chosen.loc["ratio"]
    agreed = bool(row["same_sign"])
    evidence = f"{row_text(row, form='+.3f')} over {row['n']:.0f} rows, {'' if agreed else 'not '}"
    evidence += f"every seed agreeing; ratio {row_text(ratio, form='.2f')}"
    return agreed and row["lo"] > 0, agreed and row["hi"] < 0, evidence


def _predictable(scores: dict[str, Any]) -> Judged:
    lo, hi = scores["roc_auc_lo"], scores["roc_auc_hi"]
    hits = f"{scores['hits']:.0f} of {scores['n']:.0f} rows are memorized"
    if pd.isna(lo):
        return False, False, f"{hits}: too few of one kind to judge"
    return lo > 0.99, hi < 0.99, f"ROC-AUC {row_text(scores, 'roc_auc', '.4f')}; {hits}"


def _removable(layers: pd.DataFrame) -> Judged:
    members = layers.query("left_out == 'predicted' and part in ('removed', 'kept')")
    total = members.groupby("seed")[["before", "after"]].sum().query("before > 0")
    if not len(total):
        return False, False, "no row was memorized, so that nothing could be removed"
    few = total["after"] <= 0.01 * total["before"]
    counts = [f"seed {row.Index}: {row.before} to {row.after}" for row in total.itertuples()]
    return few.all(), not few.any(), f"memorized before and after, {'; '.join(counts)}"


def _auc_as_published(attacks: pd.DataFrame) -> Judged:
    students = attacks.query("score == 'loss' and method in @DISTILLED")
    (lo, hi), auc = PUBLISHED_AUC, students["auc"]
    within = (students["auc_lo"] >= lo) & (students["auc_hi"] <= hi)
    outside = (students["auc_lo"] > hi) | (students["auc_hi"] < lo)
    evidence = f"{len(auc)} distilled students: AUC {auc.min():.3f} to {auc.max():.3f}; "
    evidence += f"{within.sum()} intervals lie within {lo} to {hi}, {outside.sum()} wholly outside"
    return within.all(), outside.any(), evidence


def _ranked_differently(reversals: pd.DataFrame, hits: pd.DataFrame) -> Judged:
    shares, sure = hits.groupby("method")["hit"].mean(), reversals[reversals["sure"].astype(bool)]
    evidence = f"{len(reversals)} of the pairs of {len(shares)} methods are ordered differently, "
    evidence += f"{len(sure)} with both intervals excluding 0 and every seed agreeing"
    if len(sure):
        most = sure.loc[sure["more"].idxmax()]
        evidence += f"; {label(most['one'])} memorizes {most['more']:.3f} more than "
        evidence += f"{label(most['other'])}, its AUC is {-most['less']:.3f} lower"
    ordered = shares.nunique() > 1  # else there is no order to reverse
    return len(sure) > 0, ordered and not len(reversals), evidence


CLAIMS = {
    "C1": Claim(
        "Every distilled student memorizes less than the SFT student of its size.",
        "confirmed if for every size and method the pooled difference to SFT has its whole "
        "interval below 0 and every seed agrees in sign; refuted if one interval lies above 0 with "
        "every seed agreeing",
        partial(_all_below, "to_sft"),
    ),
    "C2": Claim(
        "It keeps the utility (held-out ROUGE-L) of the SFT student.",
        f"confirmed if every difference to SFT has its whole interval above -{MARGIN}; refuted if "
        f"one interval lies below -{MARGIN} with every seed agreeing",
        _keeps_utility,
    ),
    "C3": Claim(
        "Methods that use the teacher's probabilities memorize least, reverse KL least of all.",
        "confirmed if at every size RKLD < word-level KD < sequence-level KD, intervals below 0 "
        "and every seed agreeing; refuted if one of these differences lies above 0 with every seed "
        "agreeing",
        partial(_all_below, "order"),
    ),
    "C4": Claim(
        "Memorization falls with the student's size.",
        "confirmed if for every method each smaller size less the next larger has its interval "
        "below 0 and every seed agrees; refuted if one interval lies above 0 with every seed "
        "agreeing",
        partial(_all_below, "size"),
    ),
    "C5": Claim(
        "It never reaches zero. (Which rows stay is not asked here.)",
        "confirmed if for every distilled student the member rate less the held-out rate has its "
        "interval above 0; refuted if one of them memorizes no member row in all seeds together",
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
        "The student costs a fraction of the teacher.",
        "confirmed if in every seed every student has fewer parameters and fewer bytes than its "
        "teacher; refuted if none has; milliseconds per token stand beside it and are not judged",
        _cheaper,
    ),
    "D1": Claim(
        "Nearly all that a student memorizes, its teacher and an SFT student of its size memorize "
        "too (2601.15394: 95.7%).",
        "word-level KD, all sizes and seeds together: confirmed if the share's whole interval lies "
        "above 0.9, refuted if below 0.9",
        partial(_share, "shared", 0.9, True),
    ),
    "D2": Claim(
        "Of what the teacher memorizes and the SFT student does not, little is passed on "
        "(2601.15394: 0.9%).",
        "word-level KD, all sizes and seeds together: confirmed if the share's whole interval lies "
        "below 0.05, refuted if above 0.05",
        partial(_share, "passed_on", 0.05, False),
    ),
    "D3": Claim(
        "Teacher text passes on more of that than teacher probabilities do (2601.15394: 2.7 "
        "times).",
        "sequence-level less word-level KD over the rows that the teacher and not the SFT student "
        "memorizes, all sizes together: confirmed if the paired difference lies above 0 with every "
        "seed agreeing, refuted if below 0 with every seed agreeing",
        _text_passes_on_more,
    ),
    "D4": Claim(
        "What a student will memorize is told beforehand by the perplexities of teacher and "
        "baseline, their KL and zlib (2601.15394: AUC .9997).",
        "word-level KD at the probe's size, trained on the other seeds, all seeds together: "
        "confirmed if the ROC-AUC's whole interval lies above 0.99, refuted if below 0.99",
        _predictable,
    ),
    "D5": Claim(
        "With the rows predicted beforehand removed, next to nothing is memorized (2601.15394: "
        "1,698 to 4).",
        "word-level KD at the probe's size: confirmed if in every seed the new student memorizes "
        "at most 1% of the rows that the old one did (as many rows, whichever they are), refuted "
        "if in every seed it memorizes more",
        _removable,
    ),
    "E1": Claim(
        "An attacker who knows the loss tells members from others with an AUC of .54 to .83 "
        "(2508.07054).",
        "loss score of every distilled student of the paper's methods, members against held-out "
        "rows, all seeds together: confirmed if every interval lies within .54 to .83, refuted if "
        "one lies wholly outside",
        _auc_as_published,
    ),
    "E2": Claim(
        "Membership and memorization rank the methods differently (2508.07054).",
        "all methods that were run, at the probe's size: confirmed if two of them are ordered one "
        "way by memorized rows and the other way by the AUC of the loss score, both differences "
        "with intervals that exclude 0 and every seed agreeing; refuted if no two are ordered "
        "differently by the means; open otherwise",
        _ranked_differently,
    ),
}
