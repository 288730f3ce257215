"""What is given for what: stopping early, and models that no other beats.

Pure functions: frames in, frames out. Taught in notebooks 00 and 10.
"""

import pandas as pd

from kdlib.tables import distilled


def early_stopped(paths: pd.DataFrame) -> pd.DataFrame:
    """Each method's end beside the best SFT epoch that memorizes no more than it.

    The best epoch is the one of lowest held-out loss, from epoch 1 on.

    Columns: seed, student, variant, exact_rate, nats_per_token (held-out, at its end), sft_epoch,
    sft_exact_rate, sft_nats_per_token (held-out). A lower sft_nats_per_token says that stopping
    SFT early gives the better trade.
    """
    wide = paths.pivot_table(
        index=["seed", "student", "variant", "epoch"],
        columns="split",
        values=["exact_rate", "nats_per_token"],
    )
    flat = pd.DataFrame(
        {
            "exact_rate": wide[("exact_rate", "member")],
            "nats_per_token": wide[("nats_per_token", "held_out")],
        }
    ).reset_index()
    rows, methods = [], distilled(flat)
    for (seed, size, method), part in flat.groupby(["seed", "student", "variant"]):
        if method not in methods:
            continue
        end = part.loc[part["epoch"].idxmax()]
        sft = flat.query("seed == @seed and student == @size and variant == 'sft'")
        before = sft[(sft["epoch"] > 0) & (sft["exact_rate"] <= end["exact_rate"])]
        stop = before.loc[before["nats_per_token"].idxmin()] if len(before) else sft.iloc[0]
        rows.append(
            {
                **{"seed": seed, "student": size, "variant": method},
                **{name: end[name] for name in ("exact_rate", "nats_per_token")},
                "sft_epoch": int(stop["epoch"]),
                "sft_exact_rate": stop["exact_rate"],
                "sft_nats_per_token": stop["nats_per_token"],
            }
        )
    return pd.DataFrame(rows)


def frontier(points: pd.DataFrame, less: str, more: str) -> pd.Series:
    """Which lines are on the Pareto frontier: no other is as good in both and better in one.

    Args:
        points: one line each, such as a method at one size.
        less: the column of which less is better.
        more: the column of which more is better.
    """
    beaten = []
    for x, y in zip(points[less], points[more], strict=True):
        as_good = (points[less] <= x) & (points[more] >= y)
        beaten.append((as_good & ((points[less] < x) | (points[more] > y))).any())
    return ~pd.Series(beaten, index=points.index, dtype=bool)
