"""A decoding filter: no n-gram of known texts is completed. Taught in 17_release.

MemFree decoding (Ippolito et al. 2023, arXiv 2210.17546): before each token is chosen, those are
ruled out that would complete an n-gram of the training text. Not every token is tested: one lookup,
in a map from the hash of the last n - 1 tokens, gives all that may follow them. The map holds the
texts as surely as a copy does: who has it and the first n - 1 tokens of a text can read on. It
compares tokens: a word that the model spells from smaller ones is another word to it.
"""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

from kdlib import runs
from kdlib.errors import KdlibError

SEED = 17  # of the hash; another makes saved maps useless


@dataclass(frozen=True, eq=False)
class NGrams:
    """The n-grams of texts, as a map from a hash of the first n - 1 tokens to the last ones.

    With P different prefixes and N different n-grams it takes 12 P + 4 N bytes. What follows
    hashes[i] is last[starts[i] : starts[i + 1]].
    """

    n: int  # from 2 on
    hashes: np.ndarray  # uint64 [P], in increasing order
    starts: np.ndarray  # uint32 [P + 1]
    last: np.ndarray  # int32 [N], token ids

    def __len__(self) -> int:
        return len(self.last)

    def completing(self, prefixes: np.ndarray) -> list[np.ndarray]:
        """The tokens that complete an n-gram behind each row of n - 1 token ids, int [B, n - 1].

        A prefix that is none of the texts' is taken for one with a chance of at most P / 2^46
        (two that differ have the same hash with 2^-46 where ids are below 2^18).
        """
        hashes = _hashed(prefixes)
        positions = np.searchsorted(self.hashes, hashes)
        hits = positions < len(self.hashes)
        hits[hits] = self.hashes[positions[hits]] == hashes[hits]
        empty = self.last[:0]
        return [
            self.last[self.starts[i] : self.starts[i + 1]] if hit else empty
            for i, hit in zip(positions, hits, strict=True)
        ]

    def completed(self, text: Sequence[int]) -> int:
        """How many tokens of a text complete an n-gram, and so could not be written."""
        windows = _windows(text, self.n)
        completions = self.completing(windows[:, :-1])
        return sum(token in ends for token, ends in zip(windows[:, -1], completions, strict=True))

    def save(self, path: Path) -> None:
        """Write the map as .npz."""
        with runs.atomic(path) as part, part.open("wb") as file:
            np.savez(file, n=self.n, hashes=self.hashes, starts=self.starts, last=self.last)


def load(path: Path) -> NGrams:
    """The map that `NGrams.save` wrote; KdlibError where it is none. Nothing is unpickled."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as npz:
            return NGrams(int(npz["n"]), *(npz[name] for name in ("hashes", "starts", "last")))
    except Exception as error:  # zipfile, zlib and numpy have error classes of their own
        reason = f"{type(error).__name__}: {error}"
        raise KdlibError(f"{path} is no map of n-grams ({reason}); release again") from None


def ngrams(texts: Iterable[Sequence[int]], n: int) -> NGrams:
    """The n-grams of texts of token ids; a text shorter than n has none."""
    windows = np.concatenate([np.empty((0, n), np.int64), *(_windows(text, n) for text in texts)])
    hashes, last = _hashed(windows[:, :-1]), windows[:, -1].astype(np.int32)
    order = np.lexsort((last, hashes))
    hashes, last = hashes[order], last[order]
    distinct = np.ones(len(last), bool)
    distinct[1:] = (hashes[1:] != hashes[:-1]) | (last[1:] != last[:-1])
    prefix_hashes, starts = np.unique(hashes[distinct], return_index=True)
    starts = np.append(starts, distinct.sum()).astype(np.uint32)
    return NGrams(n, prefix_hashes, starts, last[distinct])


def _windows(text: Sequence[int], n: int) -> np.ndarray:
    """All runs of n tokens of a text, int64 [max(0, T - n + 1), n]."""
    ids = np.asarray(text, np.int64)
    if len(ids) < n:
        return np.empty((0, n), np.int64)
    return np.lib.stride_tricks.sliding_window_view(ids, n)


def _hashed(tokens: np.ndarray) -> np.ndarray:
    """A hash of each row of token ids, uint64: sum of a_i t_i modulo 2^64, each a_i drawn once."""
    return (tokens.astype(np.uint64) * _factors(tokens.shape[1])).sum(axis=1, dtype=np.uint64)


@functools.cache  # drawing them takes longer than all of the lookup
def _factors(length: int) -> np.ndarray:
    return np.random.default_rng(SEED).integers(0, 2**64, length, np.uint64)


class MemFree(LogitsProcessor):
    """Rules out every next token that would complete a known n-gram, for `generate`.

    It reads the whole input, so a prefix that stands in the prompt counts, too. `refused` says,
    for each row of the last batch, at how many tokens the likeliest was ruled out.
    """

    def __init__(self, blocklist: NGrams) -> None:
        self.known, self.refused = blocklist, np.zeros(0, int)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores [B, V] with -inf in these places; input_ids int64 [B, T] end before them."""
        if len(self.refused) != len(input_ids):
            self.refused = np.zeros(len(input_ids), int)
        if input_ids.shape[1] < self.known.n - 1:
            return scores
        completions = self.known.completing(input_ids[:, 1 - self.known.n :].cpu().numpy())
        ruled_out = [(row, ends) for row, ends in enumerate(completions) if len(ends)]
        if ruled_out:
            scores = scores.clone()
        for row, ends in ruled_out:
            self.refused[row] += int(scores[row].argmax()) in ends
            scores[row, torch.as_tensor(ends, dtype=torch.int64, device=scores.device)] = -torch.inf
            if not torch.isfinite(scores[row]).any():  # others than these were ruled out before
                raise KdlibError("the filter rules out the last token that is allowed; ask freely")
        return scores
