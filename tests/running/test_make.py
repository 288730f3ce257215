"""What bad input to `make` and to the commands gets: one line, and nothing half-written."""

import fcntl
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from project import copy_project, start_study


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return copy_project(tmp_path_factory.mktemp("make") / "a pröject")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"PROFILE": "smok"}, "no profile 'smok'"),
        ({"PROFILE": ""}, "no profile ''; known: gpu, laptop"),
        ({"PROFILE": "my files/né.toml"}, "no profile 'my files/né.toml'"),
        ({"SEEDS": "0 x"}, "'x' is no whole number"),
        ({"SEEDS": "-1"}, "'-1' is no whole number"),
        ({"SEEDS": "0 0"}, "names one twice"),
        ({"METHODS": "gkd gdk"}, "METHODS: 'gdk' is no method; known: sft, word_kd"),
        ({"CORES": "many"}, "--cores: 'many' is not a whole number above 0"),
        ({"CORES": "0"}, "--cores: '0' is not"),
        ({"CORES": "-1"}, "--cores: '-1' is not"),
        ({"GPU_JOBS": "x"}, "--gpu-jobs: 'x' is not"),
    ],
    ids=lambda value: " ".join(value.values()) if isinstance(value, dict) else "",
)
def test_bad_input_gets_one_line(project, given, named):
    run = start_study(project, **given)
    assert run.wait(60) == 2
    said = (project / "make.log").read_text().splitlines()
    assert len(said) == 2 and said[0].startswith("kdlib: ") and named in said[0], said
    assert said[1].startswith("make: ***")  # make's own
    assert not (project / "data").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["calibrate", "--cores", "-1"], "--cores: '-1' is not a whole number above 0"),
        (["calibrate", "--profile", "nope"], "no profile 'nope'"),
        (["verify", "--cores", "0"], "--cores: '0' is not"),
        (["tune", "--students", "sgt"], "'sgt' is no method; known: sft"),
        (["verify", "--profile", "smoke"], "smoke holds no finished study"),
        (["stduy"], "invalid choice: 'stduy'"),
        ([], "required: command"),
    ],
)
def test_bad_arguments_of_the_commands_get_one_line(project, words, named):
    command = [sys.executable, "-m", "kdlib", *words]
    run = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert run.returncode == 2 and not run.stdout
    assert run.stderr.startswith("kdlib: ") and named in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_every_rule_passes_just_the_parameters_that_its_notebook_has(project):
    """Papermill only warns of an unknown name, so the calls are held against the sources."""
    from papermill import inspect_notebook

    words = [
        "--dry-run",
        "--printshellcmds",
        "--config",
        "profile=smoke",
        "methods=all",
        "parts=all",
    ]
    shown = subprocess.run(
        [sys.executable, "-m", "snakemake", *words],
        cwd=project,
        capture_output=True,
        text=True,
        check=True,
    )
    names = {}
    words = shown.stdout.split()
    for i, word in enumerate(words):
        if word.endswith("papermill"):
            end = words.index("--log-output", i)
            call = words[i:end]
            names[call[1]] = {b for a, b in zip(call, call[1:], strict=False) if a in ("-p", "-r")}
    assert len(names) == len(list((project / "notebooks").glob("*.ipynb")))
    for notebook, passed in names.items():
        known = set(inspect_notebook(str(project / notebook))) - {
            "ablated_size",
            "request",
        }  # the reader's
        assert passed == known, notebook


def test_further_methods_run_on_the_first_seeds_alone(project):
    """With `probe.seeds`; notebooks that train the paper's methods, too, run on every seed."""
    shipped = (project / "kdlib/config/profiles/smoke.toml").read_text("utf-8")
    own = shipped.replace("[probe]\n", "[probe]\nseeds = 1\n")
    (project / "own.toml").write_text(own, "utf-8")
    words = ["--dry-run", "--printshellcmds", "--config", "profile=own.toml", "seeds=4 7"]
    command = [sys.executable, "-m", "snakemake", *words, "methods=gkd seq_kd"]
    shown = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True)
    call = r"papermill notebooks/(0[2-9])_.* -p seed (\d)(.*?) +--log-output"
    calls = re.findall(call, shown.stdout)
    found = {(number, seed): methods.strip() for number, seed, methods in calls}
    assert ("07", "4") in found and ("07", "7") not in found and ("05", "7") in found
    assert found["05", "4"] == found["08", "4"] == "-r methods 'seq_kd gkd'"
    assert found["05", "7"] == found["08", "7"] == "-r methods 'paper'"


def test_a_site_without_tables_names_the_command(project):
    command = ["make", "site", "PROFILE=smoke", f"BIN={Path(sys.executable).parent}"]
    run = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    said = run.stderr.splitlines()
    assert run.returncode == 2 and len(said) == 2, said
    assert said[0].startswith("kdlib: ") and "make study PROFILE=smoke" in said[0]


def clean(project):
    command = [shutil.which("make"), "clean"]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


def test_make_clean_keeps_results(project):
    kept = [project / "data" / name / "smoke" / "x" for name in ("results", "figures")]
    kept.append(project / "notebooks" / "executed" / "smoke" / "x")
    gone = [project / "data" / "runs" / "smoke" / "x", project / "data" / "raw" / "x"]
    for path in kept + gone:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert clean(project).returncode == 0
    assert all(path.exists() for path in kept) and not any(path.exists() for path in gone)
    assert clean(project).returncode == 0  # nothing is there


@pytest.mark.parametrize("name", ["smoke.lock", "smoke/locks/02_teacher-seed0.lock"])
def test_make_clean_leaves_what_runs(project, name):
    lock = project / "data" / "runs" / name
    made = project / "data" / "runs" / "smoke" / "seed-0" / "x"
    for path in (lock, made):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused = clean(project)
    assert refused.returncode and f"data/runs/{name} is held by a study" in refused.stderr
    assert lock.exists() and made.exists()
    assert clean(project).returncode == 0
    assert not made.exists()
    assert (project / "data" / "runs" / "smoke.lock").exists() == (name == "smoke.lock")
    lock.unlink(missing_ok=True)


@pytest.mark.skipif(not shutil.which("pgrep"), reason="no pgrep here")
def test_an_environment_from_which_something_runs_is_not_made_anew(project):
    (project / ".venv" / "bin").mkdir(parents=True)
    for file in ("constraints.txt", "pyproject.toml"):
        (project / file).touch()
    sleep = shutil.copy(shutil.which("sleep"), project / ".venv" / "bin" / "sleep")
    with subprocess.Popen([sleep, "60"]) as running:
        run = subprocess.run(["make", "lint"], cwd=project, capture_output=True, text=True)
        running.kill()
    assert run.returncode == 2 and "something runs from it; end that first" in run.stderr
    assert Path(sleep).is_file()
    shutil.rmtree(project / ".venv")
