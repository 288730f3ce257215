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

from kdlib.intervals import DRAWS, paired_difference, wilson
from kdlib.memory import companions
from kdlib.settings import KdlibError
from kdlib.tables import distilled, exact, natural

KEYS = ["seed", "row_id"]
FEWEST = 10  # different responses; with fewer a share gets no interval
COMPANION = {"shared": 0.957, "passed_on": 0.009, "ratio": 2.7}  # 2601.15394
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
        t, s, d = members(part)
        for region, (in_t, in_s, in_d) in REGIONS.items():
            inside = (t == in_t) & (s == in_s) & (d == in_d)
            rows.append(names | {"metric": region} | share(part["group"], inside, t | s | d, draws))
    return pd.DataFrame(rows)


def shares(frame: pd.DataFrame) -> pd.DataFrame:
    """The key shares, over groups of equal responses; columns as in `regions`.

    Of the student's rows (of |D|): shared = |D and T and S|, teacher_only = |D and T less S|,
    sft_only = |D and S less T|, own = |D less T less S|. Of others: passed_on =
    |D and T less S| / |T less S|, and beside it neither = |D less T less S| / |rows less T less S|,
    what the student memorizes of the rows that neither does (2601.15394: shared, passed_on).
    """
    rows = []
    for names, part, draws in _slices(frame):
        for metric, (top, bottom) in pairs(*members(part)).items():
            rows.append(names | {"metric": metric} | share(part["group"], top, bottom, draws))
    return pd.DataFrame(rows)


