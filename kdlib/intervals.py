"""How sure a number is: Wilson for a rate, the bootstrap for means and paired differences.

Taught in notebooks 09 and 10.
"""

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from kdlib.settings import KdlibError

DRAWS = 2000


def wilson(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson interval of a rate (Wilson 1927); (0, 1) when there is nothing to count."""
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(hits, n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap(values: np.ndarray, clusters: pd.Series, draws: int = DRAWS) -> tuple[float, float]:
    """95% percentile interval of the mean, whole clusters drawn with replacement (Efron 1979).

    Rows with the same response stand or fall together, within a seed and across seeds: drawn one
    by one they would pass for more evidence than they are.
    """
    codes = pd.factorize(clusters)[0]
    sums, counts = np.bincount(codes, values), np.bincount(codes)
    picks = np.random.default_rng(0).integers(0, len(sums), (draws, len(sums)))
    lo, hi = np.quantile(sums[picks].sum(1) / counts[picks].sum(1), [0.025, 0.975])
    return float(lo), float(hi)


def pooled(frame: pd.DataFrame, column: str, draws: int = DRAWS) -> pd.DataFrame:
    """Mean of a column per model and split over all seeds together, with a bootstrap interval.

    Columns: variant, student, split, value, sd (over seeds), lo, hi, n, seeds.
    """
    rows = []
    names = ["variant", "student", "split"]
    for key, part in frame.groupby(names, sort=False):
        values = part[column].to_numpy(dtype=float)
        by_seed = part.groupby("seed")[column].mean()
        lo, hi = bootstrap(values, part["group"], draws)
        facts = dict(zip(names, key, strict=True)) | {"value": values.mean(), "sd": by_seed.std()}
        rows.append(facts | {"lo": lo, "hi": hi, "n": len(values), "seeds": len(by_seed)})
    return pd.DataFrame(rows)


def paired_difference(
    a: pd.DataFrame, b: pd.DataFrame, column: str, draws: int = DRAWS
) -> dict[str, Any]:
    """Mean of a less mean of b over the same rows of the same seeds, with a paired interval.

    The interval draws groups of equal responses (see `bootstrap`).

    Returns:
        value, lo, hi, n, and same_sign: whether every seed alone agrees in (non-zero) sign.

    Raises:
        KdlibError: they do not hold the same rows.
    """
    keys = ["seed", "row_id"]
    both = a[[*keys, "group", column]].merge(b[[*keys, column]], on=keys, validate="1:1")
    if len(both) != len(a) or len(both) != len(b):
        raise KdlibError("the two runs do not hold the same rows; run the study again")
    gap = both[f"{column}_x"].astype(float) - both[f"{column}_y"].astype(float)
    lo, hi = bootstrap(gap.to_numpy(), both["group"], draws)
    signs = set(np.sign(gap.groupby(both["seed"]).mean()))
    same = len(signs) == 1 and 0.0 not in signs
    return {"value": gap.mean(), "lo": lo, "hi": hi, "n": len(gap), "same_sign": same}
