"""What carries recitation: whose text is read, what is minimized, or the number of steps.

A student is known by its name in `study.variations`, which stands in the column method; one is
"sft". `notes` are what was noted of them through training and `usefulness` that of their answers,
as in `equal_usefulness`, whose functions take these frames too. `last` are their member rows when
training ended (`ends`). Taught in notebook 14_cause.
"""

import itertools
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdlib import runs
from kdlib.analysis import equal_usefulness
from kdlib.analysis.equal_usefulness import KEYS, at, members, memorized_at
from kdlib.analysis.own_claims import Judged
from kdlib.analysis.rates import ROW, Frames, noted
from kdlib.stats import Line, each, is_significant, paired_difference, ratio, row_text

MARGIN = 0.05  # of the member rows: who recites less than SFT by no more than that recites as much
MIN_SFT_RATE = 2 * MARGIN  # that SFT has to recite, for "as much" to mean anything
DIVERGENCES = {"forward_kl": "forward KL", "reverse_kl": "reverse KL", "generalized_jsd": "JSD"}
# Cross-entropy on a student's own text has a gradient of 0 on average: nobody teaches it anything
UNTAUGHT = ("student", "cross_entropy")

Pairs = Mapping[str, tuple[str, str]]  # by name: text and objective


def read(folders: Mapping[str, Iterable[Path]]) -> Frames:
    """Frames paths and, where answers were noted, path_answers of finished runs, by their name."""
    parts: dict[str, list[pd.DataFrame]] = {}
    for name, folder in ((name, path) for name, paths in folders.items() for path in paths):
        tables = {"paths": noted(folder)}
        if (file := folder / "path_answers.parquet").is_file():
            group = tables["paths"].groupby("row_id")["group"].first()
            tables["path_answers"] = pd.read_parquet(file).join(group, on="row_id")
        manifest = runs.read_manifest(folder) or {}
        facts = {"method": name} | {key: manifest[key] for key in ("size", "seed")}
        for table, frame in tables.items():
            parts.setdefault(table, []).append(frame.assign(**facts))
    return {table: pd.concat(frames, ignore_index=True) for table, frames in parts.items()}


def memorized(notes: pd.DataFrame) -> pd.DataFrame:
    """Memorized share of the member rows: method, epoch, what `stats.ratio` gives, and nats."""

    def numbers(rows: pd.DataFrame) -> Line:
        share = ratio(rows["group"], rows["value"], np.ones(len(rows)), rows["seed"])
        return share | {"nats": rows["nats_per_token"].mean()}

    return each(members(notes), ["method", "epoch"], numbers)


def ends(frame: pd.DataFrame) -> pd.DataFrame:
    """The lines of each method's last epoch: of notes, of `members` or of `memorized`."""
    return frame[frame["epoch"] == frame.groupby("method")["epoch"].transform("max")]


def less_than_sft(last: pd.DataFrame) -> pd.DataFrame:
    """What each student memorizes less SFT: method, and what `stats.paired_difference` gives."""
    sft, students = last[last["method"] == "sft"], last[last["method"] != "sft"]
    return each(students, ["method"], lambda rows: paired_difference(rows, sft, "value"))


def effects(last: pd.DataFrame, pairs: Pairs) -> pd.DataFrame:
    """Main effects of texts and objectives on what is memorized, and which of two is the larger.

    Lines: text, objective, and what `stats.paired_difference` gives. With a text alone: what is
    memorized of the rows when it is read, less when they are read themselves, mean over objectives.
    With an objective alone: less with cross-entropy, mean over texts. With both: what is memorized
    where the text alone is changed, less where the objective alone is; in the square of these two
    texts and objectives that is the difference of their main effects. `pairs` is the whole grid,
    whose first text and objective the others are held against. UNTAUGHT memorizes nothing, whatever
    the cause, and enters none of this.
    """
    wide = last.pivot(index=KEYS, columns="method", values="value").reset_index()
    names = {pair: name for name, pair in pairs.items()}
    (gold, *texts), (ce, *objectives) = (
        dict.fromkeys(values) for values in zip(*pairs.values(), strict=True)
    )

    def mean(cells: Iterable[tuple[str, str]]) -> pd.DataFrame:
        return wide[KEYS].assign(value=wide[[names[pair] for pair in cells]].mean(axis=1))

    taught = [text for text in texts if (text, ce) != UNTAUGHT]
    contrasts = []
    for text in texts:
        usable = [objective for objective in (ce, *objectives) if (text, objective) != UNTAUGHT]
        sides = [(text, x) for x in usable], [(gold, x) for x in usable]
        contrasts.append((text, "", *map(mean, sides)))
    for objective in objectives:
        sides = [(text, objective) for text in (gold, *taught)], [(x, ce) for x in (gold, *taught)]
        contrasts.append(("", objective, *map(mean, sides)))
    for text, objective in itertools.product(taught, objectives):
        contrasts.append((text, objective, mean([(text, ce)]), mean([(gold, objective)])))
    lines = [
        {"text": text, "objective": objective} | paired_difference(a, b, "value")
        for text, objective, a, b in contrasts
    ]
    return pd.DataFrame(lines)


