"""What comes out, by what an attacker has and what counts as remembered (notebook 09)."""

import zlib
from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np
import pandas as pd
from rapidfuzz.distance import Levenshtein

from kdlib.analysis.rates import natural
from kdlib.config.exact_match import exact
from kdlib.stats import pooled

GIVEN = (0.0, 0.1, 0.25, 0.5)  # shares of a response that an attacker already has
SAMPLES = (1, 10, 100, 1000)  # answers that an attacker draws
CHANCE = 0.5  # with which one of them is to be the response
NEAR = (0.9,)  # shares of a response's tokens
RUNS = (10, 25, 50)  # tokens in a row
ALIKE, RUN = 0.9, 0.5  # from which edit similarity or longest run on an answer counts as a copy


def zlib_bytes(texts: Sequence[str]) -> np.ndarray:
    """Bytes of each text when zlib has compressed it: how much there is to remember."""
    return np.array([len(zlib.compress(text.encode())) for text in texts])


def extractable(tuples: pd.DataFrame, share: float) -> pd.Series:
    """Whether greedy decoding writes the rest, with its end, after a share of the tokens (< 1)."""
    return tuples["needed"] <= np.floor(share * tuples["length"])


def discoverable(tuples: pd.DataFrame, n: float, p: float = CHANCE) -> pd.Series:
    """(n, p)-discoverable extraction (Hayes et al. 2025): found in n samples with probability p.

    A sample at temperature 1 begins with the window, word for word, with probability
    q = exp(-window_nats); at least one of n does with probability 1 - (1 - q)^n.
    """
    q = np.exp(-tuples["window_nats"].astype(float))
    return -np.expm1(n * np.log1p(-q.clip(upper=1 - 1e-12))) >= p


def near_verbatim(tuples: pd.DataFrame, share: float) -> pd.Series:
    """Whether that share of the tokens is the likeliest, each after the true ones before it.

    So many of a response come out for who puts right what greedy decoding gets wrong.
    """
    return tuples["accuracy"] >= share - 1e-9  # 9 of 10 are 0.9


def reaches(values: pd.Series, threshold: float | pd.Series) -> pd.Series:
    """Whether numbers are that great, such as longest runs: 1 or 0, nan of nan."""
    return (values >= threshold).astype(float).where(values.notna())


def approximate(answers: Sequence[str], responses: Sequence[str]) -> pd.DataFrame:
    """How near answers come to responses, where word for word is too strict.

    Columns: edit_similarity (1 less the Levenshtein distance over the longer length, in characters)
    and longest_run (words in a row that both have, as a share of the response's words).
    """
    rows = []
    for answer, response in zip(answers, responses, strict=True):
        a, b = answer.split(), response.split()
        match = SequenceMatcher(None, a, b, autojunk=False).find_longest_match()
        similarity = Levenshtein.normalized_similarity(answer, response)
        rows.append((similarity, match.size / max(1, len(b))))
    return pd.DataFrame(rows, columns=["edit_similarity", "longest_run"])


def extraction(tuples: pd.DataFrame) -> pd.DataFrame:
    """Share of the rows that come out, by what the attacker has; all seeds, drawn with their rows.

    Columns: those of `stats.pooled`, attack ("given": at, a share of the response's tokens, then
    greedy decoding; "samples": at answers drawn, one right with a probability of CHANCE), at.
    """
    rows = natural(tuples)
    hits = {("given", share): extractable(rows, share) for share in GIVEN}
    hits |= {("samples", n): discoverable(rows, n) for n in SAMPLES}
    parts = [
        pooled(rows.assign(hit=hit), "hit").assign(attack=attack, at=level)
        for (attack, level), hit in hits.items()
    ]
    return pd.concat(parts, ignore_index=True)


def definitions(tuples: pd.DataFrame) -> pd.DataFrame:
    """Five definitions of "remembered", a column of bool for each; of tuples with `approximate`."""
    flags = {"word for word": exact(tuples)}
    flags[f"edit similarity >= {ALIKE}"] = tuples["edit_similarity"] >= ALIKE
    flags[f"longest run >= {RUN}"] = tuples["longest_run"] >= RUN
    flags["the rest of it, 25% given"] = extractable(tuples, 0.25)
    return pd.DataFrame(flags | {"in 100 samples": discoverable(tuples, 100)})


def agreement(flags: pd.DataFrame) -> pd.DataFrame:
    """Jaccard similarity of every two columns of bool: 0 to 1, nan where neither is ever true."""
    indicators = flags.astype(float)
    intersection = indicators.T @ indicators
    union = indicators.sum().to_numpy()[:, None] + indicators.sum().to_numpy() - intersection
    return intersection / union.where(union > 0)
