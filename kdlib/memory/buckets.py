"""Memorized shares by what a row is like: each attribute cut into buckets.

Pure functions without torch. Taught in notebook 12_what_stays.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from kdlib.intervals import wilson
from kdlib.tables import exact, natural

MODEL, KEYS = ["variant", "student"], ["seed", "row_id"]
_CUTS = {  # of counts; everything else is cut into quarters
    "copies": ([0, 1, 2, 4, 8, np.inf], ["1", "2", "3 to 4", "5 to 8", "9 or more"]),
    "near_copies": ([-1, 0, 1, 3, np.inf], ["0", "1", "2 to 3", "4 or more"]),
}


def beside(tuples: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """What each model made of each row, beside the row's attributes.

    Args:
        tuples: of `tables.collect`; base models, canaries and twins are left out.
        rows: seed, row_id, split, group and the attributes, raw, in buckets or scaled.

    Returns:
        one line per model and row: rows' columns, variant, student, nats_per_token, and hit
        (memorized, k = 50).
    """
    found = natural(tuples[tuples["variant"] != "base"])
    found = found.assign(hit=exact(found))[[*MODEL, *KEYS, "nats_per_token", "hit"]]
    return found.merge(rows, on=KEYS, validate="m:1")


def bucketed(rows: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Each attribute cut into ordered buckets: counts by doubling, other numbers into quarters.

    Args:
        rows: one line per row, with the attributes.
        names: which of them; what is no number stays as it is.

    Returns:
        the rows, with these columns replaced.
    """
    cut: dict[str, pd.Series] = {}
    for name in names:
        values = rows[name]
        if name in _CUTS:
            edges, labels = _CUTS[name]
            cut[name] = pd.cut(values, edges, labels=labels)
        elif pd.api.types.is_numeric_dtype(values):
            quarters = np.unique(np.quantile(values, [0, 0.25, 0.5, 0.75, 1]))
            if len(quarters) < 3:  # (nearly) all the same
                cut[name] = values.astype("category")
                continue
            pairs = zip(quarters, quarters[1:], strict=False)
            labels = [f"{a:.3g} to {b:.3g}" for a, b in pairs]
            cut[name] = pd.cut(values, quarters, labels=labels, include_lowest=True, ordered=False)
        else:
            cut[name] = values.astype("category")
    return rows.assign(**cut)


def shares(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Memorized share per model and bucket of each attribute, with Wilson intervals.

    Args:
        frame: one line per model and row: variant, student, group, hit, and the buckets.
        names: the columns of buckets, see `bucketed`.

    Returns:
        variant, student, attribute, bucket, value (0 to 1), lo, hi, n, groups. Where the groups are
        far fewer than n, the rows stand or fall together and the interval is too narrow.
    """
    rows: list[dict[str, object]] = []
    for name in names:
        grouped = frame.groupby([*MODEL, name], sort=True, observed=True)
        for (variant, size, bucket), part in grouped:
            hits, n = int(part["hit"].sum()), len(part)
            facts = {"variant": variant, "student": size, "attribute": name, "bucket": str(bucket)}
            lo, hi = wilson(hits, n)
            facts |= {"value": hits / n, "lo": lo, "hi": hi, "n": n}
            rows.append(facts | {"groups": part["group"].nunique()})
    columns = [*MODEL, "attribute", "bucket", "value", "lo", "hi", "n", "groups"]
    return pd.DataFrame(rows, columns=columns)


def in_words(table: pd.DataFrame) -> list[str]:
    """Each line's value and interval: "0.33 [0.31, 0.36]"."""
    return [
        f"{value:.2f} [{lo:.2f}, {hi:.2f}]"
        for value, lo, hi in table[["value", "lo", "hi"]].itertuples(index=False)
    ]


def of_canaries(tuples: pd.DataFrame) -> pd.DataFrame:
    """Memorized canaries by kind of secret and by repetitions (showings an epoch).

    Returns:
        as `shares`, with attributes secret and repetitions; no line where none are planted.
    """
    planted = tuples[(tuples["kind"] == "canary") & (tuples["variant"] != "base")]
    secret = planted["category"].str.split().str[-1]
    return shares(planted.assign(hit=exact(planted), secret=secret), ["secret", "repetitions"])


def by_row(frame: pd.DataFrame) -> pd.DataFrame:
    """How many students memorize each response, most first; all methods, sizes and seeds together.

    Args:
        frame: member rows beside their attributes, see `beside`.

    Returns:
        response, share (of the students asked, 0 to 1), asked, copies, rarity.
    """
    students = frame[frame["variant"] != "teacher"].groupby("group", sort=False)
    named = {"response": ("response", "first"), "share": ("hit", "mean"), "asked": ("hit", "size")}
    named |= {name: (name, "first") for name in ("copies", "rarity")}
    table = students.agg(**named)
    return table.sort_values("share", ascending=False, kind="stable").reset_index(drop=True)
