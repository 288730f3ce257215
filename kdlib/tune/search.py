"""The trials of a search: each one run of the seed that chooses, told by the point it is taken at.

The first trial is the student as the profile has it; what follows is proposed by optuna's sampler
TPE, with useful enough (`analysis.tuned`) as a constraint. Optuna's pruners know one aim alone: a
hopeless run is stopped by the rule of `analysis.tuned`, and its trial stays PRUNED. The sampler's
seed follows from the number of trials before, so that a search that was broken off goes on as if it
had not been.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from kdlib import runs
from kdlib.analysis import plane, tuned
from kdlib.config.exact_match import exact
from kdlib.config.profile import Profile
from kdlib.model.tokens import TokenizedRows
from kdlib.study import noting, stages, tuning
from kdlib.study.run import load_rows
from kdlib.study.tuning import Student
from kdlib.tune import store

STARTUP = 5  # trials of a search that are drawn evenly, before TPE has anything to go by


class Selection:
    """The runs of the seed that chooses, by name, and their points.

    `points` has the columns of `plane.points` with student (its name) and setting (its knobs), a
    line for each whole epoch. A student as the profile has it goes by its own name.
    """

    def __init__(self, profile: Profile, seed: int) -> None:
        self.seed, self.rows = seed, load_rows(profile, seed)
        self.folders: dict[str, list[Path]] = {}
        self.configurations: dict[str, tuple[Student, dict[str, float]]] = {}
        self.points = pd.DataFrame()
        self.level = float("-inf")  # from which a point is useful enough; until SFT is known, all
        (sft,) = tuning.read(profile, "sft", "")
        self.level = self.run(sft.name, sft, sft.usual)["useful"].max() - tuned.MARGIN
        points = plane.points(*read({sft.name: self.folders[sft.name]}))
        self.before = points.query("epoch == 0")["useful"].item()  # of the model before fine-tuning

    def run(self, name: str, student: Student, values: dict[str, float]) -> pd.DataFrame:
        """Train, unless done before: its points. A student as it is usually is never stopped."""
        if name not in self.folders:
            rule = None if values == student.usual else self._hopeless
            self.folders[name] = [train(student, values, self.seed, self.rows, rule)]
            self.configurations[name] = student, values
            points = plane.points(*read({name: self.folders[name]}))
            points = points[(points["epoch"] > 0) & (points["epoch"] % 1 == 0)]
            points = points.assign(student=student.name, setting=setting(values))
            self.points = pd.concat([self.points, points], ignore_index=True)
        return self.points[self.points["method"] == name]

    def stopped(self, name: str) -> int | None:
        """The step at which the rule has stopped a run; None where it has not."""
        return (runs.read_manifest(self.folders[name][0]) or {}).get("stopped")

    def _hopeless(self, notes: noting.Notes) -> bool:
        tuples = notes.tuples.assign(hit=exact(notes.tuples))
        curve = tuned.curve(tuples, tuned.usefulness(tuples, notes.answers))
        return tuned.hopeless(curve, self.points, self.level, self.before)


def train(
    student: Student,
    values: Mapping[str, float],
    seed: int,
    rows: TokenizedRows,
    rule: noting.Rule | None = None,
) -> Path:
    """The folder of a run's path, after its teacher where it learns from one; see `tuning.path`."""
    run = student.run(seed, values)
    if run.recipe.needs_teacher and not runs.done(run.teacher.folder, run.teacher.identity):
        stages.make(run.teacher, rows)
    return tuning.path(run, rows, rule)


def read(folders: Mapping[str, list[Path]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What was noted of finished runs, and how useful they were, as `analysis.plane` takes it."""
    frames = plane.read(folders)
    notes = frames["paths"]
    return notes, tuned.usefulness(notes, frames.get("path_answers", pd.DataFrame()))


def setting(values: Mapping[str, float]) -> str:
    """Knobs and their values, in words."""
    return ", ".join(f"{name} = {value:g}" for name, value in values.items())


def search(study: Any, student: Student, trials: int, selection: Selection) -> None:
    """Run trials of optuna's study until so many have ended; those broken off are run again."""
    optuna, space = store.library(), store.space(student)
    states = optuna.trial.TrialState
    finished = (states.COMPLETE, states.PRUNED)
    study.enqueue_trial(student.usual, skip_if_exists=True)
    for interrupted in study.get_trials(states=(states.RUNNING,)):
        params = interrupted.system_attrs.get("fixed_params", {}) | interrupted.params
        if params.keys() == space.keys():
            study.enqueue_trial(params)
        study.tell(interrupted.number, state=states.FAIL)
    for number, frozen in enumerate(study.get_trials(states=finished)):
        _run(number, frozen.params, student, selection)
    while (count := len(study.get_trials(states=finished))) < trials:
        seed = int(runs.digest(study.study_name, str(count))[:8], 16)
        study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
        trial = study.ask(space)
        _tell(study, trial, _run(count, trial.params, student, selection), selection)


def _run(number: int, params: Mapping[str, float], student: Student, selection: Selection) -> str:
    """The name of a trial's run, which is there then: that of the first with the same values."""
    values = student.rounded(params)
    names = [
        name
        for name, entry in selection.configurations.items()
        if (entry[0].name, entry[1]) == (student.name, values)
    ]
    new_name = student.name if values == student.usual else f"{student.name}, trial {number}"
    name = names[0] if names else new_name
    selection.run(name, student, values)
    return name


def _tell(study: Any, trial: Any, name: str, selection: Selection) -> None:
    points = selection.points[selection.points["method"] == name]
    step, states = selection.stopped(name), store.library().trial.TrialState
    if points.empty:
        print(f"{name}: no finite loss in its first epoch", flush=True)
        trial.set_constraint("useful enough", 1.0)
        study.tell(trial, state=states.PRUNED)
        return
    line = tuned.take(points, selection.level)
    summary = f"memorized {line['verbatim']:.3f}, useful {line['useful']:.3f}"
    summary += f" after epoch {line['epoch']:g}{', stopped as hopeless' if step else ''}"
    print(f"{name} ({line['setting']}): {summary}", flush=True)
    trial.set_user_attr("epoch", line["epoch"])
    trial.set_constraint("useful enough", selection.level - line["useful"])
    if step:
        trial.set_user_attr("stopped", step)
        study.tell(trial, state=states.PRUNED)
    else:
        study.tell(trial, [line["verbatim"], line["useful"]])
