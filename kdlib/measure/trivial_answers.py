"""Answers that need no model: what a model has to beat to be of use. Taught in notebook 09.

The answerers know the member rows, and what they say is chosen on these alone:

- constant says always the same: the member response that is most like all of them;
- nearest says the response of the member with the most similar prompt (to a member its own);
- echo says the words of the name that is asked about, or the instruction where there is none;
- template puts that name between common words, as in "return the ... of the".

"Like" is ROUGE-L. Rows have row_id, instruction, context and response.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from rapidfuzz.distance import LCSseq
from rouge_score import tokenizers
from sklearn.feature_extraction.text import TfidfVectorizer

from kdlib.measure import usefulness

MOST = 500  # member rows on which constant and template are chosen
COMMON = 50  # words that a template may be made of
GAIN = 0.005  # of ROUGE-L, for each word more: less is these rows' own
SLOT = "{}"  # where a template has the name
_NAME = re.compile(r"([A-Za-z_][\w.]*)(\(.*\))?", re.DOTALL)  # and arguments: a context of pydocs
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_STEMS, _SURFACE = (tokenizers.DefaultTokenizer(use_stemmer=stem) for stem in (True, False))

Tokens = list[str]


def scored(
    members: pd.DataFrame, asked: Mapping[str, pd.DataFrame], encoder: str | None = None
) -> pd.DataFrame:
    """What they say to the rows asked, by split, `usefulness.scored`: to be read like a model's.

    Columns: answerer, row_id, split, decoding ("greedy": there is one answer), text, scores.
    """
    said = pd.concat(
        [answers(members, rows).assign(split=split) for split, rows in asked.items()],
        ignore_index=True,
    )
    responses = pd.concat(asked.values()).set_index("row_id")["response"].to_dict()
    order = ["answerer", "row_id", "split", "decoding", "text"]
    return usefulness.scored(said.assign(decoding="greedy")[order], responses, encoder)


def answers(members: pd.DataFrame, asked: pd.DataFrame) -> pd.DataFrame:
    """What each answerer says to the rows of `asked`: answerer, row_id, text."""
    sentence = constant(members["response"][:MOST])
    form, parts = template(members[:MOST])
    said = {
        "constant": [sentence] * len(asked),
        "nearest": nearest(members, asked),
        "echo": names(asked),
        "template": [form.format(name) for name in names(asked, parts)],
    }
    texts = [pd.DataFrame({"row_id": asked["row_id"], "text": one}) for one in said.values()]
    return pd.concat(texts, keys=said, names=["answerer"]).reset_index("answerer")


def constant(responses: Sequence[str]) -> str:
    """The response with the highest mean ROUGE-L against all; of equal ones the first."""
    tokens = [_STEMS.tokenize(text) for text in responses]
    means = [_rouge_l(tokens, [one] * len(tokens)) for one in tokens]
    return list(responses)[int(np.argmax(means))]


def nearest(members: pd.DataFrame, asked: pd.DataFrame) -> list[str]:
    """The response of the member whose prompt shares most runs of 3 to 5 characters (tf-idf)."""
    # by characters, not words: names share parts of words, and these answers are the better ones
    weighed = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5))
    known = weighed.fit_transform(members["instruction"] + " " + members["context"])
    query = weighed.transform(asked["instruction"] + " " + asked["context"])
    return members["response"].iloc[np.ravel((query @ known.T).argmax(axis=1))].tolist()


def names(rows: pd.DataFrame, parts: int = 2) -> list[str]:
    """`echo` of each row."""
    asked = zip(rows["instruction"], rows["context"], strict=True)
    return [echo(instruction, context, parts) for instruction, context in asked]


def echo(instruction: str, context: str, parts: int = 2) -> str:
    """The words of the context's dotted name, of its last parts, or else the instruction.

    Of `networkx.Graph.add_nodesFrom(self, nodes)` these are "graph add nodes from".
    """
    named = _NAME.fullmatch(context)
    last = " ".join(named[1].split(".")[-parts:]) if named else ""
    return " ".join(_WORD.findall(last)).lower() or instruction


def template(members: pd.DataFrame) -> tuple[str, int]:
    """A template such as "return the {} of the", and how many `parts` of the name to put there.

    Grown from the name alone, always by the word and place that raise the mean ROUGE-L of the
    members most.
    """
    found: list[tuple[float, str, int]] = []
    wanted = [_STEMS.tokenize(text) for text in members["response"]]
    counts = Counter(word for text in members["response"] for word in _SURFACE.tokenize(text))
    common = [word for word, _ in counts.most_common(COMMON)]
    for parts in (1, 2):
        slots = [_STEMS.tokenize(name) for name in names(members, parts)]
        form, score, grown = SLOT, -np.inf, [SLOT]
        while grown:
            scores = [_rouge_l(wanted, _filled(one, slots)) for one in grown]
            if max(scores) < score + GAIN:
                break
            score, form = max(scores), grown[int(np.argmax(scores))]
            words = form.split()
            places = range(len(words) + 1)
            grown = [" ".join([*words[:i], word, *words[i:]]) for i in places for word in common]
        found.append((score, form, parts))
    _, form, parts = max(found)
    return form, parts


def _filled(form: str, slots: list[Tokens]) -> list[Tokens]:
    """The stemmed tokens of a template with each name."""
    before, after = (_STEMS.tokenize(side) for side in form.split(SLOT))
    return [[*before, *name, *after] for name in slots]


def _rouge_l(wanted: list[Tokens], said: list[Tokens]) -> float:
    """Mean ROUGE-L (F1, 0 to 1): twice the longest common subsequence over both lengths."""
    pairs = zip(wanted, said, strict=True)
    return float(np.mean([2 * LCSseq.similarity(a, b) / (len(a) + len(b) or 1) for a, b in pairs]))
