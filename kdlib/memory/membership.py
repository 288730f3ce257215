"""How well a score tells who was in the training data: signed AUC, and hits at low false alarm.

The scores are those of `scores.membership` and `attacks`. Pure functions without torch. Taught in
notebook 13_membership_and_canaries.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kdlib.settings import KdlibError

DRAWS = 1000
BLOCK = 100  # draws at a time: their counts stay in the cache, which is most of the speed
RATES = {"tpr_1pct": 0.01, "tpr_01pct": 0.001}  # at these false-positive rates


def auc(score: np.ndarray, member: np.ndarray) -> float:
    """How likely a member scores above another row, ties counted half: 0 to 1, 0.5 for a guess.

    Signed: a score that points the wrong way stays below 0.5. To flip it there would use the
    answers to choose the attack, and turn every useless score into a slightly useful one.

    Args:
        score: [n]; the higher, the more like a member.
        member: [n] bool.

    Returns:
        the area under the ROC curve; nan without members or without others.
    """
    hits, false = _counts(score, member, np.ones((len(score), 1)))
    return float(_area(hits, false)[0])


def tpr_at(score: np.ndarray, member: np.ndarray, fpr: float) -> float:
    """Greatest share of members found at a threshold that accuses at most that share of others.

    The measure that counts for an attacker (Carlini et al. 2022): to be sure of a few is worse
    than to guess a little better than chance at all.

    Returns:
        0 to 1; nan with fewer than 1 / fpr others, since then the rate cannot be told from 0, or
        without members.
    """
    if _too_few(member, fpr):
        return float("nan")
    hits, false = _counts(score, member, np.ones((len(score), 1)))
    return float(_found(hits, false, fpr)[0])


def roc(score: np.ndarray, member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False- and true-positive rate at every threshold, from (0, 0) to (1, 1)."""
    hits, false = (one[:, 0] for one in _counts(score, member, np.ones((len(score), 1))))
    return false / false[-1], hits / hits[-1]


def evaluate(frame: pd.DataFrame, columns: Sequence[str], draws: int = DRAWS) -> pd.DataFrame:
    """AUC and low-rate hits of every score, with 95% bootstrap intervals over groups.

    Args:
        frame: one line per row, with member (bool), group (rows with the same response stand or
            fall together, see `intervals.bootstrap`), and the scores.
        columns: names of the scores.
        draws: of the bootstrap.

    Returns:
        one line per score: score, auc, auc_lo, auc_hi, then for each of RATES its name, ..._lo and
        ..._hi (nan with too few others, see `tpr_at`), n_member, n_other.
    """
    member = frame["member"].to_numpy(dtype=bool)
    facts = {"n_member": int(member.sum()), "n_other": int((~member).sum())}
    rates = {name: fpr for name, fpr in RATES.items() if not _too_few(member, fpr)}
    drawn: dict[str, dict[str, list[np.ndarray]]] = {
        column: {name: [] for name in ("auc", *rates)} for column in columns
    }
    for weights in _weights(frame["group"], draws):
        for column in columns:
            hits, false = _counts(frame[column].to_numpy(), member, weights)
            drawn[column]["auc"].append(_area(hits, false))
            for name, fpr in rates.items():
                drawn[column][name].append(_found(hits, false, fpr))
    rows = []
    for column in columns:
        score = frame[column].to_numpy()
        row: dict[str, Any] = {"score": column}
        points = {"auc": auc(score, member)}
        points |= {name: tpr_at(score, member, fpr) for name, fpr in RATES.items()}
        for name, value in points.items():
            lo, hi = _middle(drawn[column].get(name, []))
            row |= {name: value, f"{name}_lo": lo, f"{name}_hi": hi}
        rows.append(row | facts)
    return pd.DataFrame(rows)