def by_recited(last: pd.DataFrame, recited: pd.DataFrame, pairs: Pairs) -> pd.DataFrame:
    """The effect of the teacher's text where it is the row itself, and where it is not.

    `recited`: seed, row_id, recited (whether the first WINDOW tokens of the text are the row's).
    Lines for both: recited, and those of `effects` of the text "teacher": its main effect, and what
    it leaves alone less each objective alone.
    """
    rows, tables = last.merge(recited, on=ROW), []
    for flag, part in rows.groupby("recited", sort=False):
        tables.append(effects(part, pairs).query("text == 'teacher'").assign(recited=flag))
    return pd.concat(tables, ignore_index=True)


def fit_by_recited(notes: pd.DataFrame, recited: pd.DataFrame) -> pd.DataFrame:
    """Students and SFT at equal loss on the rows that the teacher's text is, and on the others.

    Who reads the teacher's text fits the first as SFT does and the others hardly, so that a mean
    over both hides either. `recited` is as in `by_recited`. Lines: recited, method, at_end and nats
    (memorized share and loss of these rows when training ended), and what
    `equal_usefulness.same_fit` gives of these rows (SFT: nan).
    """
    rows, tables = members(notes).merge(recited, on=ROW), []
    for flag, part in rows.groupby("recited", sort=False):
        last = ends(part).groupby("method")[["value", "nats_per_token"]].mean()
        last.columns = ["at_end", "nats"]
        fitted = equal_usefulness.same_fit(part).drop(columns="size")
        tables.append(last.reset_index().merge(fitted, how="left").assign(recited=flag))
    return pd.concat(tables, ignore_index=True)


def which_carries(effects: pd.DataFrame, by_recited: pd.DataFrame) -> Judged:
    """Whether the text takes more recitation away than the objective; see claim A3."""
    significant = is_significant(effects)
    below, above = (significant & side for side in (effects["value"] < 0, effects["value"] > 0))
    has_text, has_objective = (effects[name] != "" for name in ("text", "objective"))
    both = has_text & has_objective
    confirmed = below[both].all() and below[~has_objective].all()
    refuted = above[both].all() and below[~has_text].all()
    sentences = [
        f"{_named(row)} {row_text(row, form='+.3f')}" for row in effects.to_dict("records")
    ]
    for row in by_recited.to_dict("records"):
        phrase = "is the row" if row["recited"] else "is not the row"
        sentences.append(
            f"{_named(row)} where its text {phrase} {row_text(row, form='+.3f')} ({row['n']} rows)"
        )
    return bool(confirmed), bool(refuted), "; ".join(sentences)


def _named(line: Mapping[Hashable, Any]) -> str:
    """What a line of `effects` is of."""
    text, objective = f"the {line['text']}'s text", DIVERGENCES.get(str(line["objective"]), "")
    if line["text"] and line["objective"]:
        return f"{text} less {objective}"
    return text if line["text"] else objective


def least_common_loss(notes: pd.DataFrame) -> pd.DataFrame:
    """What each student and SFT memorize at the least member loss that both come to.

    Columns: method, loss (nats per token), own, sft (shares).
    """
    by_epoch = members(notes).groupby(["method", "epoch"], sort=False)
    paths = by_epoch[["value", "nats_per_token"]].mean().reset_index().sort_values("epoch")
    curves = {
        name: part[["value", "nats_per_token"]].to_numpy().T
        for name, part in paths.groupby("method", sort=False)
    }
    lines = []
    for name, (hits, nats) in curves.items():
        loss = max(nats.min(), curves["sft"][1].min())
        share, sft_share = (
            memorized_at(np.array([loss]), *curve)[0] for curve in ((hits, nats), curves["sft"])
        )
        lines.append({"method": name, "loss": loss, "own": share, "sft": sft_share})
    return pd.DataFrame(lines)


