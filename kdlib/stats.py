"""Statistics of tables: intervals over seeds and groups, tests, and corrections for many.

Intervals (lo, hi) are of 95%. Rows of one response (`groups`, [n]) stand or fall together: groups
are drawn, not rows (Efron 1979). With the rows' `seeds`, seeds are drawn, then groups, and a row
counts as often as its seed times as often as its group (pigeonhole bootstrap, Owen 2007), for seeds
may share rows. Few seeds drawn from themselves vary too little: an interval also holds the t
interval over seeds, each left out in turn (jackknife, Tukey 1958); with as many rows in each, it is
that of their means. With one seed only groups are drawn, and nothing is said of another training
run. Functions of frames use their column `seed`. Taught in notebooks 09 and 10.

Replicates, [1 + seeds + DRAWS], are a number of all rows, without each seed (none with one seed),
and drawn (the same draws for as many seeds and groups).
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr, stdtr, stdtrit
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

from kdlib.errors import KdlibError

DRAWS = 2000  # of the bootstrap
ALPHA = 0.05  # of every test
MIN_GROUPS = 10  # different responses; with fewer nothing is estimated and nothing judged
MIN_SEEDS = 3  # training runs; with fewer no claim about trained models is judged
BLOCK = 100  # draws at a time: their weights stay in the cache, which is most of the speed
UNKNOWN = (float("nan"), float("nan"))
FEW = "not enough rows"

Line = dict[str, Any]  # of a table: numbers by column
Interval = tuple[float, float]
Statistic = Callable[..., np.ndarray]  # of weights, float32 [n, draws]: numbers, [numbers, draws]


def line(value: float, bounds: Interval, **columns: Any) -> Line:
    """A value with its interval as a table has them: value, lo, hi, and further columns."""
    return {"value": value, "lo": bounds[0], "hi": bounds[1]} | columns


def wilson(hits: int, n: int) -> Interval:
    """Wilson interval of a rate (Wilson 1927); (0, 1) when there is nothing to count."""
    if n == 0:
        return 0.0, 1.0
    ci = binomtest(int(hits), int(n)).proportion_ci(method="wilson")
    return float(ci.low), float(ci.high)


def rate(hits: int, n: int) -> Line:
    """A share with its Wilson interval: value (nan of nothing), lo, hi, n."""
    return line(hits / n if n else float("nan"), wilson(hits, n), n=int(n))


def named(name: str, numbers: Mapping[str, Any]) -> Line:
    """A value with its interval under another name: NAME, NAME_lo, NAME_hi."""
    return {name: numbers["value"], f"{name}_lo": numbers["lo"], f"{name}_hi": numbers["hi"]}


def each(frame: pd.DataFrame, keys: Sequence[str], func: Callable[..., Any]) -> pd.DataFrame:
    """A table of what `func` makes of each group's rows (a line or a list), after its keys."""
    rows: list[Line] = []
    for key, part in frame.groupby(list(keys), sort=False):
        result, facts = func(part), dict(zip(keys, key, strict=True))
        rows += [facts | row for row in (result if isinstance(result, list) else [result])]
    return pd.DataFrame(rows)


def resampled(groups: pd.Series, columns: Sequence[Any], seeds: Any = None) -> np.ndarray:
    """Replicates of sums of columns [n] over rows, [1 + seeds + DRAWS, columns]."""
    (group, n_groups), (seed, n_seeds) = _codes(groups), _codes(seeds, len(groups))
    cell, n_cells = seed * n_groups + group, n_seeds * n_groups
    sums = np.stack([np.bincount(cell, np.asarray(column, float), n_cells) for column in columns])
    by_seed = sums.reshape(len(columns), n_seeds, n_groups).sum(2)
    total = by_seed.sum(1)
    parts = [total[None], total - by_seed.T] if n_seeds > 1 else [total[None]]
    sums = sums.reshape(-1, n_groups).T.astype(np.float32)
    for group_w, seed_w in zip(_drawn(n_groups), _drawn(n_seeds, 1), strict=True):
        block = (group_w.astype(np.float32) @ sums).reshape(-1, len(columns), n_seeds)
        parts.append((block * seed_w[:, None]).sum(2))
    return np.concatenate(parts)


