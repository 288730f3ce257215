"""Answers that need no model: what a model has to beat to be of use. Taught in notebook 09.

The answerers know the member rows, and what they say is chosen on these alone:

- constant says always the same: the member response that is most like all of them;
- nearest says the response of the member with the most similar prompt (to a member its own);
- echo says what stands in the prompt, one of ECHOED, or the instruction where there is none;
- template puts one of ECHOED between common words, as in "return the ... of the".

"Like" is what answers are judged by (`usefulness.scored`): ROUGE-L, with an encoder the mean of it
and similarity. The template is grown by ROUGE-L alone: some thousand are tried, and each of them
would have to be embedded with every member. Rows have row_id, instruction, context and response.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from rapidfuzz.distance import LCSseq
from rouge_score import tokenizers
from sklearn.feature_extraction.text import TfidfVectorizer

from kdlib.data.duplicates import WORD
from kdlib.measure import similarity, usefulness

MOST = 500  # member rows on which constant and template are chosen
COMMON = 50  # words that a template may be made of
GAIN = 0.005  # of ROUGE-L, for each word more: less is these rows' own
SLOT = "{}"  # where a template has what it echoes
# the last part of the name that is asked about, the last two; the first line of what else the
# context holds, all of that
ECHOED = ("name", "names", "line", "context")
_NAME = re.compile(r"([A-Za-z_][\w.]*)(\(.*\))?", re.DOTALL)  # and arguments: a context of pydocs
_STEMS, _SURFACE = (tokenizers.DefaultTokenizer(use_stemmer=stem) for stem in (True, False))

Tokens = list[str]


def scored(
    members: pd.DataFrame, splits: Mapping[str, pd.DataFrame], encoder: str | None = None
) -> pd.DataFrame:
    """What they say to the rows of each split, `usefulness.scored`: to be read like a model's.

    Columns: answerer, row_id, split, decoding ("greedy": there is one answer), text, scores.
    """
    frame = pd.concat(
        [answers(members, rows, encoder).assign(split=split) for split, rows in splits.items()],
        ignore_index=True,
    )
    responses = pd.concat(splits.values()).set_index("row_id")["response"].to_dict()
    order = ["answerer", "row_id", "split", "decoding", "text"]
    return usefulness.scored(frame.assign(decoding="greedy")[order], responses, encoder)


def answers(members: pd.DataFrame, rows: pd.DataFrame, encoder: str | None = None) -> pd.DataFrame:
    """What each answerer says to `rows`: answerer, row_id, text."""
    sentence = constant(members["response"][:MOST], encoder)
    pattern, field = template(members[:MOST])
    texts = {
        "constant": [sentence] * len(rows),
        "nearest": nearest(members, rows),
        "echo": echoes(rows, best_echo(members[:MOST], encoder)),
        "template": [pattern.format(text) for text in echoes(rows, field)],
    }
    frames = [pd.DataFrame({"row_id": rows["row_id"], "text": column}) for column in texts.values()]
    return pd.concat(frames, keys=texts, names=["answerer"]).reset_index("answerer")


def constant(responses: Sequence[str], encoder: str | None = None) -> str:
    """The response that is on average most like all; of equal ones the first."""
    tokens = [_STEMS.tokenize(text) for text in responses]
    means = np.array([_rouge_l(tokens, [candidate] * len(tokens)) for candidate in tokens])
    if encoder:  # the mean cosine to all is that to their mean
        vectors = similarity.embed(encoder, list(responses))
        means = (means + vectors @ vectors.mean(axis=0)) / 2
    return list(responses)[int(np.argmax(means))]


def nearest(members: pd.DataFrame, rows: pd.DataFrame) -> list[str]:
    """The response of the member whose prompt shares most runs of 3 to 5 characters (tf-idf)."""
    # by characters, not words: names share parts of words, and these answers are the better ones
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5))
    index = vectorizer.fit_transform(members["instruction"] + " " + members["context"])
    query = vectorizer.transform(rows["instruction"] + " " + rows["context"])
    return members["response"].iloc[np.ravel((query @ index.T).argmax(axis=1))].tolist()


def echoes(rows: pd.DataFrame, field: str) -> list[str]:
    """`echo` of each row."""
    prompts = zip(rows["instruction"], rows["context"], strict=True)
    return [echo(instruction, context, field) for instruction, context in prompts]


def echo(instruction: str, context: str, field: str = "names") -> str:
    """The words of one of ECHOED, or else the instruction.

    Of a context whose first line is `networkx.Graph.add_nodesFrom(self, nodes)` the names are
    "graph add nodes from", and further lines what else it holds.
    """
    first, _, rest = context.partition("\n")
    match = _NAME.fullmatch(first)
    parts = match[1].split(".")[-1 if field == "name" else -2 :] if match else []
    names = " ".join(word.lower() for word in WORD.findall(" ".join(parts)))
    body = rest if match else context
    text = {"line": body.partition("\n")[0], "context": body}.get(field, names)
    return text or instruction


def best_echo(members: pd.DataFrame, encoder: str | None = None) -> str:
    """Which of ECHOED is most like the members' responses."""
    responses = members["response"].tolist()
    references = [_STEMS.tokenize(text) for text in responses]

    def likeness(field: str) -> float:
        texts = echoes(members, field)
        words = _rouge_l(references, [_STEMS.tokenize(text) for text in texts])
        if not encoder:
            return words
        return (words + float(similarity.cosine(encoder, texts, responses).mean())) / 2

    return max(ECHOED, key=likeness)


def template(members: pd.DataFrame) -> tuple[str, str]:
    """A template such as "return the {} of the", and which of ECHOED to put there.

    Grown from the slot alone, always by the word and place that raise the mean ROUGE-L of the
    members most.
    """
    candidates: list[tuple[float, str, str]] = []
    references = [_STEMS.tokenize(text) for text in members["response"]]
    counts = Counter(word for text in members["response"] for word in _SURFACE.tokenize(text))
    common = [word for word, _ in counts.most_common(COMMON)]
    for field in ECHOED:
        slots = [_STEMS.tokenize(text) for text in echoes(members, field)]
        pattern, score, variants = SLOT, -np.inf, [SLOT]
        while variants:
            scores = [_rouge_l(references, _filled(variant, slots)) for variant in variants]
            if max(scores) < score + GAIN:
                break
            score, pattern = max(scores), variants[int(np.argmax(scores))]
            words = pattern.split()
            places = range(len(words) + 1)
            variants = [" ".join([*words[:i], word, *words[i:]]) for i in places for word in common]
        candidates.append((score, pattern, field))
    return max(candidates, key=lambda candidate: candidate[0])[1:]


def _filled(pattern: str, slots: list[Tokens]) -> list[Tokens]:
    """The stemmed tokens of a template with each text."""
    prefix, suffix = (_STEMS.tokenize(side) for side in pattern.split(SLOT))
    return [[*prefix, *text, *suffix] for text in slots]


def _rouge_l(references: list[Tokens], candidates: list[Tokens]) -> float:
    """Mean ROUGE-L (F1, 0 to 1): twice the longest common subsequence over both lengths."""
    pairs = zip(references, candidates, strict=True)
    return float(np.mean([2 * LCSseq.similarity(a, b) / (len(a) + len(b) or 1) for a, b in pairs]))
