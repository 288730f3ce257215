"""Numbers of each predicted token to scores of each tuple: verbatim, extraction, membership.

Pure functions without torch. Taught in notebooks 09_memorization_meter and
13_membership_and_canaries.
"""

import difflib
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from rapidfuzz.distance import Levenshtein

from kdlib.config import WINDOW
from kdlib.intervals import pooled
from kdlib.tables import exact, natural

LOWEST = 0.2  # the k of Min-K%: the share of least likely tokens that is averaged
COLUMNS = (
    *("length", "prefix", "needed", "nats_per_token", "window_nats", "entropy", "margin"),
    *("min_k", "min_k_plus"),
)
GIVEN = (0.0, 0.1, 0.25, 0.5)  # shares of a response that an attacker already has
SAMPLES = (1, 10, 100, 1000)  # answers that an attacker draws
CHANCE = 0.5  # with which one of them is to be the response
ALIKE, RUN = 0.9, 0.5  # from which edit similarity or longest run on an answer counts as a copy


def of_tuples(tokens: Mapping[str, np.ndarray], lengths: np.ndarray) -> pd.DataFrame:
    """One row of scores per tuple, from what its response tokens were given.

    Args:
        tokens: flat arrays [N], tuple after tuple, of token_nats, token_lead, token_entropy and
            token_z, see `measure.token_scores`.
        lengths: [n] of at least 1, tokens of each response; they sum to N.

    Returns:
        n rows: length; prefix (0 to length: tokens that greedy decoding gets right before its first
        error); needed (0 to length: how many first tokens must be given so that greedy decoding
        writes the rest); nats_per_token; window_nats (summed over the first WINDOW tokens);
        entropy (mean, nats); margin (least absolute lead up to the first error, that position
        included: near 0 is a near-tie); min_k (Shi et al. 2024: mean log-probability of the LOWEST
        share of tokens); min_k_plus (Zhang et al. 2024: the same mean of z).
    """
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    row = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(row)) - starts[row]  # within the response
    wrong = tokens["token_lead"] <= 0
    first_wrong = np.minimum.reduceat(np.where(wrong, place, lengths[row]), starts)
    reached = place <= first_wrong[row]
    summed = np.add.reduceat(tokens["token_nats"], starts)
    in_window = np.where(place < WINDOW, tokens["token_nats"], 0.0)
    return pd.DataFrame(
        {
            "length": lengths,
            "prefix": first_wrong,
            "needed": np.maximum.reduceat(np.where(wrong, place + 1, 0), starts),
            "nats_per_token": summed / lengths,
            "window_nats": np.add.reduceat(in_window, starts),
            "entropy": np.add.reduceat(tokens["token_entropy"], starts) / lengths,
            "margin": np.minimum.reduceat(
                np.where(reached, np.abs(tokens["token_lead"]), np.inf), starts
            ),
            "min_k": _lowest(-tokens["token_nats"], row, starts, lengths),
            "min_k_plus": _lowest(tokens["token_z"], row, starts, lengths),
        }
    )


