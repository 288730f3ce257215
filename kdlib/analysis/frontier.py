"""Models that no other beats (notebook 10)."""

import pandas as pd


def frontier(points: pd.DataFrame, minimize: str, maximize: str) -> pd.Series:
    """Which points no other beats: as good in both columns and better in one (Pareto)."""
    x, y = points[minimize].to_numpy(), points[maximize].to_numpy()
    as_good = (x <= x[:, None]) & (y >= y[:, None])
    better = (x < x[:, None]) | (y > y[:, None])
    return pd.Series(~(as_good & better).any(axis=1), index=points.index)
