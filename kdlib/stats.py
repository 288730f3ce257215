"""Statistics of the project: every interval, test and correction; nobody else draws samples.

Intervals are of 95%. Rows with the same response (a group) stand or fall together, so the bootstrap
draws whole groups (Efron 1979), always the same ones for the same number of groups. Taught in
notebooks 09 and 10.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson interval of a rate (Wilson 1927); (0, 1) when there is nothing to count."""
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(int(hits), int(n)).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def rate(hits: int, n: int) -> dict[str, Any]:
    """A share with its Wilson interval: value (nan of nothing), lo, hi, n."""
    lo, hi = wilson(hits, n)
    return {"value": hits / n if n else float("nan"), "lo": lo, "hi": hi, "n": int(n)}


def newcombe(hits: int, n: int, other_hits: int, other_n: int) -> tuple[float, float]:
    """Interval of the difference of two independent rates (Newcombe 1998, method 10)."""
    lo, hi = confint_proportions_2indep(hits, n, other_hits, other_n, method="newcomb")
    return float(lo), float(hi)


def named(name: str, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """A value with its interval under another name: NAME, NAME_lo, NAME_hi."""
    return {name: numbers["value"], f"{name}_lo": numbers["lo"], f"{name}_hi": numbers["hi"]}


def each(
    frame: pd.DataFrame,
    keys: Sequence[str],
    lines: Callable[[pd.DataFrame], dict[str, Any] | list[dict[str, Any]]],
) -> pd.DataFrame:
    """A table of what `lines` makes of each group's rows (one line or several), after its keys."""
    rows: list[dict[str, Any]] = []
    for key, part in frame.groupby(list(keys), sort=False):
        made = lines(part)
        facts = dict(zip(keys, key, strict=True))
        rows += [facts | line for line in ([made] if isinstance(made, dict) else made)]
    return pd.DataFrame(rows)


def percentiles(drawn: np.ndarray) -> tuple[float, float]:
    """The middle 95% of what was drawn; draws without a value (nan) are left out."""
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return NOTHING
    lo, hi = np.quantile(drawn, [0.025, 0.975])
    return float(lo), float(hi)


def resampled(
    groups: pd.Series, columns: Sequence[np.ndarray], seeds: pd.Series | None = None
) -> np.ndarray:
    """Sums of columns [n] over rows, [DRAWS, columns], with whole groups drawn with replacement.

    With the rows' seeds, seeds are drawn first, and groups within each seed that is drawn: what
    another training run would change is in the interval too.
    """
    codes, sizes = _cells(groups, seeds)
    sums = np.stack([np.bincount(codes, np.asarray(one, float)) for one in columns], axis=1)
    return np.concatenate([block.astype(np.float32) @ sums for block in _drawn(sizes, DRAWS)])


def estimate(
    statistic: Callable[[np.ndarray], np.ndarray], groups: pd.Series, draws: int = DRAWS
) -> list[dict[str, float]]:
    """Value, lo and hi of numbers that are no sums, such as areas under curves, over groups.

    Args:
        statistic: weights of the rows, float32 [n, draws], to numbers, [numbers, draws].
        groups: of the rows, [n].
        draws: of whole groups.
    """
    codes, sizes = _cells(groups, None)
    values = statistic(np.ones((len(codes), 1), np.float32))[:, 0]
    blocks = (block.T.astype(np.float32)[codes] for block in _drawn(sizes, draws))
    drawn = np.concatenate([statistic(weights) for weights in blocks], axis=1)
    intervals = map(percentiles, drawn)
    return [
        {"value": float(value), "lo": lo, "hi": hi}
        for value, (lo, hi) in zip(values, intervals, strict=True)
    ]


def _cells(groups: pd.Series, seeds: pd.Series | None) -> tuple[np.ndarray, tuple[int, ...]]:
    """Number of each row's group, seed after seed, and how many groups each seed has."""
    if seeds is None:
        codes, names = pd.factorize(groups)
        return codes, (len(names),)
    frame = pd.DataFrame({"seed": np.asarray(seeds), "group": np.asarray(groups)})
    sizes = frame.groupby("seed")["group"].nunique()
    return frame.groupby(["seed", "group"]).ngroup().to_numpy(), tuple(sizes)


@functools.lru_cache(maxsize=4)
def _drawn(sizes: tuple[int, ...], draws: int) -> list[np.ndarray]:
    """How often each group is drawn, in blocks of uint8 [BLOCK, groups]."""
    return [block.astype(np.uint8) for block in _draw(sizes, draws)]


def _draw(sizes: tuple[int, ...], draws: int) -> Iterator[np.ndarray]:
    dice, groups = np.random.default_rng(0), sizes[0]
    for start in range(0, draws, BLOCK):
        count = min(BLOCK, draws - start)
        if len(sizes) == 1:
            picks = dice.integers(0, groups, (count, groups))
            flat = (picks + groups * np.arange(count)[:, None]).ravel()
            yield np.bincount(flat, minlength=count * groups).reshape(count, groups)
        else:
            times = dice.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), count)
            within = zip(times.T, sizes, strict=True)
            yield np.hstack([dice.multinomial(k * n, np.full(n, 1 / n)) for k, n in within])


