"""Decoding with the filter of a release beside decoding without it, at a million n-grams.

`make bench` writes data/results/bench/release-<device>.csv: part, models, what, and the median,
least and greatest value over the rounds. The n-grams (n = 10) are of random token ids, and of what
the model writes without the filter, so that it has to act. With and without take turns.

- decoding: time of greedy `generate` under the filter over that without, of so many tokens for each
  of a batch of prompts, none of which ends early.
- a step: microseconds of the filter alone for one prompt, where nothing is known of its last tokens
  and where something is; beside them a sorted array of whole n-grams, in which every token of the
  vocabulary is looked up.
- map: its bytes for each n-gram, and how many of a million random beginnings it takes for known.
"""

import statistics
from collections.abc import Callable, Iterator
from typing import Any

import common
import numpy as np
import torch
from transformers import LogitsProcessorList

from kdlib.model import checkpoints, memfree

N = 10  # tokens
MANY = 1_000_000  # n-grams
NEW = 32  # tokens of an answer
ROUNDS = 9


def written(model: Any, prompts: torch.Tensor, processors: Any = None) -> torch.Tensor:
    """Greedy answers of NEW tokens."""
    how = {"min_new_tokens": NEW, "max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    mask = torch.ones_like(prompts)
    return model.generate(prompts, attention_mask=mask, logits_processor=processors, **how)


def many(vocabulary: int, texts: list[list[int]]) -> memfree.NGrams:
    """The n-grams of texts, and of random tokens, MANY in all."""
    dice = np.random.default_rng(0)
    left = MANY - len(memfree.ngrams(texts, N))
    known = memfree.ngrams([*texts, dice.integers(0, vocabulary, left + N - 1)], N)
    assert len(known) == MANY
    return known


def line(part: str, models: str, what: str, values: list[float]) -> dict[str, Any]:
    """A line of the table."""
    ends = {"median": statistics.median(values), "least": min(values), "greatest": max(values)}
    return {"part": part, "models": models, "what": what, **ends, "rounds": len(values)}


def decoding(setup: common.Setup, model: Any, batch: int) -> Iterator[dict[str, Any]]:
    """What the filter adds to the time of a batch."""
    short = min(len(one.prompt) for one in setup.examples[:batch])
    ids = [one.prompt[-short:] for one in setup.examples[:batch]]
    prompts = torch.tensor(ids, device=common.DEVICE)
    plain = written(model, prompts)[:, short:]  # and warms up
    filtering = memfree.MemFree(many(model.config.vocab_size, plain.tolist()))
    filtered, ratios = LogitsProcessorList([filtering]), []
    refused = 0
    for _ in range(ROUNDS):
        filtering.refused[:] = 0
        seconds = [common.timed(lambda one=one: written(model, prompts, one)) for one in
                   (None, filtered)]  # fmt: skip
        ratios.append(seconds[1] / seconds[0])
        refused = int(filtering.refused.sum())
    what = f"batch {batch}, {NEW} tokens, {refused} of {batch * NEW} likeliest tokens refused"
    yield line("decoding", setup.name, f"{what}: filtered over plain", ratios)


def microseconds(work: Callable[[], Any], times: int = 200) -> list[float]:
    """Of one call, ROUNDS times the mean of so many."""
    work()
    return [
        common.timed(lambda: [work() for _ in range(times)]) / times * 1e6 for _ in range(ROUNDS)
    ]


def steps(name: str, vocabulary: int) -> Iterator[dict[str, Any]]:
    """The filter alone, beside whole n-grams of which each is looked up."""
    dice = np.random.default_rng(1)
    text = dice.integers(0, vocabulary, 100)
    known = many(vocabulary, [text.tolist()])
    scores = torch.zeros(1, vocabulary, device=common.DEVICE)
    filtering = memfree.MemFree(known)
    for what, ids in (("nothing known", dice.integers(0, vocabulary, 100)), ("known", text[:50])):
        last = torch.tensor(ids, device=common.DEVICE)[None]
        work = lambda last=last: filtering(last, scores)  # noqa: E731
        yield line("a step, us", name, f"map, {what}", microseconds(work))
    whole = np.sort(memfree._hashed(dice.integers(0, vocabulary, (MANY, N))))
    candidates = np.empty((vocabulary, N), np.int64)
    candidates[:, :-1], candidates[:, -1] = text[: N - 1], np.arange(vocabulary)

    def each() -> np.ndarray:
        hashes = memfree._hashed(candidates)
        return whole[np.searchsorted(whole, hashes).clip(max=MANY - 1)] == hashes

    yield line("a step, us", name, "sorted n-grams, all tokens", microseconds(each, 3))
    size = sum(one.nbytes for one in (known.hashes, known.starts, known.last))
    yield line("map", name, "bytes for each n-gram", [size / MANY])
    other = dice.integers(0, vocabulary, (MANY, N - 1))
    hits = sum(len(one) > 0 for one in known.completing(other))
    yield line("map", name, f"of {MANY:,} random beginnings taken for known", [float(hits)])


def main() -> None:
    """Measure at the asked sizes; write and print the table."""
    rows = []
    for size in common.asked_sizes(__doc__):
        setup = common.setup(size, 16)
        model = setup.model(next(iter(setup.shapes)))
        with checkpoints.inference(model):
            for batch in (1, 16):
                rows += decoding(setup, model, batch)
        rows += steps(size, model.config.vocab_size)
    common.write("release", rows)


if __name__ == "__main__":
    main()
