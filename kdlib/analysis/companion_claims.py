"""The claims of the paper's companions (2601.15394: D; 2508.07054: E): statement, rule, judge.

Written before any reported seed was run, see `claims`. The companions' models are far larger than
ours, and memorize far less. Taught in notebooks 11 to 13.
"""

from typing import Any

import pandas as pd

from kdlib.analysis.attacks import END, LOWEST, START
from kdlib.analysis.own_claims import Judged
from kdlib.config.methods import DISTILLED, METHODS, label
from kdlib.stats import ALPHA, judgeable, judged, row_text

PUBLISHED_AUC = (0.54, 0.83)  # of students in 2508.07054
MARGIN = 0.05  # of what a student memorizes (D1), of the rows that only the teacher does (D2)


def _small_own_share(own: pd.DataFrame, shares: pd.DataFrame) -> Judged:
    row = own.query("method == 'word_kd' and size == 'all'").iloc[0]
    pooled = shares.query("method == 'word_kd' and size == 'all' and seed == 'all'")
    shared = pooled.set_index("metric").loc["shared"]
    evidence = f"its own share less that of the SFT student {row_text(row, form='+.3f')}, of "
    evidence += f"{row['n']:.0f} rows; all three have {row_text(shared, form='.1%')}"
    by_chance = row["chance"] - row["sft"] < MARGIN
    if by_chance:
        evidence += "; no verdict for it: of rows drawn at random no more than "
        evidence += f"{row['chance']:.3f} would be its own, the SFT student's {row['sft']:.3f}"
    return row["hi"] < MARGIN and not by_chance, row["lo"] > MARGIN, evidence


def _small_excess_over_sft(excess: pd.DataFrame) -> Judged:
    gaps = judged(excess[excess["method"] == "word_kd"])
    equivalent = (gaps["lo"] > -MARGIN) & (gaps["hi"] < MARGIN) & judgeable(gaps, "groups")
    larger = (gaps["lo"] > MARGIN) & (gaps["direction"] == "above")
    texts = [
        f"{row['size']} {row_text(row, form='+.3f')} of {row['n']:.0f} rows"
        for row in gaps.to_dict("records")
    ]
    return equivalent.all(), larger.any(), f"beyond a second SFT student: {'; '.join(texts)}"


def _text_passes_on_more(contrasts: pd.DataFrame) -> Judged:
    metrics = contrasts.query("method == 'seq_kd_beam' and size == 'all'").set_index("metric")
    row, ratio = metrics.loc["difference"], metrics.loc["ratio"]
    enough_groups = judgeable(row)
    evidence = f"{row_text(row, form='+.3f')} over {row['n']:.0f} rows; ratio "
    evidence += row_text(ratio, form=".2f")
    return enough_groups and row["lo"] > 0, enough_groups and row["hi"] < 0, evidence


def _predictable(scores: dict[str, Any]) -> Judged:
    lo, hi = scores["roc_auc_lo"], scores["roc_auc_hi"]
    hits = f"{scores['hits']:.0f} of {scores['n']:.0f} rows are memorized"
    if pd.isna(lo):
        return False, False, f"{hits}: too few of one kind to judge"
    evidence = f"ROC-AUC {row_text(scores, 'roc_auc', '.4f')} (0.5 is a guess); {hits}"
    return lo > 0.99, hi < 0.99, evidence


def _removable(removal: dict[str, Any]) -> Judged:
    enough_groups = judgeable(removal)
    evidence = f"{removal['predicted']} of {removal['n']} rows memorized without the "
    evidence += f"{removal['n_predicted']} predicted, {removal['random']} without "
    evidence += f"{removal['n_random']} random ones: {row_text(removal, form='+.3f')}"
    return enough_groups and removal["hi"] < 0, enough_groups and removal["lo"] > 0, evidence


def _auc_as_published(early: pd.DataFrame) -> Judged:
    rows = early[(early["score"] == "loss") & early["method"].isin(DISTILLED)]
    before, students, after = (rows[rows["at"] == stage] for stage in (START, LOWEST, END))
    (lo, hi), auc, final_auc = PUBLISHED_AUC, students["auc"], after["auc"]
    within = (students["auc_lo"] >= lo) & (students["auc_hi"] <= hi)
    outside = (students["auc_lo"] > hi) | (students["auc_hi"] < lo)
    evidence = f"{len(auc)} distilled students: AUC {auc.min():.3f} to {auc.max():.3f}, "
    evidence += f"{within.sum()} intervals lie within {lo} to {hi}, {outside.sum()} wholly outside"
    evidence += f" ({_aucs(students[outside])})" * bool(outside.any())
    tuned = before[["sft_epochs" in METHODS[method].coefficients for method in before["method"]]]
    if len(tuned):
        evidence += f", where a student starts from SFT, before any distilling {_aucs(tuned)}"
    evidence += f"; at the end of training {final_auc.min():.3f} to {final_auc.max():.3f}"
    return within.all(), outside.any(), evidence


