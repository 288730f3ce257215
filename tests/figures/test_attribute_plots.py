"""Figures of attributes, forecasts and layers, of any sizes and with parts missing."""

import pandas as pd
import pytest

from kdlib.analysis.attributes import ATTRIBUTES
from kdlib.figures import attribute_plots

pytestmark = pytest.mark.usefixtures("drawn")


@pytest.mark.parametrize("sizes", [("only",), ("xl", "big", "mid", "tiny")])
def test_odds_ratios_one_panel_per_size(sizes):
    models = [("mine", size) for size in sizes] + [("sft", sizes[-1])]
    table = pd.DataFrame(models, columns=["method", "size"])
    table = table.merge(pd.DataFrame({"attribute": list(ATTRIBUTES)[:2]}), "cross")
    table = table.assign(value=1.5, lo=1.2, hi=2.0)
    table.loc[table["attribute"] == list(ATTRIBUTES)[1], "lo"] = 0.9
    figure = attribute_plots.odds_ratios(table)
    last = [one.get_text() for one in figure.axes[-1].texts]
    assert last == ["1.5"] * 2  # of the attribute whose intervals leave out 1, of both methods
    assert [axes.get_title() for axes in figure.axes] == list(sizes)
    assert [len(axes.containers) for axes in figure.axes] == [1] * (len(sizes) - 1) + [2]
    assert [one.get_text() for one in figure.legends[0].get_texts()] == ["SFT", "mine"]


def test_forecast():
    scores = pd.DataFrame({"test": ["a", "b"], "pr_auc": 0.5, "pr_auc_lo": 0.4, "pr_auc_hi": 0.6})
    bins = pd.DataFrame({"predicted": [0.1, 0.9], "value": 0.5, "lo": 0.4, "hi": 0.6})
    left, right = attribute_plots.forecast(scores.assign(base_rate=0.2), bins).axes
    assert [one.get_text() for one in left.get_yticklabels()] == ["a", "b"]
    assert [one.get_text() for one in left.texts] == ["0.50", "0.50"]
    assert list(right.containers[0].lines[0].get_xdata()) == [0.1, 0.9]


def test_onion_adds_the_seeds_up():
    layer = {"part": ["removed"] * 2, "left_out": "predicted", "n": [10, 30]}
    table = pd.DataFrame(layer | {"before": [10, 10], "after": [0, 4]})
    left, right = attribute_plots.onion(table).axes
    assert left.get_legend().get_texts()[0].get_text() == "removed rows: 20 to 4 of 40"
    assert list(left.lines[-1].get_ydata()) == [0.5, 0.1] and not right.lines
    assert len(left.lines) == 3  # two thin ones
    alone = attribute_plots.onion(table[1:]).axes[0]
    assert len(alone.lines) == 1  # of one seed there is nothing to spread
