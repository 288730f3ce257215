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
    position = np.arange(len(row)) - starts[row]  # within the response
    wrong = tokens["token_lead"] <= 0
    first_wrong = np.minimum.reduceat(np.where(wrong, position, lengths[row]), starts)
    leads = np.where(position <= first_wrong[row], np.abs(tokens["token_lead"]), np.inf)
    n_lowest = np.maximum(1, (lengths * LOWEST).astype(int))

    def lowest(values: np.ndarray) -> np.ndarray:
        """Mean of the LOWEST share of each tuple's values, of at least one of them."""
        ordered = values[np.lexsort((values, row))]
        return np.add.reduceat(np.where(position < n_lowest[row], ordered, 0.0), starts) / n_lowest

    table = {
        "length": lengths,
        "prefix": first_wrong,
        "needed": np.maximum.reduceat(np.where(wrong, position + 1, 0), starts),
        "nats_per_token": np.add.reduceat(tokens["token_nats"], starts) / lengths,
        "window_nats": np.add.reduceat(
            np.where(position < WINDOW, tokens["token_nats"], 0.0), starts
        ),
        "accuracy": np.add.reduceat(~wrong, starts, dtype=float) / lengths,
        "entropy": np.add.reduceat(tokens["token_entropy"], starts) / lengths,
        "greedy_run": longest_runs(~wrong, position, row, len(lengths)),
        "margin": np.minimum.reduceat(leads, starts),
        "min_k": lowest(-tokens["token_nats"]),
        "min_k_plus": lowest(tokens["token_z"]),
    }
    return pd.DataFrame(table)


def of_prompts(
    nats: Sequence[np.ndarray], leads: Sequence[np.ndarray], positions: Sequence[Sequence[int]]
) -> pd.DataFrame:
    """One row of scores per prompt, from those of its own tokens (`meter.PROMPT_TOKEN`).

    `positions` are theirs in the prompt. prompt_length is how many of them stand side by side, in
    instruction or context, at most; prompt_nats is their mean, prompt_run the longest of
    `longest_runs`, so of prompt_length at most; the latter two are nan where there are none.
    """
    lengths = np.array([len(x) for x in positions], int)
    row, position = (
        np.repeat(np.arange(len(positions)), lengths),
        np.concatenate([[], *positions]).astype(int),
    )
    longest = longest_runs(np.concatenate([[], *leads]) > 0, position, row, len(positions))
    with np.errstate(invalid="ignore"):
        prompt_nats = np.bincount(row, np.concatenate([[], *nats]), len(positions)) / lengths
    prompt_run = np.where(lengths > 0, longest, np.nan)
    prompt_length = longest_runs(np.ones(len(position), bool), position, row, len(positions))
    return pd.DataFrame(
        {"prompt_length": prompt_length, "prompt_nats": prompt_nats, "prompt_run": prompt_run}
    )


def longest_runs(
    correct: np.ndarray, position: np.ndarray, row: np.ndarray, n_rows: int
) -> np.ndarray:
    """The most tokens in a row that are correct, by row [n_rows]; 0 where none is.

    `correct` [N] says of each token whether it is the arg-max given all before it, `position` where
    it stands, `row` (ascending) whose it is. So greedy decoding that is given the true text up to a
    run writes the run. It is no distance to what a model writes freely: that, once wrong, goes on
    from its own words.
    """
    index = np.arange(len(correct))
    is_start = np.ones(len(correct), bool)
    is_start[1:] = (np.diff(position) != 1) | (np.diff(row) != 0)
    before_run = np.maximum.accumulate(np.where(correct, np.where(is_start, index - 1, -1), index))
    longest = np.zeros(n_rows, int)
    np.maximum.at(longest, row, index - before_run)
    return longest
