"""Figures of the study are drawn for any number and names of sizes, and for any method."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.text import Text

from kdlib.analysis import rates
from kdlib.config.methods import PAPER, label
from kdlib.figures import study_plots, style

pytestmark = pytest.mark.usefixtures("drawn")
SIZES = [("only",), ("large", "middle", "small"), ("xl", "big", "mid", "tiny")]
METHODS = (*PAPER, "gkd", "mine")  # "mine" is a method that only a profile has


@pytest.fixture(params=SIZES, ids=len)
def sizes(request):
    return request.param


@pytest.fixture
def models(sizes):
    return pd.DataFrame(rates.models(sizes, METHODS), columns=["method", "size"])


def texts(artists):
    return [one.get_text() for one in artists]


def test_memorization_by_size(models, sizes):
    table = models.assign(member=0.5, member_lo=0.4, member_hi=0.6, held_out=0.1)
    [axes] = study_plots.memorization_by_size(table[::-1]).axes
    assert texts(axes.get_xticklabels()) == ["teacher", *sizes[::-1]]
    figure = study_plots.memorization_by_size(table)
    [axes] = figure.axes
    assert texts(axes.get_xticklabels()) == ["teacher", *sizes]
    assert "mine" not in texts(figure.legends[0].get_texts())
    figure.draw_without_rendering()
    words = [Text.get_window_extent(one) for one in axes.texts]
    marks = axes.transData.transform([one.xy for one in axes.texts])
    for box, (x, y) in zip(words, marks, strict=True):  # right of its mark, not over another's
        assert x < box.x0 and box.y0 < y < box.y1 and box.x1 < axes.bbox.x1
        assert not any(box.x0 - 4 < other < box.x1 + 4 for other in marks[:, 0])
    sft = next(one for one in axes.containers if one.get_label() == "SFT")
    assert np.all(np.diff(sft.lines[0].get_xdata()) > 0)
    assert sft.lines[0].get_linestyle() == "None"  # sizes are models of their own
    bare = table.assign(member=0.26, member_hi=np.nan)  # too few rows for an interval
    [axes] = study_plots.memorization_by_size(bare).axes
    assert texts(axes.texts) == ["0.26"] * (1 + len(PAPER) * len(sizes))


def test_all_methods(models, sizes):
    rouge = models.assign(rougeL_held_out=0.2, rougeL_held_out_lo=0.1, rougeL_held_out_hi=0.3)
    rates = models.assign(member=0.5, member_lo=0.4, member_hi=0.6)
    first = rates.assign(member=0.7), rouge.assign(rougeL_held_out=0.1)
    figure = study_plots.all_methods(rates, rouge, *first)
    told = ["SFT, all seeds", "SFT, the first seed alone"]
    assert texts(figure.legends[0].get_texts()) == told
    dashed = [one for one in figure.axes[0].lines if one.get_linestyle() == "--"]
    assert [one.get_xdata()[0] for one in dashed] == [0.7]
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == list(sizes)
    named = ["SFT", "word-level KD", "sequence-level KD", "MiniLLM", "GKD", "mine"]
    assert texts(figure.axes[0].get_yticklabels()) == named


def test_training_paths_and_loss_curves(models, sizes):
    epochs = pd.DataFrame({"epoch": [0, 1, 2], "exact_rate": [0, 0.2, 0.5]})
    paths = models.merge(epochs.assign(nats_per_token=[4.0, 3.0, 3.5]), "cross")
    curves = paths.rename(columns={"exact_rate": "memorized"})
    curves["useful"] = [0.18, 0.2, 0.3] * len(models)
    curves.loc[curves["size"] == sizes[0], "memorized"] /= 2  # others reach further than the first
    stops = models.query("method in ('word_kd', 'minillm')").assign(epoch=2, sft_epoch=1)
    figure = study_plots.training_paths(curves.sort_values("size"), stops, sizes, "ROUGE-L")
    assert [axes.get_title() for axes in figure.axes] == list(sizes)
    assert figure.axes[0].get_ylabel().startswith("ROUGE-L")
    assert {"stopped where as useful", "SFT (each point: stopped early)"} <= {
        *texts(figure.legends[0].get_texts())
    }
    assert all(texts(axes.texts) == [label(one) for one in PAPER] for axes in figure.axes)
    marks = [line.get_zorder() for line in figure.axes[-1].lines]
    last = [one for one in figure.axes[-1].collections if isinstance(one, PathCollection)]
    assert all(one.get_zorder() > max(marks) for one in last)
    rings = [one.get_offsets()[0].tolist() for one in last if len(one.get_offsets())]
    half = 1 if len(sizes) > 1 else 0.5
    sft, *others = rings  # SFT is stopped sooner
    assert sft == [0.2 * half, 0.2] and others == [[0.5 * half, 0.3]] * 2
    furthest = curves.loc[curves["size"].isin(sizes), "memorized"].max()
    assert all(axes.get_xlim()[1] > furthest for axes in figure.axes)
    crosses = [line.get_xdata() for line in figure.axes[0].lines if line.get_marker() == "x"]
    starts = {places[0] for places in crosses if len(places)}
    least = figure.axes[0].get_xlim()[0]
    assert len(starts) == len(PAPER) and least < min(starts) and max(starts) < 0
    curves["useful"] = curves["useful"].replace(0.18, -5)  # before: the start is not far below
    [*_, axes] = study_plots.training_paths(curves, stops, sizes, "ROUGE-L", "A1: 1").axes
    assert texts(axes.texts)[0] == "start: -5.00 \N{DOWNWARDS ARROW}"
    assert ("A1: 1" in texts(axes.texts)) == (len(sizes) == 1)  # in the first panel
    assert axes.get_ylim()[0] == pytest.approx(0.15)
    both = [paths.assign(split=split) for split in ("member", "held_out")]
    figure = study_plots.loss_curves(pd.concat(both).query("method == 'mine'"), sizes)
    left, right = ({*texts(axes.texts)} for axes in figure.axes)
    assert left == {f"{size}, {split}" for size in sizes for split in ("member", "held-out")}
    assert right == {f"{size} 50%" for size in sizes} and figure.get_suptitle() == "mine"
    alone = pd.concat(both).query("method == 'teacher'")
    left, right = (texts(axes.texts) for axes in study_plots.loss_curves(alone).axes)
    assert left == ["member", "held-out"] and right == ["teacher 50%"]
    several = study_plots.loss_curves(pd.concat(both).query("method in ['teacher', 'mine']"))
    assert f"mine, {sizes[0]}, member" in texts(several.axes[0].texts)
    assert "teacher, held-out" in texts(several.axes[0].texts) and not several.get_suptitle()
    own = pd.concat(both).query("method == 'mine'").assign(accuracy=0.3)
    for rate, ylabel, drawn in ((0.5, style.MEMORIZED, 0.5), (0.0, style.NONE_MEMORIZED, 0.3)):
        axes = study_plots.loss_curves(own.assign(exact_rate=rate), sizes).axes[1]
        assert axes.get_ylabel() == ylabel and set(axes.lines[0].get_ydata()) == {drawn}
    lines = [line.get_linestyle() for line in figure.axes[1].lines]
    assert lines == [style.of_size(style.LINES, size, sizes) for size in sizes]


def test_utility_vs_memorization(models, sizes):
    points = models.merge(pd.DataFrame({"seed": [0, 1]}), "cross")
    trivial = pd.Series({"echo": 0.3, "constant": 0.1})
    both = points.assign(exact_rate=0.5, useful=0.2)
    [axes] = study_plots.utility_vs_memorization(both, trivial).axes
    *names, without = texts(axes.get_legend().get_texts())
    assert names == ["base", "teacher", "SFT", "word-level KD", "sequence-level KD", "MiniLLM"]
    assert without == "without a model"
    lines = [segment[0, 1] for segment in axes.collections[-1].get_segments()]
    assert lines == [0.3, 0.1]
    assert {one.get_text(): one.get_position()[1] for one in axes.texts} == trivial.to_dict()
    behind = (both["method"] == "minillm") & (both["size"] == sizes[-1])
    less = both.assign(useful=np.where(behind, 0.1, 0.2))
    told = texts(study_plots.utility_vs_memorization(less, trivial).axes[0].texts)
    assert {*told} - {*trivial.index} == {f"MiniLLM, {sizes[-1]}: -0.100 to SFT"}
    assert axes.get_legend().get_title().get_text().endswith("(small: seeds)")
    one = points[points["seed"] == 0].assign(exact_rate=0.5, useful=0.2)
    [alone] = study_plots.utility_vs_memorization(one, trivial).axes
    assert len(alone.collections) - 1 == len(names) == (len(axes.collections) - 1) / 2
    assert "seeds" not in alone.get_legend().get_title().get_text()


def test_windows_and_repetitions(models, sizes):
    table = models[models["size"].isin(["teacher", sizes[-1]])].query("method != 'base'")
    curve = table.merge(pd.DataFrame({"k": range(51)}), "cross").assign(value=0.5)
    both = pd.concat([curve.assign(split=split) for split in ("member", "held_out")])
    [axes] = study_plots.memorization_by_k(both).axes
    assert texts(axes.texts)[-2:] == ["mine 0.50", "held-out (dotted)"]
    assert min(axes.lines[0].get_xdata()) == 1  # k = 0 stands for the whole response
    often = models.merge(pd.DataFrame({"times": [1, 4]}), "cross").assign(kind="canary")
    often = often.assign(value=0.5, lo=0.4, hi=0.6, n=often["times"] + 5)
    [axes] = study_plots.memorization_by_repetitions(often, sizes[-1]).axes
    names = [f"{label(name)} 0.50" for name in ("teacher", *PAPER)]
    assert texts(axes.texts) == names
    assert texts(axes.get_xticklabels()) == ["1", "4"]
    assert "(6 to 9 canaries each" in axes.get_xlabel()
    assert axes.get_title() == f"students: {sizes[-1]}"
    few = often.assign(lo=np.nan, hi=np.nan, n=6)
    [bare] = study_plots.memorization_by_repetitions(few, sizes[-1]).axes
    assert "(6 canaries each" in bare.get_xlabel() and texts(bare.texts) == names


def test_lengths():
    tokens = pd.DataFrame({"part": ["prompt", "response"] * 9, "tokens": range(18)})
    [axes] = study_plots.lengths(tokens).axes
    assert texts(axes.texts) == ["k = 50"]


def test_layer_costs_show_what_each_size_keeps(sizes):
    costs = pd.DataFrame({"layer": range(6), "nats_more": [3.0, 0.1, 0.2, 0.1, 0.5, 2.0]})
    kept = {size: [0, 5][: i + 1] for i, size in enumerate(sizes)}
    bars, rows = study_plots.layer_costs(costs, kept).axes
    light = [bar.get_facecolor()[0] for bar in bars.patches]
    assert light[1:5] == [1.0] * 4 and light[0] <= light[5]  # what none keeps is white
    assert light[0] < 0.5
    assert texts(rows.get_yticklabels()) == [f"{size} keeps" for size in sizes]
    assert [line.get_xdata().tolist() for line in rows.lines] == list(map(list, kept.values()))


def test_less_than_sft(models, sizes):
    own = models[models["method"].isin(PAPER[1:])].assign(value=-0.1, lo=-0.2, hi=0.0)
    mean = pd.DataFrame([{"method": "all", "size": "all", "value": 0.1, "lo": 0.0, "hi": 0.2}])
    none = own.assign(value=np.nan, lo=np.nan, hi=np.nan)  # paths that do not meet
    lines = pd.concat([mean.assign(claim="C1"), own.assign(claim="C1"), none.assign(claim="A2")])
    ways = {"C1": "at the end", "A2": "as closely"}
    ended, fitted = study_plots.less_than_sft(lines, ways).axes
    assert [ended.get_title(), fitted.get_title()] == list(ways.values())
    named = texts(ended.get_yticklabels())
    assert named[:2] == ["mean (how many)", f"word-level KD, {sizes[0]}"] and len(named) == 1 + len(
        own
    )
    m = len(own)
    assert texts(ended.texts) == [f"+0.100 ({m}/{m})"]  # the mean alone
    ended.figure.draw_without_rendering()
    diamond = next(one for one in ended.lines if one.get_marker() == "D")
    half = diamond.get_markersize() / 2**0.5 * ended.figure.dpi / 72
    middle = ended.transData.transform((0.1, 0))[1]
    assert ended.texts[0].get_bbox_patch().get_window_extent().y0 > middle + half  # all is seen
    assert texts(fitted.texts) == ["not comparable"] * len(named)
    assert [one.get_position()[1] for one in fitted.texts] == list(range(len(named)))
    drawn = [bar.lines[0].get_xydata()[0].tolist() for bar in ended.containers]
    assert drawn[0] == [0.1, 0.0] and drawn[1] == [-0.1, 1.0]
    known = np.where(own["size"] == sizes[0], -0.5, np.nan)
    less = pd.concat([mean, own.assign(value=known, lo=known, hi=known)]).assign(claim="A2")
    ended, fitted = study_plots.less_than_sft(pd.concat([lines[: m + 1], less]), ways).axes
    assert texts(fitted.texts)[0] == f"+0.100 ({m // len(sizes)}/{m})"
    assert ended.get_xlim() == fitted.get_xlim() == pytest.approx((-0.55, 0.55))
