"""Permutations of whole groups, against all there are."""

import itertools

import numpy as np
import pandas as pd
import pytest
from studies import shared_rows

from kdlib.analysis import inheritance, permutation_test


def test_permutations_of_groups_against_all_of_them():
    # a group of one row, five of two rows: 5! orders in which the pairs may lie
    d = np.array([[1], [1, 1], [1, 0], [0, 0], [0, 1], [0, 0]], dtype=object)
    t = np.array([[0], [1, 0], [1, 1], [0, 1], [0, 0], [1, 1]], dtype=object)
    facts = {"method": "word_kd", "size": "middle", "seed": 0, "length": 9, "in_sft": False}
    rows = [
        {"group": f"g{g}", "row_id": f"g{g}r{i}", "in_distilled": bool(x), "in_teacher": bool(y)}
        for g, pair in enumerate(zip(d, t, strict=True))
        for i, (x, y) in enumerate(zip(*pair, strict=True))
    ]
    frame = pd.DataFrame(rows).assign(**facts).sample(frac=1, random_state=0)
    counts = [
        sum(int(x and y) for i, j in enumerate(order) for x, y in zip(d[j], t[i], strict=True))
        for order in ([0, *rest] for rest in itertools.permutations(range(1, 6)))
    ]
    table = permutation_test.chance(frame, draws=4000).set_index(["size", "null", "metric"])
    row = table.loc[("middle", "copies", "passed_on")]
    n, seen = int(frame["in_teacher"].sum()), counts[0]
    assert row["n"] == n and row["value"] == seen / n and row["groups"] == 5
    assert row["expected"] * n == pytest.approx(np.mean(counts), abs=0.08)
    tail = min(np.mean(np.array(counts) >= seen), np.mean(np.array(counts) <= seen))
    assert row["p"] == pytest.approx(min(1, 2 * tail), abs=0.06)


def test_chance_tells_what_is_shared_from_what_is_not():
    apart = permutation_test.chance(inheritance.sets(shared_rows(n=100)), draws=200)
    assert (apart["p"] < 0.05).mean() < 0.2
    together = permutation_test.chance(inheritance.sets(shared_rows(n=100, easy=0.7)), draws=200)
    pooled = together[(together["size"] == "all") & (together["null"] == "copies")]
    shared = pooled[pooled["metric"] == "shared"]
    assert (shared["p"] < 0.05).all() and (shared["value"] > shared["hi"]).all()
    assert (pooled.loc[pooled["metric"] == "own", "value"] < shared["expected"].min()).all()


def test_strata_hold_groups_of_like_rows_only():
    frame = inheritance.sets(shared_rows()).query("method == 'word_kd' and size == 'middle'")
    rows = frame.sort_values(["seed", "group", "row_id"]).reset_index(drop=True)
    s = rows["in_sft"].to_numpy()[:, None]
    for null in permutation_test.NULLS:
        strata = permutation_test._strata(rows, s, null)
        places = np.concatenate([one.ravel() for one in strata])
        assert sorted(places) == list(range(len(rows)))
        for one in strata:
            own = rows.loc[one.ravel()]
            assert own["seed"].nunique() == 1
            assert own.groupby("group").size().eq(one.shape[1]).all()
            if null == "missed":
                assert len({s[places].sum() for places in one}) == 1
            if null != "copies":  # no length lies in two strata of a kind
                assert own["length"].nunique() <= 3
    assert len(permutation_test._strata(rows, s, "missed")) > len(
        permutation_test._strata(rows, s, "length")
    )
