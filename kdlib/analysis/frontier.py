"""Models that no other beats (notebook 10)."""

import pandas as pd


def frontier(points: pd.DataFrame, less: str, more: str) -> pd.Series:
    """Which points no other beats, being as good in both columns and better in one (Pareto)."""
    x, y = points[less].to_numpy(), points[more].to_numpy()
    as_good = (x <= x[:, None]) & (y >= y[:, None])
    better = (x < x[:, None]) | (y > y[:, None])
    return pd.Series(~(as_good & better).any(axis=1), index=points.index)