def convergence(
    notes: pd.DataFrame,
    usefulness: pd.DataFrame,
    same_fit: pd.DataFrame,
    methods: Sequence[str],
    margin: float,
) -> pd.DataFrame:
    """What `explained` judges, of students that were given more steps than SFT.

    Lines: method, metric, value, lo, hi, and further columns of those functions: "end" (memorized
    less SFT at its end), "same_fit" (the line of `equal_usefulness.same_fit`), "gain" (usefulness
    after all steps less that after half of them). sft is what SFT memorizes where it is compared:
    at its end, or at the least member loss that both reach; margin is that of usefulness.
    """
    last, lines = ends(members(notes)), []
    sft, path = last.query("method == 'sft'"), memorized(notes.query("method == 'sft'"))
    for method in methods:
        student = last[last["method"] == method]
        epochs = student["epoch"].max()
        (fit,) = same_fit[same_fit["method"] == method].to_dict("records")
        sft_share = memorized_at(np.array([fit["to"]]), path["value"], path["nats"])[0]
        late, half = (at(usefulness, method, epoch) for epoch in (epochs, epochs / 2))
        gain = paired_difference(late, half, "value")
        records = {
            "end": paired_difference(student, sft, "value") | {"sft": sft["value"].mean()},
            "same_fit": fit | {"sft": sft_share},
            "gain": gain | {"margin": margin},
        }
        lines += [
            record | {"method": method, "metric": metric} for metric, record in records.items()
        ]
    return pd.DataFrame(lines)[["method", "metric", "value", "lo", "hi", "sft", "margin"]]


def explained(convergence: pd.DataFrame) -> dict[str, str]:
    """Why a student memorizes less than SFT after as many steps, by method; here it had more.

    The rule was written before any reported seed was run. "undertrained": with more steps it
    memorizes as much as SFT, at the end or at equal member loss, that is, MARGIN less is excluded
    (where SFT memorizes MIN_SFT_RATE). "protective": it does not, its difference at equal member
    loss lies below 0, and its usefulness has stopped improving: in the second half of its steps a
    gain by the margin is excluded. "open": neither, also where the two paths pass no common member
    loss, or there is no margin above 0.
    """
    verdicts = {}
    for method, lines in convergence.groupby("method", sort=False):
        table = lines.set_index("metric")
        equal = (table["lo"] > -MARGIN) & (table["sft"] >= MIN_SFT_RATE)
        less = table["hi"]["same_fit"] < 0 and table["sft"]["end"] >= MIN_SFT_RATE
        plateau = table["hi"]["gain"] < table["margin"]["gain"] and table["margin"]["gain"] > 0
        verdict = "protective" if less and plateau else "open"
        verdicts[str(method)] = "undertrained" if equal.any() else verdict
    return verdicts


def protective(convergence: pd.DataFrame) -> Judged:
    """Whether all methods that had more steps are `explained` as protective; see claim A4."""
    verdicts = explained(convergence)
    sentences = []
    for method, lines in convergence.groupby("method", sort=False):
        numbers = [f"{row['metric']} {row_text(row, form='+.3f', missing='none')}"
                   for row in lines.to_dict("records")]  # fmt: skip
        sentences.append(f"{method} {verdicts[str(method)]} ({', '.join(numbers)})")
    outcomes = set(verdicts.values())
    return outcomes == {"protective"}, "undertrained" in outcomes, "; ".join(sentences)


CLAIMS = {
    "A3": (
        "Whose text is read carries recitation, more than what is minimized there.",
        "students that differ from SFT in text and objective alone, at the end of training (the "
        "teacher's text is greedy, and the row itself where the teacher recites it): confirmed if "
        "cross-entropy on the teacher's text leaves less of the rows than each divergence (forward "
        "KL, reverse KL, JSD) does on the rows, and the effects of the teacher's and the student's "
        "text (the difference to the rows, mean over objectives) lie below 0; refuted if each "
        "divergence leaves less, and its effect (the difference to cross-entropy, mean over the "
        "rows and the teacher's text) lies below 0; all by their whole intervals and 10 different "
        "responses or more. Beside it, the effect of the teacher's text where it is the row, and "
        "where it is not",
        which_carries,
    ),
    "A4": (
        "Reverse KL on the student's own text is protective, not undertrained.",
        "on-policy RKL and MiniLLM, given four times their steps: undertrained if the student then "
        "memorizes as much as SFT (5% of the rows less is excluded, where SFT memorizes 10%), at "
        "the end or at equal member loss; protective if not, and at equal member loss it lies "
        "below SFT, though in the second half of its steps a gain in usefulness by a fifth of what "
        "SFT, after its best epoch, adds to the model before fine-tuning or the best trivial "
        "answer is excluded; confirmed if both are protective, refuted if one is undertrained",
        protective,
    ),
}
