"""Memorized shares by what a row is like: each attribute cut into bins (notebook 12)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from kdlib.analysis.rates import MODEL, ROW, natural
from kdlib.config.exact_match import exact
from kdlib.stats import ratio

_CUTS = {  # of counts; everything else is cut into quarters
    "copies": ([0, 1, 2, 4, 8, np.inf], ["1", "2", "3 to 4", "5 to 8", "9 or more"]),
    "near_copies": ([-1, 0, 1, 3, np.inf], ["0", "1", "2 to 3", "4 or more"]),
}


def beside(tuples: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows' columns beside method, size, nats_per_token, hit (k = 50) of each trained model."""
    trained = natural(tuples[tuples["method"] != "base"])
    return trained[[*MODEL, *ROW, "nats_per_token", "hit"]].merge(rows, on=ROW, validate="m:1")


def bucketed(rows: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The rows, each attribute named in bins: counts by doubling, other numbers by quarters."""
    return rows.assign(**{name: _cut(name, rows[name]) for name in names})


def _cut(name: str, values: pd.Series) -> pd.Series:
    if name in _CUTS:
        edges, labels = _CUTS[name]
        return pd.cut(values, edges, labels=labels)
    numbers = values if pd.api.types.is_numeric_dtype(values) else [0]
    quarters = np.unique(np.quantile(numbers, [0, 0.25, 0.5, 0.75, 1]))
    if len(quarters) < 3:  # no numbers, or (nearly) all the same
        return values.astype("category")
    labels = [f"{a:.3g} to {b:.3g}" for a, b in zip(quarters, quarters[1:], strict=False)]
    return pd.cut(values, quarters, labels=labels, include_lowest=True, ordered=False)


def shares(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Memorized share per model and bin of each of the columns named.

    Columns: method, size, attribute, bucket, value, lo, hi, n, groups, hit_groups, see
    `stats.ratio`.
    """
    columns, rows = [*MODEL, "attribute", "bucket", "value", "lo", "hi", "n", "groups"], []
    columns.append("hit_groups")
    for name in names:
        for (*model, bucket), part in frame.groupby([*MODEL, name], observed=True):
            facts = dict(zip(columns, (*model, name, str(bucket)), strict=False))
            hit = part["hit"].astype(float)
            rows.append(facts | ratio(part["group"], hit, np.ones(len(part)), part["seed"]))
    return pd.DataFrame(rows, columns=columns)


def of_canaries(tuples: pd.DataFrame) -> pd.DataFrame:
    """`shares` of canaries by kind of secret and by repetitions (showings an epoch)."""
    canaries = tuples[(tuples["kind"] == "canary") & (tuples["method"] != "base")]
    secret = canaries["category"].str.removeprefix("canary ")
    return shares(canaries.assign(hit=exact(canaries), secret=secret), ["secret", "repetitions"])


def by_row(frame: pd.DataFrame) -> pd.DataFrame:
    """How many students (all methods, sizes, seeds) memorize each response, most first.

    Of `beside`, member rows. Columns: response, share (of the students), students, copies, rarity.
    """
    columns = {"response": ("response", "first"), "share": ("hit", "mean")}
    columns |= {"students": ("hit", "size"), "copies": ("copies", "first")}
    grouped = frame[frame["method"] != "teacher"].groupby("group", sort=False)
    table = grouped.agg(**columns, rarity=("rarity", "first"))
    return table.sort_values("share", ascending=False, kind="stable").reset_index(drop=True)
