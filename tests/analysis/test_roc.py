"""ROC numbers against their definitions, written again row by row."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from kdlib import stats
from kdlib.analysis import roc
from kdlib.errors import KdlibError


def rows(n=240, others=120, groups=200, seed=0, ties=False, seeds=3):
    dice = np.random.default_rng(seed)
    member = np.arange(n) >= others
    score = dice.normal(size=n) + 0.7 * member
    return pd.DataFrame(
        {
            "member": member,
            "score": score.round(1) if ties else score,
            "other": dice.normal(size=n).astype(np.float32),
            "group": [f"g{i}" for i in dice.integers(0, groups, n)],
            "seed": np.arange(n) % seeds,
        }
    )


def naive_auc(score, member):
    pairs = itertools.product(score[member], score[~member])
    return np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs])


def naive_tpr(score, member, fpr):
    found = [0.0]
    for threshold in score:
        flagged = score >= threshold
        if flagged[~member].mean() <= fpr + 1e-12:
            found.append(flagged[member].mean())
    return max(found)


@pytest.mark.parametrize("ties", [False, True])
def test_auc_and_tpr_against_their_definitions(ties):
    frame = rows(ties=ties)
    score, member = frame["score"].to_numpy(), frame["member"].to_numpy()
    assert roc.auc(score, member) == pytest.approx(naive_auc(score, member), abs=1e-12)
    for fpr in (0.01, 0.05, 0.29, 1.0):
        assert roc.tpr_at(score, member, fpr) == naive_tpr(score, member, fpr)


def test_as_many_are_accused_as_the_rate_allows():
    score = np.append(np.arange(100.0), 70.5)  # 29 others lie above the one member
    assert roc.tpr_at(score, np.arange(101) == 100, 0.29) == 1  # 0.29 * 100 is under 29
    assert roc.tpr_at(score, np.arange(101) == 100, 0.28) == 0


def test_auc_is_signed():
    frame = rows()
    score, member = frame["score"].to_numpy(), frame["member"].to_numpy()
    there, back = roc.auc(score, member), roc.auc(-score, member)
    assert there > 0.5 > back and there + back == pytest.approx(1)
    assert roc.auc(np.zeros(240), member) == 0.5
    assert roc.auc(np.where(member, np.inf, -np.inf), member) == 1


def test_too_few_rows_are_no_number():
    score, member = np.arange(100.0), np.arange(100) < 1
    assert roc.tpr_at(score, member, 0.01) != roc.tpr_at(score, member, 0.01)
    one_more = np.append(score, -1.0), np.append(member, False)
    assert roc.tpr_at(*one_more, 0.01) == 0  # 100 others: one of them may be accused
    assert math.isnan(roc.auc(score, np.ones(100, bool)))
    assert math.isnan(roc.tpr_at(score, np.zeros(100, bool), 0.5))
    assert math.isnan(roc.auc(np.array([]), np.array([], bool)))
    with pytest.raises(KdlibError, match="not a number"):
        roc.auc(np.array([1.0, np.nan]), np.array([True, False]))


def test_the_roc_runs_from_corner_to_corner():
    frame = rows(ties=True)
    curve = roc.roc(frame["score"].to_numpy(), frame["member"].to_numpy())
    assert curve.iloc[[0, -1]].to_numpy().tolist() == [[0, 0], [1, 1]]
    assert (curve.diff().iloc[1:] >= 0).all(axis=None)


def of_each_seed(frame, column, times):
    """AUC and rate at 1% of repeated rows: of each seed, averaged by its number of rows."""
    numbers, counted = [], []
    for seed in sorted(set(frame["seed"])):
        own = (frame["seed"] == seed).to_numpy()
        score = np.repeat(frame[column].to_numpy()[own], times[own])
        member = np.repeat(frame["member"].to_numpy()[own], times[own])
        if len(score):
            numbers.append((naive_auc(score, member), naive_tpr(score, member, 0.01)))
            counted.append(len(score))
    return np.average(numbers, axis=0, weights=counted)


@pytest.mark.parametrize("seeds", [False, True])
@pytest.mark.parametrize("ties", [False, True])
def test_the_bootstrap_is_that_of_repeated_rows(ties, seeds):
    frame = rows(340, 220, ties=ties, seeds=2) if seeds else rows(ties=ties, seeds=1)
    given = frame if seeds else frame.drop(columns="seed")
    found = roc.evaluate(given, ["score", "other"], draws=130).set_index("score")
    codes, names = pd.factorize(frame["group"])
    drawn = np.concatenate(stats._drawn(len(names), 0, 130)).T[codes].astype(int)
    for times in drawn.T[:5]:  # whole groups, as many as there are
        per_group = pd.Series(times).groupby(frame["group"].to_numpy())
        assert (per_group.nunique() == 1).all() and per_group.first().sum() == len(names)
    whole = [np.ones(len(frame), int)]
    if seeds:
        whole += [(frame["seed"] != i).astype(int).to_numpy() for i in range(2)]
        drawn = drawn * np.concatenate(stats._drawn(2, 1, 130)).T[frame["seed"]]
    for column in ("score", "other"):
        wanted = np.array([of_each_seed(frame, column, times) for times in [*whole, *drawn.T]]).T
        line = found.loc[column]
        values = line[["auc", "tpr_1pct"]].astype(float)
        np.testing.assert_allclose(values, wanted[:, 0], rtol=1e-6)
        wanted = np.clip([stats.interval(one, 130) for one in wanted], 0, 1).ravel()
        ends = line[["auc_lo", "auc_hi", "tpr_1pct_lo", "tpr_1pct_hi"]].astype(float)
        np.testing.assert_allclose(ends, wanted, rtol=1e-5)
        assert line["auc_lo"] <= line["auc"] <= line["auc_hi"]
        assert math.isnan(line["tpr_01pct"]) and math.isnan(line["tpr_01pct_hi"])
        others = 220 if seeds else 120
        assert (line["n_member"], line["n_other"]) == (120, others)


def test_scores_of_different_models_are_not_compared():
    """Each seed tells perfectly, at another height of the score: an attack is on one model."""
    frame = rows(660, 330, 10**9)
    told = frame["seed"] * 10.0 + frame["member"] + 0.1 * frame["other"].clip(-2, 2)
    frame = frame.assign(told=told, turned=np.where(frame["seed"] == 2, -told, told))
    line, turned = roc.evaluate(frame, ["told", "turned"], draws=200).to_dict("records")
    assert line["auc"] == line["tpr_1pct"] == 1
    assert turned["auc"] == turned["tpr_1pct"] == pytest.approx(2 / 3)  # the mean of 1, 1 and 0
    assert roc.evaluate(frame.drop(columns="seed"), ["told"], draws=200)["auc"].iloc[0] < 0.8
    gap = roc.difference(frame, "told", "turned")
    assert gap["value"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(("others", "known"), [(300, True), (297, False)])
def test_a_rate_needs_others_enough_in_each_seed(others, known):
    frame = rows(others + 90, others)
    assert roc.min_nonmembers(frame) == others // 3
    line = roc.evaluate(frame, ["score"], draws=100).iloc[0]
    assert (line[["tpr_1pct", "tpr_1pct_lo", "tpr_1pct_hi"]].notna() == known).all()
    alone = roc.evaluate(frame.drop(columns="seed"), ["score"], draws=100).iloc[0]
    assert alone["tpr_1pct"] >= 0  # of one model all of them are there


@pytest.mark.parametrize("seeds", [False, True])
def test_what_is_the_same_in_every_draw_is_no_certainty(seeds):
    frame = rows(660, 330, 10**9)
    frame = frame if seeds else frame.drop(columns="seed")
    frame["perfect"] = frame["member"].astype(float)
    frame["hidden"], frame["equal"] = -frame["perfect"], 0.0
    lines = roc.evaluate(frame, ["perfect", "hidden", "equal", "score"], draws=200)
    lines = lines.set_index("score")
    assert lines["auc"].tolist()[:3] == [1, 0, 0.5]
    assert (
        lines["auc_lo"].isna().tolist() == lines["auc_hi"].isna().tolist() == [True] * 3 + [False]
    )
    bound = stats.wilson(0, 330)[1]  # over groups of members, each of one row
    perfect, hidden = lines.loc["perfect"], lines.loc["hidden"]
    assert perfect["tpr_1pct_lo"] == pytest.approx(1 - bound) and perfect["tpr_1pct_hi"] == 1
    assert hidden["tpr_1pct_lo"] == 0 and hidden["tpr_1pct_hi"] == pytest.approx(bound)
    one = frame.assign(group=frame["group"].where(~frame["member"], frame.index % 30))
    fewer = roc.evaluate(one, ["perfect"], draws=200).iloc[0]
    assert fewer["tpr_1pct_lo"] == pytest.approx(stats.wilson(30, 30)[0])


def test_copies_of_a_row_are_no_further_evidence():
    frame = rows(groups=10**9).drop(columns="seed")
    copied = pd.concat([frame] * 4)
    once, four = (roc.evaluate(f, ["score"], draws=200).iloc[0] for f in (frame, copied))
    for name in ("auc", "auc_lo", "auc_hi"):
        assert once[name] == pytest.approx(four[name])
    alone = copied.assign(group=[str(i) for i in range(len(copied))])
    narrow = roc.evaluate(alone, ["score"], draws=200).iloc[0]
    assert narrow["auc_hi"] - narrow["auc_lo"] < 0.7 * (once["auc_hi"] - once["auc_lo"])


@pytest.mark.parametrize("side", [True, False])
def test_few_different_responses_have_no_interval(side):
    frame = rows(groups=10**9).drop(columns="seed")
    for count, there in ((9, False), (10, True)):
        place = frame.groupby("member").cumcount() % count
        group = frame["group"].where(frame["member"] != side, "one " + place.astype(str))
        found = roc.evaluate(frame.assign(group=group), ["score"], draws=100).iloc[0]
        assert found["groups"] == count and found["auc"] > 0.5
        ends = found[["auc_lo", "auc_hi", "tpr_1pct_lo", "tpr_1pct_hi"]]
        assert ends.notna().all() == there and ends.isna().all() != there


def test_difference_is_paired():
    frame = rows(960, 480, 900).assign(seed=np.arange(960) % 8)
    frame["close"] = frame["score"] + 0.01 * frame["other"]
    gap = roc.difference(frame, "score", "other")
    assert gap["lo"] < gap["value"] < gap["hi"] and gap["lo"] > 0 and gap["n"] == 960
    near = roc.difference(frame, "score", "close")
    assert near["hi"] - near["lo"] < 0.2 * (gap["hi"] - gap["lo"])
    same = roc.difference(frame, "score", "score")
    assert (same["value"], same["lo"], same["hi"], same["p"]) == (0, 0, 0, 1)
    mirrored = roc.difference(frame, "other", "score")
    assert mirrored["value"] == -gap["value"] and mirrored["lo"] == pytest.approx(-gap["hi"])
