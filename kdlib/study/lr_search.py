"""Learning rates and training lengths, by the profile's rule, on a seed that is never reported.

A model's rate is the greatest at which its held-out loss, noted over `rate_epochs`, gets as low as
at any, within 1%: what learns as much in fewer epochs. Of a student that reads its own text, and is
not to lower that loss, it is the greatest at which its held-out answers get as useful as at any,
within 1%. Where that is the least or the greatest rate tried, half or twice of it is tried too,
until it lies inside. Methods that are not searched take the rate of SFT at their size. The length
of the teacher, and of all students of a size, is the number of epochs after which it, or SFT,
memorizes nearest `target`; SFT must memorize within `band` there.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from kdlib import runs
from kdlib.config.exact_match import exact
from kdlib.config.profile import TEACHER, Profile
from kdlib.config.sections import CalibrationSettings
from kdlib.distill.methods import DECODINGS
from kdlib.errors import KdlibError
from kdlib.study import noting, pretraining, stages, teacher_output
from kdlib.study.run import Run, load_rows

TOLERANCE = 0.01  # of the lowest loss, or of the greatest usefulness: what counts as equal to it
EXTENSIONS = 3  # how often either end of the grid is halved or doubled before that is refused
TRIAL = ["method", "size", "lr"]


class Trial(NamedTuple):
    """One training of the search."""

    method: str
    size: str
    rate: float
    epochs: int


def calibrate(profile: Profile, cores: int) -> dict[str, Any]:
    """Run what is left of the search, on so many cores; write calibration.csv; apply `rule`."""
    how, file = calibration(profile), runs.results_dir(profile.name) / "calibration.csv"
    pretraining.prepare(profile)
    table = pd.DataFrame(columns=[*TRIAL, "epoch", "split", "usefulness", "settings"])
    if file.is_file():
        table = pd.read_csv(file, dtype={"settings": str, "commit": str})
        table = table[table["settings"] == settings(profile)]
    own = [(TEACHER, TEACHER), *(("sft", size) for size in profile.sizes)]
    table = searched(table, profile, own, cores)
    found = profile.teacher.model_copy(update=chosen(table, profile, TEACHER, TEACHER))
    sft = {size: chosen(table, profile, "sft", size) for size in profile.sizes}
    models = {size: profile.models[size].model_copy(update=one) for size, one in sft.items()}
    fixed = profile.model_copy(update={"teacher": found, "models": profile.models | models})
    teacher, rows = Run(fixed, how.seed, TEACHER, TEACHER), load_rows(fixed, how.seed)
    stages.make(teacher, rows)
    for decoding in DECODINGS.keys() & {profile.method(name).text for name in how.methods}:
        # before two processes need it at once
        teacher_output.text(teacher, rows, decoding)
    others = [(one, size) for one in how.methods if one != "sft" for size in profile.sizes]
    return rule(searched(table, fixed, others, cores), profile)


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
    methods = {one: profile.coefficients(one) for one in calibration(profile).methods}
    return runs.fingerprint([parts, tuned, methods, profile.measure.encoder])


def searched(
    table: pd.DataFrame, profile: Profile, models: Sequence[tuple[str, str]], cores: int
) -> pd.DataFrame:
    """The table with all that the rule needs of these models; written whenever it grows."""
    facts = {"settings": settings(profile), "commit": runs.commit()}
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as processes:
        while trials := [one for model in models for one in wanted(table, profile, *model)]:
            # the slowest first, so that no core waits at the end
            trials.sort(key=lambda one: (one.method not in (TEACHER, "minillm"), -one.epochs))
            threads = max(1, cores // len(trials))
            running = {processes.submit(one_path, profile, one, threads): one for one in trials}
            for ended in as_completed(running):  # kept at once, whatever becomes of the others
                if ended.exception():
                    continue
                same = (table[TRIAL] == list(running[ended][:3])).all(axis=1)
                path = ended.result().assign(**facts)
                table = pd.concat([table[~same], path]).sort_values([*TRIAL, "epoch", "split"])
                runs.write_table(runs.results_dir(profile.name) / "calibration.csv", table)
            for ended in running:  # the first that failed, when all others are kept
                ended.result()
    return table


def wanted(table: pd.DataFrame, profile: Profile, method: str, size: str) -> list[Trial]:
    """What is to be trained next of a model, that the rule can be applied to it."""
    how, tried = calibration(profile), trained(table, method, size)
    short = how.rate_epochs
    if missing := [rate for rate in how.rates if rate not in set(tried["lr"])]:
        return [Trial(method, size, rate, short) for rate in missing]
    best, rates = best_rate(tried), sorted(set(tried["lr"]))
    if best in (rates[0], rates[-1]):
        rate = best / 2 if best == rates[0] else best * 2
        if not min(how.rates) / 2**EXTENSIONS <= rate <= max(how.rates) * 2**EXTENSIONS:
            where = f"{method}, {size}: the best rate is {best:g}, an end of all rates"
            raise KdlibError(f"calibration: {where}; give other rates, or more rate_epochs")
        return [Trial(method, size, rate, short)]
    longest = how.max_epochs["teacher" if method == TEACHER else "student"]
    long = tried.loc[tried["lr"] == best, "epoch"].max() >= longest
    needed = method in (TEACHER, "sft") and not long
    return [Trial(method, size, best, longest)] if needed else []


def one_path(profile: Profile, trial: Trial, threads: int) -> pd.DataFrame:
    """Train once: TRIAL, epoch, step, split, exact_rate, nats_per_token, usefulness.

    Noted each half epoch to the second, then each epoch; of members only where a length is wanted,
    and usefulness only of students that read their own text.
    """
    torch.set_num_threads(threads)
    common = profile.teacher if trial.method == TEACHER else profile.student
    how = common.model_copy(update={"lr": trial.rate, "epochs": trial.epochs})
    name = f"{trial.method}-{trial.size}-{trial.rate:g}.jsonl"
    log = runs.runs_dir(profile.name) / "calibration" / name
    seed = calibration(profile).seed
    run, rows = Run(profile, seed, trial.method, trial.size), load_rows(profile, seed)
    asked = profile.data.held_out if reads_own(run) else 0
    answering = profile.measure.model_copy(update={"path_rows": asked})
    notes = noting.Notes(rows, how, answering, profile.tokens.max_new)
    natural = rows.frame["kind"] == "row"
    if trial.method not in (TEACHER, "sft"):
        natural &= rows.frame["split"] == "held_out"
    notes.noted = rows.frame.loc[natural, ["split", "kind"]]
    notes.steps = noting.noted_steps(how.epochs, notes.epoch_steps, parts=2)
    stages.train(run, rows, how, log, notes)
    noted = notes.tuples.assign(exact_rate=exact(notes.tuples))
    by, numbers = ["epoch", "step", "split"], ["exact_rate", "nats_per_token"]
    means = noted.groupby(by, sort=False)[numbers].mean().reset_index()
    means["usefulness"] = np.nan
    if asked:
        useful = notes.answers.groupby("step")["usefulness"].mean()
        means["usefulness"] = means["step"].map(useful)
    return means.assign(**dict(zip(TRIAL, trial, strict=False)))


def reads_own(run: Run) -> bool:
    """Whether a model reads text that it writes itself, not the rows or the teacher's."""
    return run.recipe.text not in ("rows", *DECODINGS)


