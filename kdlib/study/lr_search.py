"""Learning rates and training length, by the profile's rule, on a seed that is never reported."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from typing import Any

import pandas as pd
import torch

from kdlib import runs
from kdlib.config.profile import TEACHER, Profile
from kdlib.config.sections import CalibrationSettings
from kdlib.distill.methods import DECODINGS
from kdlib.errors import KdlibError
from kdlib.study import pretraining, stages, teacher_output
from kdlib.study.run import Run, load_rows


def calibrate(profile: Profile, cores: int) -> dict[str, Any]:
    """Run what is left of the grid, on so many cores; write calibration.csv; apply `rule`."""
    how, file = calibration(profile), runs.results_dir(profile.name) / "calibration.csv"
    pretraining.prepare(profile)
    table = pd.DataFrame(columns=["method", "settings"])
    if file.is_file():
        table = pd.read_csv(file, dtype={"settings": str, "commit": str})
        table = table[table["settings"] == settings(profile)]
    table = added(table, profile, [TEACHER], how.rates, cores)
    found = profile.teacher.model_copy(update=teacher_rule(table, profile))
    fixed = profile.model_copy(update={"teacher": found})
    teacher, rows = Run(fixed, how.seed, TEACHER, TEACHER), load_rows(fixed, how.seed)
    stages.make(teacher, rows)
    for decoding in DECODINGS:
        teacher_output.text(teacher, rows, decoding)
    table = added(table, fixed, ["sft"], how.rates, cores)
    rates = reaching(table, "sft", how.student_band[0])
    table = added(table, fixed, list(profile.all_methods), rates, cores)
    runs.write_table(file, table)
    return rule(table, profile)


def calibration(profile: Profile) -> CalibrationSettings:
    """The profile's rule; a KdlibError where it has none."""
    if profile.calibration is None:
        raise KdlibError(f"profile '{profile.name}' has no [calibration]; add the rule first")
    return profile.calibration


def settings(profile: Profile) -> str:
    """Hash of all settings on which the calibration's table depends, beyond rounding."""
    common, names = {"lr", "epochs"}, {"data", "tokens", "models", "pretrain", "calibration"}
    parts = profile.model_dump(include=names, exclude={"models": {"__all__": common}})
    apart = common | {"precision"}
    tuned = [part.model_dump(exclude=apart) for part in (profile.teacher, profile.student)]
    return runs.fingerprint([parts, tuned])


def added(
    table: pd.DataFrame, profile: Profile, methods: list[str], rates: Sequence[float], cores: int
) -> pd.DataFrame:
    """The table with the paths of those methods that it has not yet, at every rate."""
    # the slowest first, so that no core waits at the end
    missing = [one for one in reversed(methods) if one not in set(table["method"])]
    jobs = [(one, rate) for one in missing for rate in rates]
    if not jobs:
        return table
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as processes:
        paths = list(processes.map(one_path, repeat(profile), *zip(*jobs, strict=True)))
    new = pd.concat(paths).assign(settings=settings(profile), commit=runs.commit())
    return pd.concat([table, new] if len(table) else [new], ignore_index=True)


def one_path(profile: Profile, method: str, rate: float) -> pd.DataFrame:
    """Train at one rate for the greatest length: epoch, step, split, exact_rate, nats_per_token."""
    torch.set_num_threads(1)
    teacher, how = method == TEACHER, calibration(profile)
    longest = how.max_epochs["teacher" if teacher else "student"]
    common = profile.teacher if teacher else profile.student
    chosen = common.model_copy(update={"lr": rate, "epochs": longest})
    log = runs.runs_dir(profile.name) / "calibration" / f"{method}-{rate:g}.jsonl"
    run = Run(profile, how.seed, method, TEACHER if teacher else profile.probe_size)
    path = stages.train(run, load_rows(profile, how.seed), chosen, log)[1]
    return path.assign(method=method, size=run.size, lr=rate)


def trained(table: pd.DataFrame, method: str, split: str) -> pd.DataFrame:
    """The paths of a method on a split, from the first epoch on."""
    return table[(table["method"] == method) & (table["split"] == split) & (table["epoch"] > 0)]


def reaching(table: pd.DataFrame, method: str, target: float) -> list[float]:
    """The rates at which the member memorization of `method` reaches `target`; else all rates."""
    most = trained(table, method, "member").groupby("lr")["exact_rate"].max()
    return list(most.index[most >= target]) or list(most.index)


def choose(table: pd.DataFrame, method: str, eligible: list[float], target: float) -> pd.Series:
    """The line of the table (lr, epoch, exact_rate) with the method's rate and length.

    Of the eligible rates that whose lowest held-out loss over its epochs is lowest, of its epochs
    that whose member memorization is nearest `target`.
    """
    lowest = trained(table, method, "held_out").groupby("lr")["nats_per_token"].min()
    rate, path = lowest[lowest.index.isin(eligible)].idxmin(), trained(table, method, "member")
    return path.loc[(path["exact_rate"] - target)[path["lr"] == rate].abs().idxmin()]


def teacher_rule(table: pd.DataFrame, profile: Profile) -> dict[str, Any]:
    """Rate and length of the teacher."""
    target = calibration(profile).teacher_target
    found = choose(table, TEACHER, reaching(table, TEACHER, target), target)
    return {"lr": float(found["lr"]), "epochs": int(found["epoch"])}


def rule(table: pd.DataFrame, profile: Profile) -> dict[str, Any]:
    """What the rule chooses: `teacher` {lr, epochs}, `student` {epochs}, `lr` {method: rate}."""
    low, high = calibration(profile).student_band
    eligible, middle = reaching(table, "sft", low), (low + high) / 2
    chosen = {one: choose(table, one, eligible, middle) for one in profile.all_methods}
    epochs, memorized = int(chosen["sft"]["epoch"]), chosen["sft"]["exact_rate"]
    if not low <= memorized <= high:
        best = f"the middle SFT student memorizes {memorized:.3f} at best (epoch {epochs})"
        wanted = f"outside {low} to {high}; change max_epochs or rates"
        raise KdlibError(f"calibration: {best}, {wanted}")
    rates = {method: float(line["lr"]) for method, line in chosen.items()}
    return {"teacher": teacher_rule(table, profile), "student": {"epochs": epochs}, "lr": rates}
