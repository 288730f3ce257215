"""The sentences on usefulness, beside those of `sentences`."""

from typing import Any

import pandas as pd

from kdlib.analysis.rates import student_sizes
from kdlib.config.methods import METHODS, PAPER, label
from kdlib.config.profile import TEACHER, Profile
from kdlib.report import lookups, results
from kdlib.stats import row_text


def of_teacher(settings: Profile) -> str:
    """What the teacher's answers add to the best that need no model."""
    differences = lookups.table(settings.name, "over_trivial").query("method == 'teacher'")
    if differences.empty:
        return "how useful answers are was not noted through training."
    least = differences.loc[differences["value"].idxmin()].to_dict()
    word = (
        "more useful" if least["lo"] > 0 else "less useful" if least["hi"] < 0 else lookups.UNKNOWN
    )
    text = "in usefulness, the teacher's held-out answers after its best epoch minus the best "
    text += (
        f"ones that need no model ('{least['against']}'): {row_text(least, form='+.3f')}, {word}."
    )
    return text


def with_more_steps(settings: Profile) -> str:
    """Whether methods are more useful than SFT after four times the steps; "" from scratch."""
    if settings.from_scratch:
        return ""
    longer = lookups.lines(settings.name, "convergence")["method"].unique()
    stops = lookups.lines(settings.name, "cause_equal_usefulness", gained="True")
    stops, phrases = stops.set_index(["method", "metric"]), []
    for method in longer:
        if (method, "useful") in stops.index:
            useful, memorized = (stops.loc[(method, metric)] for metric in ("useful", "memorized"))
            gap, margin = row_text(useful, form="+.3f"), useful["margin"]
            word = "more useful" if useful["lo"] > margin else "not surely more useful"
            shares = f"{memorized['own']:.1%} (SFT {memorized['sft']:.1%}"
            count = f"different responses that differ: {memorized['discordant']:.0f}"
            phrases.append(f"{method} {gap}, {word}, memorized {shares}; {count})")
    if not phrases:
        return ""
    text = "with four times the steps and stopped as in notebook 10, usefulness minus that of SFT, "
    text += "which was given no more steps (by less than the margin of "
    return f"{text}{margin:.3f} both count as equally useful): {'; '.join(phrases)}."


def of_sft(settings: Profile) -> str:
    """What answers of SFT add to the best that need no model, by size."""
    differences, phrases = lookups.table(settings.name, "over_trivial").query("method == 'sft'"), []
    for size, part in differences.groupby("size", sort=False):
        least = part.loc[part["value"].idxmin()].to_dict()
        phrases.append(f"{size} {row_text(least, form='+.3f')} ('{least['against']}')")
    if not phrases:
        return "how useful answers of SFT are was not noted through training."
    text = "in usefulness, SFT, stopped as in [10](10_comparison.ipynb), minus the best answers "
    text += f"that need no model: {', '.join(phrases)}; below 0, these are the more useful ones."
    return f"{text}{_stopped(settings)}"


def _stopped(settings: Profile) -> str:
    """What stopping SFT at its least held-out loss leaves of its best usefulness, by size."""
    curves = lookups.lines(settings.name, "curves", method="sft").dropna(subset="useful")
    losses, phrases = lookups.lines(settings.name, "paths", method="sft", split="held_out"), []
    for size, curve in curves.groupby("size", sort=False):
        scores = curve.set_index("epoch")["useful"]
        loss = losses[losses["size"] == size].groupby("epoch")["nats_per_token"].mean()
        epoch = loss.loc[loss.index.intersection(scores.index)].idxmin()
        phrases.append(
            f"{scores[epoch]:.3f} of at most {scores.max():.3f} ({size} size, epoch {epoch:g})"
        )
    text = "After the whole epoch with the least held-out loss (mean over seeds) its usefulness is"
    return f" {text} {', '.join(phrases)}." if phrases else ""


def of_any(settings: Profile) -> str:
    """What answers of the teacher and of SFT add to the best that need no model."""
    least = gaps_to_trivial(settings.name)
    if least.empty:
        return "how useful answers are was not noted through training."
    phrases = [
        f"{'the teacher' if size == 'teacher' else f'SFT ({size})'} {row_text(line, form='+.3f')}"
        for size, line in zip(least["size"], least.to_dict("records"), strict=True)
    ]
    best = "' or '".join(least["against"].unique())
    text = "in usefulness, models stopped early minus the best answers that need no model "
    return f"{text}('{best}'): {', '.join(phrases)}; below 0, these are the more useful ones."


def gaps_to_trivial(profile: str) -> pd.DataFrame:
    """The least differences to answers without a model: of the teacher, then of SFT by size.

    Lines of `over_trivial`; none where usefulness was not noted through training.
    """
    differences = lookups.table(profile, "over_trivial")
    least = differences.loc[differences.groupby("size", sort=False)["value"].idxmin()]
    return least.sort_values("method", ascending=False, kind="stable")


def ranked(profile: str) -> pd.DataFrame:
    """Usefulness of held-out answers at the end of training, mean over seeds, the highest first.

    Of the teacher, the paper's methods, their base models, and answers without a model. Columns:
    answers of, usefulness; no line where it was not measured.
    """
    metrics = results.read(profile, "metrics").query(
        "metric == 'usefulness_greedy' and split == 'held_out'"
    )
    others = set(metrics["method"]) & (METHODS.keys() - set(PAPER))  # may be of fewer seeds
    mean = metrics[~metrics["method"].isin(others)].groupby(["method", "size"])["value"].mean()
    names = [_answering(method, size) for method, size in mean.index]
    table = pd.DataFrame({"answers of": names, "usefulness": mean.to_numpy()})
    table = table.sort_values("usefulness", ascending=False, ignore_index=True)
    return table.assign(usefulness=table["usefulness"].map("{:.3f}".format))


def _answering(method: str, size: str) -> str:
    if method == "base":
        return f"{size}, before fine-tuning"
    of_size = {"all": f"{method}, no model", TEACHER: TEACHER}
    return of_size.get(size, f"{label(method)}, {size}")


def students_below_trivial(profile: str) -> dict[str, Any]:
    """How many of the paper's students answer less usefully than the best answer without a model.

    On held-out rows, means over seeds: answer (its name), students (how many there are at the end
    of training), less (how many are), untuned (usefulness of the teacher's base model), more (how
    many are more useful than that); empty where no usefulness, or no such answer, was measured.
    """
    metrics = lookups.table(profile, "metrics")
    if not {"metric", "split", "value"} <= set(metrics):
        return {}
    metrics = metrics.query("metric == 'usefulness_greedy' and split == 'held_out'")
    mean = metrics.groupby(["size", "method"])["value"].mean()
    trivial, students = (
        mean[mean.index.isin(sizes, level=0)] for sizes in (["all"], student_sizes(metrics))
    )
    if trivial.empty:
        return {}
    students = students[students.index.isin(PAPER, level=1)]  # the others may be of fewer seeds
    counts = {
        "answer": trivial.idxmax()[1],
        "students": len(students),
        "less": int((students < trivial.max()).sum()),
    }
    untuned = float(mean.get((TEACHER, "base"), float("nan")))
    return counts | {"untuned": untuned, "more": int((students > untuned).sum())}
