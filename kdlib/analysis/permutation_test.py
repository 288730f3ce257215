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
    p (two-sided, at least 2 / draws: Phipson and Smyth 2010), n, groups (that could change places),
    hit_groups (different responses among those observed). A seed's rows stay in it: no seeds are
    drawn, since chance is asked about in these.
    """
    rows = []
    for method, part in frame.groupby("method", sort=False):
        grid = part.sort_values(["size", "seed", "group", "row_id"])
        at_size = {size: grid[grid["size"] == size] for size in part["size"].unique()}
        t, s, d = np.stack([members(one) for one in at_size.values()], axis=2)
        counted = pairs(t, s, d)
        among = np.stack([t & s, t & ~s, ~t & ~s], axis=2)  # D and this is what is counted
        first = grid.iloc[: len(t)].reset_index(drop=True)
        places = {size: [i] for i, size in enumerate(at_size)} | {"all": [*range(len(at_size))]}
        for null in NULLS:
            strata = _strata(first, s, null)
            counts = _permuted(d, among, strata, draws)
            moved = sum(len(groups) for groups in strata if len(groups) > 1)
            for i, metric in enumerate(METRICS):
                for size, chosen in places.items():
                    seen, n = (one[:, chosen].sum() for one in counted[metric])
                    hit = first["group"][counted[metric][0][:, chosen].any(1)].nunique()
                    drawn = counts[:, chosen, i].sum(1)
                    share = np.array([seen, drawn.mean(), *percentiles(drawn)]) / (n or np.nan)
                    tail = 1 + min((drawn >= seen).sum(), (drawn <= seen).sum())
                    p = min(1.0, 2 * tail / (1 + draws))
                    rows.append((method, size, null, metric, *share, p, n, moved, hit))
    names = [*MODEL, "null", "metric", "value", "expected", "lo", "hi", "p", "n", "groups"]
    return pd.DataFrame(rows, columns=[*names, "hit_groups"])


def text(line: Any) -> str:
    """A share of a line of `chance` in words: beside the middle 95% of permutations."""
    if not line["hi"] > line["lo"]:
        return "has too few rows to permute"
    side = "more than" if line["value"] > line["hi"] else "as"
    side = "less than" if line["value"] < line["lo"] else side
    return f"{line['value']:.1%}, {side} chance ({line['lo']:.1%} to {line['hi']:.1%})"


def _strata(rows: pd.DataFrame, s: np.ndarray, null: str) -> list[np.ndarray]:
    """Positions of the rows of each stratum, [groups, copies]: groups that may change places."""
    fifth = pd.qcut(rows["length"].rank(method="first"), 5, labels=False)
    fifth = fifth.groupby(rows["length"]).transform("min")  # equal lengths stay together
    facts = rows[["seed", "group"]].assign(copies=1, length=fifth if null != "copies" else 0)
    known = [f"s{i}" for i in range(s.shape[1])]
    facts[known] = s.astype(int) if null == "missed" else 0
    added = {"copies": "sum", "length": "first"} | dict.fromkeys(known, "sum")
    groups = facts.groupby(["seed", "group"]).agg(added)
    copies = groups["copies"].to_numpy()
    start = np.cumsum(copies) - copies  # rows lie group by group
    cells = groups.groupby(["seed", "copies", "length", *known]).indices.values()
    return [start[one][:, None] + np.arange(copies[one[0]]) for one in cells]


def _permuted(d: np.ndarray, among: np.ndarray, strata: list, draws: int) -> np.ndarray:
    """Counts of permuted d [rows, sizes] among [rows, sizes, kinds]: [draws, sizes, kinds]."""
    dice, counts = np.random.default_rng(0), np.zeros((draws, *among.shape[1:]))
    for places in strata:
        order = dice.permuted(np.tile(np.arange(len(places)), (draws, 1)), axis=1)
        # overlap[j, i]: what is counted when the j-th group's marks lie on the i-th group
        overlap = np.einsum("jcs,icsk->jisk", d[places].astype(float), among[places].astype(float))
        counts += overlap[order, np.arange(len(places))].sum(axis=1)
    return counts
