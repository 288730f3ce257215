"""What distilling takes away on average, and how finely a run could tell (notebook 10)."""

from collections.abc import Mapping

import pandas as pd

from kdlib.analysis.equal_usefulness import contrast
from kdlib.analysis.rates import MODEL, ROW, natural
from kdlib.config.methods import DISTILLED, ON_POLICY
from kdlib.stats import Line

OFF_POLICY = "C1, off-policy"


def contrasts(stopped: pd.DataFrame, same_fit: pd.DataFrame, tuples: pd.DataFrame) -> pd.DataFrame:
    """The primary contrast: what the paper's distilled students memorize minus SFT, the mean.

    A line for each claim of which it is said: A1 (of `equal_usefulness.stopped` rows), A2 (of
    `equal_usefulness.same_fit`), C1 (at the end of training); and OFF_POLICY, which is C1 without
    methods that train on text of the student's own, where there are both. Columns: claim, students,
    value, lo, hi, p, n, groups.
    """
    hits = natural(tuples, "member").astype({"hit": float})
    sft = hits[hits["method"] == "sft"].set_index(["size", *ROW])["hit"].rename("sft")
    final = hits.rename(columns={"hit": "own"}).join(sft, on=["size", *ROW])
    rows = {"A1": stopped[stopped["metric"] == "memorized"], "C1": final}
    off_policy = [name for name in DISTILLED if name not in ON_POLICY]
    if 0 < final["method"].isin(off_policy).sum() < final["method"].isin(DISTILLED).sum():
        rows[OFF_POLICY] = final[final["method"].isin(off_policy)]
    lines: list[Line] = []
    for claim, frame in rows.items():
        students = frame[frame["method"].isin(DISTILLED)]
        lines.append(
            {"claim": claim, "students": len(students[MODEL].drop_duplicates())}
            | contrast(students)
        )
    n_students = same_fit[same_fit["method"].isin(DISTILLED)]["value"].count()
    mean_rows = same_fit[same_fit["method"] == "all"].to_dict("records")
    lines += [{"claim": "A2", "students": n_students} | row for row in mean_rows]
    columns = ["claim", "students", "value", "lo", "hi", "p", "n", "groups"]
    return pd.DataFrame(lines)[columns].sort_values("claim", ignore_index=True)


def reach(lines: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """How finely this run could tell differences: half of the widths of intervals.

    A true difference as large as that is found in about one run of two, a smaller one less often.
    Of lines (lo, hi) by claim: claim, lines, judged (those with an interval), least, median,
    greatest. An interval without a length, where all draws agree, says nothing of other rows: it
    is none here.
    """
    halves = {claim: (frame["hi"] - frame["lo"]) / 2 for claim, frame in lines.items()}
    halves = {claim: half[half > 0] for claim, half in halves.items()}
    rows = {
        claim: {"lines": len(lines[claim]), "judged": len(half), "least": half.min()}
        | {"median": half.median(), "greatest": half.max()}
        for claim, half in halves.items()
    }
    return pd.DataFrame(rows).T.rename_axis("claim").reset_index()
