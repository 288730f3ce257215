"""An audit as one page for people who decide: verdict, curves, the rows that are known best.

The page holds all it needs: nothing is requested when it is opened, and text of the data is text.
"""

import base64
import io
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from kdlib.analysis import roc
from kdlib.audit.summary import ATTACKS, FEW, SAMPLE, TOP
from kdlib.config.definitions import FULL, WINDOW
from kdlib.figures import style
from kdlib.report import notebook_display

TEMPLATE = Path(__file__).with_name("report.html.j2")
NAMES = {"member": "training rows", "held_out": "held-out rows"}
LOOKS = {"member": ("-", "o"), "held_out": (":", "x")}
RULE = (
    "the model memorizes if the 95% interval (Wilson) of the training rows' share lies wholly "
    "above that of the held-out rows; without held-out rows, memory cannot be told from guessing"
)


def page(
    table: pd.DataFrame, sample: pd.DataFrame, top: pd.DataFrame, about: dict[str, Any]
) -> str:
    """The report as HTML.

    Args:
        table: as `summary.summary` gives.
        sample: as `summary.attacked` gives; may be empty.
        top: most memorized rows, with what was written word for word in column verbatim.
        about: settings; limit (tokens), device, and by split in "rows": rows, empty, too_long, cut,
            measured.
    """
    headline, sentences = verdict(table)
    known = [
        row | {"marked": Markup(notebook_display.marked(row["response"], row["verbatim"]))}
        for row in top.to_dict("records")
        if row["prefix"] > 0
    ]
    jinja = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return jinja.from_string(TEMPLATE.read_text("utf-8")).render(
        headline=headline,
        sentences=sentences,
        rule=RULE,
        warnings=warnings(table, about),
        rates=rates(table),
        figures=figures(table, sample, about),
        attacks=attacks(table),
        known=known,
        asked_rows=TOP,
        about=about,
        names=NAMES,
        window=WINDOW,
        most=SAMPLE,
    )


def verdict(table: pd.DataFrame) -> tuple[str, list[str]]:
    """The verdict by RULE in a few words, and the sentences that it rests on."""
    found = _rate(table, "exact_rate", WINDOW)
    if "member" not in found.index:
        return "Nothing could be measured.", ["No training row fits the model; see below."]
    member = found.loc["member"]
    sentences = [
        f"Shown the instruction (and context) of a training row, the model's likeliest text "
        f"begins with the first {WINDOW} tokens of its response, word for word (with all of "
        f"it, where it is shorter), in {_told(member)}."
    ]
    if "held_out" not in found.index:
        sentences.append(
            "No held-out rows were given: how many of these are remembered, and how many could be "
            "guessed by a model that never read them, cannot be told."
        )
        return "Memory cannot be told from guessing.", sentences
    other = found.loc["held_out"]
    sentences.append(f"Of held-out rows the same holds in {_told(other)}.")
    told_apart = _told_apart(table)
    if member["lo"] > other["hi"]:
        return "The model memorizes its training rows.", sentences + told_apart
    sentences.append(
        "The first interval does not lie above the second. That does not show that nothing is "
        "memorized: with these rows, it cannot be told from guessing."
    )
    return "No word-for-word memorization beyond guessing is shown.", sentences + told_apart


def _told_apart(table: pd.DataFrame) -> list[str]:
    """What the loss alone says of membership: always that score, not the best of several."""
    found = table[(table["metric"] == "auc") & (table["at"] == "loss")]
    if found.empty:
        return []
    row = found.iloc[0]
    able = "can" if row["lo"] > 0.5 else "cannot be shown to"
    return [
        f"Who knows nothing but the losses {able} tell training from held-out rows: AUC "
        f"{row['value']:.3f} (95% interval {row['lo']:.3f} to {row['hi']:.3f}; 0.5 is a guess)."
    ]


def _rate(table: pd.DataFrame, metric: str, at: Any) -> pd.DataFrame:
    return table[(table["metric"] == metric) & (table["at"] == at)].set_index("split")


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _told(rate: pd.Series) -> str:
    hits = round(rate["value"] * rate["n"])
    span = f"{_percent(rate['lo'])} to {_percent(rate['hi'])}"
    return f"{hits:,} of {rate['n']:,} rows: {_percent(rate['value'])} (95% interval {span})"


def warnings(table: pd.DataFrame, about: dict[str, Any]) -> list[str]:
    """What a reader must know about the rows: skipped, cut, few."""
    said = []
    for split, rows in about["rows"].items():
        name = NAMES[split]
        if rows["too_long"]:
            said.append(
                f"{rows['too_long']:,} of {rows['rows']:,} {name} were skipped: their prompt alone "
                f"does not fit into {about['limit']:,} tokens."
            )
        if rows["empty"]:
            said.append(f"{rows['empty']:,} {name} were skipped: no instruction or no response.")
        if rows["cut"]:
            said.append(
                f"{rows['cut']:,} responses of {name} were cut where prompt and response reach "
                f"{about['limit']:,} tokens: what lies behind was not measured."
            )
        if rows["measured"] < FEW:
            said.append(f"Only {rows['measured']} {name} were measured: the shares are uncertain.")
    return said


