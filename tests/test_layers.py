"""The house keeps its walls: who imports whom, and how large a room may grow."""

import ast
from pathlib import Path

import pytest

KDLIB = Path(__file__).resolve().parents[1] / "kdlib"
LAYERS = [
    "methods settings",
    "config runs",
    "sources canaries intervals",
    "data tables audit.blocks memory.companions",
    "tokens models losses policy trades memory.scores memory.halves memory.inheritance "
    "memory.buckets",
    "lab sample teacher memory.membership memory.exposure memory.features memory.forecast "
    "memory.chance",
    "texts objectives train measure memory.attacks memory.effects memory.handed_down audit.summary",
    "bases audit.meter",
    "claims plots",
    "study report show memory.attack_plots memory.inheritance_plots memory.stays_plots",
    "calibration memory.probes audit.report",
    "memory.planted audit.command",
    "__main__",
]
LAYER = {name: i for i, layer in enumerate(LAYERS) for name in layer.split()}
WITH_TORCH = {
    "tokens",
    "models",
    "losses",
    "policy",
    "lab",
    "sample",
    "teacher",
    "texts",
    "objectives",
    "train",
    "measure",
    "bases",
    "study",
    "calibration",
    "memory.probes",
    "memory.planted",
    "audit.meter",
    "audit.command",
}
FILES = sorted(path for path in KDLIB.rglob("*.py") if path.stem != "__init__")
MODULES = {".".join(path.relative_to(KDLIB).with_suffix("").parts): path for path in FILES}
WINGS = [KDLIB, KDLIB / "audit", KDLIB / "memory"]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            inside = node.module in ("kdlib", "kdlib.audit", "kdlib.memory")
            yield from (f"{node.module}.{a.name}" for a in node.names if inside)
            yield from [] if inside else [node.module]
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down(name):
    for one in imported(MODULES[name]):
        if one.startswith("kdlib."):
            below = one.removeprefix("kdlib.")
            assert LAYER[below] < LAYER[name], f"{name} imports {below}"


@pytest.mark.parametrize("name", MODULES)
def test_rooms_are_small(name):
    lines = MODULES[name].read_text("utf-8").splitlines()
    assert len(lines) <= 300, f"split {name} by noun"


@pytest.mark.parametrize("name", [name for name in MODULES if name not in WITH_TORCH])
def test_without_torch(name):
    assert not any(one.split(".")[0] == "torch" for one in imported(MODULES[name]))


@pytest.mark.parametrize("folder", WINGS, ids=lambda folder: folder.name)
def test_init_holds_only_a_docstring(folder):
    body = ast.parse((folder / "__init__.py").read_text("utf-8")).body
    assert len(body) == 1 and isinstance(body[0], ast.Expr)


@pytest.mark.parametrize("name", MODULES)
def test_functions_are_short_and_documented(name):
    for node in ast.walk(ast.parse(MODULES[name].read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef):
            first = node.body[0]
            documented = ast.get_docstring(node)
            start = (first.end_lineno if documented else node.lineno) or 0
            assert (node.end_lineno or 0) - start <= 50, f"{name}.{node.name} is too long"
            assert documented or node.name.startswith("_") or node.col_offset, node.name
