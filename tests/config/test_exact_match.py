"""What counts as memorized."""

import pandas as pd

from kdlib.config import exact_match


def test_a_window_and_the_full_response():
    tuples = pd.DataFrame(
        {"prefix": [50, 49, 20, 9, 60, 0], "length": [80, 80, 20, 20, 60, 0]}, index=list("abcdef")
    )
    window = {"a": True, "b": False, "c": True, "d": False, "e": True, "f": True}
    assert exact_match.exact(tuples).to_dict() == window
    full = {"a": False, "b": False, "c": True, "d": False, "e": True, "f": True}
    assert exact_match.exact(tuples, exact_match.FULL).to_dict() == full
    assert exact_match.exact(tuples, 10).sum() == 5
    assert exact_match.WINDOW == 50
