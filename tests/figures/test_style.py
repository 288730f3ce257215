"""A method looks like itself, a size like itself, and intervals reach where the table says."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.markers import MarkerStyle

from kdlib.config.methods import METHODS
from kdlib.figures import style

pytestmark = pytest.mark.usefixtures("drawn")


def test_every_method_looks_like_itself():
    names = ["base", "teacher", *METHODS, "mine"]
    looks = {tuple(style.look(name).values()) for name in names}
    assert len(looks) == len(names) and style.look("mine") == style.look("mine")
    assert all(MarkerStyle(style.look(name)["marker"]) for name in names)
    colours = [style.look(name)["color"] for name in names]
    assert len(set(colours)) == len(colours)  # shades, where the table has one colour twice
    assert style.look("seq_kd_beam")["color"] == METHODS["seq_kd_beam"].colour


@pytest.mark.parametrize(
    ("sizes", "lines"),
    [
        (["only"], ["-"]),
        (["large", "middle", "small"], ["-", "--", ":"]),
        (["a", "b", "c", "d", "e"], ["-", "--", ":", "-.", "-."]),
    ],
)
def test_sizes_by_their_place(sizes, lines):
    assert [style.of_size(style.LINES, size, sizes) for size in sizes] == lines
    assert style.of_size(style.LINES, "teacher", sizes) == "-"


@pytest.mark.parametrize("across", [False, True])
def test_intervals_reach_from_end_to_end(across):
    table = pd.DataFrame({"method": "sft", "x": [0.5, 0.2], "x_lo": [0.4, 0.3], "x_hi": [0.7, 0.4]})
    _, [[axes]] = style.panels(1, 1)
    style.intervals(axes, [1, 2], table, "x", across=across)
    [drawn] = axes.containers
    [bars] = drawn.lines[2]
    ends = np.array([segment[:, 0 if across else 1] for segment in bars.get_segments()])
    # an end on the wrong side of its value (rounding) is drawn at the value
    np.testing.assert_allclose(ends, [[0.4, 0.7], [0.2, 0.4]])
    assert drawn.get_label() == "SFT" and drawn.lines[0].get_color() == style.look("sft")["color"]


def test_methods_side_by_side_in_the_line_of_a_name():
    table = pd.DataFrame({"method": ["minillm", "sft"], "score": "b", "value": [1, 2]})
    _, [[axes]] = style.panels(1, 1)
    style.grouped(axes, table.assign(lo=0, hi=4), ["a", "b"], "score")
    places = {one.get_label(): one.lines[0].get_ydata()[0] for one in axes.containers}
    assert 0.5 < places["SFT"] < 1 < places["MiniLLM"] < 1.5


def test_small_shares_stand_apart():
    _, [[axes]] = style.panels(1, 1)
    axes.plot([0, 0.01, 0.25], [0, 0, 0])
    style.near_zero(axes)
    zero, small, great = axes.transData.transform([(x, 0) for x in (0, 0.01, 0.25)])[:, 0]
    assert (great - zero) / (small - zero) == pytest.approx(5)


def test_aucs_near_one_stand_apart():
    _, [[axes]] = style.panels(1, 1)
    axes.plot([0.4, 0.5, 0.99, 1], [0, 0, 0, 0])
    style.near_one(axes)
    low, half, near, one = axes.transData.transform([(x, 0) for x in (0.4, 0.5, 0.99, 1)])[:, 0]
    assert one - near > 2 * (half - low) > 0


def test_one_line_for_each_method_from_above():
    table = pd.DataFrame({"method": ["minillm", "sft", "base"], "value": [1, 2, 3]})
    _, [[axes]] = style.panels(1, 1)
    style.dots(axes, ["sft", "minillm"], table.assign(lo=0, hi=4))
    places = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines]
    assert {(1, 1), (2, 0)} <= set(places) and 3 not in [x for x, _ in places]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["SFT", "MiniLLM"]
    assert axes.yaxis_inverted()
