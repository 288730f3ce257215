"""The figures of what defences leave, from made-up tables."""

import numpy as np
import pandas as pd
import pytest

from kdlib.analysis import plane
from kdlib.config.defences import DEFENCES
from kdlib.config.methods import label
from kdlib.figures import defence_plots

pytestmark = pytest.mark.usefixtures("drawn")


def texts(artists):
    return [one.get_text() for one in artists]


def test_each_defence_has_a_mark_filled_alone_and_hollow_with_kd():
    names = [one.label for one in DEFENCES.values()]
    both = [*names, *(f"{label('word_kd')} + {name}" for name in names)]
    methods = ["before fine-tuning", "sft", "word_kd", "minillm", *both, "DP-SGD, epsilon 2"]
    ends = pd.DataFrame({"method": methods, "value": 0.25, "nats": 1.0, "sft_there": 0.25})
    ends.loc[ends["method"] == names[0], "sft_there"] = 0.35
    path = pd.DataFrame({"nats": [4.0, 2.0, 0.5], "value": [0.0, 0.0, 0.5]})
    (axes,) = defence_plots.fitted(ends, path).axes
    way, *marks = axes.lines
    assert len(way.get_xdata()) == 3 and len(marks) == 3 + 2 * len(names) + 1
    hollow = [one for one in marks if one.get_markerfacecolor() == "none"]
    assert len(hollow) == 1 + len(names) and axes.xaxis_inverted()
    told = texts(axes.get_legend().get_texts())
    assert told[:2] == ["SFT on its way", "no defence"] and told[-1] == "hollow: with word-level KD"
    markers = {one.get_marker() for one in marks}
    assert len(told) == len(names) + 3 and len(markers) == len(names) + 2
    least = f"{names[0]}: -0.100 to SFT at its loss (lowest of {len(methods) - 2}, no interval)"
    assert defence_plots.lowest(ends) == least
    assert [one.replace("\n", " ") for one in texts(axes.texts)] == ["MiniLLM", least]
    ends.loc[ends["method"] == "minillm", "sft_there"] = np.nan  # SFT never has its loss
    assert f"lowest of {len(methods) - 3}," in defence_plots.lowest(ends)
    (axes,) = defence_plots.fitted(ends.assign(sft_there=0.1), path).axes
    assert texts(axes.texts) == ["MiniLLM"]  # nobody lies below


def test_plane_numbers_who_is_on_a_front_and_greys_the_others():
    names = {"sft": "cheap", "goldfish loss": "cheap", "word_kd": "distilled", "DP": "DP-SGD"}
    path = pd.DataFrame({"epoch": [0, 1, 2], "useful": [0.1, 0.2, 0.3]})
    points = pd.DataFrame({"method": list(names)}).merge(path, "cross")
    worth = points["method"].map({"sft": 1, "goldfish loss": 0.5, "word_kd": 0.7, "DP": 0.2})
    points["verbatim"] = points["near_verbatim"] = points["membership"] = worth * points["useful"]
    told = "memorized word for word: up to 0.21; 90% of the tokens right: all at 0; told from"
    none = points.assign(near_verbatim=0)
    assert defence_plots.on_fronts(none, names) == f"{told} others by the loss: up to 0.21"
    figure = defence_plots.plane(points[::-1], names)
    words = [axes.get_xlabel().replace("\n", " ") for axes in figure.axes]
    assert all(map(str.startswith, words, plane.MEASURES.values()))
    first = figure.axes[0]
    kinds, key = (texts(one.get_texts()) for one in figure.legends)
    assert kinds == ["front: cheap", "front: distilled", "front: DP-SGD"]
    assert key == ["1  goldfish loss", "2  word-level KD", "3  DP"]  # SFT is beaten
    assert texts(first.texts) == ["1", "2", "3"]
    np.testing.assert_allclose(
        [one.xy for one in first.texts], [[x, 0.3] for x in (0.15, 0.21, 0.06)]
    )
    colours = [one.get_color() for one in first.lines]
    paths, stairs = colours[: len(names)], first.lines[len(names) :]
    assert paths.count("0.8") == 1 and len({*paths}) == len(names)
    assert [one.get_color() for one in stairs] == list(defence_plots.KINDS)
    cheap = stairs[0].get_xydata().tolist()  # from the foot of the panel to its right side
    foot, right = first.get_ylim()[0], first.get_xlim()[1]
    np.testing.assert_allclose(
        cheap, [[0.05, foot], [0.05, 0.1], [0.1, 0.2], [0.15, 0.3], [right, 0.3]]
    )
    assert first.get_ylim()[0] < 0.1 and first.get_ylim()[1] > 0.3
    shown = first.transData.transform([(0.1, up) for up in (0.1, 0.2, 0.3)])[:, 1]
    assert shown[2] - shown[1] > shown[1] - shown[0] > 0  # spread out at the top
