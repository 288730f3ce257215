"""Shares by bucket, and the model of all attributes, on made-up rows whose truth is known."""

import numpy as np
import pandas as pd
import pytest

from kdlib.intervals import wilson
from kdlib.memory import buckets, effects

NAMES = ["copies", "rarity"]


def made_up(n=2000, seed=0, slope=1.0, copies=True):
    """Rows whose log odds rise by `slope` per unit of rarity, and by 2 of them per copy."""
    dice = np.random.default_rng(seed)
    rarity = dice.normal(size=n)
    frame = pd.DataFrame({"rarity": rarity, "row_id": np.arange(n), "seed": np.arange(n) % 2})
    frame["copies"] = dice.normal(size=n)
    frame["hit"] = dice.random(n) < 1 / (1 + np.exp(0.5 - slope * rarity))
    frame["nats_per_token"] = 3 - 0.5 * rarity + 0.2 * frame["seed"] + dice.normal(size=n)
    facts = {"variant": "word_kd", "student": "middle", "split": "member"}
    frame = frame.assign(**facts, sort=np.where(dice.random(n) < 0.3, "class", "function"))
    return frame.assign(group=frame["row_id"].astype(str))


def tuples(**changes):
    rows = {
        "row_id": ["a", "b", "c", "d"],
        "variant": "word_kd",
        "student": "middle",
        "seed": 0,
        "kind": ["row", "row", "row", "canary"],
        "category": ["x", "x", "x", "canary contact"],
        "group": ["g", "g", "h", "i"],
        "length": [5, 5, 60, 9],
        "prefix": [5, 4, 50, 9],
        "nats_per_token": 0.5,
        "repetitions": [1, 1, 1, 8],
    }
    return pd.DataFrame(rows | changes)


def test_beside_keeps_natural_rows_of_trained_models():
    rows = pd.DataFrame({"row_id": ["a", "b", "c"], "seed": 0, "length": [5, 5, 60]})
    both = pd.concat([tuples(), tuples(variant="base")])
    found = buckets.beside(both, rows)
    assert list(found["row_id"]) == ["a", "b", "c"] and list(found["length"]) == [5, 5, 60]
    assert list(found["hit"]) == [True, False, True]


def test_buckets_and_shares():
    rows = pd.DataFrame(
        {
            "copies": [1, 2, 3, 4, 5, 8, 9, 1],
            "rarity": np.arange(8.0),
            "same": 1.5,
            "sort": list("xyxyxyxy"),
        }
    )
    cut = buckets.bucketed(rows, list(rows))
    assert list(cut["copies"].astype(str))[:4] == ["1", "2", "3 to 4", "3 to 4"]
    assert cut["copies"].iloc[6] == "9 or more"
    assert list(cut["rarity"].value_counts(sort=False)) == [2, 2, 2, 2]
    assert cut["same"].nunique() == 1 and list(cut["sort"]) == list("xyxyxyxy")
    facts = {"variant": "sft", "student": "large", "group": list("aabbccdd")}
    hit = [True, True, True, False, False, False, False, True]
    table = buckets.shares(cut.assign(hit=hit, **facts), ["copies", "sort"])
    line = table.set_index("bucket").loc["1"]
    assert (line["value"], line["n"], line["groups"]) == (1.0, 2, 2)
    assert (line["lo"], line["hi"]) == wilson(2, 2)
    assert list(table["bucket"])[:5] == ["1", "2", "3 to 4", "5 to 8", "9 or more"]
    assert table.groupby("attribute")["n"].sum().eq(8).all()


def test_canaries_and_rows():
    table = buckets.of_canaries(tuples())
    assert list(table["attribute"]) == ["secret", "repetitions"]
    assert list(table["bucket"]) == ["contact", "8"] and list(table["value"]) == [1.0, 1.0]
    assert not len(buckets.of_canaries(tuples(kind="row")))
    attributes = {"row_id": ["a", "b", "c"], "seed": 0, "group": ["g", "g", "h"]}
    attributes |= {"response": ["x", "x", "y"], "copies": [2, 2, 1], "rarity": 1.0}
    found = buckets.by_row(buckets.beside(tuples(), pd.DataFrame(attributes)))
    assert list(found["response"]) == ["y", "x"] and list(found["share"]) == [1.0, 0.5]
    assert list(found["asked"]) == [1, 2]


def test_scaled_counts_are_logarithms_of_member_rows():
    rows = pd.DataFrame(
        {
            "copies": [1, 2, 4, 1024],
            "near_copies": [0, 1, 3, 7],
            "split": ["member"] * 3 + ["held_out"],
        }
    )
    found = effects.scaled(rows, ["copies", "near_copies"])
    np.testing.assert_allclose(found["copies"], [-1, 0, 1, 9])
    np.testing.assert_allclose(found["near_copies"], [-1, 0, 1, 2])


def test_usable_counts_groups_off_the_commonest_value():
    rows = pd.DataFrame({"group": np.arange(30), "many": np.arange(30.0), "few": 0.0})
    rows.loc[:8, "few"] = 1.0
    assert effects.usable(rows, ["many", "few"]) == ["many"]
    rows.loc[9, "few"] = 1.0
    assert effects.usable(rows, ["many", "few"]) == ["many", "few"]
    assert effects.usable(rows.assign(group=1), ["many", "few"]) == []


