"""What is given for what: stopping early, and models that no other beats (notebook 10)."""

import pandas as pd

from kdlib.analysis.rates import distilled


def early_stopped(paths: pd.DataFrame) -> pd.DataFrame:
    """Each method's end beside the best of the SFT epochs (1, 2, ...) that memorize no more.

    Columns: seed, size, method, exact_rate, nats_per_token (held-out, at its end), sft_epoch,
    sft_exact_rate, sft_nats_per_token (held-out; the best epoch's is lowest). If it is lower than
    nats_per_token, stopping SFT early gives the better trade.
    """
    numbers, names = ["exact_rate", "nats_per_token"], ["seed", "size", "method"]
    wide = paths.pivot_table(index=[*names, "epoch"], columns="split", values=numbers)
    wide = wide[[("exact_rate", "member"), ("nats_per_token", "held_out")]]
    flat = wide.droplevel("split", axis=1).reset_index()
    ends = flat.loc[flat.groupby(names)["epoch"].idxmax(), [*names, *numbers]]
    rows = []
    for end in ends[ends["method"].isin(distilled(flat))].to_dict("records"):
        sft = flat.query(f"seed == {end['seed']} and size == @end['size'] and method == 'sft'")
        before = sft[(sft["epoch"] > 0) & (sft["exact_rate"] <= end["exact_rate"])]
        stop = before.loc[before["nats_per_token"].idxmin()] if len(before) else sft.iloc[0]
        rows.append(end | {f"sft_{name}": stop[name] for name in ("epoch", *numbers)})
    return pd.DataFrame(rows)


def frontier(points: pd.DataFrame, less: str, more: str) -> pd.Series:
    """Which points no other beats, being as good in both columns and better in one (Pareto)."""
    x, y = points[less].to_numpy(), points[more].to_numpy()
    as_good = (x <= x[:, None]) & (y >= y[:, None])
    better = (x < x[:, None]) | (y > y[:, None])
    return pd.Series(~(as_good & better).any(axis=1), index=points.index)