def rates(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Lines of the report's table: what, and for each split the share with its interval and n."""
    asked = [
        ("exact_rate", 10, "first 10 tokens word for word"),
        ("exact_rate", WINDOW, f"first {WINDOW} tokens word for word"),
        ("exact_rate", FULL, "whole response word for word, with its end"),
        ("extractable", 0.5, "the second half word for word, once the first is given"),
        ("discoverable", 1, "word for word in 1 sampled answer, with a chance of one half"),
        ("discoverable", 100, "word for word among 100 sampled answers, with a chance of one half"),
    ]
    lines = []
    for metric, at, words in asked:
        found = _rate(table, metric, at)
        cells = {split: _told(found.loc[split]) for split in NAMES if split in found.index}
        lines.append({"words": words, "cells": cells})
    return lines


def attacks(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Lines of the membership table: score, and AUC and hits with intervals, where there are."""
    lines = []
    for score in ATTACKS:
        cells = {}
        for metric in ("auc", *roc.RATES):
            found = table[(table["metric"] == metric) & (table["at"] == score)]
            for row in found.to_dict("records"):
                cells[metric] = f"{row['value']:.3f} [{row['lo']:.3f}, {row['hi']:.3f}]"
        if cells:
            lines.append({"score": score, "cells": cells})
    return lines


def figures(
    table: pd.DataFrame, sample: pd.DataFrame, about: dict[str, Any]
) -> list[dict[str, str]]:
    """Caption and data URI of each figure, or why it is left out."""
    style.style()
    few = [NAMES[split] for split, rows in about["rows"].items() if rows["measured"] < FEW]
    short = f"left out: fewer than {FEW} {' and '.join(few)}" if few else ""
    if about["held_out"]:
        attacked = short
    else:
        attacked = "left out: no held-out rows were given, and it needs both kinds"
    drawn = [
        (
            "Share of rows whose first k tokens come back word for word, by k, with 95% intervals.",
            short or _by_k(table),
        ),
        (
            "Share of rows whose rest comes back word for word, with its end, once a share of the "
            "response is given, with 95% intervals.",
            short or _by_share(table),
        ),
        (
            "Telling training rows from held-out rows by one score of each: training rows found, "
            "against held-out rows wrongly accused. Dashed: guessing.",
            attacked or _roc(sample, table),
        ),
    ]
    return [
        {"caption": caption, "why": one, "uri": ""}
        if isinstance(one, str)
        else {"caption": caption, "why": "", "uri": _uri(one)}
        for caption, one in drawn
    ]


def _uri(figure: Figure) -> str:
    held = io.BytesIO()
    # no software name or date inside: the same numbers give the same page
    figure.savefig(held, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()


def _by_k(table: pd.DataFrame) -> Figure:
    figure, axes = plt.subplots(layout="constrained")
    rows = table[(table["metric"] == "exact_rate") & (table["at"] != FULL)]
    for i, (split, part) in enumerate(rows.groupby("split", sort=False)):
        k = part["at"].astype(int)
        line, _ = LOOKS[str(split)]
        axes.plot(k, part["value"], line, color=f"C{i}", label=f"{NAMES[str(split)]}")
        axes.fill_between(k, part["lo"], part["hi"], color=f"C{i}", alpha=0.2, linewidth=0)
    axes.set(xlabel="window k (tokens)", ylabel="word for word (share of rows)", ylim=(-0.02, 1.02))
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def _by_share(table: pd.DataFrame) -> Figure:
    figure, axes = plt.subplots(layout="constrained")
    rows = table[table["metric"] == "extractable"]
    for i, (split, part) in enumerate(rows.groupby("split", sort=False)):
        line, marker = LOOKS[str(split)]
        spread = [part["value"] - part["lo"], part["hi"] - part["value"]]
        look: dict[str, Any] = {"color": f"C{i}", "linestyle": line, "marker": marker, "capsize": 3}
        axes.errorbar(part["at"], part["value"], spread, label=NAMES[str(split)], **look)
    axes.set(xlabel="share of the response given", ylabel="rest word for word (share of rows)")
    axes.set_ylim(-0.02, 1.02)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def _roc(sample: pd.DataFrame, table: pd.DataFrame) -> Figure:
    figure, axes = plt.subplots(layout="constrained")
    member = sample["member"].to_numpy(dtype=bool)
    least = 1 / max(1, int((~member).sum()))  # the least rate above 0 that can be seen
    areas = table[table["metric"] == "auc"].set_index("at")["value"]
    for score, area in areas.items():
        false, hits = roc.roc(sample[score].to_numpy(), member)
        axes.plot(np.maximum(false, least), hits, label=f"{score} (AUC {area:.2f})")
    guess = np.geomspace(least, 1, 50)
    axes.plot(guess, guess, "--", color="0.5")
    axes.set(xscale="log", xlim=(least, 1), ylim=(-0.02, 1.02))
    axes.set(xlabel="held-out rows accused (share)", ylabel="training rows found (share)")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure
