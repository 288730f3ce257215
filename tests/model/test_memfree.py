"""The decoding filter: it knows just the n-grams of the texts, and none of them comes out."""

import numpy as np
import pytest
import torch
import toy

from kdlib.errors import KdlibError
from kdlib.model import generation, memfree


def grams(text, n):
    return {tuple(text[i : i + n]) for i in range(len(text) - n + 1)}


def answers():
    """The training responses of the toy, without their end tokens."""
    return [one.response[:-1] for one in toy.examples()]


def written(known, examples=None):
    prompts = [one.prompt for one in examples or toy.examples()]
    how = {"end_id": toy.tokenizer().eos_token_id, "max_new": 24, "batch": 16}
    if known is None:
        return generation.continue_prompts(toy.trained(), prompts, greedy=True, **how)
    return generation.generate_with(toy.trained(), prompts, memfree.MemFree(known), **how)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_map_is_that_of_a_dictionary(n):
    dice = np.random.default_rng(n)
    texts = [dice.integers(0, 6, length).tolist() for length in dice.integers(0, 12, 40)]
    wanted = set().union(*(grams(text, n) for text in texts))
    known = memfree.ngrams(texts, n)
    assert len(known) == len(wanted) and (np.diff(known.hashes.astype(object)) > 0).all()
    asked = np.array([[i // 6**k % 6 for k in range(n - 1)] for i in range(6 ** (n - 1))])
    for before, after in zip(asked, known.completing(asked), strict=True):
        there = sorted(gram[-1] for gram in wanted if gram[:-1] == tuple(before))
        assert after.tolist() == there
    text = texts[0] + texts[1]
    assert known.completed(text) == sum(tuple(one) in wanted for one in _runs(text, n))
    assert known.completed(text[: n - 1]) == 0


def _runs(text, n):
    return [text[i : i + n] for i in range(len(text) - n + 1)]


def test_of_nothing_nothing_is_known():
    known = memfree.ngrams([], 4)
    assert len(known) == 0 and known.completing(np.array([[1, 2, 3]]))[0].size == 0
    assert len(memfree.ngrams([[1, 2, 3]], 4)) == 0


def test_beginnings_that_are_none_are_not_taken_for_one():
    dice = np.random.default_rng(0)
    known = memfree.ngrams([dice.integers(0, 50_000, 100_000)], 10)
    near = np.lib.stride_tricks.sliding_window_view(dice.integers(0, 50_000, 100_000), 9)
    assert sum(map(len, known.completing(near))) == 0
    first = dice.integers(0, 2**17, (1000, 9))  # and next to one that is: two tokens exchanged
    known = memfree.ngrams(np.column_stack([first, first[:, 0]]), 10)
    assert all(len(one) == 1 for one in known.completing(first))
    assert not any(len(one) for one in known.completing(first[:, ::-1]))


def test_kept_on_disk_and_refused_when_broken(tmp_path):
    known, path = memfree.ngrams(answers(), 4), tmp_path / "ngrams.npz"
    known.save(path)
    again = memfree.load(path)
    assert again.n == 4 and all(
        np.array_equal(getattr(known, one), getattr(again, one)) for one in ("hashes", "last")
    )
    assert again.completed(answers()[5]) == known.completed(answers()[5]) > 0
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(KdlibError, match="ngrams.npz is no map of n-grams .*; release again"):
        memfree.load(path)
    with pytest.raises(KdlibError, match="no map"):
        memfree.load(tmp_path / "nowhere.npz")


@pytest.mark.parametrize("n", [3, 6])
def test_no_n_gram_of_the_responses_is_written(n):
    known = set().union(*(grams(one, n) for one in answers()))
    without = written(None)
    assert sum(bool(grams(one, n) & known) for one in without) > 10  # it knows rows by heart
    for one in written(memfree.ngrams(answers(), n)):
        assert not grams(one, n) & known


def test_what_is_not_known_is_written_as_it_would_be():
    others = memfree.ngrams([[299, 298, 297, 296]], 4)
    assert written(others) == written(None)


def test_a_batch_is_written_as_each_alone():
    known = memfree.ngrams(answers(), 4)
    some = toy.examples()[:7]
    alone = [written(known, [one])[0] for one in some]
    assert written(known, some) == alone


def test_a_beginning_in_the_prompt_counts_and_refusals_are_counted():
    text = max(answers(), key=len)
    known = memfree.ngrams([text], 4)
    asked = memfree.MemFree(known)
    scores = torch.zeros(2, 300)
    scores[:, text[3]] = 1.0
    ids = torch.tensor([text[:3], text[1:4]])
    changed = asked(ids, scores)
    assert changed[0, text[3]] == -torch.inf and scores.isfinite().all()
    assert asked.refused.tolist() == [1, int(known.completed([*text[1:4], text[3]]))]
    assert asked(ids[:, :2], scores) is scores  # too short for a beginning
    assert asked(torch.full((2, 3), 299), scores) is scores


def test_where_nothing_else_is_allowed_it_says_so():
    text = max(answers(), key=len)
    asked = memfree.MemFree(memfree.ngrams([text], 4))
    scores = torch.full((1, 300), -torch.inf)  # as a grammar leaves them
    scores[0, text[3]] = 1.0
    with pytest.raises(KdlibError, match="rules out the last token that is allowed"):
        asked(torch.tensor([text[:3]]), scores)
