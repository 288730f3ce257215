"""The Pareto frontier, on points whose answer is seen."""

import pandas as pd

from kdlib.analysis import frontier


def test_frontier_keeps_what_no_other_beats():
    columns = {"x": [0.1, 0.2, 0.3, 0.3, 0.1], "y": [0.5, 0.4, 0.6, 0.6, 0.4]}
    points = pd.DataFrame(columns, index=[*"abcde"])
    kept = frontier.frontier(points, "x", "y")
    assert kept.index[kept].tolist() == ["a", "c", "d"]
