"""Our own claims about equal usefulness and equal fit (A1, A2): statement, rule, judge.

Written before any reported seed was run, see `claims`. Taught in notebook 10.
"""

import pandas as pd

from kdlib.analysis.companion_claims import Judged
from kdlib.analysis.rates import MODEL
from kdlib.config.methods import DISTILLED, label
from kdlib.stats import judgeable, row_text, sure

GAIN = 0.05  # of the member rows: what distilling has to leave less, not to be refuted


def useful_sizes(beats: pd.DataFrame) -> tuple[list[str], str]:
    """The sizes at which SFT beats every trivial answer, and a sentence on the others.

    `beats`: method ("sft", "teacher"), size, against, value, lo, hi, beats. The teacher stands
    beside it in the sentence.
    """
    sft, teacher = (beats[beats["method"] == method] for method in ("sft", "teacher"))
    if not len(sft):
        return [], "no verdict: usefulness of answers was not measured"
    lost, said = sft[~sft["beats"].astype(bool)].sort_values("value"), []
    for size, lines in lost.groupby("size", sort=False):
        gap = f"'{lines['against'].iloc[0]}' {row_text(lines.iloc[0], form='+.3f')}"
        said.append(f"no verdict on {size}: SFT there does not beat every trivial answer, {gap}")
    if len(teacher):
        said.append(f"the teacher beats {teacher['beats'].sum()} of {len(teacher)} trivial answers")
    sizes = [size for size in dict.fromkeys(sft["size"]) if size not in set(lost["size"])]
    return sizes, "; ".join(said)


def named(lines: pd.DataFrame) -> str:
    """The models of some lines, in words; "none"."""
    models = zip(lines["method"], lines["size"], strict=True)
    return ", ".join(f"{label(method)} {size}" for method, size in models) or "none"


def _less_at_equal_usefulness(stopped: pd.DataFrame, over_trivial: pd.DataFrame) -> Judged:
    sizes, said = useful_sizes(over_trivial)
    lines = stopped[stopped["method"].isin(DISTILLED)].set_index(MODEL, drop=False)
    gaps, useful = (lines[lines["metric"] == metric] for metric in ("memorized", "useful"))
    kept, as_useful = gaps["size"].isin(sizes), useful["lo"] > -useful["margin"]
    gained, recites = gaps["gained"].astype(bool), gaps["sft"] >= 2 * GAIN
    judged = kept & gained & recites & judgeable(gaps, "groups")
    less, none = judged & sure(gaps) & (gaps["value"] < 0) & as_useful, gaps["lo"] > -GAIN
    evidence = f"{judged.sum()} of {len(gaps)} distilled students are judged: {less.sum()} memorize"
    evidence += " less than SFT stopped where it is as useful; a gain of "
    evidence += f"{GAIN:.0%} of the rows is excluded for {(none & judged).sum()}"
    if (value := gaps["value"].where(judged)).notna().any():
        most = gaps.loc[value.idxmin()]
        evidence += f"; the greatest gain has {label(most['method'])} {most['size']}: "
        evidence += row_text(most, form="+.3f")
    if len(lost := gaps[kept & ~gained]):
        evidence += f"; with SFT no common gain in usefulness has {named(lost)}"
    for one in gaps[kept & gained & ~recites].to_dict("records"):
        evidence += f"; SFT stopped for {label(one['method'])} {one['size']} recites "
        evidence += f"{one['sft']:.3f}: nothing to save"
    confirmed = kept.any() and less[kept].all()
    return confirmed, judged.any() and none[judged].all(), f"{evidence}; {said}".rstrip("; ")


def _less_at_equal_fit(same_fit: pd.DataFrame) -> Judged:
    gaps = same_fit[same_fit["method"].isin(DISTILLED)]
    below = sure(gaps, "hit_groups") & (gaps["value"] < 0)
    none = (gaps["lo"] > -GAIN) & judgeable(gaps, "groups")
    evidence = f"{below.sum()} of {len(gaps)} distilled students memorize less than SFT at the "
    evidence += f"same member loss; a gain of {GAIN:.0%} is excluded for {none.sum()}"
    if gaps["value"].notna().any():
        most = gaps.loc[gaps["value"].idxmin()]
        evidence += f"; the greatest: {label(most['method'])} {most['size']} "
        evidence += row_text(most, form="+.3f")
    if gaps["value"].isna().any():
        evidence += f"; no common member loss with SFT has {named(gaps[gaps['value'].isna()])}"
    return below.all(), not below.any() and none.all(), evidence


CLAIMS = {
    "A1": (
        "At equal usefulness, distilling leaves less of the rows than stopping SFT early.",
        # until now stopped at the greatest common usefulness, judged by half of the groups
        "usefulness: of held-out answers, the mean of ROUGE-L and sentence similarity (ROUGE-L "
        "without an encoder; no verdict where no answers were noted); the margin: a fifth of what "
        "SFT after its best epoch adds to the model before fine-tuning or to the best trivial "
        "answer, whichever is greater. Half of the groups stop each distilled student, and SFT of "
        "its size and seed, after the epoch in which they memorize least, of those no less useful "
        "than the lesser of their two best by more than the margin; the other half judges, and the "
        "other way round. A size where SFT so stopped does not beat every trivial answer with its "
        "interval has no verdict. A student is judged where the least usefulness that is enough "
        "exceeds the one before fine-tuning by the margin, above 0, and SFT stopped there "
        "memorizes at least 10% of the rows. Confirmed if every one of the paper's students, at "
        "the sizes left, is judged, memorizes less (interval below 0, 10 different responses or "
        "more) and is not less useful by the margin (interval); else refuted if one is judged, and "
        "for all judged a gain of 5% of the rows is excluded",
        _less_at_equal_usefulness,
    ),
    "A2": (
        "Where it fits the rows as closely, a distilled student recites less than SFT.",
        "mean difference in memorization over the member losses that both paths pass, evenly "
        "spaced in their logarithm, from where either memorizes 5% of the rows on: confirmed if "
        "its interval lies below 0 for all of the paper's students (10 different responses or more "
        "memorized); refuted if for none, and a gain of 5% of the rows is excluded for all; a "
        "student whose path has no such loss in common with SFT's leaves it open",
        _less_at_equal_fit,
    ),
}
