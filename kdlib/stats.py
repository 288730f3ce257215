"""Statistics of the project: every interval, test and correction; nobody else draws samples.

Intervals (lo, hi) are of 95%. Rows with the same response (`groups`, [n]) stand or fall together,
so the bootstrap draws whole groups (Efron 1979), the same for the same number of groups. With the
rows' `seeds`, seeds are drawn first, then groups within each: what another training run would
change is in the interval too. Taught in notebooks 09 and 10.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep

from kdlib.errors import KdlibError

DRAWS = 2000  # of the bootstrap
MIN_GROUPS = 10  # different responses; with fewer nothing is estimated and nothing judged
BLOCK = 100  # draws at a time: their weights stay in the cache, which is most of the speed
NOTHING = (float("nan"), float("nan"))
FEW = "not enough rows"

Line = dict[str, Any]  # of a table: numbers by column
Interval = tuple[float, float]
Statistic = Callable[..., np.ndarray]  # of weights, float32 [n, draws]: numbers, [numbers, draws]


def line(value: float, interval: Interval, **further: Any) -> Line:
    """A value with its interval as a table has them: value, lo, hi, and further columns."""
    return {"value": value, "lo": interval[0], "hi": interval[1]} | further


def wilson(hits: int, n: int) -> Interval:
    """Wilson interval of a rate (Wilson 1927); (0, 1) when there is nothing to count."""
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(int(hits), int(n)).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def rate(hits: int, n: int) -> Line:
    """A share with its Wilson interval: value (nan of nothing), lo, hi, n."""
    return line(hits / n if n else float("nan"), wilson(hits, n), n=int(n))


def newcombe(hits: int, n: int, other_hits: int, other_n: int) -> Interval:
    """Interval of the difference of two independent rates (Newcombe 1998, method 10)."""
    return confint_proportions_2indep(hits, n, other_hits, other_n, method="newcomb")


def named(name: str, numbers: Mapping[str, Any]) -> Line:
    """A value with its interval under another name: NAME, NAME_lo, NAME_hi."""
    return {name: numbers["value"], f"{name}_lo": numbers["lo"], f"{name}_hi": numbers["hi"]}


def each(frame: pd.DataFrame, keys: Sequence[str], lines: Callable[..., Any]) -> pd.DataFrame:
    """A table of what `lines` makes of each group's rows (a line or a list), after its keys."""
    rows: list[Line] = []
    for key, part in frame.groupby(list(keys), sort=False):
        made, facts = lines(part), dict(zip(keys, key, strict=True))
        rows += [facts | one for one in (made if isinstance(made, list) else [made])]
    return pd.DataFrame(rows)


def percentiles(drawn: np.ndarray) -> Interval:
    """The middle 95% of what was drawn; draws without a value (nan) are left out."""
    drawn = drawn[~np.isnan(drawn)]
    lo, hi = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else NOTHING
    return float(lo), float(hi)


def resampled(groups: pd.Series, columns: Sequence[np.ndarray], seeds: Any = None) -> np.ndarray:
    """Sums of columns [n] over rows, [DRAWS, columns], with whole groups drawn with replacement."""
    codes, sizes = _cells(groups, seeds)
    sums = np.stack([np.bincount(codes, np.asarray(one, float)) for one in columns], axis=1)
    return np.concatenate([block.astype(np.float32) @ sums for block in _drawn(sizes, DRAWS)])


def estimate(statistic: Statistic, groups: pd.Series, draws: int = DRAWS) -> list[Line]:
    """Value, lo and hi of numbers that are no sums, such as areas under curves, over groups."""
    codes, sizes = _cells(groups, None)
    values = statistic(np.ones((len(codes), 1), np.float32))[:, 0]
    blocks = (block.T.astype(np.float32)[codes] for block in _drawn(sizes, draws))
    drawn = np.concatenate([statistic(weights) for weights in blocks], axis=1)
    return [line(float(x), percentiles(one)) for x, one in zip(values, drawn, strict=True)]


def _cells(groups: pd.Series, seeds: Any) -> tuple[np.ndarray, tuple[int, ...]]:
    """Number of each row's group, seed after seed, and how many groups each seed has."""
    if seeds is None:
        codes, names = pd.factorize(groups)
        return codes, (len(names),)
    cells = groups.groupby([np.asarray(seeds), np.asarray(groups)])
    return cells.ngroup().to_numpy(), tuple(cells.size().groupby(level=0).size())


@functools.lru_cache(maxsize=4)
def _drawn(sizes: tuple[int, ...], draws: int) -> list[np.ndarray]:
    """How often each group is drawn, in blocks of uint8 [BLOCK, groups]."""
    dice, blocks = np.random.default_rng(0), []
    for start in range(0, draws, BLOCK):
        count = min(BLOCK, draws - start)
        if len(sizes) == 1:
            picks = dice.integers(0, *sizes, (count, *sizes))
            block = np.stack([np.bincount(one, minlength=sizes[0]) for one in picks])
        else:
            times = dice.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), count)
            within = zip(times.T, sizes, strict=True)
            block = np.hstack([dice.multinomial(k * n, np.full(n, 1 / n)) for k, n in within])
        blocks.append(block.astype(np.uint8))
    return blocks


