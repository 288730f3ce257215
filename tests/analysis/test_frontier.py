"""Stopping early, and the Pareto frontier, on points whose answer is seen."""

import pandas as pd

from kdlib.analysis import frontier


def test_frontier_keeps_what_no_other_beats():
    columns = {"x": [0.1, 0.2, 0.3, 0.3, 0.1], "y": [0.5, 0.4, 0.6, 0.6, 0.4]}
    points = pd.DataFrame(columns, index=[*"abcde"])
    kept = frontier.frontier(points, "x", "y")
    assert kept.index[kept].tolist() == ["a", "c", "d"]


def test_early_stopped_finds_the_best_epoch_below():
    rows = []
    ways = {"sft": [0.0, 0.2, 0.25, 0.5], "rkld": [0.0, 0.1, 0.2, 0.3], "gkd": [0.0, 0.2, 0.3, 0.6]}
    for method, rates in ways.items():
        for epoch, rate in enumerate(rates):
            for split in ("member", "held_out"):
                facts = {"seed": 0, "size": "small", "method": method, "epoch": epoch}
                loss = 2.0 + 0.5 * epoch if method == "sft" else 3.5
                rows.append(facts | {"split": split, "exact_rate": rate, "nats_per_token": loss})
    gkd, found = frontier.early_stopped(pd.DataFrame(rows)).to_dict("records")
    assert gkd["method"] == "gkd" and gkd["sft_epoch"] == 1 and gkd["exact_rate"] == 0.6
    assert found["sft_epoch"] == 1 and found["sft_exact_rate"] == 0.2
    assert found["sft_nats_per_token"] == 2.5 and found["nats_per_token"] == 3.5
