"""Every notebook keeps the anatomy, ran on the smoke profile, and its checks can fail."""

import ast
import json
import re
import statistics

import nbformat
import own_series
import pandas as pd
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from project import ROOT, copy_project, run_study

from kdlib.analysis import cause, claims, life_claims, plane, rates
from kdlib.config.methods import METHODS
from kdlib.config.profile import load_profile
from kdlib.report import results
from kdlib.study import pipeline

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST_LINES = 12  # of a table in a notebook over all seeds: the rest is in data/results
TOGETHER = {path.stem for path in NOTEBOOKS if "seeds" in pipeline.parameters(path)} - {"00_map"}
PER_SEED = {path.stem for path in NOTEBOOKS if "seed" in pipeline.parameters(path)}


def cells(path, kind="code"):
    found = json.loads(path.read_text("utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == kind]


def tags(cell):
    return set(cell["metadata"].get("tags", []))


def tagged(path, tag):
    return [cell for cell in cells(path) if tag in tags(cell)]


def source(cell):
    return "".join(cell["source"])


def lines(cell):
    return len(source(cell).splitlines())


def statements(cell):
    """Lines of code: no blank ones, no comments."""
    return sum(bool(re.match(r"\s*[^\s#]", line)) for line in source(cell).splitlines())


def table_lines(copy):
    """How many lines, without its head, each table has that an executed copy shows."""
    for output in (one for cell in cells(copy) for one in cell["outputs"]):
        shown = output.get("data", {})
        html, markdown = ("".join(shown.get(f"text/{kind}", "")) for kind in ("html", "markdown"))
        for table in re.findall(r"<table.*?</table>", html, re.DOTALL):
            yield re.sub(r"<thead.*?</thead>", "", table, flags=re.DOTALL).count("<tr")
        for table in re.findall(r"(?:^\|.*\n?)+", markdown, re.MULTILINE):
            yield table.rstrip().count("\n") - 1


def test_lines_of_tables_are_counted(tmp_path):
    frame = pd.DataFrame({"method": ["a", "b", "c"], "value": 1.0})
    both = frame.pivot_table(index="method", values=["value"]).style.to_html(), frame.to_html()
    shown = [{"text/html": one} for one in both]
    shown += [{"text/markdown": "Two:\n\n" + results.markdown(frame[:2])}, {"image/png": "a"}]
    outputs = [nbformat.v4.new_output("display_data", data) for data in shown]
    copy = tmp_path / "copy.ipynb"
    cell = nbformat.v4.new_code_cell(outputs=outputs)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), copy)
    assert list(table_lines(copy)) == [3, 3, 2]


def test_the_series_is_complete():
    numbers = [f"{number:02}" for number in range(19)]
    assert [path.stem[:2] for path in NOTEBOOKS] == numbers


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_anatomy(path):
    everything = json.loads(path.read_text("utf-8"))["cells"]
    assert sum(not tags(cell) & {"answers", "solutions"} for cell in everything) <= 60
    assert not any(c.get("outputs") or c.get("execution_count") for c in cells(path))
    (parameters,) = tagged(path, "parameters")
    (check,) = tagged(path, "check")
    assert check == everything[-1]
    assert f'findings.check("{path.stem}", settings.name)' in "".join(check["source"])
    for node in ast.parse("".join(parameters["source"])).body:
        assert isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    first = "".join(everything[0]["source"])
    assert first.startswith(f"# {path.stem[:2]} ") and "Reads:" in first and "Writes:" in first
    assert "`%pip install -c ../constraints.txt -e ..`" in first  # to run it elsewhere
    taught = [cell for cell in cells(path) if not tags(cell) & {"answers", "solutions"}]
    assert sum(map(lines, taught)) <= 250
    assert "## Exercises" in str(everything) and "## Summary" in str(everything)
    code = [statements(cell) for cell in cells(path)]
    assert statistics.median(code) <= 8 and max(code) <= 30
    prose = sum(len(re.findall(r"\w+", source(cell))) for cell in cells(path, "markdown"))
    assert prose >= 4 * sum(code)


