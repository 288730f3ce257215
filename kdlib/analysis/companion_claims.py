"""The claims of the paper's companions (2601.15394: D; 2508.07054: E): statement, rule, judge.

Written before any reported seed was run, see `claims`. The companions' models are far larger than
ours. Taught in notebooks 11 to 13.
"""

from typing import Any

import pandas as pd

from kdlib.config.methods import DISTILLED, label
from kdlib.stats import ALPHA, judgeable, judged, row_text

PUBLISHED_AUC = (0.54, 0.83)  # of students in 2508.07054
NEARLY_ALL = 0.9  # of a student's rows (D1)
LITTLE = 0.05  # of the rows that only the teacher memorizes (D2)

Judged = tuple[bool, bool, str]  # confirmed, refuted, evidence


def _nearly_all_shared(shares: pd.DataFrame) -> Judged:
    pooled = shares.query("method == 'word_kd' and size == 'all' and seed == 'all'")
    row = pooled.set_index("metric").loc["shared"]
    evidence = row_text(row, form=".1%") + (f" of {row['n']:.0f} rows" if row["n"] else "")
    return row["lo"] > NEARLY_ALL, row["hi"] < NEARLY_ALL, evidence


def _little_beyond_sft(excess: pd.DataFrame) -> Judged:
    gaps = judged(excess[excess["method"] == "word_kd"])
    little = (gaps["hi"] < LITTLE) & judgeable(gaps, "groups")
    agreed = gaps["same_sign"].astype(bool)
    more = (gaps["lo"] > LITTLE) & (gaps["direction"] == "above") & agreed
    said = [
        f"{row['size']} {row_text(row, form='+.3f')} of {row['n']:.0f} rows"
        for row in gaps.to_dict("records")
    ]
    return little.all(), more.any(), f"beyond a second SFT student: {'; '.join(said)}"


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


def _ranked_differently(reversals: pd.DataFrame) -> Judged:
    verdicts, sure = reversals["verdict"], reversals[reversals["verdict"] == "reversed"]
    apart = ((reversals["auc"] < 0) & (reversals["memorized"] > 0)).sum()
    evidence = f"{apart} of {len(reversals)} pairs of methods are ordered differently by the means,"
    evidence += f" {len(sure)} beyond chance; {(verdicts == 'same order').sum()} are ordered alike "
    evidence += f"beyond chance, {(verdicts == 'not judgeable').sum()} not judgeable"
    if len(sure):
        most = sure.loc[sure["memorized"].idxmax()]
        evidence += f"; {label(most['one'])} memorizes {most['memorized']:.3f} more than "
        evidence += f"{label(most['other'])}, its AUC is {-most['auc']:.3f} lower"
    alike = (reversals["p"] < ALPHA) & (reversals["auc"] > 0) & reversals["same_sign"].astype(bool)
    return len(sure) > 0, alike.all(), evidence


CLAIMS = {
    "D1": (
        "Nearly all that a student memorizes, its teacher and an SFT student of its size memorize "
        "too (2601.15394: 95.7%).",
        "word-level KD, all sizes and seeds together: confirmed if the share's whole interval lies "
        "above 0.9, refuted if below 0.9",
        _nearly_all_shared,
    ),
    "D2": (
        "Of what the teacher memorizes and an SFT student does not, little is passed on "
        "(2601.15394: 0.9%): a student taught by it recites hardly more than another SFT student.",
        # until now the bare share was judged, though what SFT misses is partly luck
        "word-level KD, each size, all seeds together, over the rows that the teacher and not an "
        "SFT student of another training seed memorizes: the share that the distilled student "
        "memorizes less that of the SFT student; confirmed if at every size its whole interval "
        "lies below 0.05; refuted if at one size it lies above 0.05 (and above 0 after Holm's "
        "correction), every seed agreeing",
        _little_beyond_sft,
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
        # until now of all methods, uncorrected; refuted if no two means were ordered differently
        "the paper's methods at the probe's size: confirmed if two of them are ordered one way by "
        "memorized rows and the other way by the AUC of the loss score, both differences not 0 "
        "after Holm's correction over all pairs, every seed agreeing; refuted if all pairs are "
        "ordered alike, no difference being 0, every seed agreeing; open otherwise",
        _ranked_differently,
    ),
}
