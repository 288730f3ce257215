"""Findings stand in notebooks and README as the tables say them, and a check finds it if not."""

import json
import os
import shutil
import subprocess
import sys

import nbformat
import pandas as pd
import pytest
from project import ROOT

from kdlib import __main__, runs
from kdlib.config.profile import load_profile
from kdlib.errors import KdlibError
from kdlib.report import findings, lookups, readme, sentences

STEMS = ("01_data_and_tokens", "02_teacher")
SOURCES = sorted((ROOT / "notebooks").glob("*.ipynb"))
RUNS = (findings.REFERENCE, findings.SCRATCH)
COPIES = [
    file for run in RUNS for file in sorted((ROOT / "notebooks" / "executed" / run).glob("*.ipynb"))
]
MADE = pd.DataFrame(
    [["0123456789", "sft", "small", 3, "member"], ["abcdef0123", "echo", "all", 3, "held_out"]],
    columns=["commit", "method", "size", "seed", "split"],
)


def notebook(*findings_cells: str):
    """A notebook with cells before and behind those tagged `finding`."""
    made = [nbformat.v4.new_markdown_cell(text) for text in ("é before", *findings_cells, "behind")]
    for cell in made[1:-1]:
        cell["metadata"] = {"tags": ["finding"]}
    return nbformat.v4.new_notebook(cells=made)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a reference run, two notebooks and their copies, one of them an old one."""
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    marks = "<!-- answer -->\nold\n<!-- /answer -->\n<!-- results -->\nold\n<!-- /results -->\n"
    (tmp_path / "README.md").write_text(marks, "utf-8")
    lengths = pd.DataFrame({"seed": [3, 3], "split": ["member", "held_out"], "rows": [40, 20]})
    tables(lengths=lengths.assign(median_tokens=30, shorter=0.5))
    tables(metrics=MADE)
    for folder in ("", f"executed/{findings.REFERENCE}"):
        for stem in STEMS:
            place = tmp_path / "notebooks" / folder / f"{stem}{'-seed3' * bool(folder)}.ipynb"
            place.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook(f"## Summary\n{findings.OPENING} old"), place)
    old = tmp_path / "notebooks" / "executed" / findings.REFERENCE / "02_teacher-seed4.ipynb"
    nbformat.write(notebook(), old)
    monkeypatch.setitem(readme.BLOCKS, "results", lambda profile: f"tables of {profile}")
    return tmp_path


def tables(**frames):
    for name, frame in frames.items():
        runs.write_table(runs.results_dir(findings.REFERENCE) / f"{name}.csv", frame)


def texts(file):
    return ["".join(cell["source"]) for cell in json.loads(file.read_text("utf-8"))["cells"]]


def test_write_changes_the_findings_alone(project, monkeypatch, capsys):
    files = {file: texts(file) for file in sorted(project.rglob("*.ipynb"))}
    for file in files:
        os.utime(file, ns=(10**18, 10**18))
    monkeypatch.setattr(sys, "argv", ["kdlib", "findings"])
    assert __main__.main() == 0
    for file, before in files.items():
        stem = file.stem.partition("-seed")[0]
        said = f"## Summary\n{findings.cell(stem)}"
        assert texts(file) == (["é before", said, "behind"] if len(before) == 3 else before)
        assert "é before" in file.read_text("utf-8") and nbformat.read(file, 4)
        assert file.stat().st_mtime_ns == 10**18  # else all stages would be due again
    said = findings.cell("01_data_and_tokens")
    start = f"{findings.OPENING} (profile `{findings.REFERENCE}`, commit `0123456789`): Every seed "
    assert said.startswith(f"{start}trains on 40 member rows and keeps 20 held-out rows apart;")
    assert "Intervals" not in said  # there is none
    shown = (project / "README.md").read_text("utf-8")
    assert f"\ntables of {findings.REFERENCE}\n" in shown and "old" not in shown


def test_check_holds_the_source_against_the_tables(project, capsys):
    findings.write()
    findings.check("01_data_and_tokens", "smoke")
    assert capsys.readouterr().out == ""
    other = pd.read_csv(runs.results_dir(findings.REFERENCE) / "lengths.csv").assign(rows=41)
    tables(lengths=other)
    with pytest.raises(KdlibError, match=r"01_data.*with: python -m kdlib findings"):
        findings.check("01_data_and_tokens", "smoke")
    findings.check("01_data_and_tokens", findings.REFERENCE)  # its own tables are being made
    assert "quotes this run" in capsys.readouterr().out
    tables(metrics=MADE.assign(commit="9876543210"))  # somebody ran the reference profile anew
    findings.check("01_data_and_tokens", "smoke")
    assert "an earlier run" in capsys.readouterr().out
    shutil.rmtree(runs.results_dir(findings.REFERENCE))
    findings.check("01_data_and_tokens", "smoke")
    assert "nothing to compare it with" in capsys.readouterr().out


def test_what_was_not_run_is_told_of_models_from_scratch(project, monkeypatch, capsys):
    def told(settings):
        lookups.lines(settings.name, "lengths")
        if settings.name == findings.REFERENCE:
            raise lookups.NotRun
        return "they recite 0.5 [0.4, 0.6]."

    monkeypatch.setitem(sentences.OF, "02_teacher", [("cause", told)])
    alone = findings.cell("02_teacher")
    assert alone.endswith("make study PROFILE=laptop PARTS=cause` makes it.")
    scratch = runs.results_dir(findings.SCRATCH)
    shutil.copytree(runs.results_dir(findings.REFERENCE), scratch)
    runs.write_table(scratch / "metrics.csv", MADE.assign(commit="5555555555"))
    text = findings.cell("02_teacher")
    assert text.startswith(
        f"{alone}\n\n**Models from scratch** (profile `tiny`, commit `5555555555`; "
    )
    assert "means a low held-out loss): They recite 0.5 [0.4, 0.6]. Intervals are of 95%" in text
    findings.write()
    findings.check("02_teacher", "smoke")
    runs.write_table(scratch / "metrics.csv", MADE.assign(commit="6666666666"))
    findings.check("02_teacher", "smoke")  # models from scratch ran anew: nothing is held
    assert capsys.readouterr().out == ""
    runs.write_table(scratch / "metrics.csv", MADE.assign(commit="5555555555"))
    monkeypatch.setitem(sentences.OF, "02_teacher", [("", lambda _: "they recite 1.0.")])
    with pytest.raises(KdlibError, match="write it anew"):
        findings.check("02_teacher", "smoke")


@pytest.mark.parametrize(("seeds", "more"), [(2, True), (3, False)])
def test_what_was_run_on_few_seeds_is_told_of_models_from_scratch_as_well(project, seeds, more):
    lengths = pd.DataFrame({"seed": range(seeds), "split": "member", "rows": 10})
    runs.write_table(runs.results_dir(findings.REFERENCE) / "lengths.csv", lengths)
    scratch = runs.results_dir(findings.SCRATCH)
    shutil.copytree(runs.results_dir(findings.REFERENCE), scratch)
    shipped = load_profile(findings.REFERENCE)
    settings = shipped.model_copy(
        update={"probe": shipped.probe.model_copy(update={"seeds": seeds})}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sentences.OF, "14_cause", [("cause", lambda _: "they recite 0.5.")])
        patch.setitem(sentences.OF, "02_teacher", sentences.OF["14_cause"])
        assert bool(findings.from_scratch("14_cause", settings)) == more
        assert findings.from_scratch("02_teacher", settings) == ""


@pytest.mark.parametrize("made", [[], ["## Summary"], [f"{findings.OPENING} a"] * 2])
def test_a_notebook_has_one_place_for_its_finding(project, made):
    nbformat.write(notebook(*made), project / "notebooks" / "02_teacher.ipynb")
    for held in (lambda: findings.check("02_teacher", "smoke"), findings.write):
        with pytest.raises(KdlibError, match=r"02_teacher.ipynb needs one cell .*; put it back"):
            held()


@pytest.fixture
def committed(monkeypatch):
    """The committed tables; not those that a run here has made anew."""
    folders = [ROOT / "data" / "results" / run for run in RUNS]
    asked = ["git", "-C", str(ROOT), "status", "--porcelain", "--", *map(str, folders)]
    if subprocess.run(asked, capture_output=True, text=True, check=False).stdout:
        pytest.skip("the reference tables were made anew here and are not committed")
    if not (folders[0] / "metrics.csv").is_file():
        pytest.skip("no reference run")
    monkeypatch.setenv("KDLIB_ROOT", str(ROOT))


REMEDY = "run python -m kdlib findings"


@pytest.mark.parametrize(
    "file", [*SOURCES, *COPIES], ids=lambda file: f"{file.parent.stem}-{file.stem}"
)
def test_every_finding_is_what_the_committed_tables_say(committed, file):
    cells = json.loads(file.read_text("utf-8"))["cells"]
    found = [one for one in cells if "finding" in one["metadata"].get("tags", [])]
    assert len(found) == 1 or file in COPIES  # which may be older
    for one in found:
        text = "".join(one["source"]).partition("\n")[2]
        assert text == findings.cell(file.stem.partition("-seed")[0]), REMEDY


def test_readme_says_what_the_committed_tables_say(committed):
    text = (ROOT / "README.md").read_text("utf-8")
    for name, block in readme.BLOCKS.items():
        stands = text.split(f"<!-- {name} -->\n")[1].split(f"\n<!-- /{name} -->")[0]
        assert stands == block(findings.REFERENCE), REMEDY
