"""What teacher and students would have in common by chance: permutations (notebook 11)."""

from typing import Any

import numpy as np
import pandas as pd

from kdlib.analysis.inheritance import members, pairs
from kdlib.analysis.rates import MODEL
from kdlib.stats import percentiles

METRICS = ("shared", "passed_on", "own")
NULLS = ("copies", "length", "missed")  # what D may depend on when it has not to do with T


def chance(frame: pd.DataFrame, draws: int = 1000) -> pd.DataFrame:
    """The shares if a distilled student memorized as many rows, without regard to T.

    D is permuted over the rows of a seed, in whole groups of equal responses, all sizes alike; only
    among groups of as many copies ("copies"); and like length besides, in fifths ("length"); and of
    which the SFT students memorize as much besides ("missed"). A group that has no like keeps its
    place, so the last null is the strictest. Columns: method, size, null, metric (see
    `inheritance.pairs`), value (observed), expected, lo, hi (the middle 95% of the permutations),
    p (two-sided, at least 2 / (draws + 1): Phipson and Smyth 2010), n, groups (that could change
    places), hit_groups (different responses among those observed). A seed's rows stay in it: no
    seeds are drawn, since chance is asked about in these.
    """
    rows = []
    for method, part in frame.groupby("method", sort=False):
        grid = part.sort_values(["size", "seed", "group", "row_id"])
        by_size = {size: grid[grid["size"] == size] for size in part["size"].unique()}
        t, s, d = np.stack([members(df) for df in by_size.values()], axis=2)
        counted = pairs(t, s, d)
        masks = np.stack([t & s, t & ~s, ~t & ~s], axis=2)  # D and this is what is counted
        first = grid.iloc[: len(t)].reset_index(drop=True)
        columns = {size: [i] for i, size in enumerate(by_size)} | {"all": [*range(len(by_size))]}
        for null in NULLS:
            strata = _strata(first, s, null)
            counts = _permuted(d, masks, strata, draws)
            n_movable = sum(len(groups) for groups in strata if len(groups) > 1)
            for i, metric in enumerate(METRICS):
                for size, cols in columns.items():
                    observed, n = (x[:, cols].sum() for x in counted[metric])
                    hit_groups = first["group"][counted[metric][0][:, cols].any(1)].nunique()
                    drawn = counts[:, cols, i].sum(1)
                    share = np.array([observed, drawn.mean(), *percentiles(drawn)]) / (n or np.nan)
                    tail = 1 + min((drawn >= observed).sum(), (drawn <= observed).sum())
                    p = min(1.0, 2 * tail / (1 + draws))
                    rows.append((method, size, null, metric, *share, p, n, n_movable, hit_groups))
    names = [*MODEL, "null", "metric", "value", "expected", "lo", "hi", "p", "n", "groups"]
    return pd.DataFrame(rows, columns=[*names, "hit_groups"])


def text(line: Any) -> str:
    """A share of a line of `chance` in words: beside the middle 95% of permutations."""
    if not line["hi"] > line["lo"]:
        return "has too few rows to permute"
    relation = "more than" if line["value"] > line["hi"] else "as"
    relation = "less than" if line["value"] < line["lo"] else relation
    return f"{line['value']:.1%}, {relation} chance ({line['lo']:.1%} to {line['hi']:.1%})"


def _strata(rows: pd.DataFrame, s: np.ndarray, null: str) -> list[np.ndarray]:
    """Positions of the rows of each stratum, [groups, copies]: groups that may change places."""
    quintile = pd.qcut(rows["length"].rank(method="first"), 5, labels=False)
    quintile = quintile.groupby(rows["length"]).transform("min")  # equal lengths stay together
    frame = rows[["seed", "group"]].assign(copies=1, length=quintile if null != "copies" else 0)
    hit_columns = [f"s{i}" for i in range(s.shape[1])]
    frame[hit_columns] = s.astype(int) if null == "missed" else 0
    aggregates = {"copies": "sum", "length": "first"} | dict.fromkeys(hit_columns, "sum")
    groups = frame.groupby(["seed", "group"]).agg(aggregates)
    copies = groups["copies"].to_numpy()
    start = np.cumsum(copies) - copies  # rows lie group by group
    cells = groups.groupby(["seed", "copies", "length", *hit_columns]).indices.values()
    return [start[cell][:, None] + np.arange(copies[cell[0]]) for cell in cells]


def _permuted(d: np.ndarray, masks: np.ndarray, strata: list, draws: int) -> np.ndarray:
    """Counts of permuted d [rows, sizes] in masks [rows, sizes, kinds]: [draws, sizes, kinds]."""
    rng, counts = np.random.default_rng(0), np.zeros((draws, *masks.shape[1:]))
    for index in strata:
        order = rng.permuted(np.tile(np.arange(len(index)), (draws, 1)), axis=1)
        # overlap[j, i]: what is counted when the j-th group's marks lie on the i-th group
        overlap = np.einsum("jcs,icsk->jisk", d[index].astype(float), masks[index].astype(float))
        counts += overlap[order, np.arange(len(index))].sum(axis=1)
    return counts
