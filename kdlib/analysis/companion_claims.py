"""The claims of the paper's companions (2601.15394: D; 2508.07054: E): statement, rule, judge.

Written before any reported seed was run, see `claims`. The companions' models are far larger than
ours. Taught in notebooks 11 to 13.
"""

from functools import partial
from typing import Any

import pandas as pd

from kdlib.config.methods import DISTILLED, label
from kdlib.stats import row_text

PUBLISHED_AUC = (0.54, 0.83)  # of students in 2508.07054

Judged = tuple[bool, bool, str]  # confirmed, refuted, evidence


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
    students = attacks[(attacks["score"] == "loss") & attacks["method"].isin(DISTILLED)]
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
    "D1": (
        "Nearly all that a student memorizes, its teacher and an SFT student of its size memorize "
        "too (2601.15394: 95.7%).",
        "word-level KD, all sizes and seeds together: confirmed if the share's whole interval lies "
        "above 0.9, refuted if below 0.9",
        partial(_share, "shared", 0.9, True),
    ),
    "D2": (
        "Of what the teacher memorizes and the SFT student does not, little is passed on "
        "(2601.15394: 0.9%).",
        "word-level KD, all sizes and seeds together: confirmed if the share's whole interval lies "
        "below 0.05, refuted if above 0.05",
        partial(_share, "passed_on", 0.05, False),
    ),
    "D3": (
        "Teacher text passes on more of that than teacher probabilities do (2601.15394: 2.7 "
        "times).",
        "sequence-level less word-level KD over the rows that the teacher and not the SFT student "
        "memorizes, all sizes together: confirmed if the paired difference lies above 0 with every "
        "seed agreeing, refuted if below 0 with every seed agreeing",
        _text_passes_on_more,
    ),
    "D4": (
        "What a student will memorize is told beforehand by the perplexities of teacher and "
        "baseline, their KL and zlib (2601.15394: AUC .9997).",
        "word-level KD at the probe's size, trained on the other seeds, all seeds together: "
        "confirmed if the ROC-AUC's whole interval lies above 0.99, refuted if below 0.99",
        _predictable,
    ),
    "D5": (
        "With the rows predicted beforehand removed, next to nothing is memorized (2601.15394: "
        "1,698 to 4).",
        "word-level KD at the probe's size: confirmed if in every seed the new student memorizes "
        "at most 1% of the rows that the old one did (as many rows, whichever they are), refuted "
        "if in every seed it memorizes more",
        _removable,
    ),
    "E1": (
        "An attacker who knows the loss tells members from others with an AUC of .54 to .83 "
        "(2508.07054).",
        "loss score of every distilled student of the paper's methods, members against held-out "
        "rows, all seeds together: confirmed if every interval lies within .54 to .83, refuted if "
        "one lies wholly outside",
        _auc_as_published,
    ),
    "E2": (
        "Membership and memorization rank the methods differently (2508.07054).",
        "all methods that were run, at the probe's size: confirmed if two of them are ordered one "
        "way by memorized rows and the other way by the AUC of the loss score, both differences "
        "with intervals that exclude 0 and every seed agreeing; refuted if no two are ordered "
        "differently by the means; open otherwise",
        _ranked_differently,
    ),
}