def bootstrap(values: Any, groups: pd.Series, seeds: Any = None, share: bool = False) -> Interval:
    """Percentile interval of a mean of values [n], by groups.

    Of a share (values from 0 to 1) that is 0 or 1 it is Wilson's over the groups: there every draw
    gives the same mean, which is no certainty about other rows.
    """
    values, count = np.asarray(values, dtype=float), groups.nunique()
    if not count:
        return NOTHING
    if share and values.min() == values.max() and values[0] in (0, 1):
        return wilson(round(values[0] * count), count)
    return quotient(groups, values, np.ones(len(values)), seeds)


def ratio(groups: pd.Series, top: np.ndarray, bottom: np.ndarray) -> Line:
    """A share of rows: value, lo, hi, hits, n (rows), groups (different responses among the n).

    Rows are counted [n] where top is, only where bottom is; both may be counts. The interval is
    over groups where MIN_GROUPS of them are counted.
    """
    hits, n, chosen = top.sum(), bottom.sum(), bottom > 0  # so that no draw is without
    counted, interval = int(groups[chosen].nunique()), NOTHING
    if counted >= MIN_GROUPS and hits in (0, n):
        interval = wilson(counted if hits else 0, counted)
    elif counted >= MIN_GROUPS:
        interval = quotient(groups[chosen], top[chosen], bottom[chosen])
    return line(hits / n if n else np.nan, interval, hits=hits, n=n, groups=counted)


def quotient(groups: pd.Series, top: Any, bottom: Any, seeds: Any = None) -> Interval:
    """Interval of one sum [n] over another; none where a draw has nothing below the line."""
    drawn = resampled(groups, [top, bottom], seeds)
    return NOTHING if (drawn[:, 1] == 0).any() else percentiles(drawn[:, 0] / drawn[:, 1])


def pooled(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean of a column (0 to 1) per model and split, all seeds together, intervals over groups.

    Columns: method, size, split, value, sd (over seeds), lo, hi, n, seeds.
    """

    def numbers(part: pd.DataFrame) -> Line:
        values, by_seed = part[column].to_numpy(float), part.groupby("seed")[column].mean()
        lo, hi = bootstrap(values, part["group"], share=True)
        facts = {"value": values.mean(), "sd": by_seed.std(), "lo": lo, "hi": hi}
        return facts | {"n": len(values), "seeds": len(by_seed)}

    return each(frame, ["method", "size", "split"], numbers)


def paired_difference(a: pd.DataFrame, b: pd.DataFrame, column: str) -> Line:
    """Mean of a less mean of b over the same rows and seeds: value, lo, hi, n, same_sign.

    Where no row differs in a column of 0 and 1, the interval is Wilson's bound, over groups, on the
    share that differs, to both sides. KdlibError where they do not hold the same rows.
    """
    keys = ["seed", "row_id"]
    both = a[[*keys, "group", column]].merge(b[[*keys, column]], on=keys, validate="1:1")
    if not len(a) == len(both) == len(b):
        raise KdlibError("the two runs do not hold the same rows; run the study again")
    gap = both[f"{column}_x"].astype(float) - both[f"{column}_y"].astype(float)
    interval = bootstrap(gap, both["group"])
    if not gap.any() and both[f"{column}_x"].isin((0, 1)).all():
        bound = wilson(0, both["group"].nunique())[1]
        interval = (-bound, bound)
    agreed = same_sign(gap.groupby(both["seed"]).mean())
    return line(gap.mean(), interval, n=len(gap), same_sign=agreed)


def same_sign(by_seed: Iterable[float]) -> bool:
    """Whether every seed alone agrees in (non-zero) sign."""
    return set(np.sign(list(by_seed))) in ({1.0}, {-1.0})


def holm(p: Sequence[float]) -> np.ndarray:
    """p-values corrected for how many were tried (Holm 1979), in their order."""
    return multipletests(p, method="holm")[1]


def equivalent(lo: float, hi: float, margin: float) -> bool:
    """Whether a difference is shown to be smaller than the margin (Schuirmann 1987)."""
    return -margin < lo and hi < margin


def row_text(row: Any, name: str = "value", form: str = ".3f", missing: str = FEW) -> str:
    """Value, lo, hi (or NAME, NAME_lo, NAME_hi) of a line as "0.123 [0.100, 0.150]"."""
    lo, hi = (row[end if name == "value" else f"{name}_{end}"] for end in ("lo", "hi"))
    if pd.isna(row[name]):
        return missing
    span = "(no interval)" if pd.isna(lo) else f"[{lo:{form}}, {hi:{form}}]"
    return f"{row[name]:{form}} {span}"
