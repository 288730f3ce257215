"""What a row is like, before any model reads it: attributes that may make it stay (notebook 12)."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

import numpy as np
import pandas as pd

from kdlib.analysis.extraction import zlib_bytes
from kdlib.data.duplicates import alike

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


def attributes(
    rows: pd.DataFrame, tokens: Mapping[str, Sequence[int]], general: np.ndarray
) -> pd.DataFrame:
    """The attributes of the natural rows of one seed; none of them looks at a model.

    Rows and tokens (the response's ids, at least one) are by row id; general is `surprisal`, [V].
    Columns: copies (rows of the same split and response, itself too), near_copies, length (tokens
    with the end), zlib (bytes compressed), compressed (these per byte of the response), rarity
    (mean surprisal), context_overlap (`overlap`), sort (the category's last word), package (first).
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
    """Nats of each token id in general text, [vocabulary]: -log((count + 1) / (N + V)), Laplace."""
    ids = np.fromiter(chain.from_iterable(texts), dtype=int)
    counts = np.bincount(ids, minlength=vocabulary) + 1.0
    return -np.log(counts / counts.sum())


def near_copies(texts: Sequence[str], groups: Sequence[str], counted: Sequence[bool]) -> np.ndarray:
    """How many counted rows (members) hold nearly, and not exactly, the text of each row: [n].

    They are `alike` by SIMILAR. Rows of one group are exact copies.
    """
    names, counts, found = list(groups), np.asarray(counted), []
    for name, others in zip(names, alike(list(texts), SIMILAR), strict=True):
        found.append(sum(counts[other] and names[other] != name for other in others))
    return np.array(found, dtype=int)


def overlap(response: str, prompt: str) -> float:
    """Share of the response's words that stand in its prompt: what is copied is no memory."""
    words = [word.lower() for word in _WORD.findall(response)]
    there = {word.lower() for word in _WORD.findall(prompt)}
    return sum(word in there for word in words) / max(1, len(words))