def estimate(stat: Statistic, groups: Any, seeds: Any = None, draws: int = DRAWS) -> list[Line]:
    """`summary` of each of the numbers that are no sums, such as areas under curves."""
    (group, n_groups), (seed, n_seeds) = _codes(groups), _codes(seeds, len(groups))
    left_out = np.arange(-1, n_seeds if n_seeds > 1 else 0)  # -1 is no seed: of all rows
    parts = [stat((seed[:, None] != left_out).astype(np.float32))]
    for group_w, seed_w in zip(_drawn(n_groups, 0, draws), _drawn(n_seeds, 1, draws), strict=True):
        parts.append(stat((group_w.T[group] * seed_w.T[seed]).astype(np.float32)))
    return [summary(replicates, draws) for replicates in np.concatenate(parts, axis=1)]


def _codes(labels: Any, n: int = 0) -> tuple[np.ndarray, int]:
    """The number of each row's name, and how many names there are; None: one for all n rows."""
    codes, uniques = pd.factorize(np.zeros(n) if labels is None else np.asarray(labels))
    return codes, len(uniques)


@functools.lru_cache(maxsize=12)
def _drawn(n: int, stream: int = 0, draws: int = DRAWS) -> list[np.ndarray]:
    """How often each of `n` is drawn, n times with replacement, in blocks of uint8 [BLOCK, n]."""
    rng, blocks = np.random.default_rng(stream), []
    for count in np.diff([*range(0, draws, BLOCK), draws]):
        picks = rng.integers(0, n, (count, n)) + n * np.arange(count)[:, None]
        block = np.bincount(picks.ravel(), minlength=count * n).reshape(count, n)
        blocks.append(block.astype(np.uint8))
    return blocks


def percentiles(drawn: np.ndarray) -> Interval:
    """The middle 95% of what was drawn; a draw without a value (nan) lies beyond either end."""
    values = np.sort(drawn[~np.isnan(drawn)])
    # the last place from either end at which `p_value` is under .05
    rank = max(0, int(np.ceil(ALPHA / 2 * (len(drawn) + 1))) - 2) - (len(drawn) - len(values))
    return (float(values[rank]), float(values[-1 - rank])) if 0 <= rank < len(values) else UNKNOWN


@np.errstate(invalid="ignore")
def interval(replicates: np.ndarray, draws: int = DRAWS) -> Interval:
    """The middle of the draws, and the t interval over seeds; UNKNOWN if too few have a value."""
    (lo, hi), (error, dof) = percentiles(replicates[-draws:]), _error(replicates[1:-draws])
    margin = stdtrit(dof, 1 - ALPHA / 2) * error
    lo, hi = np.minimum(lo, replicates[0] - margin), np.maximum(hi, replicates[0] + margin)
    return (float(lo), float(hi)) if np.isfinite([lo, hi]).all() else UNKNOWN


@np.errstate(divide="ignore", invalid="ignore")  # seeds may agree to the digit
def p_value(replicates: np.ndarray, null: float = 0, draws: int = DRAWS) -> float:
    """Two-sided p-value of a number being `null`: under .05 exactly where `interval` leaves it out.

    Twice the smaller share of draws on one side, counting one more (Davison and Hinkley 1997, 4.2),
    or that of the t test over seeds where it is greater.
    """
    drawn, (error, dof) = replicates[-draws:], _error(replicates[1:-draws])
    tails = np.array([1 + (~(drawn > null)).sum(), 1 + (~(drawn < null)).sum()]) / (1 + draws)
    t = (replicates[0] - null) / np.float64(error)
    return float(min(1, 2 * np.fmax(tails, stdtr(dof, np.array([-t, t]))).min()))


def p_of_none(n: int, share: float) -> float:
    """Two-sided p-value of a share of which none of n was seen (score test, as Wilson's bound)."""
    return float(2 * ndtr(-np.sqrt(n * share / (1 - share)))) if share < 1 else 0.0


