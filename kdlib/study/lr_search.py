"""Learning rates and training length, by a rule that the profile states beforehand.

Runs on a seed that is never reported. `rule` turns the table of calibration runs into the values
that stand in the profile; a test holds the committed profile against the committed table.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from kdlib import runs
from kdlib.config.profile import TEACHER, Profile
from kdlib.distill.methods import DECODINGS
from kdlib.errors import KdlibError
from kdlib.study import pretraining, stages, teacher_output
from kdlib.study.run import Run, load_rows


def calibrate(profile: Profile, cores: int) -> dict[str, Any]:
    """Run the grid, write calibration.csv, and return what the rule chooses.

    Args:
        profile: with a [calibration] section.
        cores: processes side by side, one thread each.

    Raises:
        KdlibError: the profile has no [calibration], or no length meets the rule.
    """
    if profile.calibration is None:
        raise KdlibError(f"profile '{profile.name}' has no [calibration]; add the rule first")
    file = runs.results_dir(profile.name) / "calibration.csv"
    seed = profile.calibration.seed
    pretraining.prepare(profile)
    table = known(file, profile)
    table = added(table, profile, [TEACHER], profile.calibration.rates, cores)
    fixed = with_teacher(profile, teacher_rule(table, profile))
    teacher, rows = Run(fixed, seed, TEACHER, TEACHER), load_rows(fixed, seed)
    stages.make(teacher, rows)
    for decoding in DECODINGS:
        teacher_output.text(teacher, rows, decoding)
    table = added(table, fixed, ["sft"], profile.calibration.rates, cores)
    eligible = reaching(table, "sft", profile.calibration.student_band[0])
    table = added(table, fixed, list(profile.all_methods), eligible, cores)
    runs.write_table(file, table)
    return rule(table, profile)


def known(file: Path, profile: Profile) -> pd.DataFrame:
    """The runs of an earlier calibration under the same settings: they are not done again."""
    if not file.is_file():
        return pd.DataFrame(columns=["method", "settings"])
    table = pd.read_csv(file, dtype={"settings": str, "commit": str})
    return table[table["settings"] == settings(profile)]


def added(
    table: pd.DataFrame, profile: Profile, methods: list[str], rates: Sequence[float], cores: int
) -> pd.DataFrame:
    """The table with the runs of those methods that it has not yet."""
    missing = [one for one in methods if one not in set(table["method"])]
    if not missing:
        return table
    found = grid(profile, missing, rates, cores)
    found = found.assign(settings=settings(profile), commit=runs.commit())
    return pd.concat([table, found], ignore_index=True) if len(table) else found


def with_teacher(profile: Profile, chosen: dict[str, Any]) -> Profile:
    """The profile with that rate and length of the teacher."""
    return profile.model_copy(update={"teacher": profile.teacher.model_copy(update=chosen)})


def settings(profile: Profile) -> str:
    """Hash of all settings on which the calibration's table depends."""
    parts = profile.model_dump(include={"data", "tokens", "models", "pretrain", "calibration"})
    for model in parts["models"].values():
        del model["lr"], model["epochs"]
    common = {"lr", "epochs"}  # what the rule sets
    trained = [part.model_dump(exclude=common) for part in (profile.teacher, profile.student)]
    return runs.fingerprint([parts, trained])


def grid(profile: Profile, methods: list[str], rates: Sequence[float], cores: int) -> pd.DataFrame:
    """Train every method at every rate for the greatest length; its path epoch by epoch."""
    # the slowest first, so that no core waits at the end
    jobs = [(v, rate) for v in reversed(methods) for rate in rates]
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(one_path, profile, method, rate) for method, rate in jobs]
        return pd.concat([job.result() for job in waiting], ignore_index=True)


def one_path(profile: Profile, method: str, rate: float) -> pd.DataFrame:
    """The path of one calibration run: epoch, step, split, exact_rate, nats_per_token."""
    torch.set_num_threads(1)
    assert profile.calibration is not None
    teacher = method == TEACHER
    longest = profile.calibration.max_epochs["teacher" if teacher else "student"]
    common = profile.teacher if teacher else profile.student
    chosen = common.model_copy(update={"lr": rate, "epochs": longest})
    log = runs.runs_dir(profile.name) / "calibration" / f"{method}-{rate:g}.jsonl"
    size, seed = TEACHER if teacher else profile.probe_size, profile.calibration.seed
    run = Run(profile, seed, method, size)
    _, path = stages.train(run, load_rows(profile, seed), chosen, log)
    return path.assign(method=method, size=size, lr=rate)


def reaching(table: pd.DataFrame, method: str, target: float) -> list[float]:
    """The rates at which the member memorization of `method` reaches `target`; else all rates."""
    seen = table[(table["method"] == method) & (table["split"] == "member")]
    most = seen.groupby("lr")["exact_rate"].max()
    return list(most.index[most >= target]) or list(most.index)


def best_rate(table: pd.DataFrame, method: str, eligible: list[float]) -> float:
    """The eligible rate whose lowest held-out loss over its epochs (from 1) is lowest."""
    seen = table[(table["method"] == method) & (table["split"] == "held_out")]
    seen = seen[(seen["epoch"] > 0) & seen["lr"].isin(eligible)]
    return float(seen.groupby("lr")["nats_per_token"].min().idxmin())


def nearest_length(table: pd.DataFrame, method: str, rate: float, target: float) -> pd.Series:
    """The epoch (at least 1) whose member memorization is nearest `target`."""
    path = table[(table["method"] == method) & (table["lr"] == rate) & (table["epoch"] > 0)]
    member = path[path["split"] == "member"]
    return member.loc[(member["exact_rate"] - target).abs().idxmin()]


def teacher_rule(table: pd.DataFrame, profile: Profile) -> dict[str, Any]:
    """Rate and length of the teacher."""
    assert profile.calibration is not None
    target = profile.calibration.teacher_target
    rate = best_rate(table, "teacher", reaching(table, "teacher", target))
    length = nearest_length(table, "teacher", rate, target)
    return {"lr": rate, "epochs": int(length["epoch"])}


def rule(table: pd.DataFrame, profile: Profile) -> dict[str, Any]:
    """What the rule in the profile chooses from a table of calibration runs.

    Returns:
        `teacher` {lr, epochs}, `student` {epochs}, `lr` {method: rate}.

    Raises:
        KdlibError: no length brings the middle SFT student into the band.
    """
    assert profile.calibration is not None
    low, high = profile.calibration.student_band
    eligible = reaching(table, "sft", low)
    rates = {method: best_rate(table, method, eligible) for method in profile.all_methods}
    length = nearest_length(table, "sft", rates["sft"], (low + high) / 2)
    if not low <= length["exact_rate"] <= high:
        raise KdlibError(
            f"calibration: the middle SFT student memorizes {length['exact_rate']:.3f} at best "
            f"(epoch {length['epoch']}), outside {low} to {high}; change max_epochs or rates"
        )
    return {
        "teacher": teacher_rule(table, profile),
        "student": {"epochs": int(length["epoch"])},
        "lr": rates,
    }
