"""The figure of what defences leave, from made-up tables."""

import pandas as pd

from kdlib.config.defences import DEFENCES
from kdlib.config.methods import label
from kdlib.figures import defence_plots


def test_each_defence_has_a_mark_filled_alone_and_hollow_with_kd():
    names = [one.label for one in DEFENCES.values()]
    both = [*names, *(f"{label('word_kd')} + {name}" for name in names)]
    methods = ["before fine-tuning", "sft", "word_kd", "minillm", *both, "DP-SGD, epsilon 2"]
    ends = pd.DataFrame({"method": methods, "value": 0.25, "nats": 1.0})
    path = pd.DataFrame({"nats": [4.0, 2.0, 0.5], "value": [0.0, 0.0, 0.5]})
    (axes,) = defence_plots.fitted(ends, path).axes
    way, *marks = axes.lines
    assert len(way.get_xdata()) == 3 and len(marks) == 3 + 2 * len(names) + 1
    hollow = [one for one in marks if one.get_markerfacecolor() == "none"]
    assert len(hollow) == 1 + len(names) and axes.xaxis_inverted()
    told = [text.get_text() for text in axes.get_legend().get_texts()]
    assert told[:2] == ["SFT on its way", "no defence"] and told[-1] == "hollow: with word-level KD"
    markers = {one.get_marker() for one in marks}
    assert len(told) == len(names) + 3 and len(markers) == len(names) + 2
    assert [text.get_text() for text in axes.texts] == ["MiniLLM"]
