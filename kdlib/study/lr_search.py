"""Learning rates and training lengths, by the profile's rule, on a seed that is never reported.

A model's rate is the greatest at which its held-out loss, noted over `rate_epochs`, gets as low as
at any, within 1%: what learns as much in fewer epochs. Of a student that reads its own text, and is
not to lower that loss, it is the greatest at which its held-out answers get as useful as at any,
within 1%. Where that is the least or the greatest rate tried, half or twice of it is tried too,
until it lies inside. A rate at which training diverges is never chosen. Methods that are not
searched take the rate of SFT at their size. The length of the teacher, and of all students of a
size, is the number of epochs after which it, or SFT, memorizes nearest `target`; SFT must memorize
within `band` there.
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
from kdlib.distill.trainer import NotFinite
from kdlib.errors import KdlibError
from kdlib.study import noting, pretraining, stages, teacher_output
from kdlib.study.run import Run, decoding, load_rows

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
    config, path = calibration(profile), runs.results_dir(profile.name) / "calibration.csv"
    pretraining.prepare(profile)
    table = pd.DataFrame(columns=[*TRIAL, "epoch", "split", "usefulness", "settings"])
    if path.is_file():
        table = pd.read_csv(path, dtype={"settings": str, "commit": str})
        table = table[table["settings"] == settings(profile)]
    first_models = [(TEACHER, TEACHER), *(("sft", size) for size in profile.sizes)]
    table = searched(table, profile, first_models, cores)
    teacher_settings = profile.teacher.model_copy(update=chosen(table, profile, TEACHER, TEACHER))
    sft = {size: chosen(table, profile, "sft", size) for size in profile.sizes}
    models = {size: profile.models[size].model_copy(update=values) for size, values in sft.items()}
    fixed = profile.model_copy(
        update={"teacher": teacher_settings, "models": profile.models | models}
    )
    teacher, rows = Run(fixed, config.seed, TEACHER, TEACHER), load_rows(fixed, config.seed)
    stages.make(teacher, rows)
    for decoder in DECODINGS.keys() & {profile.method(name).text for name in config.methods}:
        # before two processes need it at once
        teacher_output.text(teacher, rows, decoder)
    other_models = [
        (method, size) for method in config.methods if method != "sft" for size in profile.sizes
    ]
    return rule(searched(table, fixed, other_models, cores), profile)


def calibration(profile: Profile) -> CalibrationSettings:
    """The profile's rule; a KdlibError where it has none."""
    if profile.calibration is None:
        raise KdlibError(f"profile '{profile.name}' has no [calibration]; add the rule first")
    return profile.calibration


def settings(profile: Profile) -> str:
    """Hash of all settings on which the calibration's table depends, beyond rounding."""
    common, names = {"lr", "epochs"}, {"data", "tokens", "models", "pretrain", "calibration"}
    parts = profile.model_dump(include=names, exclude={"models": {"__all__": common}})
    excluded = common | {"precision"}
    tuned = [section.model_dump(exclude=excluded) for section in (profile.teacher, profile.student)]
    methods = {method: profile.coefficients(method) for method in calibration(profile).methods}
    facts: list[Any] = [parts, tuned, methods, profile.measure.encoder]
    decodings = {method: decoding(profile, profile.method(method).text) for method in methods}
    if any(decodings.values()):
        facts.append(decodings)
    if profile.tokens.template in profile.templates:
        facts.append(profile.template.model_dump())
    return runs.fingerprint(facts)


