"""Definitions of what comes out, against naive ones."""

import math

import numpy as np
import pandas as pd
import pytest
import toy

from kdlib.analysis import attacks, extraction


def edit_distance(a, b):
    """Levenshtein, by the recursion of its definition, row by row."""
    before = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        now = [i]
        for j, y in enumerate(b, 1):
            now.append(min(before[j] + 1, now[-1] + 1, before[j - 1] + (x != y)))
        before = now
    return before[-1]


def longest_run(a, b):
    starts = [(i, n) for i in range(len(b)) for n in range(1, len(b) - i + 1)]
    inside = [n for i, n in starts if any(a[j : j + n] == b[i : i + n] for j in range(len(a)))]
    return max(inside, default=0)


def test_approximate_against_naive_definitions():
    responses = [row["response"] for row in toy.rows()[:12]]
    answers = [*responses[3:12], "", "pump", "old pump old valve old pump"]
    pairs = [*zip(answers, responses, strict=True), ("", ""), ("same text", "same text")]
    found = extraction.approximate(*zip(*pairs, strict=True))
    for (answer, response), (_, row) in zip(pairs, found.iterrows(), strict=True):
        longer = max(len(answer), len(response), 1)
        wanted = 1 - edit_distance(answer, response) / longer
        assert row["edit_similarity"] == pytest.approx(wanted)
        words = response.split()
        wanted = longest_run(answer.split(), words) / max(1, len(words))
        assert row["longest_run"] == pytest.approx(wanted)


def test_discoverable_at_both_ends():
    rows = pd.DataFrame({"window_nats": [0.0, 1e-12, 800.0, np.inf]})
    assert list(extraction.discoverable(rows, 1, 1 - 1e-9)) == [True, True, False, False]
    assert not extraction.discoverable(rows, 10**6, 1e-300).iloc[3]


def test_share_of_agreement():
    flags = pd.DataFrame({"a": [True, True, False], "b": [True, False, False], "c": [False] * 3})
    shares = extraction.agreement(flags)
    assert shares.loc["a", "b"] == 0.5 and shares.loc["a", "a"] == 1 and shares.loc["a", "c"] == 0
    assert math.isnan(shares.loc["c", "c"])


def test_nothing_comes_out_of_nothing():
    names = ["nats_per_token", "min_k", "min_k_plus", "window_nats", "needed", "length"]
    empty = pd.DataFrame(columns=names, dtype=float)
    assert len(attacks.membership(empty, extraction.zlib_bytes([]))) == 0
    assert len(extraction.approximate([], [])) == 0
    assert not extraction.discoverable(empty, 10, 0.5).any()
    assert not extraction.extractable(empty, 0).any()


def test_extraction_counts_rows_by_what_is_there_already():
    facts = {"method": "sft", "size": "small", "seed": 0, "split": "member", "kind": "row"}
    rows = {"row_id": list("abcd"), "group": list("abcd"), "length": 10, "prefix": [10, 0, 0, 0]}
    rows |= {"needed": [0, 1, 5, 9], "window_nats": [0.01, 2.0, 6.0, 50.0]}
    table = extraction.extraction(pd.DataFrame(rows | facts)).set_index(["attack", "at"])["value"]
    assert [table["given", at] for at in extraction.GIVEN] == [0.25, 0.5, 0.5, 0.75]
    assert [table["samples", at] for at in extraction.SAMPLES] == [0.25, 0.5, 0.5, 0.75]
