"""Our own claims about equal usefulness and equal fit (A1, A2): statement, rule, judge.

Written before any reported seed was run, see `claims`. Taught in notebook 10.
"""

import pandas as pd

from kdlib.analysis.companion_claims import Judged
from kdlib.analysis.rates import MODEL
from kdlib.config.methods import DISTILLED, label
from kdlib.stats import judgeable, row_text, sure

GAIN = 0.05  # of the member rows: what distilling has to leave less, not to be refuted


def taught(over_trivial: pd.DataFrame) -> tuple[bool, str]:
    """Whether the teacher beats every trivial answer, and a sentence on it and on SFT.

    `over_trivial`: method ("sft", "teacher"), size, against, value, lo, hi, beats. Without lines of
    the teacher, it does not. Where SFT answers no better than a trivial answer, the sentence says
    so: what is equal there is not much.
    """
    sft, teacher = (over_trivial[over_trivial["method"] == one] for one in ("sft", "teacher"))
    if not len(teacher):
        return False, "no verdict: usefulness of answers was not measured"
    beats = teacher["beats"].astype(bool)
    least = teacher.sort_values("value").iloc[0]
    said = [f"the teacher beats {beats.sum()} of {len(teacher)} trivial answers, {_against(least)}"]
    if not beats.all():
        said.insert(0, "no verdict on usefulness")
    lost = sft[~sft["beats"].astype(bool)].sort_values("value")
    for size, lines in lost.groupby("size", sort=False):
        said.append(f"SFT, {size}, does not beat them all, {_against(lines.iloc[0])}")
    return bool(beats.all()), "; ".join(said)


def _against(line: pd.Series) -> str:
    return f"'{line['against']}' by {row_text(line, form='+.3f')}"


def named(lines: pd.DataFrame) -> str:
    """The models of some lines, in words; "none"."""
    models = zip(lines["method"], lines["size"], strict=True)
    return ", ".join(f"{label(method)} {size}" for method, size in models) or "none"


def at_equal_usefulness(lines: pd.DataFrame) -> pd.DataFrame:
    """What the rule of A1 says of each student: its line of metric "memorized", by size and method.

    Of the lines of `equal_usefulness.differences`. Further columns, all bool: recites (there is
    something to save), judged, less (surely memorizes less, and is as useful), none (a gain of GAIN
    is excluded); less and none are of those judged.
    """
    lines = lines.set_index(MODEL, drop=False)
    gaps, useful = (lines[lines["metric"] == metric] for metric in ("memorized", "useful"))
    as_useful = useful["lo"] > -useful["margin"]
    gained, recites = gaps["gained"].astype(bool), gaps["sft"] >= 2 * GAIN
    judged = gained & recites & judgeable(gaps, "groups")
    less, none = judged & sure(gaps) & (gaps["value"] < 0) & as_useful, gaps["lo"] > -GAIN
    found = {"gained": gained, "recites": recites, "judged": judged, "less": less}
    return gaps.assign(**found, none=judged & none)


def _less_at_equal_usefulness(stopped: pd.DataFrame, over_trivial: pd.DataFrame) -> Judged:
    kept, said = taught(over_trivial)
    gaps = at_equal_usefulness(stopped[stopped["method"].isin(DISTILLED)])
    gained, recites, judged = (gaps[name] for name in ("gained", "recites", "judged"))
    less, none = gaps["less"], gaps["none"]
    evidence = f"{judged.sum()} of {len(gaps)} distilled students are judged: {less.sum()} memorize"
    evidence += " less than SFT stopped where it is as useful; a gain of "
    evidence += f"{GAIN:.0%} of the rows is excluded for {none.sum()}"
    if (value := gaps["value"].where(judged)).notna().any():
        most = gaps.loc[value.idxmin()]
        evidence += f"; the greatest gain has {label(most['method'])} {most['size']}: "
        evidence += row_text(most, form="+.3f")
    if len(lost := gaps[~gained]):
        evidence += f"; with SFT no common gain in usefulness has {named(lost)}"
    for one in gaps[gained & ~recites].to_dict("records"):
        evidence += f"; SFT stopped for {label(one['method'])} {one['size']} recites "
        evidence += f"{one['sft']:.3f}: nothing to save"
    confirmed, refuted = len(less) > 0 and less.all(), judged.any() and none[judged].all()
    return kept and confirmed, kept and refuted, f"{evidence}; {said}"


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
        # until now by sizes where SFT beats every trivial answer, which also bounded the margin
        "usefulness: of held-out answers, the mean of ROUGE-L and sentence similarity (ROUGE-L "
        "without an encoder); the margin: a fifth of what SFT after its best epoch adds to the "
        "model before fine-tuning. No verdict unless the teacher, after its best epoch, beats "
        "every trivial answer with its interval. Half of the groups stop each distilled student, "
        "and SFT of its size and seed, after the epoch in which they memorize least, of those no "
        "less useful than the lesser of their two best by more than the margin; the other half "
        "judges, and the other way round. A student is judged where the least usefulness that is "
        "enough exceeds the one before fine-tuning by the margin, above 0, and SFT stopped there "
        "memorizes at least 10% of the rows. Confirmed if every one of the paper's students is "
        "judged, memorizes less (interval below 0, 10 different responses or more) and is not less "
        "useful by the margin (interval); else refuted if one is judged, and for all judged a gain "
        "of 5% of the rows is excluded",
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
