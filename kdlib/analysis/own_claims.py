"""Our own claims about equal usefulness and equal fit (A1, A2): statement, rule, judge.

Written before any reported seed was run, see `claims`. Taught in notebook 10.
"""

import numpy as np
import pandas as pd

from kdlib.analysis.rates import MODEL
from kdlib.config.methods import DISTILLED, label
from kdlib.stats import is_significant, judgeable, row_text

Judged = tuple[bool, bool, str]  # confirmed, refuted, evidence
GAIN = 0.05  # of the member rows: memorizing so much less is a gain (A1, A2)


def taught(over_trivial: pd.DataFrame) -> tuple[bool, str]:
    """Whether the teacher beats every trivial answer, and a sentence on it and on SFT.

    `over_trivial`: method ("sft", "teacher"), size, against, value, lo, hi, beats. Without lines of
    the teacher, it does not. Where it does, and SFT answers no better than a trivial answer, the
    sentence says so: what is equal there is not much.
    """
    sft, teacher = (over_trivial[over_trivial["method"] == method] for method in ("sft", "teacher"))
    if not len(teacher):
        return False, "no verdict: usefulness of answers was not measured"
    beats = teacher["beats"].astype(bool)
    worst = teacher.sort_values("value").iloc[0]
    texts = [
        f"the teacher beats {beats.sum()} of {len(teacher)} trivial answers, {_against(worst)}"
    ]
    if not beats.all():
        return False, f"no verdict on usefulness; {texts[0]}"
    losses = sft[~sft["beats"].astype(bool)].sort_values("value")
    for size, rows in losses.groupby("size", sort=False):
        texts.append(f"SFT, {size}, does not beat them all, {_against(rows.iloc[0])}")
    return True, "; ".join(texts)


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
    is excluded); less and none are of those judged. And two of words: note (whether it is judged,
    and if not, why), more_useful ("SFT" or "student", where it is by more than the margin).
    """
    lines = lines.set_index(MODEL, drop=False)
    gaps, usefulness = (lines[lines["metric"] == metric] for metric in ("memorized", "useful"))
    usefulness = usefulness.reindex(gaps.index)
    as_useful = usefulness["lo"] > -usefulness["margin"]
    gained, recites = gaps["gained"].astype(bool), gaps["sft"] >= 2 * GAIN
    judged = gained & recites & judgeable(gaps, "groups")
    saves, no_gain = (
        judged & is_significant(gaps) & (gaps["value"] < 0) & as_useful,
        gaps["lo"] > -GAIN,
    )
    columns = {"gained": gained, "recites": recites, "judged": judged, "less": saves}
    reasons = ["yes", "no: no common gain", f"no: SFT memorizes under {2 * GAIN:.0%}"]
    note = np.select([judged, ~gained, ~recites], reasons, "no: too few responses")
    conditions = [
        usefulness["value"] < -usefulness["margin"],
        usefulness["value"] > usefulness["margin"],
    ]
    more_useful = np.select(conditions, ["SFT", "student"], "")
    return gaps.assign(**columns, none=judged & no_gain, note=note, more_useful=more_useful)


def _less_at_equal_usefulness(stopped: pd.DataFrame, over_trivial: pd.DataFrame) -> Judged:
    teacher_beats, sentence = taught(over_trivial)
    gaps = at_equal_usefulness(stopped[stopped["method"].isin(DISTILLED)])
    gained, recites, judged = (gaps[name] for name in ("gained", "recites", "judged"))
    less, no_gain = gaps["less"], gaps["none"]
    evidence = f"{judged.sum()} of {len(gaps)} distilled students are judged: of these "
    evidence += f"{less.sum()} memorize less than SFT that is stopped where it is as useful, and "
    evidence += (
        f"for {no_gain.sum()} a gain of {GAIN:.0%} of the rows (memorizing so much less) is "
    )
    evidence += "excluded"
    if (values := gaps["value"].where(judged)).notna().any():
        lowest = gaps.loc[values.idxmin()]
        evidence += f"; {label(lowest['method'])} {lowest['size']} has the lowest difference: "
        evidence += row_text(lowest, form="+.3f")
    if len(ungained := gaps[~gained]):
        evidence += f"; {named(ungained)}: no gain in usefulness in common with SFT"
    for share, rows in gaps[gained & ~recites].groupby("sft", sort=False):
        evidence += f"; {named(rows)}: SFT stopped beside memorizes {share:.3f}, nothing to save"
    confirmed, refuted = len(less) > 0 and less.all(), judged.any() and no_gain[judged].all()
    return teacher_beats and confirmed, teacher_beats and refuted, f"{evidence}; {sentence}"


def _less_at_equal_fit(same_fit: pd.DataFrame) -> Judged:
    gaps = same_fit[same_fit["method"].isin(DISTILLED)]
    below = is_significant(gaps, "hit_groups") & (gaps["value"] < 0)
    no_gain = (gaps["lo"] > -GAIN) & judgeable(gaps, "groups")
    n_common = gaps["value"].notna().sum()
    evidence = (
        f"{n_common} of {len(gaps)} distilled students have a member loss in common with SFT: of "
    )
    evidence += f"these {below.sum()} memorize less there, and for {no_gain.sum()} a gain of "
    evidence += f"{GAIN:.0%} of the rows (memorizing so much less than SFT) is excluded"
    if gaps["value"].notna().any():
        lowest = gaps.loc[gaps["value"].idxmin()]
        evidence += f"; {label(lowest['method'])} {lowest['size']} has the lowest difference: "
        evidence += row_text(lowest, form="+.3f")
    if gaps["value"].isna().any():
        unmatched = named(gaps[gaps["value"].isna()])
        evidence += f"; {unmatched}: no member loss in common with SFT at which either memorizes 5%"
    return below.all(), not below.any() and no_gain.all(), evidence


CLAIMS = {
    "A1": (
        "At equal usefulness, a distilled student memorizes less than SFT that is stopped early.",
        # until now by sizes where SFT beats every trivial answer, which also bounded the margin
        "usefulness is, of held-out answers, the mean of ROUGE-L and sentence similarity (ROUGE-L "
        "without an encoder); the margin is a fifth of what SFT after its best epoch adds to the "
        "model before fine-tuning; the level of a distilled student and SFT of its size and seed "
        "is the lesser of their two best usefulnesses, minus the margin; half of the groups stop "
        "both after the epoch in which they memorize least, of those at the level or above, and "
        "the other half judges, then the other way round; judged if the level exceeds the "
        "usefulness before fine-tuning by the margin, above 0, and SFT stopped there memorizes at "
        "least 10% of the rows; confirmed if every one of the paper's students is judged, "
        "memorizes less (interval below 0, 10 different responses or more) and is not less useful "
        "by the margin (interval); refuted if not confirmed, one is judged, and for all judged a "
        "gain of 5% of the rows is excluded; no verdict unless the teacher, after its best epoch, "
        "beats every trivial answer with its interval",
        _less_at_equal_usefulness,
    ),
    "A2": (
        "Where it fits the rows as closely, a distilled student memorizes less than SFT.",
        "the difference is the mean over the member losses that both paths pass, evenly spaced in "
        "their logarithm, from where either memorizes 5% of the rows on; confirmed if "
        "its interval lies below 0 for all of the paper's students (10 different responses or more "
        "memorized); refuted if for none, and a gain of 5% of the rows is excluded for all; a "
        "student whose path has no such loss in common with SFT's leaves it open",
        _less_at_equal_fit,
    ),
}
