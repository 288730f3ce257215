"""Which rows teacher, SFT student and distilled student have in common (notebook 11).

Three sets of member rows per seed, size and distilled method: memorized by the teacher (T), by the
SFT student of the size (S, the "baseline" of 2601.15394), by the distilled student (D).
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from kdlib import stats
from kdlib.analysis.rates import MODEL, ROW, distilled, natural
from kdlib.errors import KdlibError

COMPANION = {"shared": 0.957, "passed_on": 0.009, "ratio": 2.7}  # 2601.15394
Counted = dict[str, tuple[np.ndarray, np.ndarray]]  # what is counted, and of what
REGIONS = {  # in T, in S, in D
    "all three": (True, True, True),
    "teacher and student": (True, False, True),
    "SFT and student": (False, True, True),
    "student alone": (False, False, True),
    "teacher and SFT": (True, True, False),
    "teacher alone": (True, False, False),
    "SFT alone": (False, True, False),
}


def sets(tuples: pd.DataFrame) -> pd.DataFrame:
    """Who memorized which member row, for every distilled student that was run.

    Columns: method, size, seed, row_id, group, length (tokens), in_distilled, in_teacher, in_sft.

    Raises:
        KdlibError: the models do not hold the same rows.
    """
    rows = natural(tuples, "member")[[*MODEL, *ROW, "group", "length", "hit"]]
    students = rows[rows["method"].isin(distilled(rows))].rename(columns={"hit": "in_distilled"})
    out = students
    for method, keys in (("teacher", ROW), ("sft", ["size", *ROW])):
        hits = rows.loc[rows["method"] == method, [*keys, "hit"]]
        out = out.merge(hits.rename(columns={"hit": f"in_{method}"}), on=keys, validate="m:1")
    if len(out) != len(students):
        raise KdlibError("teacher and students do not hold the same rows; run the study again")
    return out


def regions(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows in each of the seven regions of T, S and D.

    Columns: method, size (one, or "all": a row counts once for each size), seed ("all" or one),
    metric (a region), value, lo, hi, hits, n (rows that any of the three memorized), groups.
    """

    def counted(t: np.ndarray, s: np.ndarray, d: np.ndarray) -> Counted:
        ins = {one: (t == a) & (s == b) & (d == c) for one, (a, b, c) in REGIONS.items()}
        return {one: (inside, t | s | d) for one, inside in ins.items()}

    return _ratios(frame, counted)


def shares(frame: pd.DataFrame) -> pd.DataFrame:
    """The key shares, over groups of equal responses; columns as in `regions`.

    Of |D|: shared = |D and T and S|, teacher_only = |D and T less S|, sft_only = |D and S less T|,
    own = |D less T less S|. Of others: passed_on = |D and T less S| / |T less S| and, beside it,
    neither = |D less T less S| / |rows less T less S|.
    """
    return _ratios(frame, pairs)


