"""Intervals against known numbers and naive draws; corrections against their definitions."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from kdlib import stats
from kdlib.errors import KdlibError


def test_wilson_known_numbers():
    # Newcombe 1998, table I: 81 of 263
    assert stats.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert stats.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_paired_bootstrap_has_the_normal_width():
    dice = np.random.default_rng(1)
    ids = np.arange(400).astype(str)
    a = pd.DataFrame({"seed": 0, "row_id": ids, "group": ids, "x": dice.normal(1, 1, 400)})
    b = a.assign(x=a["x"] - dice.normal(0.5, 0.2, 400))
    found = stats.paired_difference(a, b, "x")
    assert found["value"] == pytest.approx(0.5, abs=0.05)
    assert found["hi"] - found["lo"] == pytest.approx(2 * 1.96 * 0.2 / 20, rel=0.15)
    with pytest.raises(KdlibError, match="same rows"):
        stats.paired_difference(a, b.iloc[:-1], "x")


def test_copies_do_not_pass_for_more_evidence():
    dice = np.random.default_rng(1)
    values = dice.normal(0, 1, 100)
    once = stats.bootstrap(values, pd.Series(np.arange(100)))
    four = stats.bootstrap(np.repeat(values, 4), pd.Series(np.repeat(np.arange(100), 4)))
    assert four == pytest.approx(once)


def test_ratios_draw_groups_and_admit_what_they_cannot_know():
    dice = np.random.default_rng(3)
    groups = pd.Series(dice.integers(0, 40, 200).astype(str))
    top, everything = dice.random(200) < 0.3, np.ones(200, bool)
    found = stats.ratio(groups, top, everything)
    assert (found["lo"], found["hi"]) == pytest.approx(stats.bootstrap(top, groups), abs=1e-9)
    none = stats.ratio(groups, ~everything, everything)
    assert (none["lo"], none["hi"]) == stats.wilson(0, groups.nunique())
    every = stats.ratio(groups, everything, everything)
    assert every["lo"] == pytest.approx(1 - none["hi"])
    some = groups.isin(groups.unique()[:9]).to_numpy()
    few = stats.ratio(groups, top & some, some)
    assert few["groups"] == 9 and np.isnan(few["lo"]) and few["value"] > 0
    nothing = stats.ratio(groups, ~everything, ~everything)
    assert np.isnan(nothing["value"]) and nothing["n"] == 0


def seeded(seeds=3, n=40, seed=0):
    """Seeds [n] and groups [n] of rows, most groups in more than one seed."""
    dice = np.random.default_rng(seed)
    groups = pd.Series([f"g{i}" for i in dice.integers(0, 25, seeds * n)])
    return np.repeat(np.arange(seeds), n), groups, dice


def test_replicates_by_hand():
    """Of all rows, without each seed, then rows as often as their seed times their group."""
    seeds, groups, dice = seeded()
    values, names = dice.random(120), groups.unique()
    found = stats.resampled(groups, [values, np.ones(120)], seeds)
    assert found.shape == (1 + 3 + stats.DRAWS, 2)
    assert found[0] == pytest.approx([values.sum(), 120])
    for i in range(3):
        assert found[1 + i] == pytest.approx([values[seeds != i].sum(), 80])
    picked = np.random.default_rng(0).integers(0, len(names), (stats.DRAWS, len(names)))
    drawn = np.random.default_rng(1).integers(0, 3, (stats.DRAWS, 3))
    for draw, group, seed in zip(found[4:54], picked, drawn, strict=False):
        rows = [np.flatnonzero((seeds == i) & (groups == names[g])) for i in seed for g in group]
        again = values[np.concatenate(rows)]
        assert draw == pytest.approx([again.sum(), len(again)], rel=1e-5)


def test_numbers_that_are_no_sums_have_the_same_draws():
    seeds, groups, dice = seeded()
    values = dice.random(120)
    for given in (None, seeds, np.zeros(120)):
        (found,) = stats.estimate(lambda w: (values @ w / w.sum(0))[None], groups, given)
        assert found["value"] == pytest.approx(values.mean())
        expected = stats.bootstrap(values, groups, given)
        assert (found["lo"], found["hi"]) == pytest.approx(expected, rel=1e-5)


def test_with_one_seed_groups_alone_are_drawn():
    _, groups, dice = seeded()
    alone = stats.resampled(groups, [dice.random(120)])
    assert len(alone) == 1 + stats.DRAWS
    again = stats.resampled(groups, [np.zeros(120)], np.full(120, 7))
    assert again.shape == alone.shape


def test_an_interval_holds_the_t_interval_of_the_means_of_seeds():
    seeds = np.repeat([0, 1, 2, 3], 50)
    values = np.random.default_rng(0).normal(0, 0.1, 200) + np.array([0, 1, 0.5, 2])[seeds]
    means = values.reshape(4, 50).mean(1)
    textbook = student.interval(0.95, 3, means.mean(), means.std(ddof=1) / 2)
    found = stats.bootstrap(values, pd.Series(np.arange(200)), seeds)
    assert found == pytest.approx(textbook)
    alone = stats.bootstrap(values, pd.Series(np.arange(200)))
    assert alone[1] - alone[0] < 0.2 * (found[1] - found[0])


def test_one_seed_alone_is_no_evidence():
    """Without it there is no value."""
    seeds, groups, _ = seeded()
    assert np.isnan(stats.quotient(groups, seeds == 0, seeds == 0, seeds)).all()
    top, bottom = stats.resampled(groups, [seeds == 0, np.ones(120)], seeds).T
    assert np.isfinite(stats.interval(top / bottom)).all()
    with np.errstate(divide="ignore"):
        unbounded = np.log(top / bottom)
    assert np.isnan(stats.interval(unbounded)).all() and stats.p_value(unbounded) == 1


def coverage(seeds, shared, effect=0.2, studies=500):
    """Share of intervals that hold the truth, 0, and their mean width: with seeds, and without.

    The sd of a mean of a seed's 100 groups, which have 1 to 20 rows, is about 0.2. Each seed has
    groups of its own, or all share them.
    """
    dice, found = np.random.default_rng(0), []
    for _ in range(studies):
        seed, place = np.divmod(np.arange(100 * seeds), 100)
        group = place if shared else np.arange(100 * seeds)
        rows = np.minimum(dice.geometric(0.4, 100 * seeds) ** 2, 20)[group]
        values = dice.normal(0, 1, 100 * seeds)[group] + dice.normal(0, 1, 100 * seeds)
        values += dice.normal(0, effect, seeds)[seed]
        values, seed, group = (np.repeat(one, rows) for one in (values, seed, group))
        ends = [stats.bootstrap(values, pd.Series(group), one) for one in (seed, None)]
        found.append([(lo < 0 < hi, hi - lo) for lo, hi in ends])
    return np.mean(found, axis=0)


@pytest.mark.parametrize(
    "seeds, shared, effect",
    # the last one needs the t interval, those with shared groups need groups drawn for all seeds
    [(3, False, 0.2), (5, False, 0.2), (3, True, 0.2), (5, True, 0.2), (3, False, 0.6)],
)
def test_intervals_hold_the_truth_as_often_as_they_say(seeds, shared, effect):
    (with_seeds, width), (groups_alone, narrow) = coverage(seeds, shared, effect)
    assert with_seeds > 0.93 > 0.91 > groups_alone
    assert 1.1 * narrow < width < 6 * narrow


def test_a_p_value_is_under_5_percent_where_the_interval_leaves_the_value_out():
    seeds, groups, dice = seeded()
    values = dice.normal(0, 1, 120) + 0.3 * seeds
    for given in (None, seeds, seeds % 2):
        found = stats.resampled(groups, [values, np.ones(120)], given)
        mean = found[:, 0] / found[:, 1]
        lo, hi = stats.interval(mean)
        assert stats.p_value(mean, lo - 1e-6) < 0.05 <= stats.p_value(mean, lo + 1e-6)
        assert stats.p_value(mean, hi + 1e-6) < 0.05 <= stats.p_value(mean, hi - 1e-6)
    assert stats.p_value(np.ones(1 + stats.DRAWS)) == 2 / (stats.DRAWS + 1)
    assert stats.p_value(np.zeros(4 + stats.DRAWS)) == 1


def test_draws_without_a_value_lie_beyond_either_end():
    drawn = np.arange(2000.0)
    assert stats.percentiles(drawn) == (49, 1950)
    drawn[1000:1010] = np.nan
    assert stats.percentiles(drawn) == (39, 1960)
    assert np.isnan(stats.percentiles(np.where(drawn < 1900, drawn, np.nan))).all()
    assert np.isnan(stats.percentiles(np.array([np.nan]))).all()


def test_a_share_of_nothing_or_all_has_wilsons_interval():
    groups = pd.Series(np.arange(40) // 2)
    assert stats.bootstrap(np.zeros(40), groups, share=True) == stats.wilson(0, 20)
    assert stats.bootstrap(np.ones(40), groups, share=True) == stats.wilson(20, 20)
    seeds = np.arange(40) % 2
    assert stats.bootstrap(np.zeros(40), groups, seeds, share=True) == stats.wilson(0, 20)
    assert stats.bootstrap(np.zeros(40), groups) == (0, 0)
    assert np.isnan(stats.bootstrap(np.zeros(0), groups[:0])).all()
    facts = {"method": "sft", "size": "small", "split": "member", "seed": 0, "group": groups}
    table = stats.pooled(pd.DataFrame(facts | {"hit": False}), "hit")
    assert table.loc[0, ["value", "lo"]].tolist() == [0, 0] and table.loc[0, "hi"] > 0.1


def test_a_share_of_few_groups_holds_wilsons_interval_too():
    """One response with 15 copies among 300 others: no 5% of what a model has learned."""
    groups = pd.Series(np.arange(315).clip(14))
    hits = np.arange(315) < 15
    found = stats.ratio(groups, hits, np.ones(315))
    assert found["value"] == pytest.approx(15 / 315)
    assert (found["hits"], found["n"], found["groups"], found["hit_groups"]) == (15, 315, 301, 1)
    assert found["lo"] == 0 and found["hi"] >= stats.wilson(1, 301)[1] > 0.015
    three = stats.ratio(pd.Series(np.arange(300)), np.arange(300) < 3, np.ones(300))
    assert three["lo"] < 0.0035 and three["hi"] == stats.wilson(3, 300)[1]
    assert not stats.judgeable(three, "hit_groups") and stats.judgeable(three, "groups")


def test_differences_of_two_sides_are_held_against_other_rows():
    seeds, groups, dice = seeded()
    side, values = dice.random(120) < 0.5, dice.random(120)
    found = stats.difference(groups, values + side, side, seeds)
    assert found["value"] == pytest.approx((values + side)[side].mean() - values[~side].mean())
    assert found["lo"] < 1 < found["hi"] and found["lo"] > 0.3 and found["p"] < 0.05
    nothing = stats.difference(groups, values, side, seeds)
    assert nothing["lo"] < 0 < nothing["hi"] and nothing["p"] > 0.05


def test_no_row_that_differs_is_no_certainty():
    facts = {"seed": 0, "row_id": range(30), "group": range(30)}
    a = pd.DataFrame(facts | {"hit": 1.0, "nats": 2.5})
    gap = stats.paired_difference(a, a, "hit")
    assert gap["value"] == 0 and not gap["same_sign"] and gap["p"] == 1
    assert (gap["n"], gap["groups"], gap["discordant"]) == (30, 30, 0)
    bound = stats.wilson(0, 30)[1]
    assert gap["hi"] == -gap["lo"] == bound
    assert stats.p_of_none(30, bound + 1e-6) < 0.05 <= stats.p_of_none(30, bound - 1e-6)
    assert stats.p_of_none(30, 1) == 0
    lost = stats.paired_difference(a.assign(hit=0.0), a, "hit")
    assert (lost["value"], lost["lo"], lost["hi"]) == (-1, -1, bound - 1)
    assert stats.paired_difference(a, a, "nats")["hi"] == 0  # without a bound nothing is known


def test_seeds_that_disagree_are_no_difference():
    """400 rows tell two models apart in each of three seeds, once the other way round."""
    dice, ids = np.random.default_rng(0), np.arange(1200).astype(str)
    facts = {"seed": np.repeat([0, 1, 2], 400), "row_id": ids, "group": ids}
    b = pd.DataFrame(facts | {"x": dice.normal(0, 1, 1200)})
    for gaps, sure in (([0.4, 0.5, 0.6], True), ([0.7, 0.9, -0.1], False)):
        a = b.assign(x=b["x"] + np.repeat(gaps, 400) + dice.normal(0, 0.5, 1200))
        found = stats.paired_difference(a.sample(frac=1, random_state=0), b, "x")
        assert found["value"] == pytest.approx(0.5, abs=0.05) and found["discordant"] == 1200
        assert (found["lo"] > 0) is (found["p"] < 0.05) is found["same_sign"] is sure
        beyond = stats.paired_difference(a, b.assign(x=b["x"] + 1), "x")  # p of a limit: of 1
        assert beyond["value"] == pytest.approx(found["value"] - 1)
        assert (beyond["p"] < 0.05) is (found["hi"] < 1) is sure
    with pytest.raises(KdlibError, match="same rows"):
        stats.paired_difference(pd.concat([a, a]), pd.concat([b, b]), "x")


def test_seeds_agree_only_where_each_has_the_sign():
    assert stats.same_sign([0.1, 0.2]) and stats.same_sign(pd.Series([-0.1, -2.0]))
    assert not stats.same_sign([0.1, 0.0]) and not stats.same_sign([0.1, -0.2])
    assert not stats.same_sign([])


def test_holm_by_hand():
    # ordered .01 .02 .03 .04: times 4, 3, 2, 1, and never less than the one before
    corrected = stats.holm([0.03, 0.01, np.nan, 0.04, 0.02])
    np.testing.assert_allclose(corrected, [0.06, 0.04, np.nan, 0.06, 0.06])
    assert np.isnan(stats.holm([np.nan])).all()


def test_lines_of_which_one_is_enough_are_judged_together():
    table = pd.DataFrame(
        {"value": [-0.2, 0.1, 0.3, -0.2], "p": [0.01, 0.03, 0.001, 0.02], "groups": 50}
        | {"discordant": [10, 40, 9, 10], "p_limit": [0.9, 0.01, 0.02, 0.04]}
    )
    found = stats.judged(table)
    assert found["p_holm"].tolist() == pytest.approx([0.03, 0.04, np.nan, 0.04], nan_ok=True)
    assert found["direction"].tolist() == ["below", "above", "", "below"]  # 9 are too few
    at_limit = stats.judged(table, "p_limit", "groups")["p_holm"]
    assert at_limit.tolist() == pytest.approx([0.9, 0.04, 0.06, 0.08])
    assert stats.is_significant(table).tolist() == [True, True, False, True]
    assert (
        stats.is_significant(table.assign(p=0.06)).sum() == 0
        and stats.is_significant(table, "groups").all()
    )
    assert len(stats.judged(table[:0])) == len(stats.is_significant(table[:0])) == 0


def test_quotients_are_held_against_each_other():
    seeds, groups, dice = seeded(n=200)
    own, sft, other, larger = (dice.random(600) < p for p in (0.2, 0.5, 0.4, 0.5))
    found = stats.ratio_difference(groups, (own, sft), (other, larger), seeds)
    wanted = own.sum() / sft.sum() - other.sum() / larger.sum()
    assert found["value"] == pytest.approx(wanted) and found["hi"] < 0 and found["p"] < 0.05
    assert found["hit_groups"] == 25
    same = stats.ratio_difference(groups, (own, sft), (own, sft), seeds)
    assert (same["value"], same["p"]) == (0, 1)
    some, none = groups.isin(groups.unique()[:4]).to_numpy(), np.zeros(600, bool)
    few = stats.ratio_difference(groups, (own, sft & some), (other, larger), seeds)
    assert few["hit_groups"] == 4
    gone = stats.ratio_difference(groups, (none, sft), (none, larger), seeds)
    assert (gone["value"], gone["hit_groups"]) == (0, 0)


def test_a_value_in_words():
    def text(*numbers, **how):
        return stats.row_text(dict(zip(("value", "lo", "hi"), numbers, strict=True)), **how)

    assert text(0.5, 0.25, 0.75) == "0.500 [0.250, 0.750]"
    assert text(-0.5, -0.6, 0.25, form="+.1f") == "-0.5 [-0.6, +0.2]"
    assert text(0.5, np.nan, np.nan, form=".0%") == "50% (no interval)"
    assert text(np.nan, 0, 1) == "not enough rows"
    row = pd.Series({"auc": 0.5, "auc_lo": 0.4, "auc_hi": 0.6})
    assert stats.row_text(row, "auc", ".1f") == "0.5 [0.4, 0.6]"
    assert stats.row_text(stats.rate(3, 12), form=".1%") == "25.0% [8.9%, 53.2%]"
    assert stats.row_text(stats.rate(0, 0), missing="-") == "-"


def test_a_table_has_the_lines_of_each_group_in_order():
    frame = pd.DataFrame({"a": ["y", "x", "y"], "b": [1, 2, 3]})
    table = stats.each(frame, ["a"], lambda part: [{"n": len(part)}, {"n": part["b"].sum()}])
    assert table.to_numpy().tolist() == [["y", 2], ["y", 4], ["x", 1], ["x", 2]]
