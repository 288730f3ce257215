"""Near duplicates: what is kept, and that no kept pair is too much alike."""

import random
from itertools import combinations

import pytest

from kdlib.data.duplicates import firsts, jaccard, shingles


def test_shingles_and_their_share():
    assert shingles("Abcdef") == {"abcde", "bcdef"} and shingles("ab") == {"ab"}
    assert jaccard(shingles("abcdef"), shingles("bcdefg")) == pytest.approx(1 / 3)


def test_the_first_of_its_like_is_kept():
    texts = ["Return the sum of all values.", "Close the file.", "Return the sum of all values!",
             "return the sum of all values.", "Return the mean of all values."]  # fmt: skip
    assert firsts(texts) == [True, True, True, False, True]
    assert firsts(texts, 0.8) == [True, True, False, False, True]
    assert firsts(texts, 0.3) == [True, True, False, False, False]
    assert firsts([]) == []


def test_no_two_that_are_kept_are_alike_and_each_other_has_its_like():
    dice, words = random.Random(0), ["red", "green", "blue", "old", "pump", "valve", "rotor"]
    texts = [" ".join(dice.choices(words, k=6)) for _ in range(150)]
    texts += [f"{text} too" for text in texts[::3]]
    kept, sets = firsts(texts, 0.6), list(map(shingles, texts))
    chosen = [one for one, first in zip(sets, kept, strict=True) if first]
    assert all(jaccard(*pair) < 0.6 for pair in combinations(chosen, 2))
    assert 0 < len(chosen) < len(texts)
    for i, first in enumerate(kept):
        before = [sets[j] for j in range(i) if kept[j]]
        assert first != any(jaccard(sets[i], one) >= 0.6 for one in before)
