"""One-sided bounds of shares, their excess, AUC, hits at a low false-alarm rate, and of epsilon.

Each returns (lo, hi); `alphas` hold the chance that lo lies above the truth, and that hi lies below
it, for independent cases. Nothing is drawn at random: a gate that is asked twice says the same, and
bounds far out in a tail cost no more. `times` asks what the bounds would be with so many times the
cases, had they shown the same shares.
"""

import numpy as np
from scipy.special import betainccinv, betaincinv, expit, logit, stdtrit
from scipy.stats import binom, rankdata

from kdlib.stats import Interval

Alphas = tuple[float, float]
Count = tuple[float, float]  # hits, and of how many; a fraction where cases are multiplied


def rate(count: Count, alphas: Alphas) -> Interval:
    """Of a share (Clopper and Pearson 1934): never wrong more often than said; 0 and 1 of none."""
    hits, n = count
    lo = float(betaincinv(hits, n - hits + 1, alphas[0])) if hits > 0 else 0.0
    hi = float(betainccinv(hits + 1, n - hits, alphas[1])) if hits < n else 1.0
    return lo, hi


def excess(first: Count, second: Count, alphas: Alphas) -> Interval:
    """Of one share less another, from the bounds of each (Newcombe 1998, method 10, by `rate`).

    Where the second has no hits, the upper bound is that of the first alone.
    """
    p, q = first[0] / first[1], second[0] / second[1]
    limits = []
    for sign, alpha in zip((-1, 1), alphas, strict=True):
        (p_lo, p_hi), (q_lo, q_hi) = (rate(count, (alpha, alpha)) for count in (first, second))
        offsets = (p_hi - p, q - q_lo) if sign > 0 else (p - p_lo, q_hi - q)
        limits.append(float(p - q + sign * np.hypot(*offsets)))
    return limits[0], limits[1]


def auc(score: np.ndarray, member: np.ndarray, alphas: Alphas, times: float = 1) -> Interval:
    """Of the AUC of scores [n] of members (bool, [n]) and others, two or more of each.

    With the variance of DeLong et al. (1988), which asks nothing of the scores' shape, on the logit
    scale (Qin and Hotilovac 2008), where it is less skewed near 0 and 1, and by Student's t with
    the degrees of freedom of Brunner and Munzel (2000). Where all members lie above all others
    (A = 1), half a pair in n x m is taken to lie the other way, else the bound would be 1, too.
    """
    ranks = rankdata(score)
    placements = [ranks[side] - rankdata(score[side]) for side in (member, ~member)]
    n, m = map(len, placements)  # placements: how many of the other side lie below, ties half
    components = placements[0] / m, placements[1] / n
    area = np.clip(components[0].mean(), 0.5 / (n * m), 1 - 0.5 / (n * m))
    variances = np.array([component.var(ddof=1) / len(component) for component in components])
    dof = min(n, m) * times - 1
    if variances.any():
        dof = variances.sum() ** 2 / (variances**2 / (np.array([n, m]) * times - 1)).sum()
    spread = area * (1 - area)
    error = np.sqrt(max(variances.sum(), spread / (n * m)) / times) / spread
    lo, hi = expit(logit(area) - stdtrit(dof, 1 - np.array(alphas)) * error * np.array([1, -1]))
    return float(lo), float(hi)


def tpr_at(
    score: np.ndarray, member: np.ndarray, fpr: float, alphas: Alphas, times: float = 1
) -> Interval:
    """Of the share of members found at the threshold that accuses a share `fpr` of all others.

    Which threshold that is, the others tell only so well: half the chance of being wrong goes to
    one that accuses surely more (for hi) or surely fewer (lo; an order statistic, binomial), the
    other half to the share found there (`rate`). lo is 0 with fewer others than tell a threshold.
    """
    negatives, n = np.sort(score[~member])[::-1], int(member.sum())
    half, count = (alphas[0] / 2, alphas[1] / 2), round(len(negatives) * times)
    # ranks of the threshold among the others: where surely fewer lie above, surely more
    lower_rank = int(np.ceil(binom.ppf(half[0], count, fpr) / times))
    upper_rank = int(np.ceil((binom.isf(half[1], count, fpr) + 1) / times))
    lo, hi = 0.0, 1.0
    if lower_rank > 0:
        hits = (score[member] > negatives[lower_rank - 1]).sum()
        lo = rate((hits * times, n * times), half)[0]
    if upper_rank <= len(negatives):
        hits = (score[member] >= negatives[upper_rank - 1]).sum()
        hi = rate((hits * times, n * times), half)[1]
    return lo, hi


def epsilon(hits: Count, false_alarms: Count, delta: float, alpha: float) -> float:
    """The least epsilon that an attack leaves possible, 0 at least; wrong with that chance at most.

    By (epsilon, delta)-differential privacy an attack that accuses a share f of others finds
    at most e^epsilon x f + delta of the members (Kairouz et al. 2015, theorem 2.1; as a test of
    a training Jagielski et al. 2020): the lower bound of the one share against the upper one of the
    other (`rate`), each wrong with half the chance.
    """
    lo, hi = rate(hits, (alpha / 2, 1))[0] - delta, rate(false_alarms, (1, alpha / 2))[1]
    return max(0.0, float(np.log(lo / hi))) if lo > 0 else 0.0
