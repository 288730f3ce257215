"""How well a score tells who was in the training data: signed AUC, hits at low false alarm.

Scores are those of `attacks`, [n]: the higher, the more like a member, [n] bool (notebook 13).
KdlibError where one is not a number. An attack is on one model: frames with a column seed are of
one model a seed, whose numbers are computed apart and averaged, each seed by the rows drawn of it.
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from kdlib.errors import KdlibError
from kdlib.stats import (
    DRAWS,
    MIN_GROUPS,
    UNKNOWN,
    Interval,
    Line,
    Statistic,
    estimate,
    line,
    named,
    wilson,
)

RATES = {"tpr_1pct": 0.01, "tpr_01pct": 0.001}  # at these false-positive rates


def auc(score: np.ndarray, member: np.ndarray) -> float:
    """How likely a member scores above another row, ties counted half: 0 to 1, 0.5 for a guess.

    Signed: to flip a score that points the wrong way would use the answers to choose the attack,
    and turn every useless score into a slightly useful one. nan without members or without others.
    """
    return float(area(*counts(score, member))[0])


def tpr_at(score: np.ndarray, member: np.ndarray, fpr: float) -> float:
    """Greatest share of members found at a threshold that accuses at most that share of others.

    The measure that counts for an attacker (Carlini et al. 2022). nan without members, or with
    fewer than 1 / fpr others, since then the rate cannot be told from 0.
    """
    return float(_tpr_of_draws(*counts(score, member), fpr, int((~member).sum()))[0])


def roc(score: np.ndarray, member: np.ndarray) -> pd.DataFrame:
    """Rates of false and true positives at every threshold, from 0 to 1: false, true."""
    hits, false_alarms = (curve[:, 0] for curve in counts(score, member))
    return pd.DataFrame({"false": false_alarms / false_alarms[-1], "true": hits / hits[-1]})


def evaluate(frame: pd.DataFrame, columns: Sequence[str], draws: int = DRAWS) -> pd.DataFrame:
    """AUC and low-rate hits of score columns, with intervals over seeds, then groups.

    The frame has member (bool), group and, if there are seeds, seed besides. Columns: score, auc,
    then each of RATES (nan with too few others in a seed), all 0 to 1 with ..._lo and ..._hi (nan
    where members, or others, are of fewer than MIN_GROUPS groups), n_member, n_other, groups (see
    `min_groups`). An AUC that is the same in every draw has no interval; a rate of 0 or 1 holds
    Wilson's over the members' groups.
    """
    member, n_others = frame["member"].to_numpy(dtype=bool), min_nonmembers(frame)

    def numbers(mask: np.ndarray, weights: np.ndarray) -> np.ndarray:
        values = []
        for column in columns:
            curve = counts(frame[column].to_numpy()[mask], member[mask], weights)
            values += [
                area(*curve),
                *(_tpr_of_draws(*curve, fpr, n_others) for fpr in RATES.values()),
            ]
        return np.stack(values)

    estimates = estimate(_averaged(frame, numbers), frame["group"], frame.get("seed"), draws)
    lines: dict[str, dict[str, Any]] = {column: {"score": column} for column in columns}
    for (column, name), row in zip(product(columns, ("auc", *RATES)), estimates, strict=True):
        lines[column] |= named(name, line(row["value"], _ends(frame, name, row)))
    facts = {"n_member": member.sum(), "n_other": (~member).sum(), "groups": min_groups(frame)}
    return pd.DataFrame(lines.values()).assign(**facts)


def _ends(frame: pd.DataFrame, name: str, row: Line) -> Interval:
    """The interval of a number of `evaluate`, see there."""
    constant = name == "auc" and row["lo"] == row["hi"]  # in all draws, which is no certainty
    if min_groups(frame) < MIN_GROUPS or constant:
        return UNKNOWN
    lo, hi = row["lo"], row["hi"]
    if name in RATES and row["value"] in (0, 1):
        count = frame["group"][frame["member"].to_numpy(dtype=bool)].nunique()
        bounds = wilson(int(row["value"]) * count, count)
        lo, hi = np.fmin(lo, bounds[0]), np.fmax(hi, bounds[1])
    return float(np.clip(lo, 0, 1)), float(np.clip(hi, 0, 1))


def _averaged(
    frame: pd.DataFrame, numbers: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Statistic:
    """The mean over seeds of numbers of each seed's rows ([n] bool) and their weights.

    A seed counts as often as its rows are drawn, and not where none is.
    """
    seeds = _seeds(frame)
    masks = [seeds == seed for seed in pd.unique(seeds)]

    def mean(weights: np.ndarray) -> np.ndarray:
        values = [numbers(mask, weights[mask]) for mask in masks]
        if len(masks) == 1:
            return values[0]
        drawn = np.stack([weights[mask].sum(axis=0, dtype=float) for mask in masks])[:, None]
        return np.where(drawn > 0, drawn * values, 0).sum(axis=0) / drawn.sum(axis=0)

    return mean


def difference(frame: pd.DataFrame, first: str, second: str) -> dict[str, Any]:
    """AUC of the first column less that of the second: value, lo, hi, p, n, groups.

    The interval is paired: both see the same draws of the same rows. The frame has seed, member,
    group besides; for groups see `min_groups`.
    """
    member = frame["member"].to_numpy(dtype=bool)

    def gap(mask: np.ndarray, weights: np.ndarray) -> np.ndarray:
        curves = (counts(frame[c].to_numpy()[mask], member[mask], weights) for c in (first, second))
        a, b = (area(*curve) for curve in curves)
        return (a - b)[None]

    (row,) = estimate(_averaged(frame, gap), frame["group"], frame["seed"])
    return row | {"n": len(frame), "groups": min_groups(frame)}


def min_nonmembers(frame: pd.DataFrame) -> int:
    """How many rows are no members, in the seed that has the fewest of them."""
    nonmember = pd.Series(~frame["member"].to_numpy(dtype=bool))
    return int(nonmember.groupby(_seeds(frame)).sum().min())


def _seeds(frame: pd.DataFrame) -> np.ndarray:
    """The seed of each row; without seeds all rows are of one."""
    return frame["seed"].to_numpy() if "seed" in frame else np.zeros(len(frame))


def min_groups(frame: pd.DataFrame) -> int:
    """Different responses of members or of others, whichever are fewer."""
    return min(frame["group"][frame["member"] == side].nunique() for side in (True, False))


def counts(
    score: np.ndarray | pd.Series, member: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Members and others at or above each distinct score, [levels + 1, draws] each.

    Weights say how often each row counts, [n, draws] (None: once).
    """
    score, member = np.asarray(score), np.asarray(member, dtype=bool)
    if np.isnan(score).any():
        raise KdlibError("a membership score is not a number; measure the model again")
    order = np.argsort(-score, kind="stable")
    ranked, member = score[order], member[order][:, None]
    weights = np.ones((len(score), 1)) if weights is None else weights[order]
    breaks = np.flatnonzero(ranked[1:] != ranked[:-1]) + 1  # thresholds only between ties
    levels = np.unique([0, *breaks, len(score)])
    curves = []
    for mask in (member, ~member):
        cumulative = np.zeros((len(score) + 1, weights.shape[1]), weights.dtype)
        np.cumsum(weights * mask, axis=0, out=cumulative[1:])
        curves.append(cumulative if len(levels) == len(cumulative) else cumulative[levels])
    return curves[0], curves[1]


def area(hits: np.ndarray, false_alarms: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of every draw; the straight line over a tie counts it half."""
    with np.errstate(invalid="ignore"):  # no members, or no others: nan
        doubled = (np.diff(false_alarms, axis=0) * (hits[1:] + hits[:-1])).sum(axis=0, dtype=float)
        return doubled / (2 * hits[-1].astype(float) * false_alarms[-1])


def _tpr_of_draws(
    hits: np.ndarray, false_alarms: np.ndarray, fpr: float, n_others: int
) -> np.ndarray:
    """True-positive rate of every draw at the last threshold whose false positives are allowed."""
    if n_others < round(1 / fpr):
        return np.full(hits.shape[1], np.nan)
    allowed = np.floor(fpr * false_alarms[-1] + 1e-6)  # 0.01 * 2900 is a little under 29
    last = np.count_nonzero(false_alarms <= allowed, axis=0) - 1
    with np.errstate(invalid="ignore"):
        return np.take_along_axis(hits, last[None], axis=0)[0] / hits[-1]
