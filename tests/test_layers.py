"""The house keeps its walls: who imports whom, and how large a room may grow."""

import ast
from pathlib import Path

import pytest

KDLIB = Path(__file__).resolve().parents[1] / "kdlib"
LAYERS = [
    {"methods", "settings"},
    {"config", "runs"},
    {"sources", "canaries", "intervals"},
    {"data", "tables", "blocks", "companions"},
    {
        "tokens",
        "models",
        "losses",
        "policy",
        "scores",
        "halves",
        "trades",
        "inheritance",
        "buckets",
    },
    {"lab", "sample", "teacher", "membership", "exposure", "features", "forecast", "chance"},
    {
        "texts",
        "objectives",
        "train",
        "measure",
        "attacks",
        "audit_summary",
        "effects",
        "handed_down",
    },
    {"bases", "audit_meter"},
    {"claims", "plots"},
    {"study", "report", "memory_plots", "stays_plots", "inheritance_plots", "show"},
    {"calibration", "probes", "audit_report"},
    {"audit", "planted"},
    {"__main__"},
]
LAYER = {name: i for i, layer in enumerate(LAYERS) for name in layer}
NO_TORCH = (
    "methods",
    "settings",
    "config",
    "runs",
    "sources",
    "data",
    "intervals",
    "tables",
    "claims",
    "plots",
    "report",
    "show",
    "scores",
    "halves",
    "trades",
    "membership",
    "exposure",
    "attacks",
    "companions",
    "inheritance",
    "chance",
    "handed_down",
    "memory_plots",
    "stays_plots",
    "inheritance_plots",
    "features",
    "buckets",
    "effects",
    "forecast",
    "blocks",
    "audit_summary",
    "audit_report",
)
MODULES = sorted(path for path in KDLIB.glob("*.py") if path.stem != "__init__")


def imported(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ([f"kdlib.{a.name}" for a in node.names] if node.module == "kdlib" else [])
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_go_down(path):
    for name in imported(path):
        if name.startswith("kdlib."):
            below = name.split(".")[1]
            assert LAYER[below] < LAYER[path.stem], f"{path.stem} imports {below}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_rooms_are_small(path):
    assert len(path.read_text("utf-8").splitlines()) <= 300, f"split {path.stem} by noun"


@pytest.mark.parametrize("name", NO_TORCH)
def test_without_torch(name):
    assert not any(one.split(".")[0] == "torch" for one in imported(KDLIB / f"{name}.py"))


def test_init_holds_only_a_docstring():
    body = ast.parse((KDLIB / "__init__.py").read_text("utf-8")).body
    assert len(body) == 1 and isinstance(body[0], ast.Expr)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_functions_are_short_and_documented(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef):
            first = node.body[0]
            documented = ast.get_docstring(node)
            start = (first.end_lineno if documented else node.lineno) or 0
            assert (node.end_lineno or 0) - start <= 50, f"{path.stem}.{node.name} is too long"
            assert documented or node.name.startswith("_") or node.col_offset, node.name
