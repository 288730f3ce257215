"""Predictions, their scores against scikit-learn and by hand, and what removal does."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from kdlib.analysis import claims, forecast

FEATURES = list(forecast.FEATURES)


def known(n=600, seeds=3, seed=0, strength=2.0):
    dice = np.random.default_rng(seed)
    frame = pd.DataFrame(dice.normal(size=(n, 4)), columns=FEATURES)
    frame["hit"] = dice.random(n) < 1 / (1 + np.exp(strength * frame["teacher_nats"]))
    frame["seed"] = np.arange(n) % seeds
    return frame.assign(row_id=np.arange(n), group=np.arange(n) // 2, part=frame["seed"])


def tuples(method, size, prefix, seed=0):
    rows = pd.DataFrame({"row_id": list("abcd"), "group": list("ggij"), "prefix": prefix})
    split = ["member", "member", "member", "held_out"]
    facts = {"method": method, "size": size, "seed": seed, "kind": "row", "length": 5}
    return rows.assign(split=split, nats_per_token=np.arange(4.0) + len(method), **facts)


def test_known_takes_each_number_from_its_model():
    of = [tuples("teacher", "teacher", 5), tuples("sft", "middle", 5), tuples("sft", "large", 5)]
    frame = pd.concat([*of, tuples("word_kd", "middle", [5, 4, 5, 5])])
    before = {"seed": 0, "row_id": list("abcd"), "divergence": np.arange(4.0), "zlib": 9}
    found = forecast.known(frame, pd.DataFrame(before), "word_kd", "middle")
    assert list(found["row_id"]) == list("abc") and list(found["hit"]) == [True, False, True]
    assert list(found["teacher_nats"]) == [7, 8, 9] and list(found["student_nats"]) == [3, 4, 5]
    assert found["part"].iloc[0] == found["part"].iloc[1] != found["part"].iloc[2]  # by group


def test_a_row_is_asked_of_a_predictor_that_never_saw_it(monkeypatch):
    frame, seen = known(), []

    class Spy(forecast.LogisticRegression):
        def fit(self, X, y, **how):
            seen.append(len(y))
            return super().fit(X, y, **how)

    monkeypatch.setattr(forecast, "LogisticRegression", Spy)
    found = forecast.predicted(frame, frame)
    for part, count in zip(range(3), seen, strict=True):
        asked = frame[frame["part"] == part]
        others = frame[(frame["part"] != part) & ~frame["group"].isin(asked["group"])]
        assert count == len(others) < (frame["part"] != part).sum()
    assert roc_auc_score(frame["hit"], found) > 0.8
    turned = frame.assign(hit=np.where(frame["part"] == 0, ~frame["hit"], frame["hit"]))
    own = frame["part"] == 0  # its own answers do not move its predictions
    np.testing.assert_allclose(forecast.predicted(turned, turned)[own], found[own])


def test_predictions_where_there_is_nothing_to_learn():
    nothing = known(60).assign(hit=False)
    assert (forecast.predicted(nothing, nothing) == 0).all()
    assert (forecast.predicted(nothing[:0], nothing) == 0.5).all()
    told = forecast.score(nothing, forecast.predicted(nothing, nothing))
    assert told["hits"] == 0 and np.isnan(told["roc_auc"])
    assert claims.judge("D4", 3, scores=told)["verdict"] == "open"
    copies = known(60).assign(hit=np.arange(60) < 20, group=np.arange(60) // 20)
    assert np.isnan(forecast.score(copies, pd.Series(np.arange(60.0)))["roc_auc"])  # one witness


def test_base_rate_alone_is_the_share_of_the_other_seeds():
    frame = known()
    found = forecast.predicted(frame, frame, [])
    for part in range(3):
        asked = frame[frame["part"] == part]
        others = frame[(frame["part"] != part) & ~frame["group"].isin(asked["group"])]
        assert set(found[asked.index]) == {others["hit"].mean()}
    gap = forecast.beyond_base_rate(frame, found)
    assert gap["value"] == gap["lo"] == gap["hi"] == 0 and gap["brier"] == gap["base"]
    told = forecast.predicted(frame, frame)
    gap = forecast.beyond_base_rate(frame, told)
    assert gap["base"] == pytest.approx(brier_score_loss(frame["hit"], found))
    assert gap["value"] == pytest.approx(brier_score_loss(frame["hit"], told) - gap["base"])
    assert gap["lo"] < gap["value"] < gap["hi"] < 0


def test_the_answer_holds_flags_against_the_base_rate():
    frame = known(400)
    hits, flags = int(frame["hit"].sum()), frame.index < 300
    told = forecast.answer(frame, pd.Series(np.where(flags, 0.6, 0.5)))
    found = int(frame["hit"][flags].sum())
    assert told.startswith("300 of 400 rows are flagged (predicted above one half). Of these, ")
    assert f"Of these, {found} of 300 are memorized ({found / 300:.1%} [" in told
    assert f"Of all rows, {hits} of 400 are memorized ({hits / 400:.1%} [" in told
    assert f"Of those memorized, {found} of {hits} are flagged; to flag every row" in told
    none = forecast.answer(frame.assign(hit=False), pd.Series(0.0, index=frame.index))
    assert none.startswith("0 of 400 rows are flagged") and "Of those memorized" not in none
    assert "Too few rows, memorized or not, to say whether that is better than a guess" in none


@pytest.mark.parametrize(
    ("auc", "gap", "ranking", "probabilities"),
    [
        ((0.6, 0.9), (-0.2, -0.1), "is better than a", "are better than the"),
        ((0.4, 0.9), (-0.2, 0.1), "is not known to be better than a", "are not known to be better"),
        ((0.1, 0.4), (0.1, 0.2), "is worse than a", "are worse than the"),
        ((np.nan, np.nan), (np.nan, np.nan), "is not known to be", "are not known to be"),
    ],
)
def test_better_than_a_guess_by_intervals(auc, gap, ranking, probabilities):
    ends = dict(zip(("roc_auc_lo", "roc_auc_hi"), auc, strict=True))
    scores = {"roc_auc": 0.65, "brier": 0.2, "brier_lo": 0.1, "brier_hi": 0.3} | ends
    told = forecast.than_a_guess(scores, {"value": 0, "lo": gap[0], "hi": gap[1], "base": 0.25})
    assert f"Its ranking {ranking}" in told and f"Its probabilities {probabilities}" in told
    assert "of the base rate 0.250" in told


def test_scores_are_those_of_scikit_learn_and_of_pairs():
    frame = known()
    probability = forecast.predicted(frame, frame).round(1)  # many ties
    told = forecast.score(frame, probability)
    hit, y = probability[frame["hit"]].to_numpy(), frame["hit"]
    other = probability[~frame["hit"]].to_numpy()
    pairs = (hit[:, None] > other).mean() + 0.5 * (hit[:, None] == other).mean()
    assert told["roc_auc"] == pytest.approx(pairs) == pytest.approx(roc_auc_score(y, probability))
    assert told["pr_auc"] == pytest.approx(average_precision_score(y, probability))
    assert told["brier"] == pytest.approx(brier_score_loss(y, probability))
    assert told["base_rate"] == y.mean()
    for name in ("roc_auc", "pr_auc", "brier"):
        assert told[f"{name}_lo"] < told[name] < told[f"{name}_hi"]


def test_intervals_are_wider_where_rows_are_copies():
    frame = known(400).assign(group=np.arange(400))
    probability = forecast.predicted(frame, frame)
    copied = pd.concat([frame] * 4, ignore_index=True)
    alone, four = (
        forecast.score(one, pd.Series(np.tile(probability, len(one) // 400)))
        for one in (frame, copied)
    )
    assert four["roc_auc_lo"] == pytest.approx(alone["roc_auc_lo"])  # copies are no new witnesses


def test_intervals_draw_seeds():
    """A predictor that is of use in one seed of three is of no sure use in a fourth."""
    frame = known(600).assign(group=np.arange(600))
    right = pd.Series(np.where(frame["hit"], 0.9, 0.1) + np.arange(600) / 1e4)
    dice = pd.Series(np.random.default_rng(0).random(600))
    apart = forecast.score(frame, right.where(frame["seed"] == 0, dice))
    alike = forecast.score(frame.assign(seed=0), right.where(frame["seed"] == 0, dice))
    for name in ("roc_auc", "pr_auc", "brier"):
        assert apart[name] == pytest.approx(alike[name])
        assert apart[f"{name}_lo"] < alike[f"{name}_lo"] < alike[f"{name}_hi"] < apart[f"{name}_hi"]
    assert apart["roc_auc_hi"] <= 1 and apart["brier_lo"] >= 0


def test_calibration():
    frame, probability = known(100), pd.Series(np.linspace(0, 1, 100))
    bins = forecast.calibration(frame, probability, bins=5)
    assert list(bins["n"]) == [20] * 5 and bins["predicted"].is_monotonic_increasing
    assert bins["value"].iloc[0] == frame["hit"][:20].mean()
    assert (bins["groups"] == 10).all() and (bins["lo"] <= bins["value"]).all()
    of_one = forecast.calibration(frame.assign(seed=0), probability, bins=5)
    assert (bins["lo"] <= of_one["lo"]).all() and (bins["lo"] < of_one["lo"]).any()
    few = forecast.calibration(frame.assign(group=np.arange(100) // 4), probability, bins=5)
    assert (few["groups"] == 5).all() and few["lo"].isna().all()  # responses
    assert len(forecast.calibration(frame, pd.Series(0.5, index=frame.index))) == 5  # all tied
    assert len(forecast.calibration(frame[:3], probability[:3])) == 3


def test_onion_counts_by_hand():
    before = tuples("word_kd", "middle", [5, 5, 4, 4])
    after = tuples("word_kd", "middle", [0, 5, 5, 4])[::-1]  # in another order
    found = forecast.onion(before, after, {"a"}).set_index("part")
    counts = ["n", "before", "after", "new", "gone"]
    assert found.loc["removed", counts].tolist() == [1, 1, 0, 0, 1]
    assert found.loc["kept", counts].tolist() == [2, 1, 2, 1, 0]
    assert found.loc["held_out", counts].tolist() == [1, 0, 0, 0, 0]
    assert found.loc["kept", "value"] == 0.5 and found.loc["removed", "value"] == -1
    assert found.loc["kept", "nats_before"] == found.loc["kept", "nats_after"] == 8.5
    whole = forecast.onion(before, before, set())
    assert list(whole["part"]) == ["kept", "held_out"] and (whole["value"] == 0).all()
    lines = found.reset_index().assign(left_out="predicted")
    assert forecast.next_layer(lines[lines["part"] == "kept"])["predicted"] == "1 of 1 (100.0%)"


def of_one_seed(sizes, probability):
    """A row for each copy of each group; probabilities by group, or by row."""
    groups = np.repeat(list("abcdefghij")[: len(sizes)], sizes)
    rows = pd.DataFrame({"row_id": [f"r{row}" for row in range(len(groups))], "group": groups})
    rows.index += 100  # as of a later seed
    return rows, pd.Series(probability, index=rows.index)


def test_removed_rows_are_whole_groups():
    sizes = [1, 1, 1, 2, 3, 4]
    rows, chance = of_one_seed(sizes, np.linspace(0.9, 0.3, 12))  # copies are not predicted alike
    for seed in range(30):
        out = forecast.to_remove(rows, chance, np.random.default_rng(seed))
        for left in out.values():
            touched = rows[rows["group"].isin(rows["group"][rows["row_id"].isin(left)])]
            assert set(touched["row_id"]) == left
        # above one half on average, the likeliest first: a to d with 5 rows; e has no place in 6
        assert out["predicted"] == {"r0", "r1", "r2", "r3", "r4"}
    drawn = {
        frozenset(forecast.to_remove(rows, chance, np.random.default_rng(seed))["random"])
        for seed in range(30)
    }
    assert len(drawn) > 3 and {len(one) for one in drawn} == {5}


def test_as_many_random_rows_or_the_next_below():
    rows, chance = of_one_seed([2, 2, 3, 3, 3], [0.1] * 2 + [0.9] * 2 + [0.8] * 3 + [0.2] * 6)
    counts = set()
    for seed in range(30):
        out = forecast.to_remove(rows, chance, np.random.default_rng(seed))
        assert len(out["predicted"]) == 5  # 2 and 3 of 13: at most 6
        counts.add(len(out["random"]))
    assert counts == {4, 5}  # two pairs; or a pair and three
    nothing = forecast.to_remove(rows, chance / 2, np.random.default_rng(0))
    assert nothing == {"predicted": set(), "random": set()}


def test_before_and_after_in_words():
    lines = [("predicted", "removed", 2, 2, 0), ("predicted", "kept", 3, 1, 2)]
    lines += [("predicted", "removed", 2, 1, 1), ("predicted", "kept in both", 1, 1, 1)]
    lines += [("random", "kept", 5, 3, 1), ("random", "removed", 1, 1, 0)]
    table = pd.DataFrame(lines, columns=["left_out", "part", "n", "before", "after"])
    assert forecast.before_and_after(table) == (
        "with 4 predicted rows removed, memorized rows go from 4 to 3 of 7, of the 3 kept ones "
        "alone from 1 to 2; with 1 random rows removed, memorized rows go from 4 to 1 of 6, of the "
        "5 kept ones alone from 3 to 1"
    )


def test_removal_counts_rows_that_were_left_out():
    def after(prefixes):
        rows = [tuples("word_kd", "middle", prefix, seed) for seed, prefix in enumerate(prefixes)]
        return pd.concat(rows)  # of seeds whose indices are the same

    predicted, random = after([[5, 0, 0, 5], [0, 0, 0, 0]]), after([[5, 5, 0, 0], [5, 0, 5, 5]])
    predicted.loc[predicted["row_id"] == "a", "split"] = "left_out"
    found = forecast.removal(predicted, random)
    assert (found["predicted"], found["random"], found["n"]) == (1, 4, 6)
    assert (found["n_predicted"], found["n_random"]) == (2, 0)
    assert found["value"] == -0.5 and found["groups"] == 2
    same = forecast.removal(random, random)
    assert same["value"] == 0 and claims.judge("D5", 3, removal=same)["verdict"] == "open"