def members(part: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether each row is in T, S and D."""
    t, s, d = (part[f"in_{one}"].to_numpy(bool) for one in ("teacher", "sft", "distilled"))
    return t, s, d


def pairs(t: np.ndarray, s: np.ndarray, d: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What is counted and of what, of each share; arrays of any one shape."""
    return {
        "shared": (d & t & s, d),
        "passed_on": (d & t & ~s, t & ~s),
        "own": (d & ~t & ~s, d),
        "neither": (d & ~t & ~s, ~t & ~s),
        "teacher_only": (d & t & ~s, d),
        "sft_only": (d & ~t & s, d),
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


def share(
    groups: pd.Series, top: np.ndarray, bottom: np.ndarray, draws: int = DRAWS
) -> dict[str, Any]:
    """A share, and its interval where it has FEWEST different responses.

    Where every group agrees the bootstrap knows no other value; then Wilson's over the groups.

    Args:
        groups: of the rows, [n].
        top: whether a row is counted, [n]; only where bottom is.
        bottom: whether it is one of those that the share is of, [n]. Both may be counts.
        draws: of whole groups.

    Returns:
        value, lo, hi (0 to 1), hits, n (rows), groups (different responses among the n).
    """
    hits, n = top.sum(), bottom.sum()
    counted = int(groups[bottom > 0].nunique())
    lo = hi = np.nan
    if counted >= FEWEST and hits in (0, n):
        lo, hi = wilson(counted if hits else 0, counted)
    elif counted >= FEWEST:
        chosen = bottom > 0  # so that no draw is without
        lo, hi = quotient(resampled(groups[chosen], [top[chosen], bottom[chosen]], draws))
    value = hits / n if n else np.nan
    return {"value": value, "lo": lo, "hi": hi, "hits": hits, "n": n, "groups": counted}


@functools.lru_cache(maxsize=8)
def _weights(groups: int, draws: int) -> np.ndarray:
    """How often each group is drawn, [draws, groups]: the draws of `intervals.bootstrap`."""
    picks = np.random.default_rng(0).integers(0, groups, (draws, groups))
    flat = (picks + groups * np.arange(draws)[:, None]).ravel()
    return np.bincount(flat, minlength=draws * groups).reshape(draws, groups).astype(np.float32)


def resampled(groups: pd.Series, columns: list[np.ndarray], draws: int = DRAWS) -> np.ndarray:
    """Sums of the columns, [draws, columns], with whole groups drawn with replacement."""
    codes = pd.factorize(groups)[0]
    sums = np.stack([np.bincount(codes, np.asarray(one, float)) for one in columns], axis=1)
    return _weights(len(sums), draws) @ sums


def quotient(drawn: np.ndarray) -> tuple[float, float]:
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
                nothing = dict.fromkeys(("value", "lo", "hi"), np.nan)
                nothing |= {"n": len(a), "same_sign": False}
                rows += [names | {"metric": one} | nothing for one in ("difference", "ratio")]
                continue
            difference = paired_difference(a, b, "in_distilled")
            rows.append(names | {"metric": "difference"} | difference)
            # `paired_difference` has refused rows that differ: b in the order of a
            other = b.set_index(KEYS)["in_distilled"].loc[pd.MultiIndex.from_frame(a[KEYS])]
            counts = [a["in_distilled"].to_numpy(float), other.to_numpy(float)]
            lo, hi = quotient(resampled(a["group"], counts)) if counts[0].any() else (np.nan,) * 2
            value = counts[0].sum() / counts[1].sum() if counts[1].any() else np.nan
            rows.append(names | {"metric": "ratio", "value": value, "lo": lo, "hi": hi})
            rows[-1] |= {"n": len(a)}
    return pd.DataFrame(rows)


def stability(tuples: pd.DataFrame) -> pd.DataFrame:
    """Of rows that are members in more than one seed: memorized in one, how often in another?

    Over all ordered pairs of seeds that share a row.

    Returns:
        variant, student, metric: again (share memorized in the other seed, of the pairs memorized
        in the one), rate (of all pairs: what it would be if seeds had nothing in common), gain
        (again - rate); value, lo, hi (over groups), n (pairs), groups (different responses among
        them).
    """
    rows = natural(tuples)
    rows = rows[(rows["split"] == "member") & (rows["variant"] != "base")]
    rows = rows.assign(hit=exact(rows).astype(int))
    out = []
    for (variant, student), part in rows.groupby(["variant", "student"], sort=False):
        named = {"seeds": ("hit", "size"), "hits": ("hit", "sum"), "group": ("group", "first")}
        own = part.groupby("row_id").agg(**named).query("seeds > 1")
        n, h = own["seeds"].to_numpy(), own["hits"].to_numpy()
        # a row of h hits in n seeds: h (h - 1) pairs hit twice, h (n - 1) hit in the first
        both, first, pairs_of = h * (h - 1), h * (n - 1), n * (n - 1)
        names = {"variant": variant, "student": student}
        again = share(own["group"], both, first)
        rate = share(own["group"], first, pairs_of)
        gain = {"value": again["value"] - rate["value"], "lo": np.nan, "hi": np.nan}
        if not np.isnan([again["lo"], rate["lo"]]).any():
            drawn = resampled(own["group"], [both, first, pairs_of])
            with np.errstate(invalid="ignore"):  # a draw may hold no row that was memorized
                apart = drawn[:, 0] / drawn[:, 1] - drawn[:, 1] / drawn[:, 2]
            gain["lo"], gain["hi"] = np.nanquantile(apart, [0.025, 0.975])
        gain |= {"n": again["n"], "groups": again["groups"]}
        lines = {"again": again, "rate": rate, "gain": gain}
        out += [names | {"metric": metric} | line for metric, line in lines.items()]
    return pd.DataFrame(out).drop(columns="hits")


def verdicts(table: pd.DataFrame, beside: pd.DataFrame) -> pd.DataFrame:
    """The ledger of claims D1 to D3, by the rules of `companions.CLAIMS`.

    Args:
        table: see `shares`.
        beside: see `contrasts`.
    """
    pooled = table[(table["student"] == "all") & (table["seed"] == "all")]
    pooled = pooled[pooled["variant"] == "word_kd"].set_index("metric")
    entries = []
    for claim, metric, limit, wants_more in (
        ("D1", "shared", 0.9, True),
        ("D2", "passed_on", 0.05, False),
    ):
        row = pooled.loc[metric]
        more, less = bool(row["lo"] > limit), bool(row["hi"] < limit)
        text = said(row) + (f" of {row['n']:.0f} rows" if row["n"] else "")
        entries.append(
            companions.entry(claim, *((more, less) if wants_more else (less, more)), text)
        )
    chosen = beside[(beside["variant"] == "seq_kd") & (beside["student"] == "all")]
    chosen = chosen.set_index("metric")
    row, same = chosen.loc["difference"], bool(chosen.loc["difference", "same_sign"])
    text = f"{said(row, '+.3f')} over {row['n']:.0f} rows, "
    text += "every seed agreeing" if same else "not every seed agreeing"
    text += f"; ratio {said(chosen.loc['ratio'], '.2f')}"
    above, below = same and row["lo"] > 0, same and row["hi"] < 0
    entries.append(companions.entry("D3", bool(above), bool(below), text))
    return companions.ledger(entries)


def said(row: pd.Series, form: str = ".1%") -> str:
    """A value with its interval, or that there are not enough rows, in the given format."""
    if pd.isna(row["value"]):
        return "not enough rows"
    span = f"[{row['lo']:{form}}, {row['hi']:{form}}]" if pd.notna(row["lo"]) else "(no interval)"
    return f"{row['value']:{form}} {span}"