def members(part: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether each row is in T, S and D."""
    t, s, d = (part[f"in_{one}"].to_numpy(bool) for one in ("teacher", "sft", "distilled"))
    return t, s, d


def pairs(t: np.ndarray, s: np.ndarray, d: np.ndarray) -> Counted:
    """What is counted and of what, of each share; arrays of any one shape."""
    return {
        "shared": (d & t & s, d),
        "passed_on": (d & t & ~s, t & ~s),
        "own": (d & ~t & ~s, d),
        "neither": (d & ~t & ~s, ~t & ~s),
        "teacher_only": (d & t & ~s, d),
        "sft_only": (d & ~t & s, d),
    }


def _ratios(frame: pd.DataFrame, counted: Callable[..., Counted]) -> pd.DataFrame:
    """Of every method: for each size and all, for all seeds and each."""
    rows = []
    for method, students in frame.groupby("method", sort=False):
        for size, at_size in _sizes(students):
            for seed, part in (("all", at_size), *at_size.groupby("seed")):
                names = {"method": method, "size": size, "seed": str(seed)}
                for metric, (top, bottom) in counted(*members(part)).items():
                    rows.append(
                        names | {"metric": metric} | stats.ratio(part["group"], top, bottom)
                    )
    return pd.DataFrame(rows)


def _sizes(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    yield from frame.groupby("size", sort=False)
    yield "all", frame


def contrasts(frame: pd.DataFrame, soft: str = "word_kd") -> pd.DataFrame:
    """What each method passes on beside word-level KD, over the same rows, those of T less S.

    Columns: method, size, metric ("difference" of the two shares, paired over rows; "ratio" of the
    two counts), value, lo, hi, n (rows of T less S), same_sign (of the difference).
    """
    gap = frame[frame["in_teacher"] & ~frame["in_sft"]]
    gap = gap.assign(row_id=gap["size"] + " " + gap["row_id"])  # once for each size
    rows = []
    for method in [one for one in frame["method"].unique() if one != soft]:
        for size in [*frame["size"].unique(), "all"]:
            at_size = gap if size == "all" else gap[gap["size"] == size]
            a, b = (at_size[at_size["method"] == one] for one in (method, soft))
            names, none = {"method": method, "size": size}, dict.fromkeys(("value", "lo", "hi"))
            lines = {one: none | {"same_sign": False} for one in ("difference", "ratio")}
            if a["group"].nunique() >= stats.MIN_GROUPS:
                lines = {"difference": stats.paired_difference(a, b, "in_distilled")}
                lines["ratio"] = _times(a, b)
            rows += [names | {"metric": one} | line | {"n": len(a)} for one, line in lines.items()]
    return pd.DataFrame(rows).astype({"value": float, "lo": float, "hi": float})


def _times(a: pd.DataFrame, b: pd.DataFrame) -> dict[str, Any]:
    """How many times as many rows a memorizes as b; both hold the same rows."""
    other = b.set_index(ROW)["in_distilled"].loc[pd.MultiIndex.from_frame(a[ROW])]
    top, bottom = a["in_distilled"].to_numpy(float), other.to_numpy(float)
    lo, hi = stats.quotient(a["group"], top, bottom) if top.any() else stats.NOTHING
    return {"value": top.sum() / bottom.sum() if bottom.any() else np.nan, "lo": lo, "hi": hi}


def stability(tuples: pd.DataFrame) -> pd.DataFrame:
    """Of rows that are members in more than one seed: memorized in one, how often in another?

    Over all ordered pairs of seeds that share a row. Columns: method, size, metric: again (share
    memorized in the other seed, of the pairs memorized in the one), rate (of all pairs: what it
    would be if seeds had nothing in common), gain (again - rate); value, lo, hi, n (pairs), groups.
    """

    def lines(part: pd.DataFrame) -> list[dict[str, Any]]:
        named = {"seeds": ("hit", "size"), "hits": ("hit", "sum"), "group": ("group", "first")}
        rows = part.groupby("row_id").agg(**named).query("seeds > 1")
        n, h, groups = rows["seeds"].to_numpy(), rows["hits"].to_numpy(int), rows["group"]
        # a row of h hits in n seeds: h (h - 1) pairs hit twice, h (n - 1) hit in the first
        both, first, pairs_of = h * (h - 1), h * (n - 1), n * (n - 1)
        again, rate = stats.ratio(groups, both, first), stats.ratio(groups, first, pairs_of)
        gain = again | {"value": again["value"] - rate["value"], "lo": np.nan, "hi": np.nan}
        if not np.isnan([again["lo"], rate["lo"]]).any():
            drawn = stats.resampled(groups, [both, first, pairs_of]).T
            with np.errstate(invalid="ignore"):  # a draw may hold no row that was memorized
                gain["lo"], gain["hi"] = stats.percentiles(
                    drawn[0] / drawn[1] - drawn[1] / drawn[2]
                )
        of = {"again": again, "rate": rate, "gain": gain}
        return [{"metric": metric} | line for metric, line in of.items()]

    rows = natural(tuples[tuples["method"] != "base"], "member")
    return stats.each(rows, MODEL, lines).drop(columns="hits")
