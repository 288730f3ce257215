"""Scores of tuples from numbers of tokens that are counted by hand."""

import numpy as np

from kdlib.measure import scores


def test_of_tuples_cuts_the_window_and_the_lowest_share():
    nats = np.arange(1.0, 64.0)
    flat = {"token_nats": nats, "token_lead": np.ones(63), "token_entropy": nats, "token_z": -nats}
    found = scores.of_tuples(flat, np.array([3, 60])).to_dict("list")
    assert found["window_nats"] == [1 + 2 + 3, sum(range(4, 54))]
    assert found["min_k"] == [-3, -sum(range(52, 64)) / 12]  # 20% of 3 is none: one is taken
    assert found["min_k_plus"] == found["min_k"]
    assert found["prefix"] == [3, 60] and found["needed"] == [0, 0]


def test_a_tie_is_no_hit():
    flat = dict.fromkeys(("token_nats", "token_entropy", "token_z"), np.ones(3))
    found = scores.of_tuples(flat | {"token_lead": np.array([1.0, 0.0, 1.0])}, np.array([3]))
    assert (found["prefix"][0], found["needed"][0], found["margin"][0]) == (1, 2, 0)
