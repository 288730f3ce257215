"""Memorized shares by bin, counted by hand."""

import numpy as np
import pandas as pd

from kdlib import stats
from kdlib.analysis import binned_rates


def tuples(**changes):
    rows = {
        "row_id": ["a", "b", "c", "d"],
        "method": "word_kd",
        "size": "middle",
        "seed": 0,
        "kind": ["row", "row", "row", "canary"],
        "category": ["x", "x", "x", "canary Japanese telephone"],
        "group": ["g", "g", "h", "i"],
        "length": [5, 5, 60, 9],
        "prefix": [5, 4, 50, 9],
        "nats_per_token": 0.5,
        "repetitions": [1, 1, 1, 8],
    }
    return pd.DataFrame(rows | changes)


def test_beside_keeps_natural_rows_of_trained_models():
    rows = pd.DataFrame({"row_id": ["a", "b", "c"], "seed": 0, "length": [5, 5, 60]})
    both = pd.concat([tuples(), tuples(method="base")])
    found = binned_rates.beside(both, rows)
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
    cut = binned_rates.bucketed(rows, list(rows))
    assert list(cut["copies"].astype(str))[:4] == ["1", "2", "3 to 4", "3 to 4"]
    assert cut["copies"].iloc[6] == "9 or more"
    assert list(cut["rarity"].value_counts(sort=False)) == [2, 2, 2, 2]
    assert cut["same"].nunique() == 1 and list(cut["sort"]) == list("xyxyxyxy")
    facts = {"method": "sft", "size": "large", "seed": 0, "group": list("aabbccdd")}
    hit = [True, True, True, False, False, False, False, True]
    table = binned_rates.shares(cut.assign(hit=hit, **facts), ["copies", "sort"])
    line = table.set_index("bucket").loc["1"]
    assert line[["value", "n", "groups", "hit_groups"]].tolist() == [1.0, 2, 2, 2]
    assert np.isnan([line["lo"], line["hi"]]).all()  # of two responses
    assert list(table["bucket"])[:5] == ["1", "2", "3 to 4", "5 to 8", "9 or more"]
    assert table.groupby("attribute")["n"].sum().eq(8).all()


def test_intervals_of_shares_are_over_seeds_then_groups():
    """Copies of a response are one witness, and seeds that disagree widen the interval."""
    facts = {"method": "sft", "size": "large", "sort": "x"}
    rows = pd.DataFrame({"group": np.tile(np.arange(40), 3), "seed": np.repeat([0, 1, 2], 40)})
    rows = rows.assign(**facts, hit=rows["group"] % 2 == 0)
    agreed = binned_rates.shares(rows, ["sort"]).iloc[0]
    copies = binned_rates.shares(pd.concat([rows] * 4), ["sort"]).iloc[0]
    assert copies[["lo", "hi"]].tolist() == agreed[["lo", "hi"]].tolist()
    assert agreed["lo"] == stats.ratio(rows["group"], rows["hit"], np.ones(120), rows["seed"])["lo"]
    apart = binned_rates.shares(rows.assign(hit=rows["group"] % 4 <= rows["seed"]), ["sort"])
    assert apart["value"].iloc[0] == agreed["value"] == 0.5
    assert apart["lo"].iloc[0] < agreed["lo"] and agreed["hi"] < apart["hi"].iloc[0]


def test_canaries_and_rows():
    table = binned_rates.of_canaries(tuples())
    assert list(table["attribute"]) == ["secret", "repetitions"]
    assert list(table["bucket"]) == ["Japanese telephone", "8"]
    assert list(table["value"]) == [1.0, 1.0]
    assert not len(binned_rates.of_canaries(tuples(kind="row")))
    attributes = {"row_id": ["a", "b", "c"], "seed": 0, "group": ["g", "g", "h"]}
    attributes |= {"response": ["x", "x", "y"], "copies": [2, 2, 1], "rarity": 1.0}
    found = binned_rates.by_row(binned_rates.beside(tuples(), pd.DataFrame(attributes)))
    assert list(found["response"]) == ["y", "x"] and list(found["share"]) == [1.0, 0.5]
    assert list(found["students"]) == [1, 2]
