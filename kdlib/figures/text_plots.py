"""Figures of whose text a student reads. For notebook 07_on_policy."""

import pandas as pd
from matplotlib.figure import Figure

from kdlib.figures import labels, style

GREYS = ("0.8", "0.5", "0.2")  # no method's colours


def replay(read_by: pd.DataFrame, mean_age: pd.Series) -> Figure:
    """By epoch: the shares of steps that read each kind of text, and how old replayed text is."""
    figure, [[left, right]] = style.panels(1, 2, 9, 3.4)
    bars = {"stacked": True, "width": 0.9, "rot": 0, "legend": False}
    read_by.plot.bar(ax=left, color=GREYS, **bars)
    left.set(xlabel="epoch", ylabel="share of optimizer steps")
    right.plot(mean_age.index, mean_age, "o-", color=GREYS[-1])
    right.set(xlabel="epoch", ylabel="mean age of replayed text\n(optimizer steps)", ylim=(0, None))
    return style.below(figure, left, "upper center", ncols=3)


def student_share(method: str, dial: pd.DataFrame) -> Figure:
    """What a method memorizes, and its losses, by the share of steps on the student's text.

    `dial`: a line a share, columns (metric, split) of `rates.summary`. Where nothing is memorized
    at any share, the losses stand alone.
    """
    value, lo, hi = (dial[one, "member"] for one in ("memorized", "lo", "hi"))
    some = bool(value.any())
    figure, [[*first, last]] = style.panels(1, 1 + some, 6 + 4 * some, 3.4)
    for axes in first:
        whole = pd.DataFrame({"value": value, "lo": lo, "hi": hi})
        style.intervals(axes, dial.index, whole, **style.look(method))
        axes.set(ylabel=style.MEMORIZED, ylim=(-0.02, 1))
    for split, pale in (("member", 1), ("held_out", 0.45)):
        name = f"{split} rows".replace("_", "-")
        nats = dial["nats_per_token", split]
        last.plot(dial.index, nats, alpha=pale, label=name, **style.look(method))
    last.set(ylabel="loss (nats per token)")
    for axes in (*first, last):
        axes.set(xlabel="share of steps on the student's text")
    labels.at_ends(last)
    return figure
