"""Intervals against known numbers and naive draws; corrections against their definitions."""

import numpy as np
import pandas as pd
import pytest

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


def test_newcombe_known_numbers():
    # Newcombe 1998, table II, method 10: 56 of 70 and 48 of 80
    assert stats.newcombe(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_a_draw_is_the_frame_with_its_groups_repeated():
    dice = np.random.default_rng(0)
    groups, values = pd.Series(dice.integers(0, 12, 40)), dice.random(40)
    drawn = stats.resampled(groups, [values, np.ones(40)])
    assert drawn.shape == (stats.DRAWS, 2)
    picks = np.random.default_rng(0).integers(0, 12, (stats.DRAWS, 12))
    names = groups.unique()
    for draw, pick in zip(drawn[:50], picks[:50], strict=True):
        chosen = [values[(groups == names[i]).to_numpy()] for i in pick]
        again = np.concatenate(chosen)
        assert draw == pytest.approx([again.sum(), len(again)], rel=1e-5)
    (found,) = stats.estimate(lambda weights: (values @ weights / weights.sum(0))[None], groups)
    assert found["value"] == pytest.approx(values.mean())
    assert (found["lo"], found["hi"]) == pytest.approx(stats.bootstrap(values, groups), rel=1e-5)


def test_seeds_are_drawn_before_groups():
    """Where all rows of a seed agree, only another seed could tell otherwise."""
    seeds = pd.Series(np.repeat([0, 1, 2, 3], 50))
    values, groups = seeds.to_numpy() % 2, pd.Series(np.arange(200))
    lo, hi = stats.bootstrap(values, groups)
    wide_lo, wide_hi = stats.bootstrap(values, groups, seeds)
    assert lo > 0.4 and hi < 0.6 and wide_lo <= 0.0 and wide_hi >= 1.0
    drawn = stats.resampled(groups, [np.ones(200)], seeds)
    assert (drawn == 200).all()  # as many groups of a seed as it has, whichever seeds are drawn
    one = stats.resampled(groups, [values], pd.Series(np.zeros(200)))
    np.testing.assert_array_equal(one, stats.resampled(groups, [values]))


def test_a_share_of_nothing_or_all_has_wilsons_interval():
    groups = pd.Series(np.arange(40) // 2)
    assert stats.bootstrap(np.zeros(40), groups, share=True) == stats.wilson(0, 20)
    assert stats.bootstrap(np.ones(40), groups, share=True) == stats.wilson(20, 20)
    gained_and_lost = np.where(np.arange(40) < 20, 1.0, -1.0)  # of mean 0, and yet no share of 0
    lo, hi = stats.bootstrap(gained_and_lost, groups, share=True)
    assert lo < 0 < hi
    assert stats.bootstrap(np.zeros(40), groups) == (0, 0)
    assert np.isnan(stats.bootstrap(np.zeros(0), groups[:0])).all()
    facts = {"method": "sft", "size": "small", "split": "member", "seed": 0, "group": groups}
    table = stats.pooled(pd.DataFrame(facts | {"hit": False}), "hit")
    assert table.loc[0, ["value", "lo"]].tolist() == [0, 0] and table.loc[0, "hi"] > 0.1


def test_no_row_that_differs_is_no_certainty():
    facts = {"seed": 0, "row_id": range(30), "group": range(30)}
    a = pd.DataFrame(facts | {"hit": 1.0, "nats": 2.5})
    gap = stats.paired_difference(a, a, "hit")
    assert gap["value"] == 0 and not gap["same_sign"]
    assert gap["hi"] == -gap["lo"] == stats.wilson(0, 30)[1]
    assert stats.paired_difference(a, a, "nats")["hi"] == 0  # without a bound nothing is known


def test_seeds_agree_only_where_each_has_the_sign():
    assert stats.same_sign([0.1, 0.2]) and stats.same_sign(pd.Series([-0.1, -2.0]))
    assert not stats.same_sign([0.1, 0.0]) and not stats.same_sign([0.1, -0.2])
    assert not stats.same_sign([])


def test_holm_by_hand():
    # ordered .01 .02 .03 .04: times 4, 3, 2, 1, and never less than the one before
    corrected = stats.holm([0.03, 0.01, 0.04, 0.02])
    np.testing.assert_allclose(corrected, [0.06, 0.04, 0.06, 0.06])


def test_equivalence_needs_the_whole_interval_within_the_margin():
    assert stats.equivalent(-0.009, 0.009, 0.01)
    assert not stats.equivalent(-0.011, 0.0, 0.01) and not stats.equivalent(0.0, 0.011, 0.01)
    assert not stats.equivalent(float("nan"), 0.0, 0.01)


def test_draws_without_a_value_are_left_out():
    assert stats.percentiles(np.array([1.0, np.nan, 1.0])) == (1, 1)
    assert np.isnan(stats.percentiles(np.array([np.nan]))).all()


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
