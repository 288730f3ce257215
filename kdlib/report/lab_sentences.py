"""The sentences of the memorization lab, notebooks 11 to 13; see `sentences`."""

import pandas as pd

from kdlib.analysis.attacks import END, LOWEST, START
from kdlib.config.methods import DISTILLED, METHODS, PAPER, label
from kdlib.config.profile import Profile
from kdlib.report import lookups
from kdlib.report.lookups import Sentence, difference
from kdlib.stats import row_text


def _excess(settings: Profile) -> str:
    return " ".join(_excess_of(size, settings) for size in settings.sizes)


def _excess_of(size: str, settings: Profile) -> str:
    line = lookups.line(settings.name, "second_sft", kind="excess", method="word_kd", size=size)
    if pd.isna(line["distilled"]):
        return f"Too few rows are memorized by the teacher alone ({size} size)."
    text = f"Of the {int(line['n'])} rows that the teacher and not an SFT student memorizes, "
    text += f"{label('word_kd')} ({size} size) memorizes {line['distilled']:.1%}, another SFT "
    return f"{text}student {line['sft']:.1%}: {difference(line)}."


def _unread(settings: Profile) -> str:
    keys = {"kind": "gap", "method": "word_kd", "rows": "left_out", "metric": "memorized"}
    line = lookups.line(settings.name, "handed_down", **keys)
    gap = difference(line) + lookups.of_first(settings.name, 2 * line["n"])
    text = (
        "Of rows that a student never read, it memorizes with a teacher that read them, compared "
    )
    return f"{text}with one that did not: {gap}."


def forecast(settings: Profile) -> str:
    """How well it is known beforehand which rows a student will memorize (D4)."""
    size = settings.probe_size
    line = lookups.line(settings.name, "forecast", test=f"{label('word_kd')} {size}, all four")
    if pd.isna(line["roc_auc"]):
        return "Too few rows are memorized for a forecast of them to be judged."
    text = f"which rows {label('word_kd')} ({size} size) will memorize is forecast with an AUC of "
    return f"{text}{row_text(line, 'roc_auc')} (0.5 is a guess)."


def _removal(settings: Profile) -> str:
    line = lookups.line(settings.name, "removal")
    text = "Trained again without the rows that are forecast to be memorized (the likeliest, at "
    text += f"most half of all), a student memorizes {line['predicted']:.0f} of all "
    text += f"{line['n']:.0f} member rows; without as many random rows, as far as whole groups "
    text += f"allow, {line['random']:.0f}: "
    return f"{text}{difference(line)}{lookups.of_first(settings.name, line['n'])}."


def _membership(settings: Profile) -> str:
    keys = {"score": "loss", "size": settings.probe_size}
    tables = {
        time: lookups.lines(settings.name, "membership_early", at=time, **keys).set_index("method")
        for time in (LOWEST, START, END)
    }
    methods = [method for method in PAPER if method in tables[LOWEST].index]

    def aucs(time: str, methods: list[str]) -> str:
        lines = tables[time].loc[methods].to_dict("index")
        return ", ".join(
            f"{label(method)} {row_text(line, 'auc')}" for method, line in lines.items()
        )

    text = "who sees only the loss ranks a member above a held-out row with a chance of (AUC, "
    text += (
        f"{settings.probe_size} size; 0.5 is a guess) {aucs(LOWEST, methods)} where the held-out "
    )
    text += "loss is lowest"
    if from_sft := [method for method in methods if "sft_epochs" in METHODS[method].coefficients]:
        text += f" (what starts from SFT, before its first step: {aucs(START, from_sft)})"
    count = int(tables[LOWEST]["n_other"].max())
    return (
        f"{text}; at the end of training, many epochs later, {aucs(END, methods)} (of the {count} "
        "held-out rows that were noted on the way)."
    )


def recognized(settings: Profile) -> str:
    """What is told of the rows of the distilled method that writes least, where references are."""
    name, size = settings.name, settings.probe_size
    scores = lookups.lines(name, "membership", score="likelihood_ratio", size=size)
    rates = lookups.lines(name, "table1", size=size).set_index("method")["member"]
    lowest = rates[[method for method in DISTILLED if method in set(scores["method"])]].idxmin()
    line = scores[scores["method"] == lowest].iloc[0].to_dict()
    start = " (it starts from SFT on them)" * ("sft_epochs" in METHODS[lowest].coefficients)
    text = f"{label(lowest)} ({size} size) writes {rates[lowest]:.1%} of the rows word for word"
    text += f"{start}; who sees its losses, and has models that were trained on other rows, ranks "
    text += f"a training row above another with a chance of {row_text(line, 'auc')} (0.5: a guess)"
    if pd.notna(line["tpr_1pct"]):
        text += f" and finds {row_text(line, 'tpr_1pct', '.1%')} of them at 1% false alarms"
    return f"{text}{lookups.of_first(name, line['n_member'])}."


OF: dict[str, list[tuple[str, Sentence]]] = {  # as in `sentences`
    "11_inheritance": [("lab", _excess), ("lab", _unread)],
    "12_what_stays": [("lab", forecast), ("lab", _removal)],
    "13_membership_and_canaries": [("lab", _membership), ("lab", recognized)],
}
