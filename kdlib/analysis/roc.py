"""How well a score tells who was in the training data: signed AUC, hits at low false alarm.

Scores are those of `attacks`, [n]: the higher, the more like a member, [n] bool (notebook 13).
KdlibError where one is not a number.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from kdlib.errors import KdlibError
from kdlib.stats import DRAWS, MIN_GROUPS, NOTHING, estimate, line, named

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
    return float(_found(*counts(score, member), fpr, int((~member).sum()))[0])


def roc(score: np.ndarray, member: np.ndarray) -> pd.DataFrame:
    """Rates of false and true positives at every threshold, from 0 to 1: false, true."""
    hits, false = (one[:, 0] for one in counts(score, member))
    return pd.DataFrame({"false": false / false[-1], "true": hits / hits[-1]})


def evaluate(frame: pd.DataFrame, columns: Sequence[str], draws: int = DRAWS) -> pd.DataFrame:
    """AUC and low-rate hits of score columns, with intervals over seeds, then groups.

    The frame has member (bool), group and, if there are seeds, seed besides. Columns: score, auc,
    then each of RATES (nan with too few others), all with ..._lo and ..._hi (nan where members, or
    others, are of fewer than MIN_GROUPS groups), n_member, n_other, groups (see `fewer`).
    """
    member = frame["member"].to_numpy(dtype=bool)
    others, groups = int((~member).sum()), fewer(frame)

    def statistic(weights: np.ndarray) -> np.ndarray:
        numbers = []
        for column in columns:
            at = counts(frame[column], member, weights)
            numbers += [area(*at), *(_found(*at, fpr, others) for fpr in RATES.values())]
        return np.stack(numbers)

    rows: dict[str, dict[str, Any]] = {column: {"score": column} for column in columns}
    names = product(columns, ("auc", *RATES))
    found = estimate(statistic, frame["group"], frame.get("seed"), draws)
    for (column, name), one in zip(names, found, strict=True):
        ends = np.clip([one["lo"], one["hi"]], 0, 1) if groups >= MIN_GROUPS else NOTHING
        rows[column] |= named(name, line(one["value"], (float(ends[0]), float(ends[1]))))
    facts = {"n_member": member.sum(), "n_other": others, "groups": groups}
    return pd.DataFrame(rows.values()).assign(**facts)


def difference(frame: pd.DataFrame, one: str, other: str) -> dict[str, Any]:
    """AUC of one column less that of another over the same rows: value, lo, hi, p, n, groups.

    The interval is paired: both see the same draws. The frame has seed, member, group besides;
    for groups see `fewer`.
    """

    def gap(weights: np.ndarray) -> np.ndarray:
        first, second = (area(*counts(frame[c], frame["member"], weights)) for c in (one, other))
        return (first - second)[None]

    (found,) = estimate(gap, frame["group"], frame["seed"])
    return found | {"n": len(frame), "groups": fewer(frame)}


def fewer(frame: pd.DataFrame) -> int:
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
    inside = np.flatnonzero(ranked[1:] != ranked[:-1]) + 1  # thresholds only between ties
    ends = np.unique([0, *inside, len(score)])
    sides = []
    for side in (member, ~member):
        above = np.zeros((len(score) + 1, weights.shape[1]), weights.dtype)
        np.cumsum(weights * side, axis=0, out=above[1:])
        sides.append(above if len(ends) == len(above) else above[ends])
    return sides[0], sides[1]


def area(hits: np.ndarray, false: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of every draw; the straight line over a tie counts it half."""
    with np.errstate(invalid="ignore"):  # no members, or no others: nan
        doubled = (np.diff(false, axis=0) * (hits[1:] + hits[:-1])).sum(axis=0, dtype=float)
        return doubled / (2 * hits[-1].astype(float) * false[-1])


def _found(hits: np.ndarray, false: np.ndarray, fpr: float, others: int) -> np.ndarray:
    """True-positive rate of every draw at the last threshold whose false positives are allowed."""
    if others < round(1 / fpr):
        return np.full(hits.shape[1], np.nan)
    allowed = np.floor(fpr * false[-1] + 1e-6)  # 0.01 * 2900 is a little under 29
    last = np.count_nonzero(false <= allowed, axis=0) - 1
    with np.errstate(invalid="ignore"):
        return np.take_along_axis(hits, last[None], axis=0)[0] / hits[-1]
