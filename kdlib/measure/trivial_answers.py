"""Answers that need no model: what a model has to beat to be of use. Taught in notebook 09."""

import re
from collections.abc import Sequence

import pandas as pd
from rouge_score import rouge_scorer
from sklearn.feature_extraction.text import TfidfVectorizer

CANDIDATES, REFERENCES = 50, 200  # members' responses compared for the constant answer
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


def answers(members: pd.DataFrame, asked: pd.DataFrame) -> pd.DataFrame:
    """What three answerers say to the rows of `asked`, knowing the member rows alone.

    constant says always the same member's response, nearest the response of the member with the
    most similar prompt, echo the words of the name that is asked about. Rows need row_id,
    instruction, context, response. Columns: answerer, row_id, text.
    """
    said = {
        "constant": [constant(members["response"].tolist())] * len(asked),
        "nearest": nearest(members, asked),
        "echo": [
            echo(text)
            for text in asked["context"].where(asked["context"] != "", asked["instruction"])
        ],
    }
    parts = [pd.DataFrame({"row_id": asked["row_id"], "text": texts}) for texts in said.values()]
    return pd.concat(parts, keys=said, names=["answerer"]).reset_index("answerer")


def constant(responses: Sequence[str]) -> str:
    """The response that is most like all (mean ROUGE-L); compared are evenly spaced ones."""
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    different = sorted(set(responses), key=lambda text: (len(text), text))
    candidates = different[:: max(1, len(different) // CANDIDATES)]
    references = responses[:: max(1, len(responses) // REFERENCES)]

    def likeness(text: str) -> float:
        return sum(scorer.score(other, text)["rougeL"].fmeasure for other in references)

    return max(candidates, key=likeness)


def nearest(members: pd.DataFrame, asked: pd.DataFrame) -> list[str]:
    """The response of the member whose prompt shares most of its characters in a row (tf-idf)."""
    weighed = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5))
    known = weighed.fit_transform(members["instruction"] + " " + members["context"])
    query = weighed.transform(asked["instruction"] + " " + asked["context"])
    return members["response"].iloc[(query @ known.T).argmax(axis=1).A1].tolist()


def echo(name: str) -> str:
    """The words of a dotted name's last part: `pkg.mod.make_max_clique(G)` is "make max clique"."""
    last = name.split("(")[0].rstrip(".").rpartition(".")[2]
    return " ".join(_WORD.findall(last)).lower() or name
