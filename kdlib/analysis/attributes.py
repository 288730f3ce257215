"""What a row is like, before any model reads it: attributes that may make it stay (notebook 12)."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

import numpy as np
import pandas as pd

from kdlib.analysis.extraction import zlib_bytes
from kdlib.data.duplicates import WORD, alike

SIMILAR = 0.5  # Jaccard similarity from which two responses are near copies
ATTRIBUTES = {  # name: what it is, in words for tables and figures
    "copies": "copies (log2 of n)",
    "near_copies": "near copies (log2 of n + 1)",
    "length": "length (tokens)",
    "compressed": "compressed to (bytes per byte)",
    "rarity": "rarity (nats per token)",
    "context_overlap": "words that stand in the prompt (share)",
}


def attributes(
    rows: pd.DataFrame, tokens: Mapping[str, Sequence[int]], surprisals: np.ndarray
) -> pd.DataFrame:
    """The attributes of the natural rows of one seed; none of them looks at a model.

    Rows and tokens (the response's ids, one or more) are by row id, surprisals [V] of `surprisal`.
    Columns: copies (rows of the same split and response, itself too), near_copies, length (tokens
    with the end), zlib (bytes compressed), compressed (these per byte of the response), rarity
    (mean surprisal), context_overlap (`overlap`), sort (the category's last word), package (first).
    """
    natural = rows[rows["kind"] == "row"]
    response, prompt = natural["response"], natural["instruction"] + " " + natural["context"]
    members = natural["split"].isin(["member", "left_out"])
    ids, compressed = [np.asarray(tokens[row]) for row in natural.index], zlib_bytes(response)
    words = natural["category"].where(natural["category"].str.strip() != "", "none").str.split()
    columns = {
        "copies": natural["group_size"],
        "near_copies": near_copies(response, natural["group"], members),
        "length": [len(sequence) for sequence in ids],
        "zlib": compressed,
        "compressed": compressed / [len(text.encode()) for text in response],
        "rarity": [surprisals[sequence].mean() for sequence in ids],
        "context_overlap": [overlap(*pair) for pair in zip(response, prompt, strict=True)],
        "sort": words.str[-1],
        "package": words.str[0],
    }
    return pd.DataFrame(columns, index=natural.index)


def surprisal(texts: Iterable[Sequence[int]], vocabulary: int) -> np.ndarray:
    """Nats of each token id in general text, [vocabulary]: -log((count + 1) / (N + V)), Laplace."""
    ids = np.fromiter(chain.from_iterable(texts), dtype=int)
    counts = np.bincount(ids, minlength=vocabulary) + 1.0
    return -np.log(counts / counts.sum())


def near_copies(texts: Sequence[str], groups: Sequence[str], counted: Sequence[bool]) -> np.ndarray:
    """How many counted rows (members) hold nearly, and not exactly, the text of each row: [n].

    They are `alike` by SIMILAR. Rows of one group are exact copies.
    """
    labels, mask, copies = list(groups), np.asarray(counted), []
    for label, neighbours in zip(labels, alike(list(texts), SIMILAR), strict=True):
        copies.append(sum(mask[i] and labels[i] != label for i in neighbours))
    return np.array(copies, dtype=int)


def overlap(response: str, prompt: str) -> float:
    """Share of the response's words that stand in its prompt: what is copied is no memory."""
    words = [word.lower() for word in WORD.findall(response)]
    prompt_words = {word.lower() for word in WORD.findall(prompt)}
    return sum(word in prompt_words for word in words) / max(1, len(words))
