"""What a row is like, held against definitions written again, naively."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from kdlib.analysis import attributes

LINE = "Return the line graph of a graph."
FACTS = [  # row_id, instruction, context, response, category, group, kind, split
    ("a", "What does `line_graph` do?", "nx.lineGraph(G)", LINE, "nx function", "g1", "member"),
    ("b", "What does `line` do?", "nx.line(G)", LINE, "nx method", "g1", "member"),
    ("c", "What is it?", "", LINE.replace("a graph", "a digraph"), "nx class", "g2", "member"),
    ("d", "What is `Ä`?", "", "Sum over all entries, twice", "np function", "g3", "held_out"),
    ("e", "What is it?", "", LINE.replace("Return", "Returns"), "", "g4", "held_out"),
]
COLUMNS = ["row_id", "instruction", "context", "response", "category", "group", "split"]


@pytest.fixture
def rows():
    frame = pd.DataFrame(FACTS, columns=COLUMNS).assign(kind="row")
    frame["group_size"] = frame.groupby("group")["group"].transform("size")
    canary = frame.iloc[[0]].assign(row_id="canary", kind="canary")
    return pd.concat([frame, canary]).set_index("row_id", drop=False)


TOKENS = {"a": (1, 2, 0), "b": (1, 2, 0), "c": (3,), "d": (4, 4, 4, 0), "e": (2, 0), "canary": (9,)}
BLOCKS = [(1, 1, 2), (3, 0), ()]


def test_attributes_against_their_definitions(rows):
    found = attributes.attributes(rows, TOKENS, attributes.surprisal(BLOCKS, 5))
    assert list(found.index) == ["a", "b", "c", "d", "e"]  # natural rows alone
    assert list(found["copies"]) == [2, 2, 1, 1, 1]
    assert list(found["length"]) == [3, 3, 1, 4, 2]
    assert list(found["sort"]) == ["function", "method", "class", "function", "none"]
    assert list(found["package"]) == ["nx", "nx", "nx", "np", "none"]
    read = [token for block in BLOCKS for token in block]
    for row, ids in list(TOKENS.items())[:-1]:
        nats = [-math.log((read.count(token) + 1) / (len(read) + 5)) for token in ids]
        assert found.loc[row, "rarity"] == pytest.approx(sum(nats) / len(nats), rel=1e-12)
    raw = rows.loc[found.index, "response"].str.encode("utf-8").str.len()
    np.testing.assert_allclose(found["compressed"] * raw, found["zlib"])


def test_near_copies_are_members_with_another_response(rows):
    found = attributes.attributes(rows, TOKENS, attributes.surprisal(BLOCKS, 5))["near_copies"]
    # a and b are copies of each other, which does not count; e is held out, and counts for no one
    assert dict(found) == {"a": 1, "b": 1, "c": 2, "d": 0, "e": 3}


def test_near_copies_against_all_pairs():
    dice, words = np.random.default_rng(0), ["sum", "of", "all", "rows", "and", "a", "graph"]
    texts = [" ".join(dice.choice(words, dice.integers(2, 9))) for _ in range(400)]
    groups, counted = texts, dice.random(400) < 0.7
    cut = [{text[i : i + 5] for i in range(len(text) - 4)} or {text} for text in texts]
    expected = np.zeros(400, dtype=int)
    for i, j in itertools.permutations(range(400), 2):
        alike = len(cut[i] & cut[j]) / len(cut[i] | cut[j]) >= attributes.SIMILAR
        expected[i] += bool(alike and counted[j] and groups[i] != groups[j])
    found = attributes.near_copies(texts, groups, counted)
    assert (found <= expected).all()  # what is found is compared exactly
    assert found.sum() >= 0.98 * expected.sum() > 50  # MinHash may miss a few


def test_surprisal_sums_to_one_and_knows_unseen_tokens():
    nats = attributes.surprisal(BLOCKS, 7)
    assert np.exp(-nats).sum() == pytest.approx(1)
    assert nats[6] == nats[5] == nats.max() and nats[1] == nats.min()
    np.testing.assert_allclose(attributes.surprisal([], 4), math.log(4))


def test_overlap_splits_names_into_words():
    assert attributes.overlap("max clique graph", "make_maxClique(G)") == pytest.approx(2 / 3)
    assert attributes.overlap("The RNN cell, 2 cells", "RNNCell 2") == pytest.approx(3 / 5)
    assert attributes.overlap("...", "anything") == 0