def naive_newton(X, y):
    b = np.zeros(X.shape[1])
    for _ in range(25):
        p = 1 / (1 + np.exp(-X @ b))
        b += np.linalg.solve(X.T @ np.diag(p * (1 - p)) @ X, X.T @ (y - p))
    return b, 1 / (1 + np.exp(-X @ b))


def test_odds_are_those_of_newton_and_the_sandwich():
    frame = made_up(600)
    frame["group"] = (frame["row_id"] // 2).astype(str)  # two rows each
    found = effects.odds(frame, NAMES).set_index("attribute")
    X = effects.design(frame, NAMES)
    assert list(X) == ["constant", *NAMES, "seed 1", "sort class"]
    X, y = X.to_numpy(), frame["hit"].to_numpy(dtype=float)
    b, p = naive_newton(X, y)
    bread = np.linalg.inv(X.T @ (X * (p * (1 - p))[:, None]))
    meat = np.zeros_like(bread)
    for _, rows in frame.groupby("group"):
        pull = X[rows.index].T @ (y - p)[rows.index]
        meat += np.outer(pull, pull)
    groups, (n, k) = frame["group"].nunique(), X.shape
    error = np.sqrt(np.diag(bread @ meat @ bread) * groups / (groups - 1) * (n - 1) / (n - k))
    for place, name in enumerate(NAMES, start=1):
        expected = b[place] + np.array([0, -1, 1]) * 1.959964 * error[place]
        line = found.loc[name, ["value", "lo", "hi"]].to_numpy(dtype=float)
        np.testing.assert_allclose(np.log(line), expected, rtol=1e-4, atol=1e-6)
    assert (found["note"] == "").all() and set(found["hits"]) == {int(y.sum())}


def test_odds_find_the_truth():
    found = effects.odds(made_up(4000, slope=0.8), NAMES).set_index("attribute")
    assert found.loc["rarity", "lo"] < np.exp(0.8) < found.loc["rarity", "hi"]
    assert found.loc["copies", "lo"] < 1 < found.loc["copies", "hi"]


def test_too_few_groups_are_not_fitted():
    frame = made_up(400)
    frame["hit"] = frame.index < 40
    frame.loc[frame["hit"], "group"] = "one row, forty copies"
    found = effects.odds(frame, NAMES)
    assert found[["value", "lo", "hi"]].isna().all(axis=None)
    assert found["note"].str.contains("1 groups, where 2 attributes need 20").all()
    assert effects.odds(frame, []).empty
    nothing = effects.odds(frame.assign(hit=False), NAMES)
    assert set(nothing["hit_groups"]) == {0} and nothing["value"].isna().all()


def test_separation_is_found_and_not_fitted():
    frame = made_up(400)
    frame["hit"] = frame["rarity"] > 0.1
    found = effects.odds(frame, NAMES)
    assert found["note"].str.contains("separate").all() and found["value"].isna().all()
    x = np.column_stack([np.ones(6), [0, 0, 0, 1, 1, 1]])
    assert effects.separated(x, np.array([0, 1, 0, 1, 1, 1], dtype=bool))  # all with 1 are hits
    assert not effects.separated(x, np.array([0, 1, 0, 1, 0, 1], dtype=bool))


def test_nats_are_least_squares():
    frame = pd.concat([made_up(), made_up(seed=1).assign(split="held_out")], ignore_index=True)
    found = effects.nats(frame, NAMES).set_index(["split", "attribute"])
    part = frame[frame["split"] == "member"]
    X = effects.design(part, NAMES, [np.ones(len(part), dtype=bool)]).to_numpy()
    b, *_ = np.linalg.lstsq(X, part["nats_per_token"].to_numpy(), rcond=None)
    np.testing.assert_allclose(found.loc["member", "value"], b[1:3])
    line = found.loc["held_out", "rarity"]
    assert line["lo"] < -0.5 < line["hi"]
    words = effects.side_by_side(effects.nats(frame, NAMES))
    assert list(words.columns) == NAMES and len(words) == 2


def test_a_sort_with_few_groups_has_no_column():
    frame = made_up(400)
    frame.loc[:7, "sort"] = "rare"
    assert list(effects.design(frame, [])) == ["constant", "seed 1", "sort class"]


def line(variant, attribute, lo, hi, note=""):
    facts = {"variant": variant, "student": "large", "attribute": attribute, "note": note}
    return facts | {"value": (lo + hi) / 2, "lo": lo, "hi": hi}


@pytest.mark.parametrize(
    ("copies", "rarity", "verdict"),
    [
        ((1.1, 2), (1.2, 3), "confirmed"),
        ((0.9, 2), (1.2, 3), "open"),
        ((1.1, 2), (0.5, 0.9), "refuted"),
        ((np.nan, np.nan), (np.nan, np.nan), "open"),
    ],
)
def test_claim_c5b(copies, rarity, verdict):
    note = "too few" if np.isnan(copies[0]) else ""
    lines = [line("word_kd", "copies", *copies, note), line("word_kd", "rarity", *rarity, note)]
    lines += [line("sft", "copies", 0.1, 0.2), line("word_kd", "length", 0.1, 0.2)]  # not asked
    assert effects.stays(pd.DataFrame(lines))["verdict"] == verdict


def test_claim_c5b_needs_both():
    assert effects.stays(pd.DataFrame([line("word_kd", "rarity", 2, 3)]))["verdict"] == "open"
    assert effects.stays(effects.odds(made_up(40), []))["verdict"] == "open"