def trained(table: pd.DataFrame, method: str, size: str) -> pd.DataFrame:
    """What was noted of a model while it was trained."""
    mine = (table["method"] == method) & (table["size"] == size) & (table["epoch"] > 0)
    return table[mine]


def best_rate(tried: pd.DataFrame) -> float:
    """The rate that is chosen, by the times that all rates have reached; see above."""
    common = tried.groupby("lr")["epoch"].max().min()
    noted = tried[(tried["split"] == "held_out") & (tried["epoch"] <= common)]
    best = noted.groupby("lr").agg({"nats_per_token": "min", "usefulness": "max"})
    useful, nats = best["usefulness"], best["nats_per_token"]
    if useful.notna().all():
        return float(useful[useful >= useful.max() * (1 - TOLERANCE)].index.max())
    return float(nats[nats <= nats.min() * (1 + TOLERANCE)].index.max())


def chosen(table: pd.DataFrame, profile: Profile, method: str, size: str) -> dict[str, Any]:
    """The rate `lr` of a model and, of the teacher and SFT, its length in `epochs`."""
    how, tried = calibration(profile), trained(table, method, size)
    found: dict[str, Any] = {"lr": best_rate(tried)}
    if method not in (TEACHER, "sft"):
        return found
    whole = (tried["epoch"] % 1 == 0) & (tried["split"] == "member") & (tried["lr"] == found["lr"])
    ends, target = tried[whole], how.target["teacher" if method == TEACHER else "student"]
    end = ends.loc[(ends["exact_rate"] - target).abs().idxmin()]
    (low, high), memorized = how.band, end["exact_rate"]
    if method != TEACHER and not low <= memorized <= high:
        best = f"{method}, {size} memorizes {memorized:.3f} at best (epoch {end['epoch']:.0f})"
        remedy = f"outside {low:g} to {high:g}; change max_epochs, rates or members"
        raise KdlibError(f"calibration: {best}, {remedy}")
    return found | {"epochs": int(end["epoch"])}


def rule(table: pd.DataFrame, profile: Profile) -> dict[str, Any]:
    """What is chosen, as the profile has it: `teacher`, `models` by size, `methods` by name."""
    rates = {
        method: {size: chosen(table, profile, method, size)["lr"] for size in profile.sizes}
        for method in calibration(profile).methods
        if method != "sft"
    }
    return {
        "teacher": chosen(table, profile, TEACHER, TEACHER),
        "models": {size: chosen(table, profile, "sft", size) for size in profile.sizes},
        "methods": {method: {"lr": by_size} for method, by_size in rates.items()},
    }
