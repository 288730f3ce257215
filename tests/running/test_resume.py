"""A study that was killed or interrupted resumes, and ends with the tables of one that was not."""

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
# What differs between two runs of the same study: clocks, and sentences that quote them.
CLOCKED_TABLES = {"stages.csv"}
CLOCKED_METRICS = {"ms_per_token"}
CLOCKED_CLAIM = "C6"  # its verdict rests on latencies, which lie close together on smoke
CLOCKED_COLUMNS = ["seconds", "evidence"]


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


def tables(project: Path) -> dict[str, pd.DataFrame]:
    """Every result table, without what a clock decides."""
    found = {}
    for path in sorted((project / "data" / "results" / "smoke").glob("*.csv")):
        if path.name in CLOCKED_TABLES:
            continue
        frame = pd.read_csv(path).drop(columns=CLOCKED_COLUMNS, errors="ignore")
        if "metric" in frame:
            frame = frame[~frame["metric"].isin(CLOCKED_METRICS)]
        if "claim" in frame:
            frame = frame[frame["claim"] != CLOCKED_CLAIM]
        found[path.name] = frame.reset_index(drop=True)
    return found


def test_other_seeds_redo_only_what_puts_seeds_together(smoke_study, tmp_path):
    project = shutil.copytree(smoke_study, tmp_path / "project")
    said = run_study(project, seeds="0")
    assert stages(said, "done") == {*TOGETHER, "00_map"}


def test_nothing_is_redone_when_all_is_done(smoke_study, tmp_path):
    project = shutil.copytree(smoke_study, tmp_path / "project")
    assert stages(run_study(project), "started") == set()


def trained(project: Path) -> dict[Path, int]:
    """Every checkpoint: when it was written, in nanoseconds."""
    found = (project / "data" / "runs" / "smoke").glob("seed-*/**/checkpoint/model.safetensors")
    return {file.relative_to(project): file.stat().st_mtime_ns for file in found}


def test_killed_and_interrupted_study_ends_with_the_same_tables(smoke_study, tmp_path):
    project = copy_project(tmp_path / "project")

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

    said = run_study(project, seeds="0", methods="paper")
    after = finished(project)
    assert stages(said, "done") == after.keys() - between.keys()
    assert {name: after[name] for name in between} == between, "a finished stage was redone"
    assert not list((project / "data" / "runs" / "smoke" / "logs").glob("*.ipynb"))

    whole = shutil.copytree(smoke_study, tmp_path / "whole")
    models = trained(whole)
    said = run_study(whole, seeds="0", methods="paper")
    picking = {"05_sequence_level_kd-seed0", "06_reverse_kl-seed0", "09_memorization_meter-seed0"}
    assert stages(said, "done") == picking | {*TOGETHER, "00_map"}
    assert trained(whole) == models, "other METHODS trained a finished model again"
    ours, theirs = tables(project), tables(whole)
    assert ours and ours.keys() == theirs.keys()
    for name in ours:
        pd.testing.assert_frame_equal(ours[name], theirs[name], check_exact=True, obj=name)
