"""An audit as one page for people who decide: verdict, curves, the rows that are known best.

The page holds all it needs: nothing is requested when it is opened, and text of the data is text.
"""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from kdlib.analysis import roc
from kdlib.analysis.extraction import ALIKE, RUN
from kdlib.audit.summary import FEW, SAMPLE, TOP
from kdlib.config.exact_match import FULL, WINDOW
from kdlib.data import scrubbing
from kdlib.figures import style
from kdlib.report import notebook_display
from kdlib.stats import row_text

NAMES = {"member": "training rows", "held_out": "held-out rows"}
ANSWERED = [
    ("edit_similarity", ALIKE, "answered for real: edit similarity of 0.9 or more"),
    ("longest_run", RUN, "answered for real: half of the response's words in a row"),
]
LOOKS = {"member": ("-", "o"), "held_out": (":", "x")}


def page(
    table: pd.DataFrame,
    sample: pd.DataFrame,
    top: pd.DataFrame,
    metadata: dict[str, Any],
    gate_lines: Sequence[str] | None = None,
) -> str:
    """The report as HTML, of what `command.write_report` has; top with column verbatim (text).

    `gate_lines` are `gate.sentences`, where there was a policy.
    """
    attacks: dict[str, dict[str, str]] = {}
    for row in table[table["split"] == "both"].to_dict("records"):
        attacks.setdefault(row["at"], {})[row["metric"]] = row_text(row)
    headline, sentences = verdict(table)
    context: dict[str, Any] = {
        "headline": headline,
        "sentences": sentences,
        "names": NAMES,
        "gated": gate_lines,
    }
    context |= {"about": metadata, "attacks": attacks, "figures": figures(table, sample, metadata)}
    context["guess"] = np.log(metadata["vocabulary"])
    context["answered"] = ANSWERED if metadata["decode"] else []
    context["kinds"] = scrubbing.KINDS
    context["strings"] = (
        "personal data" if metadata["detected"] else "named strings (column secrets)"
    )
    context["limits"] = {"window": WINDOW, "few": FEW, "sample": SAMPLE, "known": TOP}
    context["nats"] = _rate(table, "nats_per_token", "")["value"].to_dict()
    context["shares"] = lambda metric, key, unit="rows": (
        _rate(table, metric, key).apply(share, axis=1, unit=unit).to_dict()
    )
    context["known"] = [row for row in top.to_dict("records") if row["prefix"] > 0]
    context["marked"] = lambda row: Markup(
        notebook_display.marked(row["response"], row["verbatim"])
    )
    template = Path(__file__).with_name("report.html.j2").read_text("utf-8")
    jinja = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return jinja.from_string(template).render(context)


def verdict(table: pd.DataFrame) -> tuple[str, list[str]]:
    """The verdict by the page's rule in a few words, and the sentences that it rests on."""
    rates = _rate(table, "exact_rate", WINDOW)
    if "member" not in rates.index:
        return "Nothing could be measured.", ["No training row fits the model; see below."]
    member = rates.loc["member"]
    sentences = [
        "Shown the instruction (and context) of a training row, the model's likeliest text begins "
        f"with the first {WINDOW} tokens of its response, word for word (with all of it, where it "
        f"is shorter), in {share(member)} (95% intervals in brackets)."
    ]
    if "held_out" not in rates.index:
        sentences += [
            "No held-out rows were given: how many of these are remembered, and how many could be "
            "guessed by a model that never read them, cannot be told."
        ]
        return "Memory cannot be told from guessing.", sentences
    held_out = rates.loc["held_out"]
    sentences += [f"Of held-out rows the same holds in {share(held_out)}."]
    headline = "The model memorizes its training rows."
    if member["lo"] <= held_out["hi"]:
        headline = "No word-for-word memorization beyond guessing is shown."
        sentences += [
            "The first interval does not lie above the second. That does not show that nothing is "
            "memorized: with these rows, it cannot be told from guessing."
        ]
    # what the loss alone says of membership: always that score, not the best of several
    for row in table[(table["metric"] == "auc") & (table["at"] == "loss")].to_dict("records"):
        verb = "can" if row["lo"] > 0.5 else "cannot be shown to"
        predicate = f"{verb} tell training from held-out rows: AUC {row_text(row)}"
        sentences += [f"Who knows nothing but the losses {predicate}, where 0.5 is a guess."]
    return headline, sentences


def _rate(table: pd.DataFrame, metric: str, key: Any) -> pd.DataFrame:
    return table[(table["metric"] == metric) & (table["at"] == key)].set_index("split")


def share(rate: Any, unit: str = "rows") -> str:
    """Hits of rows, and their share with its interval."""
    hits = round(rate["value"] * rate["n"])
    return f"{hits:,} of {rate['n']:,} {unit}: {row_text(rate, form='.1%')}"


def figures(table: pd.DataFrame, sample: pd.DataFrame, metadata: dict[str, Any]) -> dict[str, str]:
    """Data URI of each figure, or why it is left out."""
    style.style()
    sparse = [NAMES[split] for split, rows in metadata["rows"].items() if rows["measured"] < FEW]
    reason = f"left out: fewer than {FEW} {' and '.join(sparse)}" if sparse else ""
    roc_reason = (
        "" if metadata["held_out"] else "left out: no held-out rows were given, and it needs both"
    )
    exact = table[(table["metric"] == "exact_rate") & (table["at"] != FULL)]
    extractable = table[table["metric"] == "extractable"]
    xlabel, ylabel = "share of the response given", "rest word for word (share of rows)"
    return {
        "k": reason or _shares(exact, "window k (tokens)", "word for word (share of rows)"),
        "begun": reason or _shares(extractable, xlabel, ylabel),
        "roc": roc_reason or reason or _roc(sample, table),
    }


def _uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    # no software name or date inside: the same numbers give the same page
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _shares(rows: pd.DataFrame, xlabel: str, ylabel: str) -> str:
    """A line for each split over `at`, its intervals as a band."""
    figure, ((axes,),) = style.panels(1, 1)
    for i, (split, part) in enumerate(rows.groupby("split", sort=False)):
        linestyle, marker = LOOKS[str(split)]
        x, mark = part["at"].astype(float), marker if len(part) < 10 else ""
        axes.plot(x, part["value"], linestyle, label=NAMES[str(split)], color=f"C{i}", marker=mark)
        axes.fill_between(x, part["lo"], part["hi"], color=f"C{i}", alpha=0.2, linewidth=0)
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(-0.02, 1.02))
    return _uri(style.below(figure, axes, "upper center", ncols=2))


def _roc(sample: pd.DataFrame, table: pd.DataFrame) -> str:
    figure, ((axes,),) = style.panels(1, 1)
    member = sample["member"].to_numpy(dtype=bool)
    floor = 1 / max(1, int((~member).sum()))  # the least rate above 0 that can be seen
    aucs = table[table["metric"] == "auc"].set_index("at")["value"]
    for score, auc in aucs.items():
        curve = roc.roc(sample[score].to_numpy(), member)
        name = f"{score} (AUC {auc:.2f})"
        axes.plot(curve["false"].clip(lower=floor), curve["true"], label=name)
    diagonal = np.geomspace(floor, 1, 50)
    axes.plot(diagonal, diagonal, "--", color="0.5")
    axes.set(xscale="log", xlim=(floor, 1), ylim=(-0.02, 1.02))
    axes.set(xlabel="held-out rows accused (share)", ylabel="training rows found (share)")
    return _uri(style.below(figure, axes, "upper center", ncols=2))
