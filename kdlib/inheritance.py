"""Which rows teacher, SFT student and distilled student have in common, and what came down.

Three sets of member rows per seed, size and distilled method: memorized by the teacher (T), by the
SFT student of the size (S, the "baseline" of 2601.15394), by the distilled student (D). Pure
functions without torch. Taught in notebook 11_inheritance.
"""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from kdlib import companions
from kdlib.intervals import DRAWS, paired_difference, wilson
from kdlib.settings import KdlibError
from kdlib.tables import distilled, exact, natural

KEYS = ["seed", "row_id"]
FEWEST = 10  # different responses; with fewer a share gets no interval
PERMUTATIONS = 1000
REGIONS = {  # in T, in S, in D
    "all three": (True, True, True),
    "teacher and student": (True, False, True),
    "SFT and student": (False, True, True),
    "student alone": (False, False, True),
    "teacher and SFT": (True, True, False),
    "teacher alone": (True, False, False),
    "SFT alone": (False, True, False),
}
NULLS = ("copies", "length", "missed")  # what D may depend on when it has not to do with T


def sets(tuples: pd.DataFrame) -> pd.DataFrame:
    """Who memorized which member row, for every distilled student that was run; no canaries.

    Args:
        tuples: of teacher, SFT and distilled students, see `tables.collect`.

    Returns:
        variant, student, seed, row_id, group, length (tokens), in_distilled, in_teacher, in_sft.

    Raises:
        KdlibError: the models do not hold the same rows.
    """
    rows = natural(tuples)
    rows = rows[rows["split"] == "member"]
    rows = rows.assign(hit=exact(rows))[["variant", "student", *KEYS, "group", "length", "hit"]]
    found = rows[rows["variant"].isin(distilled(rows))].rename(columns={"hit": "in_distilled"})
    out = found
    for variant, keys in (("teacher", KEYS), ("sft", ["student", *KEYS])):
        own = rows.loc[rows["variant"] == variant, [*keys, "hit"]]
        out = out.merge(own.rename(columns={"hit": f"in_{variant}"}), on=keys, validate="m:1")
    if len(out) != len(found):
        raise KdlibError("teacher and students do not hold the same rows; run the study again")
    return out


def regions(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows in each of the seven regions of T, S and D.

    Returns:
        variant, student (a size, or "all": a row counts once for each size), seed ("all" or one),
        metric (a region), hits (rows), n (rows that any of the three memorized), value (hits / n),
        lo, hi (over groups), groups (different responses among the n).
    """
    rows = []
    for names, part, draws in _slices(frame):
        t, s, d = _members(part)
        for region, (in_t, in_s, in_d) in REGIONS.items():
            inside = (t == in_t) & (s == in_s) & (d == in_d)
            rows.append(
                names | {"metric": region} | _share(part["group"], inside, t | s | d, draws)
            )
    return pd.DataFrame(rows)


def shares(frame: pd.DataFrame) -> pd.DataFrame:
    """The key shares, over groups of equal responses; columns as in `regions`.

    shared = |D and T and S| / |D| and passed_on = |D and T less S| / |T less S| (2601.15394);
    own = |D less T less S| / |D|; neither = |D less T less S| / |rows less T less S|, what the
    student memorizes of the rows that neither does: passed_on stands beside it.
    """
    rows = []
    for names, part, draws in _slices(frame):
        for metric, (top, bottom) in _pairs(*_members(part)).items():
            rows.append(names | {"metric": metric} | _share(part["group"], top, bottom, draws))
    return pd.DataFrame(rows)


def _members(part: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    t, s, d = (part[f"in_{one}"].to_numpy(bool) for one in ("teacher", "sft", "distilled"))
    return t, s, d


def _pairs(t: np.ndarray, s: np.ndarray, d: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What is counted and of what, of each share; arrays of any one shape."""
    return {
        "shared": (d & t & s, d),
        "passed_on": (d & t & ~s, t & ~s),
        "own": (d & ~t & ~s, d),
        "neither": (d & ~t & ~s, ~t & ~s),
    }


def _slices(frame: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame, int]]:
    """Every method, for each size and all, for all seeds and each; the draws that it is given."""
    for variant, own in frame.groupby("variant", sort=False):
        for student in [*own["student"].unique(), "all"]:
            at_size = own if student == "all" else own[own["student"] == student]
            names = {"variant": variant, "student": student}
            yield names | {"seed": "all"}, at_size, DRAWS
            for seed, one in at_size.groupby("seed"):
                yield names | {"seed": str(seed)}, one, DRAWS // 4


