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


def test_near_copies_are_of_a_member_row_of_the_seed():
    texts = {
        "m": "Return the mean of x along an axis.",
        "n": "Return the mean of x along an axis.",  # an exact copy, of the same group
        "h": "Return the mean of y along an axis.",
        "o": "Draw a line between two points.",
        "c": "Return the mean of x along an axis!",
    }
    frame = pd.DataFrame({"response": texts}).assign(kind="row", split="member")
    frame["group"] = [text[:20] for text in frame["response"]]
    frame.loc[["h", "o"], "split"] = "held_out"
    frame.loc["c", "kind"] = "canary"  # none of the rows
    other = frame.assign(split=["held_out", "held_out", "member", "held_out", "member"])
    found = attacks.near({3: frame, 5: other})
    assert found.index.names == ["seed", "row_id"] and found.name == "near"
    assert found[3].to_dict() == {"m": 0, "n": 0, "h": 2, "o": 0}
    assert found[5].to_dict() == {"m": 1, "n": 1, "h": 0, "o": 0}


def planted_scores(seeds=(0, 1, 2)):
    """Seeds 0 to 2 of two models; in each two of ten others score above all members, as copies."""
    lines = []
    for seed in seeds:
        for method in ("sft", "word_kd"):
            for i in range(40):
                member, copy = i < 20, i >= 38
                score = 1.0 + i if member else 100.0 + i if copy else -1.0 - i
                facts = {"method": method, "size": "middle", "seed": seed, "row_id": f"r{i}"}
                facts |= {"group": f"g{i}", "member": member, "near": int(copy), "loss": score}
                lines.append(facts | {"likelihood_ratio": score if seed == 1 else np.nan})
    return pd.DataFrame(lines)


def test_scopes_are_of_chosen_seeds_and_held_out_rows():
    table = attacks.scopes(planted_scores(), [1])
    assert list(table.columns[:2]) == ["method", "size"] and len(table) == 2 * 4 * 2
    kept = table.set_index(["method", "over", "held_out", "score"])
    of = (attacks.EVERY, attacks.REFERENCED), (attacks.EVERY, attacks.APART)
    seeds = {over: [kept.loc[("sft", over, of[1][0], "loss"), "seeds"]] for over in of[0]}
    assert seeds == {attacks.EVERY: [3], attacks.REFERENCED: [1]}
    for method in ("sft", "word_kd"):
        for over in of[0]:
            every, apart = (kept.loc[(method, over, one, "loss")] for one in of[1])
            assert (every["auc"], apart["auc"]) == (0.9, 1)  # 18 of 20 lie below each member
            assert apart["n_other"] == every["n_other"] - 2 * every["seeds"]
            assert kept.loc[(method, over, of[1][0], "likelihood_ratio"), "seeds"] == 1
    pd.testing.assert_frame_equal(
        table[(table["over"] == of[0][0]) & (table["held_out"] == of[1][0])]
        .drop(columns=["over", "held_out"])
        .reset_index(drop=True),
        attacks.summary(planted_scores()),
    )


def test_false_alarms_that_are_near_copies():
    rows = planted_scores()
    found = attacks.alarms(rows, 0.2)  # four of twenty, two of them copies
    assert found.to_dict() == {"highest": 0.5, "all": 0.1}
    assert attacks.alarms(rows, 0.01)["highest"] == 1  # one at least
    assert attacks.alarms(rows.assign(loss=-rows["loss"]), 0.2)["highest"] == 0


def paths():
    """Notes of two methods at three steps, members ever easier; one run is best at its end."""
    whole = study({"sft": 0.0, "word_kd": 0.0}).drop(columns=["min_k", "min_k_plus"])
    parts = []
    for step, shift in ((0, 0.0), (4, 0.7), (9, 3.0)):
        at = whole.assign(step=step, epoch=step / 4)
        member, late = at["split"] == "member", (at["method"] == "sft") & (at["seed"] == 1)
        held_out = np.where(late, 10.0 - step, 1.0 + abs(step - 4))
        nats = at["nats_per_token"] - shift * member + held_out
        parts.append(at.assign(nats_per_token=nats))
    canary = parts[1].iloc[:1].assign(kind="canary", row_id="c")
    return pd.concat([*parts, canary], ignore_index=True).sample(frac=1, random_state=0)


def test_noted_are_the_start_the_lowest_held_out_loss_of_each_run_and_its_end():
    found = attacks.noted(paths())
    whole = len(paths()) // 3
    steps = found.groupby(["at", "method", "size", "seed"])["step"].agg(["min", "max"])
    assert (steps["min"] == steps["max"]).all()
    assert found["at"].value_counts().to_dict() == dict.fromkeys(
        (attacks.START, attacks.LOWEST, attacks.END), whole
    )
    assert (steps.loc[attacks.START, "min"] == 0).all()
    assert (steps.loc[attacks.END, "min"] == 9).all()
    assert steps.loc[attacks.LOWEST, "min"].to_dict() == {
        at: 9 if (at[0], at[2]) == ("sft", 1) else 4 for at in steps.loc[attacks.LOWEST].index
    }
    assert (found["loss"] == -found["nats_per_token"]).all()
    table = attacks.summary(found, ["at", *attacks.MODEL])
    assert set(table["score"]) == {"loss"} and len(table) == 3 * 4
    both = found.query("method == 'word_kd' and size == 'small'")
    kept = table.set_index(["at", "method", "size"])["auc"]
    for at, part in both.groupby("at"):
        area = [
            roc.auc(one["loss"].to_numpy(), one["member"].to_numpy())
            for _, one in part.groupby("seed")
        ]
        assert kept[at, "word_kd", "small"] == pytest.approx(np.mean(area))
    gaps = attacks.change(found).set_index(["method", "size"])
    for model, gap in gaps["value"].items():
        assert gap == pytest.approx(kept[attacks.END, *model] - kept[attacks.START, *model])
    assert (gaps["value"] > 0.2).all() and (gaps["groups"] == 30).all()
    sure = {model for model, gap in gaps.iterrows() if gap["lo"] > 0}
    said = {model: "higher" if model in sure else "not told from none" for model in gaps.index}
    assert 0 < len(sure) < 4 and gaps["told"].to_dict() == said
    other = {attacks.START: attacks.END, attacks.END: attacks.START}
    turned = attacks.change(found.assign(at=found["at"].replace(other)))
    assert set(turned["told"]) == {"lower", "not told from none"}


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