def searched(
    table: pd.DataFrame, profile: Profile, models: Sequence[tuple[str, str]], cores: int
) -> pd.DataFrame:
    """The table with all that the rule needs of these models; written whenever it grows."""
    columns = {"settings": settings(profile), "commit": runs.commit()}
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as executor:
        while trials := [
            trial for model in models for trial in next_trials(table, profile, *model)
        ]:
            # the slowest first, so that no core waits at the end
            trials.sort(key=lambda trial: (trial.method not in (TEACHER, "minillm"), -trial.epochs))
            threads = max(1, cores // len(trials))
            futures = {
                executor.submit(one_path, profile, trial, threads): trial for trial in trials
            }
            for future in as_completed(futures):  # kept at once, whatever becomes of the others
                if future.exception():
                    continue
                replaced = (table[TRIAL] == list(futures[future][:3])).all(axis=1)
                curve = future.result().assign(**columns)
                table = pd.concat([table[~replaced], curve]).sort_values([*TRIAL, "epoch", "split"])
                runs.write_table(runs.results_dir(profile.name) / "calibration.csv", table)
            for future in futures:  # the first that failed, when all others are kept
                future.result()
    return table


def next_trials(table: pd.DataFrame, profile: Profile, method: str, size: str) -> list[Trial]:
    """What is to be trained next of a model, that the rule can be applied to it."""
    config, history = calibration(profile), trained(table, method, size)
    epochs = config.rate_epochs
    if missing := [rate for rate in config.rates if rate not in set(history["lr"])]:
        return [Trial(method, size, rate, epochs) for rate in missing]
    best, rates = best_rate(history), sorted(set(history["lr"]))
    if best in (rates[0], rates[-1]):
        rate = best / 2 if best == rates[0] else best * 2
        if not min(config.rates) / 2**EXTENSIONS <= rate <= max(config.rates) * 2**EXTENSIONS:
            problem = f"{method}, {size}: the best rate is {best:g}, an end of all rates"
            raise KdlibError(f"calibration: {problem}; give other rates, or more rate_epochs")
        return [Trial(method, size, rate, epochs)]
    max_epochs = config.max_epochs["teacher" if method == TEACHER else "student"]
    complete = history.loc[history["lr"] == best, "epoch"].max() >= max_epochs
    needed = method in (TEACHER, "sft") and not complete
    return [Trial(method, size, best, max_epochs)] if needed else []


def one_path(profile: Profile, trial: Trial, threads: int) -> pd.DataFrame:
    """Train once: TRIAL, epoch, step, split, exact_rate, nats_per_token, usefulness.

    Noted each half epoch to the second, then each epoch; of members only where a length is wanted,
    and usefulness only of students that read their own text. For one that diverges see `diverged`.
    """
    torch.set_num_threads(threads)
    common = profile.teacher if trial.method == TEACHER else profile.student
    train_settings = common.model_copy(update={"lr": trial.rate, "epochs": trial.epochs})
    # a folder of its own: the last good model of one that diverges is kept beside its log
    folder = runs.runs_dir(profile.name) / "calibration"
    folder /= f"{trial.method}-{trial.size}-{trial.rate:g}"
    seed = calibration(profile).seed
    run, rows = Run(profile, seed, trial.method, trial.size), load_rows(profile, seed)
    answer_rows = profile.data.held_out if run.recipe.on_policy else 0
    measure = profile.measure.model_copy(update={"path_rows": answer_rows})
    # those of `noting.validation` too: the committed tables are means over all held-out rows
    noted = rows.frame["kind"] == "row"
    if trial.method not in (TEACHER, "sft"):
        noted &= rows.frame["split"] == "held_out"
    options: dict[str, Any] = {"row_ids": rows.frame.index[noted], "parts": 2}
    notes = noting.Notes(rows, train_settings, measure, profile.tokens.max_new, **options)
    try:
        stages.train(run, rows, train_settings, folder / "log.jsonl", notes)
    except NotFinite as error:
        print(f"calibration: the rate {trial.rate:g} is not chosen: {error}", flush=True)
        return diverged(trial)
    table = notes.tuples.assign(exact_rate=exact(notes.tuples))
    keys, columns = ["epoch", "step", "split"], ["exact_rate", "nats_per_token"]
    means = table.groupby(keys, sort=False)[columns].mean().reset_index()
    means["usefulness"] = np.nan
    if answer_rows:
        mean_usefulness = notes.answers.groupby("step")["usefulness"].mean()
        means["usefulness"] = means["step"].map(mean_usefulness)
    return means.assign(**dict(zip(TRIAL, trial, strict=False)))


def diverged(trial: Trial) -> pd.DataFrame:
    """The line of a trial that diverged: at its end, its held-out loss is infinite."""
    facts = {"epoch": trial.epochs, "split": "held_out", "nats_per_token": np.inf}
    return pd.DataFrame([dict(zip(TRIAL, trial, strict=False)) | facts])


def trained(table: pd.DataFrame, method: str, size: str) -> pd.DataFrame:
    """What was noted of a model while it was trained."""
    mask = (table["method"] == method) & (table["size"] == size) & (table["epoch"] > 0)
    return table[mask]


def best_rate(history: pd.DataFrame) -> float:
    """The rate that is chosen, by the times that all rates have reached; see above.

    KdlibError: at each of them training diverged.
    """
    divergent = history.loc[~np.isfinite(history["nats_per_token"]), "lr"]
    if set(divergent) == set(history["lr"]):
        method, size = history[["method", "size"]].iloc[0]
        raise KdlibError(f"calibration: {method}, {size} diverged at every rate; give lower rates")
    history = history[~history["lr"].isin(divergent)]
    common = history.groupby("lr")["epoch"].max().min()
    held_out = history[(history["split"] == "held_out") & (history["epoch"] <= common)]
    best = held_out.groupby("lr").agg({"nats_per_token": "min", "usefulness": "max"})
    usefulness, nats = best["usefulness"], best["nats_per_token"]
    if usefulness.notna().all():
        return float(usefulness[usefulness >= usefulness.max() * (1 - TOLERANCE)].index.max())
    return float(nats[nats <= nats.min() * (1 + TOLERANCE)].index.max())


def chosen(table: pd.DataFrame, profile: Profile, method: str, size: str) -> dict[str, Any]:
    """The rate `lr` of a model and, of the teacher and SFT, its length in `epochs`."""
    config, history = calibration(profile), trained(table, method, size)
    values: dict[str, Any] = {"lr": best_rate(history)}
    if method not in (TEACHER, "sft"):
        return values
    mask = (
        (history["epoch"] % 1 == 0)
        & (history["split"] == "member")
        & (history["lr"] == values["lr"])
    )
    candidates, target = history[mask], config.target["teacher" if method == TEACHER else "student"]
    nearest = candidates.loc[(candidates["exact_rate"] - target).abs().idxmin()]
    (low, high), memorized = config.band, nearest["exact_rate"]
    if method != TEACHER and not low <= memorized <= high:
        problem = (
            f"{method}, {size} memorizes {memorized:.3f} at best (epoch {nearest['epoch']:.0f})"
        )
        remedy = f"outside {low:g} to {high:g}; change max_epochs, rates or members"
        raise KdlibError(f"calibration: {problem}, {remedy}")
    return values | {"epochs": int(nearest["epoch"])}


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