def _lowest(
    values: np.ndarray, row: np.ndarray, starts: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """Mean of the LOWEST share of each tuple's values, of at least one of them."""
    order = np.lexsort((values, row))
    counted = np.maximum(1, (lengths * LOWEST).astype(int))
    kept = np.arange(len(row)) - starts[row] < counted[row]
    return np.add.reduceat(np.where(kept, values[order], 0.0), starts) / counted


def zlib_bytes(texts: Sequence[str]) -> np.ndarray:
    """Bytes of each text when zlib has compressed it: how much there is to remember."""
    return np.array([len(zlib.compress(text.encode())) for text in texts])


def membership(
    tuples: pd.DataFrame,
    size: np.ndarray,
    base: pd.Series | None = None,
    unseen: pd.Series | None = None,
) -> pd.DataFrame:
    """Membership scores: the higher, the more the row looks like one that was trained on.

    Args:
        tuples: one row per tuple, as `of_tuples` gives.
        size: [n] bytes of the compressed responses, see `zlib_bytes`.
        base: nats per token of the same rows under the model before fine-tuning.
        unseen: the same under a model of the same size that was fine-tuned without the row.

    Returns:
        loss (less the loss, Yeom et al. 2018), zlib (Carlini et al. 2021: less the loss for each
        compressed byte), min_k, min_k_plus, and, where given, reference_base and reference_student
        (loss of the reference less the loss).
    """
    found = pd.DataFrame(
        {
            "loss": -tuples["nats_per_token"],
            "zlib": -tuples["nats_per_token"] / size,
            "min_k": tuples["min_k"],
            "min_k_plus": tuples["min_k_plus"],
        }
    )
    for name, reference in (("reference_base", base), ("reference_student", unseen)):
        if reference is not None:
            found[name] = reference - tuples["nats_per_token"]
    return found


def extractable(tuples: pd.DataFrame, given: float) -> pd.Series:
    """Whether greedy decoding writes the rest, its end included, once that share is given.

    Args:
        tuples: with columns needed and length.
        given: share of the response's tokens, 0 to below 1, rounded down.
    """
    return tuples["needed"] <= np.floor(given * tuples["length"])


def discoverable(tuples: pd.DataFrame, n: float, p: float) -> pd.Series:
    """(n, p)-discoverable extraction (Hayes et al. 2025): found in n samples with probability p.

    A sample at temperature 1 begins with the window, word for word, with probability
    q = exp(-window_nats); at least one of n does with probability 1 - (1 - q)^n.
    """
    q = np.exp(-tuples["window_nats"].astype(float))
    return -np.expm1(n * np.log1p(-q.clip(upper=1 - 1e-12))) >= p


def approximate(answers: Sequence[str], responses: Sequence[str]) -> pd.DataFrame:
    """How near answers come to the responses, where word for word is too strict.

    Returns:
        edit_similarity (1 less the Levenshtein distance over the longer length, in characters, 0 to
        1) and longest_run (words in a row that both have, as a share of the response's words).
    """
    pairs = list(zip(answers, responses, strict=True))
    runs = []
    for answer, response in pairs:
        a, b = answer.split(), response.split()
        match = difflib.SequenceMatcher(None, a, b, autojunk=False).find_longest_match()
        runs.append(match.size / max(1, len(b)))
    similar = [Levenshtein.normalized_similarity(a, b) for a, b in pairs]
    return pd.DataFrame({"edit_similarity": similar, "longest_run": runs})


def extraction(tuples: pd.DataFrame, draws: int = 500) -> pd.DataFrame:
    """Share of the rows that come out, by what the attacker has; all seeds together.

    Returns:
        variant, student, split, attack ("given": that share of the response's tokens, then greedy
        decoding; "samples": so many answers drawn, one of them right with a probability of at least
        CHANCE), at (the share, or the number), value, sd, lo, hi (bootstrap over groups), n, seeds.
    """
    rows = natural(tuples)
    found = []
    for attack, steps in (("given", GIVEN), ("samples", SAMPLES)):
        for at in steps:
            hit = extractable(rows, at) if attack == "given" else discoverable(rows, at, CHANCE)
            rates = pooled(rows.assign(hit=hit), "hit", draws)
            found.append(rates.assign(attack=attack, at=at))
    return pd.concat(found, ignore_index=True)


def definitions(answered: pd.DataFrame) -> pd.DataFrame:
    """Five definitions of "remembered", row by row.

    Args:
        answered: tuples with edit_similarity and longest_run of their greedy answer.

    Returns:
        one column of bool for each definition.
    """
    return pd.DataFrame(
        {
            "word for word": exact(answered),
            f"edit similarity >= {ALIKE}": answered["edit_similarity"] >= ALIKE,
            f"longest run >= {RUN}": answered["longest_run"] >= RUN,
            "the rest of it, 25% given": extractable(answered, 0.25),
            "in 100 samples": discoverable(answered, 100, CHANCE),
        }
    )


def agreement(flags: pd.DataFrame) -> pd.DataFrame:
    """Of the rows on which one of two definitions says yes: the share on which both do (Jaccard).

    Returns:
        a square table, 0 to 1; nan where neither ever says yes.
    """
    yes = flags.to_numpy(dtype=float)
    both = yes.T @ yes
    either = yes.sum(0)[:, None] + yes.sum(0)[None, :] - both
    shares = np.divide(both, either, out=np.full_like(both, np.nan), where=either > 0)
    return pd.DataFrame(shares, flags.columns, flags.columns)
