"""What a row is like, before any model reads it: attributes that may make it stay (notebook 12)."""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from datasketch import MinHash, MinHashLSH

from kdlib.analysis.extraction import zlib_bytes

SHINGLE = 5  # characters in a row: responses of a dozen words have too few runs of words
SIMILAR = 0.5  # Jaccard similarity from which two responses are near copies
ATTRIBUTES = {  # name: what it is, in words for tables and figures
    "copies": "copies (log2 of n)",
    "near_copies": "near copies (log2 of n + 1)",
    "length": "length (tokens)",
    "compressed": "compressed to (bytes per byte)",
    "rarity": "rarity (nats per token)",
    "context_overlap": "words that stand in the prompt (share)",
}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")  # get_maxClique: get, max, Clique
_PERMUTATIONS = 128  # of a MinHash
_RECALL = (0.01, 0.99)  # weights of false candidates, which cost time, and of missed ones


def attributes(
    rows: pd.DataFrame, tokens: Mapping[str, Sequence[int]], general: np.ndarray
) -> pd.DataFrame:
    """The attributes of the natural rows of one seed; none of them looks at a model.

    Args:
        rows: of one seed, indexed by row id.
        tokens: the response of each row id as token ids, of at least one.
        general: [V] surprisal of each token id, see `surprisal`.

    Returns:
        by row_id: copies (rows of the same split with the same response, itself included),
        near_copies (see there), length (tokens, with the end token), zlib (bytes of the compressed
        response), compressed (these per byte of the response), rarity (mean surprisal, nats per
        token), context_overlap (see `overlap`), sort (last word of the category), package (first).
    """
    chosen = rows[rows["kind"] == "row"]
    response, prompt = chosen["response"], chosen["instruction"] + " " + chosen["context"]
    members = chosen["split"].isin(["member", "left_out"])
    ids, compressed = [np.asarray(tokens[row]) for row in chosen.index], zlib_bytes(response)
    words = chosen["category"].where(chosen["category"].str.strip() != "", "none").str.split()
    columns = {
        "copies": chosen["group_size"],
        "near_copies": near_copies(response, chosen["group"], members),
        "length": [len(one) for one in ids],
        "zlib": compressed,
        "compressed": compressed / [len(text.encode()) for text in response],
        "rarity": [general[one].mean() for one in ids],
        "context_overlap": [overlap(*pair) for pair in zip(response, prompt, strict=True)],
        "sort": words.str[-1],
        "package": words.str[0],
    }
    return pd.DataFrame(columns, index=chosen.index)


def surprisal(texts: Iterable[Sequence[int]], vocabulary: int) -> np.ndarray:
    """How surprising each token id is by its frequency in general text: nats, [vocabulary].

    Unigrams with Laplace's add-one: -log((count + 1) / (N + V)).
    """
    ids = np.concatenate([np.zeros(0, dtype=int), *(np.asarray(one, dtype=int) for one in texts)])
    counts = np.bincount(ids, minlength=vocabulary) + 1.0
    return -np.log(counts / counts.sum())


def shingles(text: str) -> frozenset[str]:
    """Every SHINGLE characters in a row, in small letters; the whole text where it is shorter."""
    small = text.lower()
    return frozenset(small[i : i + SHINGLE] for i in range(max(1, len(small) - SHINGLE + 1)))


def near_copies(
    responses: Sequence[str], groups: Sequence[str], counted: Sequence[bool]
) -> np.ndarray:
    """How many counted rows hold nearly, and not exactly, the response of each row: [n].

    Near copies share at least SIMILAR of their shingles (Jaccard similarity, Broder 1997). MinHash
    finds the candidates (seeded, tuned to miss few), and each is then compared exactly.

    Args:
        responses: [n] texts.
        groups: [n]; rows of one group are exact copies, which do not count.
        counted: [n] whether a row counts as a copy of others: the member rows.
    """
    sets = [shingles(text) for text in responses]
    encoded = [[one.encode() for one in part] for part in sets]
    hashes = MinHash.bulk(encoded, num_perm=_PERMUTATIONS, seed=1) if sets else []
    index = MinHashLSH(SIMILAR, _PERMUTATIONS, weights=_RECALL)
    for row, (one, counts) in enumerate(zip(hashes, counted, strict=True)):
        if counts:
            index.insert(row, one)
    names, found = list(groups), np.zeros(len(sets), dtype=int)
    for row, one in enumerate(hashes):
        others = [other for other in index.query(one) if names[other] != names[row]]
        found[row] = sum(
            len(sets[row] & sets[other]) >= SIMILAR * len(sets[row] | sets[other])
            for other in others
        )
    return found


def overlap(response: str, prompt: str) -> float:
    """Share of the response's words that stand in its prompt: what is copied is no memory.

    Words are runs of letters or digits, split where capitals begin: `make_max_clique` holds three.
    """
    words = [word.lower() for word in _WORD.findall(response)]
    there = {word.lower() for word in _WORD.findall(prompt)}
    return sum(word in there for word in words) / max(1, len(words))
