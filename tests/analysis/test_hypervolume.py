"""The area that a front beats, on paths that are known."""

import functools
import itertools

import numpy as np
import pandas as pd
import pytest
from planes import LESS, MORE, SFT, answered, noted

from kdlib import stats
from kdlib.analysis import equal_usefulness, hypervolume, plane


def test_the_area_by_hand():
    def area(*points):
        return hypervolume.area(*np.array(points, float).T[:, :, None]).item()

    assert area((0, 1)) == 1 and area((1, 1)) == 0 and area((0.25, 0.5)) == pytest.approx(0.375)
    assert area((0.25, 0.5), (0.5, 1)) == pytest.approx(0.25 * 0.5 + 0.5 * 1)
    both = hypervolume.area(np.array([[0.25, 0.0]]), np.array([[0.5, 1.0]]))
    assert both.tolist() == [0.375, 1.0]


@pytest.mark.parametrize(("own", "sign"), [(LESS, 1), (SFT, 0), (MORE, -1)])
def test_the_difference_of_areas_has_either_sign(own, sign):
    notes = noted({"sft": SFT, "word_kd": own})
    useful = answered(notes)
    found = hypervolume.compared(notes, useful, ["word_kd"], ["sft"])
    assert found["measure"].unique().tolist() == list(plane.MEASURES)
    table, means = found.set_index(["measure", "front"]), plane.points(notes, useful)
    sft = means.query("method == 'sft'").set_index("epoch")["useful"]
    for measure, (name, method) in itertools.product(
        plane.MEASURES, {"one": "word_kd", "other": "sft"}.items()
    ):  # without halves nearly the same: points are far apart here
        part = plane.front(means[(means["method"] == method) & (means["epoch"] > 0)], measure)
        rise = (part["useful"].to_numpy()[:, None] - sft[0]) / (sft.max() - sft[0])
        area = hypervolume.area(part[[measure]].to_numpy(), rise).item()
        assert table.loc[(measure, name), "value"] == pytest.approx(area, abs=0.03)
    for measure in ("verbatim", "near_verbatim"):
        gap = table.loc[(measure, "difference")]
        one, other = (table.loc[(measure, front), "value"] for front in ("one", "other"))
        assert gap["value"] == pytest.approx(one - other)
        assert {1: gap["lo"] > 0, 0: gap["lo"] < 0 < gap["hi"], -1: gap["hi"] < 0}[sign]


def test_more_students_to_choose_from_are_no_advantage(monkeypatch):
    """Eight students by chance alone against one: above 0 about as often as below."""
    few = functools.partial(stats.estimate, draws=1)
    monkeypatch.setattr(hypervolume, "estimate", few)
    values = []
    for luck in range(8):
        notes = noted({f"s{i}": SFT for i in range(8)} | {"sft": SFT}, luck=luck)
        useful = answered(notes, luck=luck + 99)
        found = hypervolume.compared(notes, useful, [f"s{i}" for i in range(8)], ["sft"])
        lines = found.query("front == 'difference'").set_index("measure")
        values.append(lines["value"])
    values = pd.DataFrame(values)
    errors = values.std() / np.sqrt(len(values))
    assert (values.mean().abs() < 3 * errors + 0.005).all(), values


def test_one_half_chooses_and_the_other_gives_the_area():
    """By chance one half of the rows calls a bad student good: the area of the others shows it."""
    notes = noted({"sft": SFT, "word_kd": LESS})
    useful = answered(notes)
    chose = equal_usefulness.selection(useful["group"]) & (useful["method"] == "word_kd")
    lucky = useful.assign(value=useful["value"] + 0.4 * chose)
    plain, other = (
        hypervolume.compared(notes, one, ["word_kd"], ["sft"]).query("measure == 'verbatim'")
        for one in (useful, lucky)
    )
    rise = other["value"].to_numpy() - plain["value"].to_numpy()
    assert rise[1] == pytest.approx(0, abs=1e-9) and 0.5 < rise[0] < 1.2


def test_where_sft_gains_nothing_there_is_no_area():
    notes = noted({"sft": SFT, "word_kd": LESS})
    useful = answered(notes, {"sft": [0.3, 0.1, 0.1, 0.1, 0.1]})
    assert hypervolume.compared(notes, useful, ["word_kd"], ["sft"])["value"].isna().all()
