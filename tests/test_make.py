"""What bad input to `make study` gets: one line that names it, and nothing half-written."""

import shutil
import subprocess
import sys

import pytest
from conftest import copy_project, start_study


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return copy_project(tmp_path_factory.mktemp("make") / "project")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"PROFILE": "smok"}, "no profile 'smok'"),
        ({"SEEDS": "0 x"}, "'x' is no whole number"),
        ({"SEEDS": "-1"}, "'-1' is no whole number"),
        ({"SEEDS": "0 0"}, "names one twice"),
        ({"METHODS": "gkd gdk"}, "METHODS: 'gdk' is no method; known: sft, word_kd"),
        ({"CORES": "many"}, 'CORES="many" is no count'),
    ],
    ids=lambda value: " ".join(value.values()) if isinstance(value, dict) else "",
)
def test_bad_input_gets_one_line(project, given, named):
    run = start_study(project, **given)
    assert run.wait(60) != 0
    said = (project / "make.log").read_text().splitlines()
    assert len(said) == 2 and said[0].startswith("make study: ") and named in said[0], said
    assert said[1].startswith("make: ***")  # make's own
    assert not list(project.glob("data/runs/*/done/*")) and not (project / "data/results").exists()


def test_every_rule_passes_just_the_parameters_that_its_notebook_has(project):
    """Papermill only warns of an unknown name, so the calls are held against the sources."""
    from papermill import inspect_notebook

    shown = subprocess.run(
        [
            sys.executable,
            "-m",
            "snakemake",
            "--dry-run",
            "--printshellcmds",
            "--config",
            "profile=smoke",
            "methods=all",
        ],
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
        known = set(inspect_notebook(str(project / notebook))) - {"ablated_size"}  # the reader's
        assert passed == known, notebook


def test_make_clean_keeps_results(project):
    kept = [project / "data" / name / "smoke" / "x" for name in ("results", "figures")]
    kept.append(project / "notebooks" / "executed" / "smoke" / "x")
    gone = [project / "data" / "runs" / "smoke" / "x", project / "data" / "raw" / "x"]
    for path in kept + gone:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    subprocess.run([shutil.which("make"), "clean"], cwd=project, check=True, capture_output=True)
    assert all(path.exists() for path in kept) and not any(path.exists() for path in gone)
