"""Texts that say the same, or nearly: exact and near copies."""

import re
from collections.abc import Sequence

from datasketch import MinHash, MinHashLSH

SHINGLE = 5  # characters in a row: responses of a dozen words have too few runs of words
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")  # get_maxClique: get, max, Clique


def shingles(text: str) -> set[str]:
    """All runs of SHINGLE characters of a text, in small letters; the text itself if shorter."""
    lowered = text.lower()
    return {lowered[i : i + SHINGLE] for i in range(max(1, len(lowered) - SHINGLE + 1))}


def jaccard(a: set[str], b: set[str]) -> float:
    """How much two sets have in common, 0 to 1: |A and B| / |A or B|."""
    return len(a & b) / len(a | b)


def alike(texts: Sequence[str], similarity: float) -> list[list[int]]:
    """Of each text the indices of the others that share at least so much of its `shingles`.

    The share is `jaccard`, above 0 and at most 1 (all the same). Candidates are found by MinHash
    (Broder 1997; Lee et al. 2022), seeded, which misses few, and each is compared exactly.
    """
    sets = list(map(shingles, texts))
    encoded = [[shingle.encode() for shingle in part] for part in sets]
    hashes = MinHash.bulk(encoded, num_perm=128, seed=1)
    threshold = min(similarity, 0.9)  # it knows no threshold near 1
    index = MinHashLSH(threshold, 128, weights=(0.01, 0.99))  # of false candidates, of missed ones
    for i, signature in enumerate(hashes):
        index.insert(i, signature)
    return [
        [
            j
            for j in sorted(index.query(signature))
            if j != i and jaccard(sets[i], sets[j]) >= similarity
        ]
        for i, signature in enumerate(hashes)
    ]


def firsts(texts: Sequence[str], similarity: float = 1.0) -> list[bool]:
    """Of each text, whether it is kept: none that was kept before it is `alike`."""
    keep: list[bool] = []
    for i, neighbours in enumerate(alike(texts, similarity)):
        keep.append(not any(keep[j] for j in neighbours if j < i))
    return keep
