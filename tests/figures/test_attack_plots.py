"""Figures of attacks: every method, filled and empty marks, and no row where rows are too few."""

import numpy as np
import pandas as pd
import pytest

from kdlib.figures import attack_plots

pytestmark = pytest.mark.usefixtures("drawn")
METHODS = ["mine", "minillm", "sft", "teacher"]  # "mine" is a method that only a profile has
ORDERED = ["teacher", "SFT", "MiniLLM", "mine"]


def lines(columns, **facts):
    """A line for each method and each of these values, with an interval."""
    table = pd.DataFrame({"method": METHODS}).merge(pd.DataFrame(facts), "cross")
    for name in columns:
        lo, hi = ("lo", "hi") if name == "value" else (f"{name}_lo", f"{name}_hi")
        table = table.assign(**{name: 0.5, lo: 0.4, hi: 0.7})
    return table


def labels(ticks):
    return [one.get_text() for one in ticks]


def test_extraction():
    grid = [(a, s, x) for a in ("given", "samples") for s in ("member", "held_out") for x in (1, 2)]
    figure = attack_plots.extraction(
        lines(
            ["value"], **dict(zip(("attack", "split", "at"), zip(*grid, strict=True), strict=True))
        )
    )
    for axes in figure.axes:
        named = [f"{one} 0.50" for one in ("mine", "MiniLLM", "SFT", "teacher")]
        assert labels(axes.texts) == [*named, "held-out (dotted)"]
        member = [one.lines[0].get_xdata()[0] for one in axes.containers if one.get_label()]
        assert len(set(member)) == len(METHODS)  # bars side by side
    styles = [one.lines[0].get_linestyle() for one in figure.axes[0].containers]
    assert styles.count(":") == styles.count("-") == len(METHODS)


def test_counterfactual():
    [axes] = attack_plots.counterfactual(
        lines(["value"], metric=["hit_inside", "hit_outside", "nats_gain"])
    ).axes
    assert labels(axes.get_yticklabels()) == ORDERED
    faces = [one.lines[0].get_markerfacecolor() for one in axes.containers]
    assert faces.count("white") == len(METHODS) and len(faces) == 2 * len(METHODS)


def test_roc():
    false = np.linspace(0, 1, 11)
    curves = [
        pd.DataFrame({"method": one, "false": false, "true": false**0.5}) for one in ("sft", "mine")
    ]
    figure = attack_plots.roc(pd.concat(curves))
    left, right = figure.axes
    assert labels(figure.legends[0].get_texts()) == ["SFT", "mine"]
    assert len({line.get_linestyle() for line in left.lines[:2]}) == 2  # told apart without colour
    assert right.get_xscale() == "log" and right.get_xlim()[0] == pytest.approx(0.05)


@pytest.mark.parametrize(("rate", "panels"), [(0.5, 2), (np.nan, 1)])
def test_membership(rate, panels):
    table = lines(["auc", "tpr_1pct"], score=["loss", "min_k"]).assign(tpr_1pct=rate)
    figure = attack_plots.membership(table, "seed 0: 9 rows")
    assert figure.get_suptitle() == "seed 0: 9 rows"
    scale = figure.axes[0].get_xscale(), figure.axes[-1].get_xscale()
    assert scale == ("function", "linear" if panels == 2 else "function")
    assert len(figure.axes) == panels and labels(figure.legends[0].get_texts()) == ORDERED
    assert labels(figure.axes[0].get_yticklabels()) == ["loss", "min k"]


def test_membership_vs_memorization():
    points = lines(["auc", "memorized"], score=["loss"])
    points.loc[points["method"] == "minillm", ["memorized", "auc"]] = 0.1, 0.9
    points.loc[points["method"] == "teacher", "memorized"] = 0.0
    [axes] = attack_plots.membership_vs_memorization(points, 0.54, 0.83).axes
    assert "MiniLLM: memorized 0.100, AUC 0.900" in labels(axes.texts)
    assert labels(axes.get_legend().get_texts()) == ["mine", "MiniLLM", "SFT", "teacher"]


def test_exposure_has_a_column_of_panels_for_each_method():
    table = lines(["exposure", "secret"], repetitions=[1, 4, 16]).assign(chance=1.4, most=6.6)
    table.loc[table["method"] == "sft", "secret"] = 0.6
    figure = attack_plots.exposure(table)
    panels = np.reshape(figure.axes, (2, len(METHODS)))
    assert [axes.get_title() for axes in panels[0]] == ORDERED
    assert labels(figure.axes[-1].get_xticklabels()) == ["1", "4", "16"]
    heights = [axes.containers[0].lines[0].get_ydata()[0] for axes in panels[1]]
    assert heights == [0.6 if name == "SFT" else 0.5 for name in ORDERED]
    assert all(len(axes.containers) == 1 for axes in figure.axes)  # one method a panel