def _error(left_out: np.ndarray) -> tuple[float, int]:
    """Jackknife error over seeds (inf: no value without one of them), and degrees of freedom."""
    if not len(left_out):  # one seed: the draws decide alone
        return 0.0, 1
    error = np.sqrt((1 - 1 / len(left_out)) * ((left_out - left_out.mean()) ** 2).sum())
    return float(np.nan_to_num(error, nan=np.inf)), len(left_out) - 1


def summary(replicates: np.ndarray, draws: int = DRAWS) -> Line:
    """value, lo, hi, p (of being 0)."""
    return line(float(replicates[0]), interval(replicates, draws), p=p_value(replicates, 0, draws))


def quotient(
    groups: pd.Series, top: Any, bottom: Any, seeds: Any = None, share: bool = False
) -> Interval:
    """Interval of one sum [n] over another, or of a share: top of bottom.

    Where fewer than MIN_GROUPS groups are hit, or missed, draws know too little of a share, which
    at 0 or 1 is no certainty about other rows; there it holds Wilson's interval over groups.
    """
    tops, bottoms = resampled(groups, [top, bottom], seeds).T
    with np.errstate(divide="ignore", invalid="ignore"):
        lo, hi = interval(tops / bottoms)
    if not share:
        return lo, hi
    count, hit, missed = (groups[mask].nunique() for mask in (bottom > 0, top > 0, top < bottom))
    if min(hit, missed) < MIN_GROUPS and ((top == 0) | (top == bottom)).all():
        ci = wilson(hit if hit <= missed else count - missed, count)
        lo, hi = np.fmin(lo, ci[0]), np.fmax(hi, ci[1])
    return float(np.clip(lo, 0, 1)), float(np.clip(hi, 0, 1))


def bootstrap(values: Any, groups: pd.Series, seeds: Any = None, share: bool = False) -> Interval:
    """Interval of a mean of values [n], which may be a share (each from 0 to 1); see `quotient`."""
    values = np.asarray(values, dtype=float)
    return quotient(groups, values, np.ones(len(values)), seeds, share) if len(values) else UNKNOWN


def ratio(groups: pd.Series, top: Any, bottom: Any, seeds: Any = None) -> Line:
    """A share of rows: value, lo, hi, hits, n (rows), groups (different responses), hit_groups.

    Rows are counted [n] where top is, only where bottom is; both may be counts. The interval is
    there where MIN_GROUPS groups are counted.
    """
    top, bottom = np.asarray(top), np.asarray(bottom)
    hits, n, mask = top.sum(), bottom.sum(), bottom > 0  # so that few draws are without
    groups, top, bottom = groups[mask], top[mask], bottom[mask]
    count, bounds = groups.nunique(), UNKNOWN
    if count >= MIN_GROUPS:
        seeds = None if seeds is None else np.asarray(seeds)[mask]
        bounds = quotient(groups, top, bottom, seeds, share=True)
    facts = {"hits": hits, "n": n, "groups": count, "hit_groups": groups[top > 0].nunique()}
    return line(hits / n if n else np.nan, bounds, **facts)