def _share(
    groups: pd.Series, top: np.ndarray, bottom: np.ndarray, draws: int = DRAWS
) -> dict[str, Any]:
    """A share, and its interval where it has FEWEST different responses.

    Where every group agrees the bootstrap knows no other value; then Wilson's over the groups.
    """
    hits, n = top.sum(), bottom.sum()
    counted = int(groups[bottom].nunique())
    lo = hi = np.nan
    if counted >= FEWEST and hits in (0, n):
        lo, hi = wilson(counted if hits else 0, counted)
    elif counted >= FEWEST:
        lo, hi = _quotient(_resampled(groups, [top, bottom], draws))
    value = hits / n if n else np.nan
    return {"value": value, "lo": lo, "hi": hi, "hits": hits, "n": n, "groups": counted}


@functools.lru_cache(maxsize=8)
def _weights(groups: int, draws: int) -> np.ndarray:
    """How often each group is drawn, [draws, groups]: the draws of `intervals.bootstrap`."""
    picks = np.random.default_rng(0).integers(0, groups, (draws, groups))
    flat = (picks + groups * np.arange(draws)[:, None]).ravel()
    return np.bincount(flat, minlength=draws * groups).reshape(draws, groups).astype(np.float32)


def _resampled(groups: pd.Series, columns: list[np.ndarray], draws: int = DRAWS) -> np.ndarray:
    """Sums of the columns, [draws, columns], with whole groups drawn with replacement."""
    codes = pd.factorize(groups)[0]
    sums = np.stack([np.bincount(codes, np.asarray(one, float)) for one in columns], axis=1)
    return _weights(len(sums), draws) @ sums


def _quotient(drawn: np.ndarray) -> tuple[float, float]:
    """95% interval of the first column over the second; none where the second is ever 0."""
    if (drawn[:, 1] == 0).any():
        return np.nan, np.nan
    lo, hi = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    return float(lo), float(hi)


def contrasts(frame: pd.DataFrame, soft: str = "word_kd") -> pd.DataFrame:
    """What each method passes on beside word-level KD, over the same rows, those of T less S.

    Returns:
        variant, student, metric ("difference" of the two shares, paired over rows; "ratio" of the
        two counts; 2601.15394: 2.7 for teacher text), value, lo, hi, n (rows of T less S),
        same_sign (of the difference: every seed agrees).
    """
    gap = frame[frame["in_teacher"] & ~frame["in_sft"]]
    gap = gap.assign(row_id=gap["student"] + " " + gap["row_id"])  # once for each size
    rows = []
    for variant in [one for one in frame["variant"].unique() if one != soft]:
        for student in [*frame["student"].unique(), "all"]:
            at_size = gap if student == "all" else gap[gap["student"] == student]
            a, b = (at_size[at_size["variant"] == one] for one in (variant, soft))
            names = {"variant": variant, "student": student}
            if a["group"].nunique() < FEWEST:
                nothing = dict.fromkeys(("value", "lo", "hi"), np.nan) | {"n": len(a)}
                rows += [names | {"metric": one} | nothing for one in ("difference", "ratio")]
                continue
            difference = paired_difference(a, b, "in_distilled")
            rows.append(names | {"metric": "difference"} | difference)
            # `paired_difference` has refused rows that differ: b in the order of a
            other = b.set_index(KEYS)["in_distilled"].loc[pd.MultiIndex.from_frame(a[KEYS])]
            counts = [a["in_distilled"].to_numpy(float), other.to_numpy(float)]
            lo, hi = _quotient(_resampled(a["group"], counts)) if counts[0].any() else (np.nan,) * 2
            value = counts[0].sum() / counts[1].sum() if counts[1].any() else np.nan
            rows.append(names | {"metric": "ratio", "value": value, "lo": lo, "hi": hi})
            rows[-1] |= {"n": len(a)}
    return pd.DataFrame(rows)


