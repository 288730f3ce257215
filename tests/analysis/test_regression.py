"""The model of all attributes, on made-up rows whose truth is known."""

import numpy as np
import pandas as pd

from kdlib.analysis import regression

NAMES = ["copies", "rarity"]


def made_up(n=2000, seed=0, slope=1.0, copies=True):
    """Rows whose log odds rise by `slope` per unit of rarity, and by 2 of them per copy."""
    dice = np.random.default_rng(seed)
    rarity = dice.normal(size=n)
    frame = pd.DataFrame({"rarity": rarity, "row_id": np.arange(n), "seed": np.arange(n) % 2})
    frame["copies"] = dice.normal(size=n)
    frame["hit"] = dice.random(n) < 1 / (1 + np.exp(0.5 - slope * rarity))
    frame["nats_per_token"] = 3 - 0.5 * rarity + 0.2 * frame["seed"] + dice.normal(size=n)
    facts = {"method": "word_kd", "size": "middle", "split": "member"}
    frame = frame.assign(**facts, sort=np.where(dice.random(n) < 0.3, "class", "function"))
    return frame.assign(group=frame["row_id"].astype(str))


def test_scaled_counts_are_logarithms_of_member_rows():
    rows = pd.DataFrame(
        {
            "copies": [1, 2, 4, 1024],
            "near_copies": [0, 1, 3, 7],
            "split": ["member"] * 3 + ["held_out"],
        }
    )
    found = regression.scaled(rows, ["copies", "near_copies"])
    np.testing.assert_allclose(found["copies"], [-1, 0, 1, 9])
    np.testing.assert_allclose(found["near_copies"], [-1, 0, 1, 2])


def test_usable_counts_groups_off_the_commonest_value():
    rows = pd.DataFrame({"group": np.arange(30), "many": np.arange(30.0), "few": 0.0})
    rows.loc[:8, "few"] = 1.0
    assert regression.usable(rows, ["many", "few"]) == ["many"]
    rows.loc[9, "few"] = 1.0
    assert regression.usable(rows, ["many", "few"]) == ["many", "few"]
    assert regression.usable(rows.assign(group=1), ["many", "few"]) == []


def naive_newton(X, y):
    b = np.zeros(X.shape[1])
    for _ in range(25):
        p = 1 / (1 + np.exp(-X @ b))
        b += np.linalg.solve(X.T @ np.diag(p * (1 - p)) @ X, X.T @ (y - p))
    return b, 1 / (1 + np.exp(-X @ b))


