"""The house keeps its walls: which folder imports which, and how large a room may grow."""

import ast
from pathlib import Path

import pytest

KDLIB = Path(__file__).resolve().parents[1] / "kdlib"
LAYERS = [  # a folder imports from those in earlier rows, and its own
    ["errors", "runs", "stats"],
    ["config"],
    ["data"],
    ["model"],
    ["distill", "measure"],
    ["study"],
    ["analysis"],
    ["figures", "report"],
    ["audit", "callback", "tune"],
    ["release", "__main__"],
]
LAYER = {name: i for i, row in enumerate(LAYERS) for name in row}
# Tables in, tables out: nothing of models, training and the study.
ONLY = {
    "analysis": {"errors", "runs", "stats", "config", "data"},
    "figures": {"errors", "runs", "stats", "config", "analysis"},
    "report": {"errors", "runs", "stats", "config", "analysis"},
}
WITHOUT_TORCH = ["errors", "runs", "stats", "config", "data", "analysis", "figures", "report"]
FILES = sorted(path for path in KDLIB.rglob("*.py") if path.stem != "__init__")
MODULES = {".".join(path.relative_to(KDLIB).with_suffix("").parts): path for path in FILES}
FOLDERS = [path.parent for path in sorted(KDLIB.rglob("__init__.py"))]


def imported(name):
    """The modules that a module of kdlib imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(MODULES[name].read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner.removeprefix("kdlib.") in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def rooms(name):
    """Folder (or top module) and module of what a module imports from kdlib."""
    for one in imported(name):
        if one.startswith("kdlib."):
            below = one.removeprefix("kdlib.")
            yield below.split(".")[0], below


def test_every_folder_has_its_place():
    assert {name.split(".")[0] for name in MODULES} == set(LAYER)


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down(name):
    own = name.split(".")[0]
    for folder, below in rooms(name):
        inside = folder == own or LAYER[folder] < LAYER[own]
        ground = LAYER[folder] == LAYER[own] == 0  # each other, see the circles
        door = own == "__main__"
        assert inside or ground or door, f"{name} imports {below}"
        assert folder == own or folder in ONLY.get(own, LAYER), f"{name} imports {below}"


def test_no_circle_among_files():
    arrows = {name: {below for _, below in rooms(name) if below in MODULES} for name in MODULES}
    while leaves := [name for name, below in arrows.items() if not below & set(arrows)]:
        for name in leaves:
            del arrows[name]
    assert not arrows, f"import each other: {', '.join(sorted(arrows))}"


@pytest.mark.parametrize("name", MODULES)
def test_rooms_are_small(name):
    lines = MODULES[name].read_text("utf-8").splitlines()
    assert len(lines) <= 300, f"split {name} by noun"


@pytest.mark.parametrize("name", [n for n in MODULES if n.split(".")[0] in WITHOUT_TORCH])
def test_without_torch(name):
    assert not any(one.split(".")[0] in ("torch", "transformers") for one in imported(name))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
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
            assert (node.end_lineno or 0) - start <= 45, f"{name}.{node.name} is too long"
            assert documented or node.name.startswith("_") or node.col_offset, node.name