def bootstrap(
    values: np.ndarray, groups: pd.Series, seeds: pd.Series | None = None, share: bool = False
) -> tuple[float, float]:
    """Percentile interval of a mean of values [n], by groups (and seeds, see `resampled`).

    Of a share (values from 0 to 1) that is 0 or 1 it is Wilson's over the groups: there every draw
    gives the same mean, which is no certainty about other rows.
    """
    values = np.asarray(values, dtype=float)
    if not len(values):
        return NOTHING
    if share and values.mean() in (0, 1):
        count = groups.nunique()
        return wilson(round(values[0] * count), count)
    drawn = resampled(groups, [values, np.ones(len(values))], seeds)
    return percentiles(drawn[:, 0] / drawn[:, 1])


def ratio(groups: pd.Series, top: np.ndarray, bottom: np.ndarray) -> dict[str, Any]:
    """A share of rows, and its interval over groups where it has MIN_GROUPS different responses.

    Args:
        groups: of the rows, [n].
        top: whether a row is counted, [n]; only where bottom is.
        bottom: whether it is one of those that the share is of, [n]. Both may be counts.

    Returns:
        value, lo, hi, hits, n (rows), groups (different responses among the n).
    """
    hits, n, chosen = top.sum(), bottom.sum(), bottom > 0  # so that no draw is without
    counted, (lo, hi) = int(groups[chosen].nunique()), NOTHING
    if counted >= MIN_GROUPS and hits in (0, n):
        lo, hi = wilson(counted if hits else 0, counted)
    elif counted >= MIN_GROUPS:
        lo, hi = quotient(groups[chosen], top[chosen], bottom[chosen])
    value = hits / n if n else np.nan
    return {"value": value, "lo": lo, "hi": hi, "hits": hits, "n": n, "groups": counted}


def quotient(groups: pd.Series, top: np.ndarray, bottom: np.ndarray) -> tuple[float, float]:
    """Interval of one sum over another; none where a draw has nothing below the line."""
    drawn = resampled(groups, [top, bottom])
    return NOTHING if (drawn[:, 1] == 0).any() else percentiles(drawn[:, 0] / drawn[:, 1])


def pooled(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean of a column (0 to 1) per model and split, all seeds together, intervals over groups.

    Columns: method, size, split, value, sd (over seeds), lo, hi, n, seeds.
    """

    def line(part: pd.DataFrame) -> dict[str, Any]:
        values, by_seed = part[column].to_numpy(float), part.groupby("seed")[column].mean()
        lo, hi = bootstrap(values, part["group"], share=True)
        facts = {"value": values.mean(), "sd": by_seed.std(), "lo": lo, "hi": hi}
        return facts | {"n": len(values), "seeds": len(by_seed)}

    return each(frame, ["method", "size", "split"], line)


def paired_difference(a: pd.DataFrame, b: pd.DataFrame, column: str) -> dict[str, Any]:
    """Mean of a less mean of b over the same rows and seeds: value, lo, hi, n, same_sign.

    Where no row differs in a column of 0 and 1, the interval is Wilson's bound, over groups, on the
    share that differs, to both sides.

    Raises:
        KdlibError: they do not hold the same rows.
    """
    keys = ["seed", "row_id"]
    both = a[[*keys, "group", column]].merge(b[[*keys, column]], on=keys, validate="1:1")
    if len(both) != len(a) or len(both) != len(b):
        raise KdlibError("the two runs do not hold the same rows; run the study again")
    gap = both[f"{column}_x"].astype(float) - both[f"{column}_y"].astype(float)
    lo, hi = bootstrap(gap.to_numpy(), both["group"])
    if not gap.any() and both[f"{column}_x"].isin((0, 1)).all():
        hi = wilson(0, both["group"].nunique())[1]
        lo = -hi
    agreed = same_sign(gap.groupby(both["seed"]).mean())
    return {"value": gap.mean(), "lo": lo, "hi": hi, "n": len(gap), "same_sign": agreed}


def same_sign(by_seed: Iterable[float]) -> bool:
    """Whether every seed alone agrees in (non-zero) sign."""
    signs = set(np.sign(list(by_seed)))
    return len(signs) == 1 and 0.0 not in signs


def holm(p: Sequence[float]) -> np.ndarray:
    """p-values corrected for how many were tried (Holm 1979), in their order."""
    return multipletests(p, method="holm")[1]


def equivalent(lo: float, hi: float, margin: float) -> bool:
    """Whether a difference is shown to be smaller than the margin (Schuirmann 1987)."""
    return -margin < lo and hi < margin


def interval_text(
    value: float, lo: float, hi: float, form: str = ".3f", missing: str = "not enough rows"
) -> str:
    """A value with its interval, "0.123 [0.100, 0.150]"; `missing` where there is no value."""
    if pd.isna(value):
        return missing
    span = "(no interval)" if pd.isna(lo) else f"[{lo:{form}}, {hi:{form}}]"
    return f"{value:{form}} {span}"


def row_text(
    row: Any, name: str = "value", form: str = ".3f", missing: str = "not enough rows"
) -> str:
    """`interval_text` of a table's line (a mapping): of value, lo, hi, or of name, name_lo, ..."""
    lo, hi = ("lo", "hi") if name == "value" else (f"{name}_lo", f"{name}_hi")
    return interval_text(row[name], row[lo], row[hi], form, missing)
