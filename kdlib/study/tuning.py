"""A student with its knobs turned: which run that is, and its path through training."""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kdlib import runs
from kdlib.config import knobs
from kdlib.config.defences import DEFENCES
from kdlib.config.knobs import KNOBS, RATE, Knob
from kdlib.config.methods import label
from kdlib.config.profile import MethodSettings, Profile
from kdlib.distill.trainer import NotFinite
from kdlib.errors import KdlibError
from kdlib.model import checkpoints
from kdlib.model.tokens import TokenizedRows
from kdlib.study import defending, noting, stages
from kdlib.study.run import Run

PART = "tuning"  # the folder of its runs
SEED = 100  # by which knobs are chosen, where the profile has no seed for calibration


@dataclass(frozen=True)
class Student:
    """What is tuned: a method, alone or with a defence, at the profile's `probe_size`."""

    profile: Profile
    method: str
    defence: str  # "": none
    knobs: dict[str, Knob]

    @property
    def name(self) -> str:
        """As `read` takes it, such as "sft+goldfish"."""
        return "+".join(name for name in (self.method, self.defence) if name)

    @property
    def label(self) -> str:
        """Its name in tables."""
        names = (
            label(self.method),
            *(DEFENCES[defence].label for defence in (self.defence,) if defence),
        )
        return " + ".join(names)

    @property
    def usual(self) -> dict[str, float]:
        """What its knobs are without tuning: the profile's, else the published."""
        values: dict[str, float] = {RATE: 1.0, **self.profile.coefficients(self.method)}
        if self.defence:
            values |= self.profile.defence_coefficients(self.defence)
        return self.rounded({name: values[name] for name in self.knobs})

    def rounded(self, values: Mapping[str, float]) -> dict[str, float]:
        """Whole numbers, or 3 significant digits: what differs beyond them is no other model."""
        return {
            name: int(value) if self.knobs[name].whole else float(f"{value:.3g}")
            for name, value in values.items()
        }

    def run(self, seed: int, values: Mapping[str, float]) -> Run:
        """The run with its knobs at these values, in a folder apart."""
        defaults = DEFENCES[self.defence].coefficients if self.defence else {}
        against = {name: value for name, value in values.items() if name in defaults}
        coefficients = {name: value for name, value in values.items() if name not in defaults}
        profile, size, part = self.profile, self.profile.probe_size, PART
        if (rate := coefficients.pop(RATE, 1)) != 1:
            lr = profile.train_settings(self.method, size).lr * rate
            settings = profile.methods.get(self.method, MethodSettings())
            methods = {self.method: settings.model_copy(update={"lr": lr})}
            profile = profile.model_copy(update={"methods": profile.methods | methods})
            part = f"{PART}/rate={rate:g}"
        run = Run(profile, seed, self.method, size).changing(**coefficients)
        return run.defended(self.defence, **against).without((), part)


def read(profile: Profile, students: str, knob_names: str) -> list[Student]:
    """The students named in `students`, such as "word_kd sft+goldfish", with the knobs named.

    None named: all that each has. KdlibError: a name is none, a defence has no knobs, a student
    would have none, or the profile's own value lies outside of what is searched.
    """
    parsed, words = [], students.replace(",", " ").split()
    if not words or len(set(words)) < len(words):
        raise KdlibError(f"--students '{students}': name some, each once, such as sft word_kd+lora")
    for word in words:
        method, _, defence = word.partition("+")
        profile.method(method)
        tunable = [name for name in DEFENCES if name in KNOBS]
        if "+" in word and defence not in tunable:
            raise KdlibError(f"'{defence}' is no defence with knobs; known: {', '.join(tunable)}")
        available = knobs.of(method, defence)
        student = Student(
            profile,
            method,
            defence,
            knobs.chosen(word, available, knob_names.replace(",", " ").split()),
        )
        for name, value in student.usual.items():
            low, high = student.knobs[name].range
            if not low <= value <= high:
                problem = f"{word}: the profile's {name} = {value:g} lies outside of the range"
                raise KdlibError(f"{problem} {low:g} to {high:g} in config/knobs.toml; widen it")
        parsed.append(student)
    return parsed


def seed_of(profile: Profile, reported: Sequence[int]) -> int:
    """The seed by which knobs are chosen: that of the calibration; KdlibError if it is reported."""
    seed = profile.calibration.seed if profile.calibration else SEED
    if seed in reported:
        raise KdlibError(f"SEEDS: by {seed} knobs are chosen; judge them on others")
    return seed


def path(run: Run, rows: TokenizedRows, hopeless: noting.Rule | None = None) -> Path:
    """The folder with path.parquet (and path_answers.parquet) of a run, trained unless done before.

    What the study has trained is not trained again. Weights are not kept. With `hopeless`, asked at
    every noted time, a run is stopped there; so is one whose loss is no number any more. Its
    manifest then has `stopped`, the last noted step, and it stays so.
    """
    defending.require_possible(run)
    for candidate in (replace(run, part=""), run):
        if (
            runs.done(candidate.folder, candidate.identity)
            and (candidate.folder / "path.parquet").is_file()
        ):
            return candidate.folder
    with runs.locked(run.folder):
        shutil.rmtree(run.folder, ignore_errors=True)
        started, stopped = time.perf_counter(), True
        notes = stages.notes_of(run, rows, run.settings, hopeless)
        checkpoint = run.folder / "last-good"
        try:
            model = stages.train(run, rows, run.settings, run.folder / "log.jsonl", notes)
            stopped = False
        except noting.StoppedByRule as error:
            model = error.model
        except NotFinite:
            if hopeless is None or notes.tuples.empty:
                raise
            model = checkpoints.load_model(checkpoint).to(checkpoints.device())
            shutil.rmtree(checkpoint)
        notes.write(run.folder)
        stages.measure(run, rows, model)
        last = int(notes.tuples["step"].max()) if stopped else None
        seconds = round(time.perf_counter() - started, 2)
        facts = {"stopped": last, "seconds": seconds} | stages.facts(run)
        runs.write_manifest(run.folder, run.identity, **facts)
    return run.folder
