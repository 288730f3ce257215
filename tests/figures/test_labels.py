"""Words beside lines and points: as near as there is room, none over another, legible."""

import numpy as np
import pytest
from matplotlib.text import Text

from kdlib.figures import labels, style

pytestmark = pytest.mark.usefixtures("drawn")


def test_names_stay_apart_as_near_as_they_can():
    assert labels.spread_apart([0.2, 0.8], 0.1).tolist() == [0.2, 0.8]
    np.testing.assert_allclose(labels.spread_apart([0.5, 0.9, 0.5], 0.1), [0.45, 0.9, 0.55])
    np.testing.assert_allclose(labels.spread_apart([0, 0, 0, 0.3], 0.1), [0, 0.1, 0.2, 0.3])
    np.testing.assert_allclose(labels.spread_apart([1.2, 0.98], 0.1), [1, 0.9])  # in their order
    assert len(labels.spread_apart([], 0.1)) == 0


def test_words_are_dark_enough_on_white():
    assert labels.text_colour("#000000") == (0, 0, 0)
    for colour in ("#de8f05", "#ece133", "white"):
        assert 1.05 / (style.light(labels.text_colour(colour)) + 0.05) == pytest.approx(
            4.57, abs=0.02
        )


def lines():
    _, [[axes]] = style.panels(1, 1)
    axes.plot([0, 1], [0, 0.5], color="C1", label="short")
    axes.errorbar([0, 1, 2], [0, 0.5, np.nan], yerr=0.1, color="C2", label="barred")
    axes.plot([0, 4], [0, 0.52], color="C3", label="long")
    axes.plot([0, 4], [0, 0.1], ":")
    axes.plot([0, 4], [0, 0.2], ":")
    axes.set(xlim=(0, 4), ylim=(0, 1))
    return axes


def test_names_of_lines_at_their_last_points():
    axes = lines()
    found = labels.ends(axes, ".0%")
    wanted = {"short 50%": (1, 0.5), "barred 50%": (1, 0.5), "long 52%": (4, 0.52)}
    assert {one.text: (one.x, one.y) for one in found} == wanted
    [rest] = labels.unnamed(axes)
    assert (rest.x, rest.y, rest.text) == (4, 0.2, "held-out (dotted)")
    assert labels.unnamed(axes, "--") == []


def test_at_ends_of_lines():
    axes = lines()
    before = axes.get_xlim(), axes.get_ylim()
    labels.at_ends(axes, near=0.1)
    axes.figure.draw_without_rendering()
    words = [Text.get_window_extent(one) for one in axes.texts]  # without the lines that lead there
    low, middle, high = sorted(words, key=lambda box: box.y0)
    assert low.y1 <= middle.y0 and middle.y1 <= high.y0
    assert {one.get_position()[0] for one in axes.texts} == {1.03}  # right of the panel
    assert before == (axes.get_xlim(), axes.get_ylim())
    axes = lines()
    labels.at_ends(axes, near=0.5)  # who ends in the left half is named there
    assert {one.get_text(): one.get_position()[0] for one in axes.texts} == {
        "short": pytest.approx(0.28),
        "barred": pytest.approx(0.28),
        "long": 1.03,
    }


def test_numbers_keep_apart():
    _, [[axes]] = style.panels(1, 1)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    points = [labels.End(0.2, 0.5, "1", "C0"), labels.End(0.2, 0.5, "2", "C1")]
    labels.numbers(axes, [*points, labels.End(0.9, 0.1, "3", "C0")])
    first, second, third = (one.get_position() for one in axes.texts)
    assert second[1] - first[1] > 0.05 and first[0] == second[0] > 0.2
    assert third[0] < 0.9  # to the side where there is more room
