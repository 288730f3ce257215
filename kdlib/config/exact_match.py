"""What counts as memorized: the window, and the match of a response within it."""

import pandas as pd

WINDOW = 50  # tokens; the paper's k
FULL = 0  # in a column k: the full response with its end token


def exact(tuples: pd.DataFrame, k: int = WINDOW) -> pd.Series:
    """Whether the first k tokens (FULL: all, with the end token) are word for word."""
    window = tuples["length"] if k == FULL else tuples["length"].clip(upper=k)
    return tuples["prefix"] >= window
