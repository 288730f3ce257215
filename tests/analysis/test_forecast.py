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
    assert len(forecast.calibration(frame, pd.Series(0.5, index=frame.index))) == 10  # all tied
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


def test_removal_counts_rows_that_were_left_out():
    def after(prefixes):
        rows = [tuples("word_kd", "middle", prefix, seed) for seed, prefix in enumerate(prefixes)]
        return pd.concat(rows)  # of seeds whose indices are the same

    predicted, random = after([[5, 0, 0, 5], [0, 0, 0, 0]]), after([[5, 5, 0, 0], [5, 0, 5, 5]])
    predicted.loc[predicted["row_id"] == "a", "split"] = "left_out"
    found = forecast.removal(predicted, random)
    assert (found["predicted"], found["random"], found["n"]) == (1, 4, 6)
    assert found["value"] == -0.5 and found["groups"] == 2
    same = forecast.removal(random, random)
    assert same["value"] == 0 and claims.judge("D5", 3, removal=same)["verdict"] == "open"