def difference(frame: pd.DataFrame, one: str, other: str, draws: int = DRAWS) -> dict[str, Any]:
    """AUC of one score less that of another over the same rows, with a paired interval.

    Args:
        frame: with seed, member, group and the two scores, such as two models' losses.
        one: a column.
        other: a column.
        draws: of the bootstrap; both scores see the same draws.

    Returns:
        value, lo, hi, n, and same_sign: whether every seed alone agrees in (non-zero) sign.
    """

    def gap(part: pd.DataFrame) -> float:
        member = part["member"].to_numpy(dtype=bool)
        return auc(part[one].to_numpy(), member) - auc(part[other].to_numpy(), member)

    member = frame["member"].to_numpy(dtype=bool)
    drawn = []
    for weights in _weights(frame["group"], draws):
        areas = [_area(*_counts(frame[c].to_numpy(), member, weights)) for c in (one, other)]
        drawn.append(areas[0] - areas[1])
    lo, hi = _middle(drawn)
    signs = {np.sign(gap(part)) for _, part in frame.groupby("seed")}
    same = len(signs) == 1 and 0.0 not in signs
    return {"value": gap(frame), "lo": lo, "hi": hi, "n": len(frame), "same_sign": same}


def _counts(
    score: np.ndarray, member: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Members and others at or above each distinct score, weighted: [levels + 1, draws] each."""
    score, member = np.asarray(score), np.asarray(member, dtype=bool)
    if np.isnan(score).any():
        raise KdlibError("a membership score is not a number; measure the model again")
    order = np.argsort(-score, kind="stable")
    ranked, counted = score[order], weights[order]
    inside = np.flatnonzero(ranked[1:] != ranked[:-1]) + 1  # thresholds only between ties
    ends = np.unique([0, *inside, len(score)])
    sides = []
    for side in (member[order], ~member[order]):
        above = np.zeros((len(score) + 1, weights.shape[1]), weights.dtype)
        np.cumsum(counted * side[:, None].astype(weights.dtype), axis=0, out=above[1:])
        sides.append(above if len(ends) == len(above) else above[ends])
    return sides[0], sides[1]


def _area(hits: np.ndarray, false: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of every draw; the straight line over a tie counts it half."""
    with np.errstate(invalid="ignore"):  # no members, or no others: nan
        widths = np.diff(false, axis=0)
        doubled = (widths * (hits[1:] + hits[:-1])).sum(axis=0, dtype=float)
        return doubled / (2 * hits[-1].astype(float) * false[-1])


def _found(hits: np.ndarray, false: np.ndarray, fpr: float) -> np.ndarray:
    """True-positive rate of every draw at the last threshold whose false positives are allowed."""
    allowed = np.floor(fpr * false[-1] + 1e-6)  # 0.01 * 2900 is a little under 29
    last = np.count_nonzero(false <= allowed, axis=0) - 1
    with np.errstate(invalid="ignore"):
        return np.take_along_axis(hits, last[None], axis=0)[0] / hits[-1]


def _too_few(member: np.ndarray, fpr: float) -> bool:
    others = len(member) - np.count_nonzero(member)
    return bool(others < round(1 / fpr) or others == len(member))


def _weights(groups: pd.Series, draws: int) -> Iterator[np.ndarray]:
    """How often each row is drawn, whole groups with replacement: blocks of float32 [n, draws]."""
    names, codes = np.unique(groups.to_numpy(dtype=str), return_inverse=True)
    dice = np.random.default_rng(0)
    for start in range(0, draws, BLOCK):
        count = min(BLOCK, draws - start)
        picks = dice.integers(0, len(names), (len(names), count))
        flat = np.bincount((picks * count + np.arange(count)).ravel(), minlength=picks.size)
        yield flat.reshape(picks.shape).astype(np.float32)[codes]


def _middle(drawn: list[np.ndarray]) -> tuple[float, float]:
    """The middle 95% of what was drawn, without draws that had no members or no others."""
    values = np.concatenate(drawn) if drawn else np.array([])
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    lo, hi = np.quantile(values, [0.025, 0.975])
    return float(lo), float(hi)
