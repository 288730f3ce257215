"""Every notebook keeps the anatomy, and all of them ran on the smoke profile."""

import ast
import json
from pathlib import Path

import pandas as pd
import pytest

from kdlib.analysis import companions
from kdlib.config.methods import METHODS

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
TOGETHER = {"10_comparison", "11_inheritance", "12_what_stays", "13_membership_and_canaries"}
SHARED = {"00_map", "01_data_and_tokens", *TOGETHER}


def cells(path, kind="code"):
    found = json.loads(path.read_text("utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == kind]


def tagged(path, tag):
    return [c for c in cells(path) if tag in c["metadata"].get("tags", [])]


def test_the_series_is_complete():
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"{number:02}" for number in range(14)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_anatomy(path):
    everything = json.loads(path.read_text("utf-8"))["cells"]
    assert len(everything) <= 60
    assert not any(c.get("outputs") or c.get("execution_count") for c in cells(path))
    (parameters,) = tagged(path, "parameters")
    (check,) = tagged(path, "check")
    assert check is everything[-1] or check == everything[-1]
    for node in ast.parse("".join(parameters["source"])).body:
        assert isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    first = "".join(everything[0]["source"])
    assert first.startswith(f"# {path.stem[:2]} ") and "Reads:" in first and "Writes:" in first
    lines = sum(len("".join(c["source"]).splitlines()) for c in cells(path))
    assert lines <= 250
    assert "## Exercises" in str(everything) and "## Summary" in str(everything)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_lead_somewhere(path):
    for cell in cells(path, "markdown"):
        for part in "".join(cell["source"]).split("](")[1:]:
            target = part.split(")")[0]
            assert (path.parent / target).is_file(), target


@pytest.mark.slow
def test_every_notebook_ran_on_smoke(smoke_study):
    executed = smoke_study / "notebooks" / "executed" / "smoke"
    for path in NOTEBOOKS:
        names = [path.stem] if path.stem in SHARED else [f"{path.stem}-seed{s}" for s in (0, 1)]
        for name in names:
            copy = executed / f"{name}.ipynb"
            assert copy.stat().st_size < 1_000_000
            ran = [c["execution_count"] for c in cells(copy)]
            assert all(ran) and ran == sorted(ran)
            outputs = [o for c in cells(copy) for o in c["outputs"]]
            assert not any(o["output_type"] == "error" for o in outputs)


@pytest.mark.slow
def test_tables_and_figures_of_smoke(smoke_study):
    results = smoke_study / "data" / "results" / "smoke"
    claims = pd.read_csv(results / "claims.csv")
    assert list(claims["claim"]) == ["C1", "C2", "C3", "C4", "C5", "C6"]
    metrics = pd.read_csv(results / "metrics.csv")
    rates = metrics[metrics["metric"] == "exact_rate"]
    models = rates.models(tuple(METHODS))
    assert len(rates) == len(models) * 2 * 2 * 2  # seeds, splits, windows
    assert len(pd.read_csv(results / "windows.csv")) == len(models) * 2 * 51
    assert rates["value"].between(rates["lo"], rates["hi"]).all()
    stages = pd.read_csv(results / "stages.csv")
    assert len(stages) == 2 + len(TOGETHER) + 8 * 2  # one for all seeds, one per seed
    assert (stages["seconds"] > 0).all()
    judged = pd.concat(map(pd.read_csv, results.glob("claims_*.csv")))
    assert sorted(judged["claim"]) == sorted(companions.CLAIMS)
    assert set(judged["verdict"]) <= {"confirmed", "refuted", "open"}
    figures = (smoke_study / "data" / "figures" / "smoke").glob("*.png")
    # notebook 12 draws only where rows enough are memorized, which smoke's are not
    assert {file.stem for file in figures} == {
        "memorization_by_size",
        "memorization_by_repetitions",
        "utility_vs_memorization",
        "training_paths",
        "all_methods",
        "extraction",
        "counterfactual",
        "inheritance",
        "passed_on",
        "handed_down",
        "membership_auc",
        "membership_vs_memorization",
        "exposure_by_repetitions",
    }