LEFT_OPEN = re.compile(r"(^|[.:?!])[\s\"'*(-]*Whether\b|What to see: whether\b", re.MULTILINE)


def test_sentences_that_are_left_open_are_found():
    found = [
        "Whether it is",
        "It is. Whether",
        "- **Whether**",
        "(Whether",
        "*What to see: whether",
    ]
    assert all(LEFT_OPEN.search(text) for text in (*found, "see here: Whether", "a\nWhether"))
    assert not any(LEFT_OPEN.search(text) for text in ("It asks whether.", "What to see: a bar"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_sentence_says_whether_and_leaves_it_open(path):
    """What is seen is said, or asked as a question."""
    texts = [source(cell) for kind in ("markdown", "code") for cell in cells(path, kind)]
    assert not [found[0] for text in texts for found in LEFT_OPEN.finditer(text)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_exercises(path):
    everything = json.loads(path.read_text("utf-8"))["cells"]
    (answers,), (solutions,) = tagged(path, "answers"), tagged(path, "solutions")
    place = everything.index(answers)
    asked, folded = (source(everything[i]) for i in (place - 1, place + 2))
    assert everything[place + 1] == solutions and lines(solutions) <= 30
    assert "## Exercises" in asked and folded.startswith("<details><summary>Solutions</summary>")
    numbers = re.findall(r"^(\d)\. ", asked, re.MULTILINE)
    assert numbers == [str(1 + i) for i in range(len(numbers))] and len(numbers) in (3, 4, 5)
    assert re.findall(r"^(\d)\. ", folded, re.MULTILINE) == numbers
    given = [ast.unparse(node) for node in ast.parse(source(answers)).body]
    wanted = [f"answer_{number} = None" for number in numbers]
    assert len(given) >= 2 and given == [one for one in wanted if one in given]
    called = (one for one in ast.walk(ast.parse(source(solutions))) if isinstance(one, ast.Call))
    checked = {
        ast.unparse(one.args[1]): ast.unparse(one.args[0]).lstrip("f")[1:3]
        for one in called
        if ast.unparse(one.func) == "exercises.check"
    }
    assert checked == {name: f"{name[-1]}." for name in (one.split()[0] for one in given)}
    assert tags(solutions) == {"solutions", "hide-cell"}  # the site folds it, JupyterLab too:
    assert solutions["metadata"]["jupyter"] == {"source_hidden": True, "outputs_hidden": True}


@pytest.mark.slow
def test_every_notebook_ran_on_smoke(smoke_study):
    executed = smoke_study / "notebooks" / "executed" / "smoke"
    for path in NOTEBOOKS:
        per_seed = path.stem in PER_SEED
        names = [f"{path.stem}-seed{s}" for s in (0, 1)] if per_seed else [path.stem]
        for name in names:
            copy = executed / f"{name}.ipynb"
            assert copy.stat().st_size < 600_000
            ran = [c["execution_count"] for c in cells(copy)]
            assert all(ran) and ran == sorted(ran)
            outputs = [o for c in cells(copy) for o in c["outputs"]]
            assert not any(o["output_type"] == "error" for o in outputs)
            ((answers,), (solved,)) = tagged(copy, "answers"), tagged(copy, "solutions")
            said = "".join("".join(o["text"]) for o in solved["outputs"] if "text" in o)
            assert len(re.findall(r"^\d\. .+: .", said, re.MULTILINE)) == lines(answers)
            bars = "".join("".join(o["text"]) for o in outputs if o.get("name") == "stderr")
            assert "\r" not in bars and bars.count("\n") == bars.count("100%|")  # a line each bar
            assert path.stem not in TOGETHER or max(table_lines(copy), default=0) <= MOST_LINES


@pytest.mark.slow
def test_tables_and_figures_of_smoke(smoke_study):
    results = smoke_study / "data" / "results" / "smoke"
    judged = pd.concat(map(pd.read_csv, results.glob("claims*.csv")))
    assert sorted(judged["claim"]) == sorted(claims.CLAIMS)
    assert set(judged["verdict"]) <= {"confirmed", "refuted", "open"}
    metrics = pd.read_csv(results / "metrics.csv")
    exact = metrics[metrics["metric"] == "exact_rate"]
    models = rates.models(load_profile("smoke").sizes, tuple(METHODS))
    assert len(exact) == len(models) * 2 * 2 * 2  # seeds, splits, windows
    assert len(pd.read_csv(results / "windows.csv")) == len(models) * 2 * 51
    assert exact["value"].between(exact["lo"], exact["hi"]).all()
    stages = pd.read_csv(results / "stages.csv")
    assert len(stages) == 2 + len(TOGETHER) + len(PER_SEED) * 2
    assert (stages["seconds"] > 0).all()
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
        "cause",
        "convergence",
        "plane",
        "defences_at_end",
        "less_than_sft",
        "same_fit",
        "life_cycle",
    }


BROKEN = {  # notebook: what is broken behind its imports, and where that must be seen
    "03_supervised_fine_tuning": (
        "from kdlib.model import checkpoints\n"
        "whole = checkpoints.load_model\n"
        "def other(path, dropout=None):\n"
        "    model = whole(path, dropout)\n"
        "    model.get_output_embeddings().weight.data *= 1.5\n"
        "    return model\n"
        "checkpoints.load_model = other",
        "stages.check(",
    ),
    "06_reverse_kl": (
        "from kdlib.distill import losses\nlosses.reverse_kl = losses.forward_kl",
        "assert_close(by_hand, losses.reverse_kl",
    ),
    "09_memorization_meter": (
        "from kdlib.measure import meter\n"
        "whole = meter.meter\n"
        "def one_too_many(*given, **how):\n"
        "    table = whole(*given, **how)\n"
        "    return table.assign(prefix=table['prefix'] + 1)\n"
        "meter.meter = one_too_many",
        "assert_close(by_hand",
    ),
    "10_comparison": (
        "from kdlib.analysis import rates\n"
        "whole = rates.memorization\n"
        "rates.memorization = lambda *given, **how: whole(*given, **how).assign(lo=1.5)",
        'memorized["lo"] <= memorized["value"]',
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_checks_fail_where_something_is_broken(name, smoke_study, monkeypatch):
    monkeypatch.setenv("KDLIB_ROOT", str(smoke_study))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    breaking, seen_in = BROKEN[name]
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4)
    place = next(
        i for i, c in enumerate(notebook.cells) if "parameters" in c["metadata"].get("tags", [])
    )
    given = 'seeds = "0 1"\n' if name in TOGETHER else ""
    breaking = f'profile = "smoke"\n{given}{breaking}'
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(breaking))
    resources = {"metadata": {"path": str(smoke_study)}}
    with pytest.raises(CellExecutionError) as error:
        NotebookClient(notebook, timeout=120, resources=resources).execute()
    assert error.value.ename == "AssertionError"
    failed = [
        c for c in notebook.cells if any(o.output_type == "error" for o in c.get("outputs", []))
    ]
    assert seen_in in failed[0].source


@pytest.mark.slow
def test_own_rows_models_size_method_and_template(tmp_path):
    """The whole series on a Llama, rows in a file, one size, and a method of the profile's own."""
    project = copy_project(tmp_path / "project")
    profile = own_series.make(tmp_path)
    run_study(project, methods="toy rkld off_policy_rkl", parts="lab", profile=str(profile))
    results = project / "data" / "results" / "own"
    table = pd.read_csv(results / "table1.csv")
    assert set(table["size"]) == {"teacher", "tiny"} and "toy" in set(table["method"])
    judged = pd.concat(map(pd.read_csv, results.glob("claims*.csv")), ignore_index=True)
    of_parts = {*cause.CLAIMS, *plane.CLAIMS, *life_claims.CLAIMS}
    assert sorted(judged["claim"]) == sorted({*claims.CLAIMS} - of_parts)
    assert judged.set_index("claim").loc["C4", "verdict"] == "open"  # there is one size
