"""A stage that fails says why and keeps its log; one that was killed does not run twice."""

import os
import re
import shutil
import signal
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from fake_study import fake_project
from project import start_study

pytestmark = pytest.mark.slow
FIRST = "01_data_and_tokens"
ROWS = """
# KdlibError: not what was raised
def read():
    "Raises KdlibError: out of GPU memory; halve the batch"
    {}
read()
"""


def messages(project: Path) -> list[str]:
    """What `make study` printed, without make's own line."""
    said = (project / "make.log").read_text().splitlines()
    return [line for line in said if not line.startswith("make")]


@pytest.mark.parametrize(
    ("code", "reason", "tries"),
    [
        ("raise OverflowError('too large a number')", "OverflowError: too large a number", 2),
        ("from kdlib.errors import KdlibError; raise KdlibError('no rows')", "no rows", 1),
        ("import os; os._exit(3)", "nbclient.exceptions.DeadKernelError: Kernel died", 1),
    ],
    ids=["any error", "the project's own", "kernel died"],
)
def test_the_reason_of_a_failed_stage_is_the_error_that_was_raised(tmp_path, code, reason, tries):
    project = fake_project(tmp_path / "project", n01=ROWS.format(code))
    logs = project / "data" / "runs" / "smoke" / "logs"
    for attempt in range(1, tries + 1):
        assert start_study(project).wait(120) != 0
        said = messages(project)
        assert said[-1] == reason and re.search(rf"failed after \d+ s; see .*{FIRST}.log", said[-2])
        log = logs / f"{FIRST}.log"
        assert log.read_text().rstrip().splitlines()[-1] == reason
        assert (logs / f"{FIRST}.failed-{attempt}.log").read_text() == log.read_text()
    assert not (project / "notebooks" / "executed").exists()


def test_committed_tables_do_not_stand_for_a_run(tmp_path):
    """A fresh clone, or one after `make clean`: tables are there, and nothing was run."""
    project = fake_project(tmp_path / "project", n01="raise ValueError('it ran')")
    table = project / "data" / "results" / "smoke" / "stages.csv"
    table.parent.mkdir(parents=True)
    table.write_text("stage,seed,seconds\n")
    later = time.time() + 3600
    os.utime(table, (later, later))
    assert start_study(project).wait(120) != 0
    assert messages(project)[-1] == "ValueError: it ran"


def test_failed_logs_stay_when_the_stage_is_done(tmp_path):
    project = fake_project(tmp_path / "project", code="1 / 0", n01="raise ValueError('first')")
    assert start_study(project).wait(120) != 0
    sound = fake_project(tmp_path / "sound", code="1 / 0", n01="pass") / "notebooks"
    shutil.copy2(sound / f"{FIRST}.ipynb", project / "notebooks")
    assert start_study(project).wait(120) != 0
    run = project / "data" / "runs" / "smoke"
    assert (run / "done" / FIRST).exists() and not (run / "done" / "02_teacher-seed0").exists()
    assert messages(project)[-1] == "ZeroDivisionError: division by zero"
    assert "ValueError: first" in (run / "logs" / f"{FIRST}.failed-1.log").read_text()
    assert "ValueError" not in (run / "logs" / f"{FIRST}.log").read_text()


SLOW = """
import os, time
with open("events", "a") as log:
    print("start", os.getpid(), time.monotonic(), file=log, flush=True)
    for step in range(50):
        time.sleep(0.1)
        print("runs", os.getpid(), time.monotonic(), file=log, flush=True)
"""


def test_a_killed_study_started_again_waits_for_what_still_runs(tmp_path):
    project = fake_project(tmp_path / "project", n01=SLOW)
    events, limit = project / "events", time.monotonic() + 120

    def noted() -> list[tuple[str, str, float]]:
        lines = events.read_text().splitlines() if events.exists() else []
        return [(word, pid, float(at)) for word, pid, at in map(str.split, lines)]

    def wait(condition):
        while not condition():
            assert time.monotonic() < limit, (project / "make.log").read_text()
            time.sleep(0.1)

    first = start_study(project)
    wait(lambda: any(word == "runs" for word, *_ in noted()))
    running = psutil.Process(first.pid).children(recursive=True)
    for process in running:  # Snakemake alone: papermill and its kernel go on
        if "study" in process.cmdline():
            process.kill()
    assert first.wait(30) != 0
    second = start_study(project, log="second.log")
    try:
        wait(lambda: "started" in (project / "second.log").read_text())
        refused = start_study(project, log="refused.log")
        assert refused.wait(60) == 2
        assert "PROFILE=smoke is being run already" in (project / "refused.log").read_text()
        wait(lambda: (project / "data" / "runs" / "smoke" / "done" / FIRST).exists())
    finally:
        os.killpg(second.pid, signal.SIGKILL)
        second.wait(30)
    pids = list(dict.fromkeys(pid for _, pid, _ in noted()))
    assert len(pids) == 2, "the stage was not tried again"
    times = [[at for _, pid, at in noted() if pid == one] for one in pids]
    assert max(times[0]) < min(times[1]), "two processes of one stage ran at the same time"
    assert len(times[0]) == 51, "what ran was disturbed"


def test_a_profile_by_path_with_blanks_and_a_method_of_its_own(tmp_path):
    bar = "import sys\nfor i in range(4): print(end=f'\\r{i}', file=sys.stderr)\nprint('end')"
    project = fake_project(tmp_path / "a pröject", code=bar)
    folder = project / "my: files, ü"
    folder.mkdir()
    text = (project / "kdlib" / "config" / "profiles" / "smoke.toml").read_text("utf-8")
    own = '[methods.on_policy_tv]\ntext = "student"\nobjective = "total_variation"\n'
    (folder / "né.toml").write_text(text + own + 'notebook = "07_on_policy"\n', "utf-8")
    given = {"PROFILE": "my: files, ü/né.toml", "SEEDS": "1", "METHODS": "on_policy_tv"}
    start_study(project, **given).wait(300)  # no tables are made, so `report` fails
    said = messages(project)
    assert any(line.startswith("all stages done after") for line in said), said
    ran = [re.search(r"\] (\S+?)(, seed \d)?: done", line) for line in said]
    names = [found[1] for found in ran if found]
    assert names.count("07_on_policy") == 1 and "06_reverse_kl" not in names
    assert names.index("02_teacher") < names.index("04_word_level_kd") < names.index("07_on_policy")
    executed = project / "notebooks" / "executed" / "né"
    copy = nbformat.read(executed / "07_on_policy-seed1.ipynb", 4)
    assert copy.metadata.papermill.parameters == {
        "profile": "my: files, ü/né.toml",
        "seed": 1,
        "methods": "on_policy_tv",
    }
    assert "(02_teacher-seed1.ipynb)" in copy.cells[0].source
    assert [output["text"] for output in copy.cells[-1].outputs] == ["end\n", "3"]
    shared = nbformat.read(executed / "10_comparison.ipynb", 4)
    assert shared.metadata.papermill.parameters["seeds"] == "1"
    assert "(02_teacher-seed1.ipynb)" in shared.cells[0].source
    assert "(00_map.ipynb)" in shared.cells[0].source
    for kept in (
        executed,
        project / "data" / "results" / "né",
        project / "data" / "figures" / "né",
    ):
        assert (kept / ".gitignore").read_text() == "*\n"
