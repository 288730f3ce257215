"""Learning rates and training length, by a rule that the profile states beforehand.

Runs on a seed that is never reported. `rule` turns the table of calibration runs into the values
that stand in the profile; a test holds the committed profile against the committed table.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from kdlib import bases, runs, study
from kdlib.config import Profile
from kdlib.lab import Lab
from kdlib.settings import KdlibError

SIZE = "middle"  # the size on which the methods are calibrated


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
    lab = Lab(profile, profile.calibration.seed)
    bases.prepare(lab)
    table = known(file, profile)
    table = added(table, profile, ["teacher"], profile.calibration.rates, cores)
    fixed = with_teacher(profile, teacher_rule(table, profile))
    lab = Lab(fixed, profile.calibration.seed)
    study.run(lab, "teacher", "teacher")
    for text in ("teacher", "teacher_beam", "teacher_sampled"):
        study.teacher_text(lab, text)
    table = added(table, fixed, ["sft"], profile.calibration.rates, cores)
    eligible = reaching(table, "sft", profile.calibration.student_band[0])
    table = added(table, fixed, list(profile.methods), eligible, cores)
    runs.write_table(file, table)
    return rule(table, profile)


def known(file: Path, profile: Profile) -> pd.DataFrame:
    """The runs of an earlier calibration under the same settings: they are not done again."""
    if not file.is_file():
        return pd.DataFrame(columns=["variant", "settings"])
    table = pd.read_csv(file, dtype={"settings": str, "commit": str})
    return table[table["settings"] == settings(profile)]


def added(
    table: pd.DataFrame, profile: Profile, variants: list[str], rates: Sequence[float], cores: int
) -> pd.DataFrame:
    """The table with the runs of those variants that it has not yet."""
    missing = [one for one in variants if one not in set(table["variant"])]
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
    common = {"lr", "epochs"}  # what the rule sets
    trained = [part.model_dump(exclude=common) for part in (profile.teacher, profile.student)]
    return runs.fingerprint([parts, trained])


def grid(profile: Profile, variants: list[str], rates: Sequence[float], cores: int) -> pd.DataFrame:
    """Train every variant at every rate for the greatest length; its path epoch by epoch."""
    # the slowest first, so that no core waits at the end
    jobs = [(v, rate) for v in reversed(variants) for rate in rates]
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(one_path, profile, variant, rate) for variant, rate in jobs]
        return pd.concat([job.result() for job in waiting], ignore_index=True)


def one_path(profile: Profile, variant: str, rate: float) -> pd.DataFrame:
    """The path of one calibration run: epoch, step, split, exact_rate, nats_per_token."""
    torch.set_num_threads(1)
    assert profile.calibration is not None
    lab = Lab(profile, profile.calibration.seed)
    teacher = variant == "teacher"
    longest = profile.calibration.max_epochs["teacher" if teacher else "student"]
    common = profile.teacher if teacher else profile.student
    chosen = common.model_copy(update={"lr": rate, "epochs": longest})
    log = runs.runs_dir(profile.name) / "calibration" / f"{variant}-{rate:g}.jsonl"
    size = "teacher" if teacher else SIZE
    _, path = study.train_one(lab, variant, size, chosen, log)
    return path.assign(variant=variant, size=size, lr=rate)


def reaching(table: pd.DataFrame, variant: str, target: float) -> list[float]:
    """The rates at which the member memorization of `variant` reaches `target`; else all rates."""
    seen = table[(table["variant"] == variant) & (table["split"] == "member")]
    most = seen.groupby("lr")["exact_rate"].max()
    return list(most.index[most >= target]) or list(most.index)


def best_rate(table: pd.DataFrame, variant: str, eligible: list[float]) -> float:
    """The eligible rate whose lowest held-out loss over its epochs (from 1) is lowest."""
    seen = table[(table["variant"] == variant) & (table["split"] == "held_out")]
    seen = seen[(seen["epoch"] > 0) & seen["lr"].isin(eligible)]
    return float(seen.groupby("lr")["nats_per_token"].min().idxmin())


def nearest_length(table: pd.DataFrame, variant: str, rate: float, target: float) -> pd.Series:
    """The epoch (at least 1) whose member memorization is nearest `target`."""
    path = table[(table["variant"] == variant) & (table["lr"] == rate) & (table["epoch"] > 0)]
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
    rates = {method: best_rate(table, method, eligible) for method in profile.methods}
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


def default_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))
