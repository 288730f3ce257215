"""Attacks against their definitions, written again row by row."""

import math
import zlib

import numpy as np
import pandas as pd
import pytest

from kdlib.analysis import attacks, extraction, roc
from kdlib.errors import KdlibError


def test_likelihood_ratio_against_its_definition():
    dice = np.random.default_rng(0)
    nats, out = dice.uniform(0.01, 3, 20), dice.uniform(0.5, 3, (20, 3))
    found = attacks.likelihood_ratio(pd.Series(nats), pd.DataFrame(out))

    def phi(x):
        p = math.exp(-x)
        return math.log(p / (1 - p))

    means = [sum(map(phi, row)) / 3 for row in out]
    spreads = [
        sum((phi(x) - mean) ** 2 for x in row) / 2 for row, mean in zip(out, means, strict=True)
    ]
    sigma = math.sqrt(sum(spreads) / 20)
    wanted = [(phi(x) - mean) / sigma for x, mean in zip(nats, means, strict=True)]
    np.testing.assert_allclose(found, wanted)
    assert np.isfinite(attacks.likelihood_ratio(pd.Series(np.zeros(20)), pd.DataFrame(out))).all()
    with pytest.raises(KdlibError, match="two reference models"):
        attacks.likelihood_ratio(pd.Series(nats), pd.DataFrame(out[:, :1]))


def test_membership_against_the_definitions():
    rows = pd.DataFrame(
        {"nats_per_token": [0.5, 2.0], "min_k": [-3.0, -4.0], "min_k_plus": [-1.0, -2.5]}
    )
    texts = ["abc", "abc" * 40]
    size = extraction.zlib_bytes(texts)
    assert list(size) == [len(zlib.compress(text.encode("utf-8"))) for text in texts]
    found = attacks.membership(rows, size, pd.Series([3.0, 2.5]), pd.Series([1.0, 1.5]))
    assert list(found["loss"]) == [-0.5, -2.0]
    np.testing.assert_allclose(found["zlib"], [-0.5 / size[0], -2.0 / size[1]])
    assert list(found["min_k"]) == [-3.0, -4.0] and list(found["min_k_plus"]) == [-1.0, -2.5]
    assert list(found["reference_base"]) == [2.5, 0.5]
    assert list(found["reference_student"]) == [0.5, -0.5]
    assert list(attacks.membership(rows, size)) == ["loss", "zlib", "min_k", "min_k_plus"]


