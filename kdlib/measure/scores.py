"""Numbers of each predicted token to scores of each tuple."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from kdlib.config.exact_match import WINDOW

LOWEST = 0.2  # the k of Min-K%: the share of least likely tokens that is averaged
COLUMNS = (
    *("length", "prefix", "needed", "nats_per_token", "window_nats", "accuracy", "entropy"),
    *("greedy_run", "margin", "min_k", "min_k_plus"),
)


def of_tuples(tokens: Mapping[str, np.ndarray], lengths: np.ndarray) -> pd.DataFrame:
    """One row of scores per tuple, from its response tokens' (`meter.token_scores`).

    `tokens` are flat arrays [N], tuple after tuple; `lengths` [n], at least 1 each, sum to N.
    prefix (0 to length) counts the tokens that greedy decoding gets right before its first error,
    needed (0 to length) the first tokens that must be given for it to write the rest. window_nats
    is summed over the first WINDOW tokens; accuracy is the share of tokens that are the arg-max
    given those before them, greedy_run the most of these in a row (`longest_runs`); entropy the
    mean, in nats; margin the least absolute
    lead up to the first error, that position included (near 0: a near-tie); min_k the mean log p of
    the LOWEST share of tokens (Shi et al. 2024), min_k_plus that of z (Zhang et al. 2024).
    """
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    row = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(row)) - starts[row]  # within the response
    wrong = tokens["token_lead"] <= 0
    first_wrong = np.minimum.reduceat(np.where(wrong, place, lengths[row]), starts)
    leads = np.where(place <= first_wrong[row], np.abs(tokens["token_lead"]), np.inf)
    counted = np.maximum(1, (lengths * LOWEST).astype(int))

    def lowest(values: np.ndarray) -> np.ndarray:
        """Mean of the LOWEST share of each tuple's values, of at least one of them."""
        ordered = values[np.lexsort((values, row))]
        return np.add.reduceat(np.where(place < counted[row], ordered, 0.0), starts) / counted

    table = {
        "length": lengths,
        "prefix": first_wrong,
        "needed": np.maximum.reduceat(np.where(wrong, place + 1, 0), starts),
        "nats_per_token": np.add.reduceat(tokens["token_nats"], starts) / lengths,
        "window_nats": np.add.reduceat(np.where(place < WINDOW, tokens["token_nats"], 0.0), starts),
        "accuracy": np.add.reduceat(~wrong, starts, dtype=float) / lengths,
        "entropy": np.add.reduceat(tokens["token_entropy"], starts) / lengths,
        "greedy_run": longest_runs(~wrong, place, row, len(lengths)),
        "margin": np.minimum.reduceat(leads, starts),
        "min_k": lowest(-tokens["token_nats"]),
        "min_k_plus": lowest(tokens["token_z"]),
    }
    return pd.DataFrame(table)


def of_prompts(
    nats: Sequence[np.ndarray], leads: Sequence[np.ndarray], own: Sequence[Sequence[int]]
) -> pd.DataFrame:
    """One row of scores per prompt, from those of its own tokens (`meter.PROMPT_TOKEN`).

    `own` are their places in the prompt. prompt_length is how many of them stand side by side, in
    instruction or context, at most; prompt_nats is their mean, prompt_run the longest of
    `longest_runs`, so of prompt_length at most; the latter two are nan where there are none.
    """
    lengths = np.array([len(one) for one in own], int)
    row, place = np.repeat(np.arange(len(own)), lengths), np.concatenate([[], *own]).astype(int)
    runs = longest_runs(np.concatenate([[], *leads]) > 0, place, row, len(own))
    with np.errstate(invalid="ignore"):
        mean = np.bincount(row, np.concatenate([[], *nats]), len(own)) / lengths
    there = np.where(lengths > 0, runs, np.nan)
    most = longest_runs(np.ones(len(place), bool), place, row, len(own))
    return pd.DataFrame({"prompt_length": most, "prompt_nats": mean, "prompt_run": there})


def longest_runs(right: np.ndarray, place: np.ndarray, row: np.ndarray, rows: int) -> np.ndarray:
    """The most tokens in a row that are right, by row [rows]; 0 where none is.

    `right` [N] says of each token whether it is the arg-max given all before it, `place` where it
    stands, `row` (ascending) whose it is. So greedy decoding that is given the true text up to a
    run writes the run. It is no distance to what a model writes freely: that, once wrong, goes on
    from its own words.
    """
    at = np.arange(len(right))
    begins = np.ones(len(right), bool)
    begins[1:] = (np.diff(place) != 1) | (np.diff(row) != 0)
    before = np.maximum.accumulate(np.where(right, np.where(begins, at - 1, -1), at))
    longest = np.zeros(rows, int)
    np.maximum.at(longest, row, at - before)
    return longest