def chance(frame: pd.DataFrame, draws: int = PERMUTATIONS) -> pd.DataFrame:
    """The shares if a distilled student memorized as many rows, without regard to T.

    D is permuted over the rows of a seed, in whole groups of equal responses, all sizes alike; only
    among groups of as many copies ("copies"); and like length besides, in fifths ("length"); and of
    which the SFT students memorize as much besides ("missed"). A group that has no like keeps its
    place, so the last null is the strictest.

    Returns:
        variant, student, null, metric (as in `shares`, without neither), value (observed),
        expected, lo, hi (the middle 95% of the permutations), p (two-sided, at least 2 / draws),
        n, groups (different responses that could change places).
    """
    rows = []
    for variant, part in frame.groupby("variant", sort=False):
        grid = part.sort_values(["student", "seed", "group", "row_id"])
        sizes = list(part["student"].unique())
        t, s, d = (
            np.stack([_members(grid[grid["student"] == one])[i] for one in sizes], axis=1)
            for i in range(3)
        )
        pairs = {name: pair for name, pair in _pairs(t, s, d).items() if name != "neither"}
        among = np.stack([t & s, t & ~s, ~t & ~s], axis=2)  # D and this is what is counted
        first = grid[grid["student"] == sizes[0]].reset_index(drop=True)
        for null in NULLS:
            counts, moved = _permuted(d, among, _strata(first, s, null), draws)
            for i, (metric, (top, bottom)) in enumerate(pairs.items()):
                for size in [*range(len(sizes)), slice(None)]:
                    n, seen = bottom[:, size].sum(), top[:, size].sum()
                    drawn = counts[:, size, i].reshape(draws, -1).sum(1)
                    student = "all" if isinstance(size, slice) else sizes[size]
                    names = {"variant": variant, "student": student, "null": null}
                    rows.append(names | {"metric": metric} | _against(seen, drawn, n))
                    rows[-1]["groups"] = moved
    return pd.DataFrame(rows)


def _against(seen: int, drawn: np.ndarray, n: int) -> dict[str, Any]:
    """A count beside what permutations give, as shares of n (Phipson and Smyth 2010: p never 0)."""
    tails = [(1 + (drawn >= seen).sum()), (1 + (drawn <= seen).sum())]
    share = np.array([seen, drawn.mean(), *np.quantile(drawn, [0.025, 0.975])]) / (n or np.nan)
    facts = dict(zip(("value", "expected", "lo", "hi"), share, strict=True))
    return facts | {"p": min(1.0, 2 * min(tails) / (1 + len(drawn))), "n": n}


def _strata(rows: pd.DataFrame, s: np.ndarray, null: str) -> list[np.ndarray]:
    """Positions of the rows of each stratum, [groups, copies]: groups that may change places."""
    fifth = pd.qcut(rows["length"].rank(method="first"), 5, labels=False)
    fifth = fifth.groupby(rows["length"]).transform("min")  # equal lengths stay together
    facts = pd.DataFrame({"seed": rows["seed"], "group": rows["group"], "copies": 1})
    facts["length"] = fifth if null != "copies" else 0
    known = [f"s{i}" for i in range(s.shape[1])]
    facts[known] = s.astype(int) if null == "missed" else 0
    added = {"copies": "sum", "length": "first"} | dict.fromkeys(known, "sum")
    groups = facts.groupby(["seed", "group"]).agg(added)
    start = np.concatenate([[0], np.cumsum(groups["copies"])[:-1]])  # rows lie group by group
    cells = groups.groupby(["seed", "copies", "length", *known]).indices
    return [start[one][:, None] + np.arange(groups["copies"].iloc[one[0]]) for one in cells.values()]


def _permuted(
    d: np.ndarray, among: np.ndarray, strata: list[np.ndarray], draws: int
) -> tuple[np.ndarray, int]:
    """Counts of permuted d [rows, sizes] among [rows, sizes, kinds]: [draws, sizes, kinds]."""
    dice, moved = np.random.default_rng(0), 0
    counts = np.zeros((draws, *among.shape[1:]))
    for places in strata:
        order = dice.permuted(np.tile(np.arange(len(places)), (draws, 1)), axis=1)
        # overlap[j, i]: what is counted when the j-th group's marks lie on the i-th group
        own, other = d[places].astype(float), among[places].astype(float)
        overlap = np.einsum("jcs,icsk->jisk", own, other)
        counts += overlap[order, np.arange(len(places))].sum(axis=1)
        moved += len(places) if len(places) > 1 else 0
    return counts, moved