def study(aucs, seeds=(0, 1), n=60):
    """Tuples of models whose loss tells members apart more or less; base tells nothing."""
    dice, frames = np.random.default_rng(0), []
    for seed in seeds:
        own = {
            "row_id": [f"r{i}" for i in range(n)],
            "group": [f"g{i}" for i in range(n)],
            "split": ["member"] * (n // 2) + ["held_out"] * (n // 2),
            "kind": "row",
            "seed": seed,
            "length": 10,
            "prefix": 3,
        }
        for method, shift in aucs.items():
            for size in ("middle", "small"):
                nats = 3 + dice.normal(size=n)
                nats[: n // 2] -= shift
                numbers = {"nats_per_token": nats, "min_k": -2 * nats, "min_k_plus": -nats / 2}
                frames.append(pd.DataFrame(own | numbers).assign(method=method, size=size))
    return pd.concat(frames, ignore_index=True)


def test_scored_holds_every_score_where_it_can_be_had():
    tuples = study({"base": 0.0, "sft": 1.5})
    canary = tuples.iloc[:1].assign(kind="canary", row_id="c")
    tuples = pd.concat([tuples, canary], ignore_index=True)
    size = pd.Series(np.arange(60) + 20, [f"r{i}" for i in range(60)])
    index = pd.MultiIndex.from_product([(0, 1), size.index], names=["seed", "row_id"])
    out = np.random.default_rng(1).uniform(2, 4, (120, 2))
    unseen = pd.DataFrame(out, index).sample(frac=1, random_state=0)  # in any order
    found = attacks.scored(tuples, size, unseen, "middle")
    assert len(found) == len(tuples) - 1 and found["member"].sum() == len(found) // 2
    middle = found.query("method == 'sft' and size == 'middle'").set_index(["seed", "row_id"])
    small = found.query("method == 'sft' and size == 'small'")
    assert middle.notna().all(axis=None)
    assert small[["reference_student", "likelihood_ratio"]].isna().all(axis=None)
    bases = found.query("method == 'base'")
    assert bases[["reference_base", "reference_student"]].isna().all(axis=None)
    one = tuples.set_index(["method", "size", "seed", "row_id"])["nats_per_token"]
    nats = one["sft", "middle", 1, "r7"]
    line = middle.loc[(1, "r7")]
    assert line["reference_base"] == one["base", "middle", 1, "r7"] - nats
    assert line["reference_student"] == unseen.loc[(1, "r7"), 0] - nats
    assert line["zlib"] == -nats / 27
    table = attacks.summary(found)
    assert len(table) == 2 * 4 + 7 + 5 and (table["seeds"] == 2).all()
    loss = table.query("score == 'loss'").set_index(["method", "size"])["auc"]
    assert abs(loss["base", "middle"] - 0.5) < 0.15 < 0.25 < loss["sft", "middle"] - 0.5


def test_early_is_where_the_held_out_loss_of_each_run_is_lowest():
    whole = study({"sft": 0.0, "word_kd": 0.0}).drop(columns=["min_k", "min_k_plus"])
    parts = []
    for step, shift in ((0, 0.0), (4, 0.7), (9, 3.0)):  # members get ever easier
        at = whole.assign(step=step, epoch=step / 4)
        member, late = at["split"] == "member", (at["method"] == "sft") & (at["seed"] == 1)
        held_out = np.where(late, 10.0 - step, 1.0 + abs(step - 4))  # one run is best at its end
        nats = at["nats_per_token"] - shift * member + held_out
        parts.append(at.assign(nats_per_token=nats))
    canary = parts[1].iloc[:1].assign(kind="canary", row_id="c")
    found = attacks.early(pd.concat([*parts, canary], ignore_index=True))
    steps = found.groupby(["method", "size", "seed"])["step"].agg(["min", "max"])
    assert (steps["min"] == steps["max"]).all() and len(found) == len(whole)
    assert steps["min"].to_dict() == {
        at: 9 if (at[0], at[2]) == ("sft", 1) else 4 for at in steps.index
    }
    assert (found["loss"] == -found["nats_per_token"]).all()
    table = attacks.summary(found).set_index(["method", "size"])
    assert set(table["score"]) == {"loss"} and len(table) == 4
    both = found.query("method == 'word_kd' and size == 'small'")
    area = roc.auc(both["loss"].to_numpy(), both["member"].to_numpy())
    assert table.at[("word_kd", "small"), "auc"] == pytest.approx(area)


SHARES = {"sft": 0.5, "word_kd": 0.9, "minillm": 0.0}


def two_orders(shares=SHARES, n=60):
    """Scored rows whose AUC falls from SFT over word-level KD to MiniLLM, and shares of hits."""
    aucs, seeds = {"base": 0.0, "sft": 3.0, "word_kd": 1.0, "minillm": 0.2}, (0, 1, 2, 3)
    index = pd.MultiIndex.from_product(
        [seeds, [f"r{i}" for i in range(n)]], names=["seed", "row_id"]
    )
    unseen = pd.DataFrame(2.0 + np.random.default_rng(0).uniform(0, 1, (len(index), 2)), index)
    size = pd.Series(20, [f"r{i}" for i in range(n)])
    found = attacks.scored(study(aucs, seeds, n).query("size == 'middle'"), size, unseen, "middle")
    members = found[found["member"] & (found["method"] != "base")]
    place = members.groupby(["method", "seed"]).cumcount() / (n / 2)
    return found, members.assign(hit=(place < members["method"].map(shares)).astype(float))


def test_reversals_finds_the_pair_that_is_ordered_differently():
    pairs = attacks.reversals(*two_orders()).set_index(["one", "other"])
    verdicts = {("word_kd", "sft"): "reversed", ("word_kd", "minillm"): "same order"}
    assert pairs["verdict"].to_dict() == verdicts | {("sft", "minillm"): "same order"}
    line = pairs.loc[("word_kd", "sft")]
    assert line["memorized"] == pytest.approx(0.4) and line["auc_hi"] < 0 < line["memorized_lo"]
    assert (pairs["p_holm"] >= pairs["p"]).all() and pairs["p_holm"].max() > pairs["p"].max() / 2
    assert pairs["p_holm"].min() == pytest.approx(3 * pairs["p"].min())
    found, hits = two_orders()
    likewise = hits.assign(hit=hits["hit"].where(hits["method"] != "word_kd", 0.0))
    agreed = attacks.reversals(found, likewise)
    assert not (agreed["verdict"] == "reversed").any()
    same = agreed.set_index(["one", "other"]).loc[("minillm", "word_kd")]  # neither memorizes
    assert same["memorized"] == 0 and np.isnan(same["p"]) and same["verdict"] == "not judgeable"


@pytest.mark.parametrize(("n", "verdict"), [(60, "reversed"), (18, "not judgeable")])
def test_reversals_of_few_responses_are_not_judged(n, verdict):
    """Of 9 member rows no 10 different responses can differ."""
    found, hits = two_orders(n=n)
    few = found["method"].isin(["base", "sft", "word_kd"])
    pairs = attacks.reversals(found[few], hits[hits["method"] != "minillm"])
    assert list(pairs["verdict"]) == [verdict]


def test_a_reversal_has_to_be_beyond_what_seeds_differ():
    found, hits = two_orders()
    turned = (hits["seed"] == 0) & (hits["method"] == "word_kd")
    pairs = attacks.reversals(found, hits.assign(hit=hits["hit"].where(~turned, 0.0)))
    line = pairs.set_index(["one", "other"]).loc[("word_kd", "sft")]
    assert line["memorized"] > 0 > line["auc"] and line["verdict"] == "open"