def test_odds_are_those_of_newton_and_the_sandwich():
    frame = made_up(600)
    frame["group"] = (frame["row_id"] // 2).astype(str)  # two rows each
    found = regression.odds(frame, NAMES).set_index("attribute")
    X = regression.design(frame, NAMES)
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
    found = regression.odds(made_up(4000, slope=0.8), NAMES).set_index("attribute")
    assert found.loc["rarity", "lo"] < np.exp(0.8) < found.loc["rarity", "hi"]
    assert found.loc["copies", "lo"] < 1 < found.loc["copies", "hi"]


def test_too_few_groups_are_not_fitted():
    frame = made_up(400)
    frame["hit"] = frame.index < 40
    frame.loc[frame["hit"], "group"] = "one row, forty copies"
    found = regression.odds(frame, NAMES)
    assert found[["value", "lo", "hi"]].isna().all(axis=None)
    assert found["note"].str.contains("1 groups, where 2 columns need 20").all()
    assert regression.odds(frame, []).empty
    nothing = regression.odds(frame.assign(hit=False), NAMES)
    assert set(nothing["hit_groups"]) == {0} and nothing["value"].isna().all()


def test_seeds_and_sorts_need_groups_too():
    """25 memorized groups are enough for two attributes, and not for two with a seed and a sort."""
    frame = made_up(400)
    frame["hit"] = frame.index < 25
    frame.loc[frame["hit"], "sort"] = ["class", "function"] * 12 + ["class"]
    assert regression.design(frame, NAMES).shape[1] == 1 + 4
    found = regression.odds(frame, NAMES)
    assert set(found["note"]) == {"25 groups, where 4 columns need 40"}
    alone = regression.odds(frame.assign(seed=0, sort="class"), NAMES)
    assert set(alone["note"]) == {""} and alone["value"].notna().all()
    few = pd.concat([frame[:39], frame[:39].assign(split="held_out")])
    nats = regression.nats(few.assign(sort=["class", "function", "other"] * 26), NAMES)
    assert set(nats["note"]) == {"39 groups, where 5 columns need 50"}


def line(attribute, lo, hi, split="member", method="word_kd"):
    facts = {"method": method, "size": "small", "attribute": attribute, "split": split}
    return facts | {"value": (lo + hi) / 2, "lo": lo, "hi": hi}


def test_the_answer_names_what_leaves_out_1_and_no_more():
    lines = [line("near_copies", 1.2, 3.2), line("length", 0.9, 1.5), line("rarity", 0.2, 0.4)]
    lines += [line("rarity", 0.9, 1.0, method="minillm")]
    told = regression.answer(pd.DataFrame(lines))
    assert told.startswith("Of 4 odds ratios (per standard deviation; above 1: more of it stays)")
    assert "of 2 distilled students, 2 have an interval that leaves out 1" in told
    assert "not corrected for how many were looked at (4, of which about 0.2 would" in told
    assert "Near copies: word-level KD small 2.20 [1.20, 3.20]. Rarity: word-level KD small" in told
    assert "MiniLLM" not in told and "ength" not in told
    assert "Of the others, and of attributes that were not fitted, this run says nothing" in told
    none = regression.answer(pd.DataFrame(lines[1:2]))
    assert "0 have" in none and none.endswith("Of the attributes, this run says nothing.")
    assert regression.answer(pd.DataFrame(lines)[:0]).startswith("Too few rows are memorized")


def test_turned_needs_both_intervals_off_0():
    pairs = {
        "copies": ((0.1, 0.2), (-0.3, -0.1)),
        "length": ((-0.1, 0.2), (-0.3, -0.1)),  # the signs of the values differ, and no more
        "rarity": ((0.1, 0.2), (0.1, 0.3)),
        "near_copies": ((-0.2, -0.1), (0.1, 0.3)),
        "compressed": ((np.nan, np.nan), (0.1, 0.3)),
    }
    lines = [
        line(name, *ends, split)
        for name, both in pairs.items()
        for split, ends in zip(("member", "held_out"), both, strict=True)
    ]
    lines += [line("length", 0.1, 0.2, method="sft")]  # of one split alone
    found = regression.turned(pd.DataFrame(lines))
    assert sorted(found) == ["copies (word-level KD small)", "near copies (word-level KD small)"]
    assert regression.turned(pd.DataFrame(lines)[2:3]) == []


def test_separation_is_found_and_not_fitted():
    frame = made_up(400)
    frame["hit"] = frame["rarity"] > 0.1
    found = regression.odds(frame, NAMES)
    assert found["note"].str.contains("separate").all() and found["value"].isna().all()
    x = np.column_stack([np.ones(6), [0, 0, 0, 1, 1, 1]])
    assert regression.separated(x, np.array([0, 1, 0, 1, 1, 1], dtype=bool))  # all with 1 are hits
    assert not regression.separated(x, np.array([0, 1, 0, 1, 0, 1], dtype=bool))


def test_nats_are_least_squares():
    frame = pd.concat([made_up(), made_up(seed=1).assign(split="held_out")], ignore_index=True)
    found = regression.nats(frame, NAMES).set_index(["split", "attribute"])
    part = frame[frame["split"] == "member"]
    X = regression.design(part, NAMES, [np.ones(len(part), dtype=bool)]).to_numpy()
    b, *_ = np.linalg.lstsq(X, part["nats_per_token"].to_numpy(), rcond=None)
    np.testing.assert_allclose(found.loc["member", "value"], b[1:3])
    line = found.loc["held_out", "rarity"]
    assert line["lo"] < -0.5 < line["hi"]


def test_a_sort_with_few_groups_has_no_column():
    frame = made_up(400)
    frame.loc[:7, "sort"] = "rare"
    assert list(regression.design(frame, [])) == ["constant", "seed 1", "sort class"]
