"""Figures of what is in common are drawn of full and of empty sets."""

import pytest
from studies import SIZES, halves_and_whole, shared_rows

from kdlib.analysis import inheritance, permutation_test, teacher_transfer
from kdlib.figures import inheritance_plots

pytestmark = pytest.mark.usefixtures("drawn")


@pytest.mark.parametrize("empty", [False, True])
def test_counts_stand_in_their_bars(empty):
    frame = inheritance.sets(shared_rows())
    if empty:
        frame = frame.assign(in_teacher=False, in_sft=False, in_distilled=False)
    tables = (inheritance.regions(frame), inheritance.shares(frame))
    regions, shares = (one[one["seed"] == "all"] for one in tables)
    drawn = permutation_test.chance(frame, draws=20)
    figure = inheritance_plots.inheritance(regions)
    passed = inheritance_plots.passed_on(shares, drawn[drawn["null"] == "missed"])
    told = [text.get_text() for axes in passed.axes for text in axes.texts]
    assert bool(told) != empty and all("(by chance " in one for one in told)
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    most = regions[regions["size"].isin(SIZES)]["hits"].max()
    assert (str(most) in texts) == (most > 0)


def test_what_a_teacher_hands_down():
    gaps = teacher_transfer.gaps(teacher_transfer.unread(*halves_and_whole()))
    [axes] = inheritance_plots.teacher_transfer(gaps[gaps["metric"] == "nats_per_token"]).axes
    beyond = gaps[(gaps["rows"] == teacher_transfer.BEYOND) & (gaps["metric"] == "nats_per_token")]
    told = {f"{value:+.3f} nats" for value in beyond["value"]}
    assert {text.get_text() for text in axes.texts} == told
    faces = [one.lines[0].get_markerfacecolor() for one in axes.containers]
    assert faces.count("white") * 2 == len(faces) == 2 * len(axes.get_yticks())
