"""What a search has chosen, trained on fresh seeds, and what follows from that."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from kdlib.analysis import plane, tuned
from kdlib.analysis.equal_usefulness import margins
from kdlib.analysis.plane import POINT
from kdlib.analysis.rates import Frames
from kdlib.config.profile import Profile
from kdlib.stats import Line
from kdlib.study.noting import Notes
from kdlib.study.run import load_rows
from kdlib.study.tuning import Student
from kdlib.tune import store
from kdlib.tune.search import Selection, read, train

EPOCHS = "epochs"  # the knob that needs no trials


def judge(
    profile: Profile, students: Sequence[Student], selection: Selection, seeds: Sequence[int]
) -> Frames:
    """The tables tuning, tuned, tuned_hypervolumes and tuning_advice.

    On fresh seeds are trained the runs of the front, of what is taken of each student, and each as
    it is usually. What has no finite loss there, before the epoch that was chosen, is not judged.
    """
    points, front = points_to_judge(selection), tuned.front(selection.points, selection.level)
    defaults = ["sft", *(student.name for student in students)]
    names = list(dict.fromkeys([*defaults, *points["method"]]))
    rows = {seed: load_rows(profile, seed) for seed in seeds}
    fresh = dict[str, list[Path]]()
    for name in names:
        rule = None if name in defaults else _never
        fresh[name] = [
            train(*selection.configurations[name], seed, rows[seed], rule) for seed in seeds
        ]
    default = tuned.front(
        selection.points[selection.points["method"].isin(defaults)], selection.level
    )
    measured = [
        read(folders) for folders in ({name: selection.folders[name] for name in names}, fresh)
    ]
    complete = plane.rows_of(points, plane.in_every_seed(measured[1][0]))
    lines = tuned.judged(*(tuned.gaps(*frames, complete) for frames in measured))
    areas = [
        tuned.hypervolumes(*frames, front, default).assign(on=on)
        for on, frames in zip(tuned.ON, measured, strict=False)
    ]
    lines = lines.merge(points[[*POINT, "student", "setting", "taken", "front"]], on=POINT)
    margin = margins(measured[1][1])[profile.probe_size]
    options = {"lines": lines, "margin": margin, "seeds": len(seeds)}
    advice = [advised(student, selection, points, **options) for student in students]
    return {
        "tuning": trials(selection),
        "tuned": lines,
        "tuned_hypervolumes": pd.concat(areas, ignore_index=True),
        "tuning_advice": pd.DataFrame(advice),
    }


def _never(_: Notes) -> bool:
    """A rule that stops no run; with one, a run ends where its loss is no number any more."""
    return False


def points_to_judge(selection: Selection) -> pd.DataFrame:
    """The points to be judged: those of the front, and what is taken of each student.

    Columns: those of `Selection.points`, taken and front (whether), and against which point each is
    held, see `tuned.gaps`.
    """
    by_student = selection.points.groupby("student", sort=False)
    best = pd.DataFrame([tuned.take(points, selection.level) for _, points in by_student])
    front = tuned.front(selection.points, selection.level)
    table = pd.concat([best, front]).drop_duplicates(POINT, ignore_index=True)
    for name, points in (("taken", best), ("front", front)):
        index = pd.MultiIndex.from_frame(points[POINT])
        table[name] = pd.MultiIndex.from_frame(table[POINT]).isin(index)
    table["default"] = table["student"]
    table["default_epoch"] = table["student"].map(trials(selection).set_index("method")["epoch"])
    sft = selection.points[selection.points["method"] == "sft"]
    return table.assign(sft_epoch=sft.loc[sft["useful"].idxmax(), "epoch"])


def trials(selection: Selection) -> pd.DataFrame:
    """Of each run the point that is taken: enough (whether useful enough), stopped (a step)."""
    by_method = selection.points.groupby("method", sort=False)
    frame = pd.DataFrame([tuned.take(points, selection.level) for _, points in by_method])
    frame["enough"] = frame["useful"] >= selection.level
    return frame.assign(stopped=frame["method"].map(selection.stopped))


def main_knob(student: Student, selection: Selection) -> tuple[str, float] | None:
    """The knob that moves most what is memorized, and its share of the variance over all points.

    Epochs are one of them. By functional ANOVA of a random forest (Hutter et al. 2014), optuna's;
    None where nothing varies.
    """
    optuna, space = store.library(), store.space(student)
    points = selection.points[selection.points["student"] == student.name]
    if points["verbatim"].nunique() < 2:
        return None
    epoch_range = int(points["epoch"].min()), int(points["epoch"].max())
    space[EPOCHS] = optuna.distributions.IntDistribution(*epoch_range)
    optuna_trials = [
        optuna.trial.create_trial(
            params={**selection.configurations[point.method][1], EPOCHS: int(point.epoch)},
            distributions=space,
            value=point.verbatim,
        )
        for point in points.itertuples()
    ]
    study = optuna.create_study()
    study.add_trials(optuna_trials)
    forest = optuna.importance.FanovaImportanceEvaluator(seed=0)
    shares = optuna.importance.get_param_importances(study, evaluator=forest)
    name, share = max(shares.items(), key=lambda item: item[1])
    return name, float(share)


def advised(
    student: Student,
    selection: Selection,
    points: pd.DataFrame,
    lines: pd.DataFrame,
    margin: float,
    seeds: int,
) -> Line:
    """A line of advice: student, trials, stopped, knob, share, setting, epoch, worth, advice.

    `points` as from `points_to_judge`, `lines` these judged on so many fresh seeds. setting and
    epoch are what is to be taken: what was chosen where that is `tuned.worth` it, with this margin.
    """
    table = trials(selection).query("student == @student.name").set_index("method")
    rows = lines[(lines["student"] == student.name) & lines["taken"] & (lines["on"] == "judged")]
    by_metric = {line["metric"]: line for line in rows.to_dict("records")}
    (best,) = points[(points["student"] == student.name) & points["taken"]].to_dict("records")
    default, knob = table.loc[student.name], main_knob(student, selection)
    worth = bool(by_metric) and tuned.worth(by_metric, margin, seeds)
    choice = best if worth else default
    facts = {"student": student.name, "trials": len(table), "stopped": table["stopped"].count()}
    facts |= {"knob": knob[0] if knob else "", "share": knob[1] if knob else float("nan")}
    facts |= {"setting": choice["setting"], "epoch": choice["epoch"], "worth": worth}
    details: Line = {"worth": worth, "seeds": seeds}
    details["chosen"] = f"{best['setting']}, stopped after epoch {best['epoch']:g}"
    details["usual"] = f"{default['setting']}, stopped after epoch {default['epoch']:g}"
    return facts | {"advice": tuned.advice(student.label, knob, details, by_metric)}
