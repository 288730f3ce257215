"""Figures of whose text a student reads, from made-up tables."""

import pandas as pd
import pytest

from kdlib.config.methods import METHODS
from kdlib.figures import style, text_plots

pytestmark = pytest.mark.usefixtures("drawn")


def test_replay_in_colours_of_no_method():
    columns = {"the rows": [0.5, 0.4], "fresh": [0.5, 0.3], "replayed": [0.0, 0.3]}
    read_by = pd.DataFrame(columns, index=[1, 2])
    figure = text_plots.replay(read_by, pd.Series([4.0], index=[2]))
    assert [one.get_text() for one in figure.legends[0].get_texts()] == list(columns)
    left, right = figure.axes
    heights = [bar.get_height() for bar in left.patches]
    assert heights == pytest.approx([0.5, 0.4, 0.5, 0.3, 0.0, 0.3])
    assert right.lines[0].get_xydata().tolist() == [[2, 4]]
    assert {*text_plots.GREYS}.isdisjoint(style.look(one)["color"] for one in METHODS)


@pytest.mark.parametrize(("most", "panels"), [(0.4, 2), (0.0, 1)])
def test_student_share_without_a_panel_of_zeros(most, panels):
    dial = pd.DataFrame(
        {
            ("memorized", "member"): [most, 0.0],
            ("lo", "member"): 0.0,
            ("hi", "member"): 0.5,
            ("nats_per_token", "member"): [1.0, 2.0],
            ("nats_per_token", "held_out"): [3.0, 4.0],
        },
        index=[0.0, 1.0],
    )
    figure = text_plots.student_share("gkd", dial)
    assert len(figure.axes) == panels
    last = figure.axes[-1]
    assert [one.get_text() for one in last.texts] == ["member rows", "held-out rows"]
    assert [line.get_ydata().tolist() for line in last.lines] == [[1, 2], [3, 4]]
    assert {line.get_color() for line in last.lines} == {style.look("gkd")["color"]}
    if panels == 2:
        assert figure.axes[0].containers[0].lines[0].get_ydata().tolist() == [most, 0]