def _aucs(students: pd.DataFrame) -> str:
    return ", ".join(
        f"{label(row['method'])} {row['size']} {row_text(row, 'auc')}"
        for row in students.to_dict("records")
    )


def _ranked_differently(reversals: pd.DataFrame) -> Judged:
    verdict, pairs = reversals["verdict"], reversals[reversals["verdict"] == "reversed"]
    count = ((reversals["auc"] < 0) & (reversals["memorized"] > 0)).sum()
    evidence = f"{count} of {len(reversals)} pairs of methods are ordered differently by the means,"
    evidence += f" {len(pairs)} beyond chance; {(verdict == 'same order').sum()} are ordered alike "
    evidence += f"beyond chance, {(verdict == 'not judgeable').sum()} not judgeable"
    if len(pairs):
        largest = pairs.loc[pairs["memorized"].idxmax()]
        evidence += f"; {label(largest['one'])} memorizes {largest['memorized']:.3f} more than "
        evidence += f"{label(largest['other'])}, its AUC is {-largest['auc']:.3f} lower"
    same_order = (reversals["p"] < ALPHA) & (reversals["auc"] > 0)
    return len(pairs) > 0, same_order.all(), evidence


CLAIMS = {
    "D1": (
        "Of what a student memorizes, hardly more is its own, neither its teacher's nor an SFT "
        "student's, than of what another SFT student memorizes (2601.15394: all three have 95.7%).",
        # before any reported seed the share that all three have: with SFT trained until it
        # memorizes half of the rows, luck alone puts the companion's number out of reach. "Not
        # confirmed where ..." was added after the reference run, from which it takes this verdict;
        # so was the weight of S's rows in `inheritance.own`, which changes no verdict
        "word-level KD, all sizes and seeds together: of the rows that it memorizes, the share "
        "that neither its teacher nor an SFT student of another training seed memorizes, less "
        "that share of the rows that the SFT student memorizes; confirmed if the whole interval "
        "lies below 0.05, refuted if above 0.05; not confirmed where as many rows drawn at random "
        "would lie below 0.05, too",
        _small_own_share,
    ),
    "D2": (
        "Of what the teacher memorizes and an SFT student does not, little is passed on "
        "(2601.15394: 0.9%): a student taught by it recites hardly more than another SFT student.",
        # until now the bare share was judged, though what SFT misses is partly luck; then a student
        # that recites far less than SFT confirmed it
        "word-level KD, each size, all seeds together, over the rows that the teacher and not an "
        "SFT student of another training seed memorizes: the share that the distilled student "
        "memorizes less that of the SFT student; confirmed if at every size its whole interval "
        "lies within -0.05 to 0.05 (equivalence); refuted if at one size it lies above 0.05 (and "
        "above 0 after Holm's correction); a student that recites less leaves it open",
        _small_excess_over_sft,
    ),
    "D3": (
        "Teacher text passes on more of that than teacher probabilities do (2601.15394: 2.7 "
        "times).",
        # until now over the rows that the SFT student of the same training seed misses
        "sequence-level less word-level KD over the rows that the teacher and not an SFT student "
        "of another training seed memorizes, all sizes and seeds together: confirmed if the paired "
        "difference's interval lies above 0, refuted if below 0, by 10 different responses or more",
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
        "With the rows predicted beforehand removed, less is memorized than with as many random "
        "rows removed (2601.15394: 1,698 memorized to 4).",
        # before any reported seed at most 1% of what was memorized, which of few rows cannot be
        # told from 0. "At most half" was added after a run in which 91 of 96 rows were predicted;
        # "whole groups" after the reference run, in which copies of removed rows were still read
        "word-level KD at the probe's size, all seeds together: the share of the member rows, "
        "removed or kept, that is memorized with the predicted rows (at most half) removed, less "
        "that with as many random rows removed, both in whole groups of equal responses; confirmed "
        "if the paired difference's interval lies below 0, refuted if above 0, by 10 different "
        "responses or more",
        _removable,
    ),
    "E1": (
        "Of a student trained until its held-out loss is lowest, an attacker who knows the loss "
        "tells members from others with an AUC of .54 to .83 (2508.07054).",
        # until now at the end of training, which is set so that SFT memorizes half of the rows
        "loss score of every distilled student of the paper's methods, noted where in its training "
        "the held-out loss is lowest, members against held-out rows, all seeds together: confirmed "
        "if every interval lies within .54 to .83, refuted if one lies wholly outside; no interval "
        "with fewer than 10 different responses of either; the end of training stands beside it",
        _auc_as_published,
    ),
    "E2": (
        "Membership and memorization rank the methods differently (2508.07054).",
        # until now of all methods, uncorrected; refuted if no two means were ordered differently
        "the paper's methods at the probe's size: confirmed if two of them are ordered one way by "
        "memorized rows and the other way by the AUC of the loss score, both differences not 0 "
        "after Holm's correction over all pairs; refuted if all pairs are ordered alike, no "
        "difference being 0; open otherwise",
        _ranked_differently,
    ),
}
