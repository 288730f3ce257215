"""One-sided bounds against exact ones, known numbers and naive draws."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import logit
from scipy.stats import binom, binomtest, norm

from kdlib.analysis import bounds, roc

WRONG = (0.01, 0.05)


@pytest.mark.parametrize(("hits", "n"), [(0, 40), (3, 40), (40, 40), (700, 1000)])
def test_rates_are_clopper_pearsons(hits, n):
    sides = [binomtest(hits, n, alternative=side) for side in ("greater", "less")]
    exact = [one.proportion_ci(1 - wrong) for one, wrong in zip(sides, WRONG, strict=True)]
    assert bounds.rate((hits, n), WRONG) == pytest.approx((exact[0].low, exact[1].high), abs=1e-9)
    assert bounds.rate((0, 0), WRONG) == (0, 1)


def test_none_of_n_is_the_rule_of_three():
    assert bounds.rate((0, 1000), WRONG)[1] == pytest.approx(3 / 1000, rel=0.01)
    assert bounds.excess((0, 1000), (0, 500), WRONG)[1] == pytest.approx(3 / 1000, rel=0.01)


@pytest.mark.parametrize(("p", "q"), [(0.01, 0.01), (0.05, 0.02), (0.3, 0.1), (0.02, 0.0)])
def test_an_excess_is_rarely_missed(p, q):
    """Over all that may be counted, with its probability; not by simulation."""
    n, m, low, high = 150, 100, 0.0, 0.0
    chance = np.outer(binom.pmf(range(n + 1), n, p), binom.pmf(range(m + 1), m, q))
    for hits, guessed in np.argwhere(chance > 1e-6):
        lo, hi = bounds.excess((hits, n), (guessed, m), WRONG)
        low += chance[hits, guessed] * (lo > p - q)
        high += chance[hits, guessed] * (hi < p - q)
    assert low <= 1.2 * WRONG[0] and high <= 1.2 * WRONG[1], (low, high)


def scored(dice, n, m, area):
    score = np.concatenate([dice.standard_normal(n) + np.sqrt(2) * norm.ppf(area), np.zeros(m)])
    score[n:] = dice.standard_normal(m)
    return score, np.arange(n + m) < n


@pytest.mark.parametrize("area", [0.5, 0.6, 0.9])
def test_auc_is_rarely_missed(area):
    dice, missed = np.random.default_rng(0), np.zeros(2)
    for _ in range(2000):
        lo, hi = bounds.auc(*scored(dice, 80, 60, area), (0.05, 0.05))
        missed += (lo > area, hi < area)
    assert (missed / 2000 < 0.085).all() and (missed / 2000 > 0.02).all(), missed / 2000


def test_auc_agrees_with_the_bootstrap():
    score, member = scored(np.random.default_rng(1), 300, 200, 0.7)
    frame = pd.DataFrame({"loss": score, "member": member, "group": np.arange(500)})
    drawn = roc.evaluate(frame, ["loss"]).iloc[0]
    ends = bounds.auc(score, member, (0.025, 0.025))
    assert ends == pytest.approx((drawn["auc_lo"], drawn["auc_hi"]), abs=0.008)
    assert logit(ends).mean() == pytest.approx(logit(roc.auc(score, member)))


@pytest.mark.parametrize("n", [(30, 30), (30, 300)])
def test_auc_of_few_rows_near_one_is_rarely_missed(n):
    dice, missed = np.random.default_rng(0), np.zeros(2)
    for _ in range(2000):
        lo, hi = bounds.auc(*scored(dice, *n, 0.9), (0.05, 0.05))
        missed += (lo > 0.9, hi < 0.9)
    assert (missed / 2000 < 0.08).all(), missed / 2000


def test_an_upper_bound_is_rarely_missed_even_of_ten_rows():
    dice, missed = np.random.default_rng(0), 0
    for _ in range(2000):
        missed += bounds.auc(*scored(dice, 10, 10, 0.9), (0.05, 0.05))[1] < 0.9
    assert missed / 2000 < 0.06


def test_a_perfect_auc_of_few_rows_is_not_certain():
    score, member = np.arange(20.0), np.arange(20) >= 10
    lo, hi = bounds.auc(score, member, (0.05, 0.05))
    assert 0.5 < lo < 0.95 and hi > 0.99
    few, _ = bounds.auc(score[7:13], member[7:13], (0.05, 0.05))
    assert few < lo


@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_hits_at_a_rate_are_rarely_missed(shift):
    dice, missed, truth = np.random.default_rng(0), np.zeros(2), norm.sf(norm.isf(0.01) - shift)
    member = np.arange(900) < 400
    for _ in range(1000):
        lo, hi = bounds.tpr_at(dice.standard_normal(900) + shift * member, member, 0.01, WRONG)
        missed += (lo > truth, hi < truth)
    assert (missed / 1000 <= WRONG).all(), missed / 1000


def test_few_others_tell_no_threshold():
    """Of 100 others none may lie above, and with confidence nothing is found there."""
    member = np.arange(150) < 50
    lo, hi = bounds.tpr_at(np.where(member, 9.0, np.arange(150)), member, 0.01, WRONG)
    assert (lo, hi) == (0.0, pytest.approx(bounds.rate((0, 50), (0.05, 0.025))[1]))
    assert bounds.tpr_at(1.0 * member, member, 0.01, WRONG, times=20)[0] > 0.9


@pytest.mark.parametrize("of", [bounds.auc, lambda *a: bounds.tpr_at(*a[:2], 0.01, *a[2:])])
def test_more_cases_are_as_if_all_were_there_again(of):
    score, member = scored(np.random.default_rng(2), 400, 400, 0.8)
    again = of(np.repeat(score, 9), np.repeat(member, 9), WRONG, 1)
    assert of(score, member, WRONG, 9) == pytest.approx(again, abs=0.01)
