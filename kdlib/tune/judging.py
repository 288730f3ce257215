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
from kdlib.tune.search import Chosen, read, train

EPOCHS = "epochs"  # the knob that needs no trials


def judge(
    profile: Profile, students: Sequence[Student], chose: Chosen, seeds: Sequence[int]
) -> Frames:
    """The tables tuning, tuned, tuned_hypervolumes and tuning_advice.

    On fresh seeds are trained the runs of the front, of what is taken of each student, and each as
    it is usually. What has no finite loss there, before the epoch that was chosen, is not judged.
    """
    taken, front = chosen(chose), tuned.front(chose.points, chose.level)
    usual = ["sft", *(student.name for student in students)]
    names = list(dict.fromkeys([*usual, *taken["method"]]))
    rows = {seed: load_rows(profile, seed) for seed in seeds}
    fresh = dict[str, list[Path]]()
    for name in names:
        rule = None if name in usual else _never
        fresh[name] = [train(*chose.made[name], seed, rows[seed], rule) for seed in seeds]
    default = tuned.front(chose.points[chose.points["method"].isin(usual)], chose.level)
    sides = [read(folders) for folders in ({name: chose.folders[name] for name in names}, fresh)]
    there = plane.rows_of(taken, plane.in_every_seed(sides[1][0]))
    lines = tuned.judged(*(tuned.gaps(*frames, there) for frames in sides))
    areas = [
        tuned.hypervolumes(*frames, front, default).assign(on=on)
        for on, frames in zip(tuned.ON, sides, strict=False)
    ]
    lines = lines.merge(taken[[*POINT, "student", "setting", "taken", "front"]], on=POINT)
    margin = margins(sides[1][1])[profile.probe_size]
    judged = {"lines": lines, "margin": margin, "seeds": len(seeds)}
    advice = [advised(student, chose, taken, **judged) for student in students]
    return {
        "tuning": trials(chose),
        "tuned": lines,
        "tuned_hypervolumes": pd.concat(areas, ignore_index=True),
        "tuning_advice": pd.DataFrame(advice),
    }


def _never(_: Notes) -> bool:
    """A rule that stops no run; with one, a run ends where its loss is no number any more."""
    return False


def chosen(chose: Chosen) -> pd.DataFrame:
    """The points to be judged: those of the front, and what is taken of each student.

    Columns: those of `Chosen.points`, taken and front (whether), and against which point each is
    held, see `tuned.gaps`.
    """
    of_student = chose.points.groupby("student", sort=False)
    best = pd.DataFrame([tuned.take(points, chose.level) for _, points in of_student])
    front = tuned.front(chose.points, chose.level)
    both = pd.concat([best, front]).drop_duplicates(POINT, ignore_index=True)
    for name, points in (("taken", best), ("front", front)):
        known = pd.MultiIndex.from_frame(points[POINT])
        both[name] = pd.MultiIndex.from_frame(both[POINT]).isin(known)
    both["default"] = both["student"]
    both["default_epoch"] = both["student"].map(trials(chose).set_index("method")["epoch"])
    sft = chose.points[chose.points["method"] == "sft"]
    return both.assign(sft_epoch=sft.loc[sft["useful"].idxmax(), "epoch"])


def trials(chose: Chosen) -> pd.DataFrame:
    """Of each run the point that is taken: enough (whether useful enough), stopped (a step)."""
    parts = chose.points.groupby("method", sort=False)
    frame = pd.DataFrame([tuned.take(points, chose.level) for _, points in parts])
    frame["enough"] = frame["useful"] >= chose.level
    return frame.assign(stopped=frame["method"].map(chose.stopped))


def moved(student: Student, chose: Chosen) -> tuple[str, float] | None:
    """The knob that moves most what is memorized, and its share of the variance over all points.

    Epochs are one of them. By functional ANOVA of a random forest (Hutter et al. 2014), optuna's;
    None where nothing varies.
    """
    optuna, space = store.library(), store.space(student)
    points = chose.points[chose.points["student"] == student.name]
    if points["verbatim"].nunique() < 2:
        return None
    ends = int(points["epoch"].min()), int(points["epoch"].max())
    space[EPOCHS] = optuna.distributions.IntDistribution(*ends)
    made = [
        optuna.trial.create_trial(
            params={**chose.made[point.method][1], EPOCHS: int(point.epoch)},
            distributions=space,
            value=point.verbatim,
        )
        for point in points.itertuples()
    ]
    study = optuna.create_study()
    study.add_trials(made)
    forest = optuna.importance.FanovaImportanceEvaluator(seed=0)
    shares = optuna.importance.get_param_importances(study, evaluator=forest)
    name, share = max(shares.items(), key=lambda one: one[1])
    return name, float(share)


def advised(
    student: Student,
    chose: Chosen,
    taken: pd.DataFrame,
    lines: pd.DataFrame,
    margin: float,
    seeds: int,
) -> Line:
    """A line of advice: student, trials, stopped, knob, share, setting, epoch, worth, advice.

    `taken` as from `chosen`, `lines` its points judged on so many fresh seeds. setting and epoch
    are what is to be taken: what was chosen where that is `tuned.worth` it, with this margin.
    """
    known = trials(chose).query("student == @student.name").set_index("method")
    own = lines[(lines["student"] == student.name) & lines["taken"] & (lines["on"] == "judged")]
    fresh = {line["metric"]: line for line in own.to_dict("records")}
    (best,) = taken[(taken["student"] == student.name) & taken["taken"]].to_dict("records")
    usual, most = known.loc[student.name], moved(student, chose)
    worth = bool(fresh) and tuned.worth(fresh, margin, seeds)
    take = best if worth else usual
    facts = {"student": student.name, "trials": len(known), "stopped": known["stopped"].count()}
    facts |= {"knob": most[0] if most else "", "share": most[1] if most else float("nan")}
    facts |= {"setting": take["setting"], "epoch": take["epoch"], "worth": worth}
    told: Line = {"worth": worth, "seeds": seeds}
    told["chosen"] = f"{best['setting']}, stopped after epoch {best['epoch']:g}"
    told["usual"] = f"{usual['setting']}, stopped after epoch {usual['epoch']:g}"
    return facts | {"advice": tuned.advice(student.label, most, told, fresh)}