def pooled(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """`ratio` of a column (0 to 1) and sd over seeds, of all seeds, by method, size and split."""

    def numbers(part: pd.DataFrame) -> Line:
        by_seed = part.groupby("seed")[column].mean()
        share = ratio(part["group"], part[column], np.ones(len(part)), part["seed"])
        return share | {"seeds": len(by_seed), "sd": by_seed.std()}

    return each(frame, ["method", "size", "split"], numbers)


def difference(groups: pd.Series, values: Any, side: np.ndarray, seeds: Any = None) -> Line:
    """Mean of values [n] where side is (bool, [n]) less that of the others: value, lo, hi, p."""
    x, n, y, m = resampled(groups, [values * side, side, values * ~side, ~side], seeds).T
    with np.errstate(invalid="ignore"):  # a draw may be without a side
        return summary(x / n - y / m)


def ratio_difference(groups: pd.Series, first: Any, second: Any, seeds: Any = None) -> Line:
    """A quotient of sums (top and bottom, each [n]) less another: value, lo, hi, p, hit_groups.

    hit_groups are the groups of either bottom, or those of both tops, whichever are the fewest.
    """
    a, b, c, d = resampled(groups, [*first, *second], seeds).T
    with np.errstate(divide="ignore", invalid="ignore"):
        result = summary(a / b - c / d)
    hit = (first[1] > 0, second[1] > 0, (first[0] > 0) | (second[0] > 0))
    return result | {"hit_groups": min(groups[mask].nunique() for mask in hit)}


def paired_difference(a: pd.DataFrame, b: pd.DataFrame, column: str) -> Line:
    """Mean of a less mean of b over the same rows and seeds.

    value, lo, hi, p, n (rows), groups, discordant (groups in which a row differs), same_sign (every
    seed alone agrees). Where no row of a column of 0 and 1 differs, or all do alike, the ends are
    as far off as Wilson's bound, over groups, on the share that would not. KdlibError where they do
    not hold the same rows.
    """
    x, y = (frame.iloc[np.lexsort((frame["row_id"], frame["seed"]))] for frame in (a, b))
    same = all(np.array_equal(x[key], y[key]) for key in ("seed", "row_id"))
    if not same or x.duplicated(["seed", "row_id"]).any():
        raise KdlibError("the two runs do not hold the same rows; run the study again")
    gap, groups = x[column].to_numpy(float) - y[column].to_numpy(float), x["group"]
    sums, n = resampled(groups, [gap, np.ones(len(gap))], x["seed"]).T
    result, count = summary(sums / n), groups.nunique()
    if (gap == gap[0]).all() and all(frame[column].isin((0, 1)).all() for frame in (x, y)):
        bound = wilson(0, count)[1]
        result |= {"lo": max(-1.0, gap[0] - bound), "hi": min(1.0, gap[0] + bound)}
    facts = {"n": len(gap), "groups": count, "discordant": groups[gap != 0].nunique()}
    facts["same_sign"] = same_sign(pd.Series(gap).groupby(x["seed"].to_numpy()).mean())
    return result | facts


def same_sign(by_seed: Iterable[float]) -> bool:
    """Whether every seed alone agrees in (non-zero) sign."""
    return set(np.sign(list(by_seed))) in ({1.0}, {-1.0})


def holm(p: Sequence[float]) -> np.ndarray:
    """p-values corrected for how many were tried (Holm 1979), in their order; nan: not tried."""
    p_holm, tried = np.array(p, dtype=float), ~np.isnan(np.array(p, dtype=float))
    p_holm[tried] = multipletests(p_holm[tried], method="holm")[1] if tried.any() else p_holm[tried]
    return p_holm


def judgeable(numbers: Any, by: str = "discordant") -> Any:
    """Whether a line, or each of a table, rests on MIN_GROUPS different responses or more.

    `by` counts those that carry a claim: "discordant" for more or less than another, "hit_groups"
    for a rate above a limit, "groups" for one below and for equivalence, where none need differ.
    """
    return numbers[by] >= MIN_GROUPS


def is_significant(differences: pd.DataFrame, by: str = "discordant") -> pd.Series:
    """Which lines are not 0, where all of them have to be (intersection-union, Berger 1982)."""
    return (differences["p"] < ALPHA) & judgeable(differences, by)


def judged(differences: pd.DataFrame, p: str = "p", by: str = "discordant") -> pd.DataFrame:
    """Lines with p_holm: a p, corrected where one of them is enough, nan where not `judgeable`.

    direction: "below" or "above" 0, else "". A p at a limit: take it from one side beforehand.
    """
    p_holm = holm(differences[p].where(judgeable(differences, by)))
    side = np.where(differences["value"] > 0, "above", "below")
    return differences.assign(p_holm=p_holm, direction=np.where(p_holm < ALPHA, side, ""))


def row_text(row: Any, name: str = "value", form: str = ".3f", missing: str = FEW) -> str:
    """Value, lo, hi (or NAME, NAME_lo, NAME_hi) of a line as "0.123 [0.100, 0.150]"."""
    lo, hi = (row[end if name == "value" else f"{name}_{end}"] for end in ("lo", "hi"))
    if pd.isna(row[name]):
        return missing
    span = "(no interval)" if pd.isna(lo) else f"[{lo:{form}}, {hi:{form}}]"
    return f"{row[name]:{form}} {span}"
