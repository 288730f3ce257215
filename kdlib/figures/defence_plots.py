"""What defences leave, by how closely students fit the rows. For notebook 15_defences."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdlib.analysis.plane import BEFORE
from kdlib.config.defences import DEFENCES
from kdlib.config.methods import label
from kdlib.figures import style

MARKERS = "ovs^DP*X<>hd8"  # of a student without a defence, then of each defence
COLOURS = {"SFT": "0.35", label("word_kd"): "#0173b2"}


def fitted(ends: pd.DataFrame, path: pd.DataFrame) -> Figure:
    """Each student of `plane.at_end` at its last epoch, and the way of SFT (`cause.memorized`).

    Left to right the rows are fitted more closely. Who lies on the line memorizes what SFT does
    where it fits them as closely; who lies below memorizes less. Filled: beside SFT; hollow: beside
    word-level KD; other methods by their names.
    """
    figure, [[axes]] = style.panels(1, 1, 9, 4.6)
    axes.plot(path["nats"], path["value"], color=style.look("sft")["color"], zorder=1)
    kd, shapes = label("word_kd"), {name: MARKERS[place] for place, name in enumerate(_names())}
    seen: dict[str, str] = {}
    for line in ends.to_dict("records"):
        name = label(line["method"])
        taught, own = name.startswith(kd), name.removeprefix(f"{kd} + ")
        own = "" if name in (kd, label("sft")) else own.partition(",")[0]
        if own not in shapes:  # neither of the two, or before fine-tuning
            if name != BEFORE:
                axes.plot(line["nats"], line["value"], "x", color="#cc78bc", markersize=8)
                at = (line["nats"], line["value"])
                axes.annotate(
                    name, at, (-8, 0), textcoords="offset points", ha="right", va="center"
                )
            continue
        seen[own] = shapes[own]
        look: dict[str, Any] = {"marker": shapes[own], "color": COLOURS[kd if taught else "SFT"]}
        look["markerfacecolor"] = "none" if taught else look["color"]
        axes.plot(line["nats"], line["value"], linestyle="", markersize=8, **look)
    axes.invert_xaxis()
    axes.set(xlabel="loss on the member rows at the end (nats per token)", ylabel=style.MEMORIZED)
    handles = [Line2D([], [], color=style.look("sft")["color"], label="SFT on its way")]
    handles += [
        Line2D([], [], color="0.35", marker=marker, linestyle="", label=name or "no defence")
        for name, marker in seen.items()
    ]
    hollow: dict[str, Any] = {
        "color": COLOURS[kd],
        "marker": "o",
        "markerfacecolor": "none",
        "linestyle": "",
    }
    handles.append(Line2D([], [], label=f"hollow: with {kd}", **hollow))
    axes.legend(handles=handles, loc="upper left", fontsize="small")
    return figure


def _names() -> list[str]:
    return ["", *(one.label.partition(",")[0] for one in DEFENCES.values())]
