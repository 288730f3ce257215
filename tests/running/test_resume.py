"""A study that was killed or interrupted resumes, and ends as one that was not."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
from project import copy_project, run_study, start_study

pytestmark = pytest.mark.slow
PATIENCE = 300  # seconds
TOGETHER = {"10_comparison", "11_inheritance", "12_what_stays", "13_membership_and_canaries"}
TOGETHER |= {"14_cause", "15_defences", "16_life_cycle", "17_release"}
TOGETHER |= {"18_conclusion"}


def finished(project: Path) -> dict[str, int]:
    """Notebook's stage: when its marker was written, in nanoseconds."""
    markers = (project / "data" / "runs" / "smoke" / "done").glob("[0-9]*")
    return {marker.name: marker.stat().st_mtime_ns for marker in markers}


def stages(said: str, word: str) -> set[str]:
    """The stages that `make study` reported as `started` or `done`."""
    return {name.replace(", seed ", "-seed") for name in re.findall(rf"\] (\S.*?): {word}", said)}


def wait_until(condition, process: subprocess.Popen, project: Path) -> None:
    """Wait for a state of the run; fail if it ends or stays away."""
    limit = time.monotonic() + PATIENCE
    while not condition():
        said = (project / "make.log").read_text()
        assert process.poll() is None, f"the run ended first:\n{said}"
        assert time.monotonic() < limit, f"waited {PATIENCE} s:\n{said}"
        time.sleep(0.05)


def left_running(project: Path) -> list[str]:
    """Processes whose working directory is the project."""
    found = psutil.process_iter(["cwd", "cmdline"])
    return [" ".join(p.info["cmdline"] or []) for p in found if p.info["cwd"] == str(project)]


def stop(process: subprocess.Popen, project: Path, how: signal.Signals) -> None:
    """Send a signal to the whole process group and wait until nothing of it runs."""
    os.killpg(process.pid, how)
    assert process.wait(PATIENCE) != 0
    limit = time.monotonic() + 30
    while left := left_running(project):
        assert time.monotonic() < limit, f"still running: {left}"
        time.sleep(0.1)


def test_nothing_is_redone_when_all_is_done(smoke_study, tmp_path):
    project = shutil.copytree(smoke_study, tmp_path / "project")
    assert stages(run_study(project), "started") == set()


def trained(project: Path) -> dict[Path, int]:
    """Every checkpoint: when it was written, in nanoseconds."""
    found = (project / "data" / "runs" / "smoke").glob("seed-*/**/checkpoint/model.safetensors")
    return {file.relative_to(project): file.stat().st_mtime_ns for file in found}


def test_other_seeds_and_methods_redo_only_what_puts_them_together(smoke_study, tmp_path):
    project = shutil.copytree(smoke_study, tmp_path / "project")
    models = trained(project)
    said = run_study(project, seeds="0", methods="paper")
    picking = {"05_sequence_level_kd-seed0", "09_memorization_meter-seed0"}
    assert stages(said, "done") == picking | {*TOGETHER, "00_map"}
    assert trained(project) == models, "a finished model was trained again"


def measured(project: Path, name: str) -> dict[str, pd.DataFrame]:
    """The table of this name of every model of seed 0."""
    found = sorted((project / "data" / "runs" / "smoke" / "seed-0").glob(f"*/{name}.parquet"))
    models = (file for file in found if file.with_stem("tuples").is_file())  # not what is trivial
    return {file.parent.name: pd.read_parquet(file) for file in models}


def test_killed_and_interrupted_study_of_four_sizes_ends_as_another_run(smoke_study, tmp_path):
    """A fourth size is a block of the profile; it changes nothing about the other three."""
    project = copy_project(tmp_path / "project")
    profile = project / "kdlib" / "config" / "profiles" / "smoke.toml"
    block = "[models.tiny]\nlayers = 1\nheads = 1\nwidth = 8\n\n[pretrain]"
    profile.write_text(profile.read_text("utf-8").replace("[pretrain]", block), "utf-8")

    first = start_study(project, SEEDS="0")
    wait_until(lambda: {"02_teacher-seed0"} <= finished(project).keys(), first, project)
    time.sleep(3)  # into the stages that follow
    stop(first, project, signal.SIGKILL)
    before = finished(project)
    locks = project / ".snakemake" / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    (locks / "0.output.lock").write_text("data/runs/smoke/done/00_map\n")

    second = start_study(project, SEEDS="0")
    wait_until(lambda: len(finished(project)) > len(before) + 1, second, project)
    refused = start_study(project, SEEDS="0", log="refused.log")
    assert refused.wait(PATIENCE) != 0
    assert "is being run already" in (project / "refused.log").read_text()
    stop(second, project, signal.SIGINT)
    said = (project / "make.log").read_text()
    between = finished(project)
    assert len(before) < len(between) < 9
    assert stages(said, "started").isdisjoint(before)

    said = run_study(project, seeds="0", methods="paper", parts="study")
    after = finished(project)
    assert stages(said, "done") == after.keys() - between.keys()
    assert {name: after[name] for name in between} == between, "a finished stage was redone"
    assert not list((project / "data" / "runs" / "smoke" / "logs").glob("*.ipynb"))

    table = pd.read_csv(project / "data" / "results" / "smoke" / "table1.csv")
    assert list(dict.fromkeys(table["size"]))[1:] == ["large", "middle", "small", "tiny"]
    assert table["paper"].isna().sum() == len(table) - 1  # the paper has three sizes
    for name in ("tuples", "answers"):
        ours, theirs = measured(project, name), measured(smoke_study, name)
        shared = [model for model in ours if not model.endswith("-tiny")]
        assert len(shared) == 17 and len(ours) == 22  # bases, a teacher, four methods
        for model in shared:
            pd.testing.assert_frame_equal(ours[model], theirs[model], check_exact=True, obj=model)
