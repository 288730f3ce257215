"""Numbers of each predicted token to scores of each tuple."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from kdlib.config.definitions import WINDOW

LOWEST = 0.2  # the k of Min-K%: the share of least likely tokens that is averaged
COLUMNS = (
    *("length", "prefix", "needed", "nats_per_token", "window_nats", "entropy", "margin"),
    *("min_k", "min_k_plus"),
)


def of_tuples(tokens: Mapping[str, np.ndarray], lengths: np.ndarray) -> pd.DataFrame:
    """One row of scores per tuple, from its response tokens' (`meter.token_scores`).

    Args:
        tokens: flat arrays [N] by name, tuple after tuple.
        lengths: [n] of at least 1; they sum to N.

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
    leads = np.where(place <= first_wrong[row], np.abs(tokens["token_lead"]), np.inf)
    summed = {
        name: np.add.reduceat(tokens[f"token_{name}"], starts) for name in ("nats", "entropy")
    }
    in_window = np.where(place < WINDOW, tokens["token_nats"], 0.0)
    counted = np.maximum(1, (lengths * LOWEST).astype(int))

    def lowest(values: np.ndarray) -> np.ndarray:
        """Mean of the LOWEST share of each tuple's values, of at least one of them."""
        ordered = values[np.lexsort((values, row))]
        return np.add.reduceat(np.where(place < counted[row], ordered, 0.0), starts) / counted

    return pd.DataFrame(
        {
            "length": lengths,
            "prefix": first_wrong,
            "needed": np.maximum.reduceat(np.where(wrong, place + 1, 0), starts),
            "nats_per_token": summed["nats"] / lengths,
            "window_nats": np.add.reduceat(in_window, starts),
            "entropy": summed["entropy"] / lengths,
            "margin": np.minimum.reduceat(leads, starts),
            "min_k": lowest(-tokens["token_nats"]),
            "min_k_plus": lowest(tokens["token_z"]),
        }
    )
