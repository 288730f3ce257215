"""Where rows come from: docstrings of installed packages, files, data sets of the hub.

Taught in notebook 01_data_and_tokens; the data card is data/README.md.
"""

import ast
import gc
import importlib.metadata
import importlib.util
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from datasets import Dataset, load_dataset
from datasets.utils.logging import disable_progress_bar

from kdlib import runs
from kdlib.settings import FIELDS, DataSettings, KdlibError

DOLLY = "databricks/databricks-dolly-15k"
FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
PROSE = re.compile(r"[A-Z][ -~]*")  # printable ASCII that begins with a capital
TESTS = re.compile(r"(^|/)(tests?|testing)/|(^|/)(test_[^/]*|conftest)\.py$")

disable_progress_bar()


def normalised(text: str) -> str:
    """One space between words, none at the ends."""
    return " ".join(text.split())


# --- pydocs: docstrings of installed packages -------------------------------------------------


def read_package(package: str) -> Iterator[dict[str, str]]:
    """Every docstring of an installed package, read from its source; nothing is imported.

    Raises:
        KdlibError: the package is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None or not spec.submodule_search_locations:
        raise KdlibError(
            f"data.packages: '{package}' is not installed; install it or take it off the list"
        )
    folder = Path(spec.origin).parent
    for file in sorted(folder.rglob("*.py"), key=lambda path: path.as_posix()):
        inside = file.relative_to(folder)
        if TESTS.search(inside.as_posix()):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # other people's invalid escapes
                tree = ast.parse(file.read_text("utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        names = [part for part in inside.with_suffix("").parts if part != "__init__"]
        yield from _docstrings(tree, package, ".".join([package, *names]), "")


def _docstrings(node: ast.AST, package: str, module: str, outer: str) -> Iterator[dict[str, str]]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        name = outer + child.name
        kind, signature = "class", ""
        if not isinstance(child, ast.ClassDef):
            kind = "method" if outer else "function"
            given = [*child.args.posonlyargs, *child.args.args, *child.args.kwonlyargs]
            signature = "(" + ", ".join(argument.arg for argument in given[:6]) + ")"
        if text := ast.get_docstring(child):
            first, *rest = (normalised(part) for part in text.strip().split("\n\n"))
            yield {
                "instruction": f"What does `{name}` do?",
                "context": f"{module}.{name}{signature}",
                "response": first,
                "category": f"{package} {kind}",
                "rest": "\n".join(rest),
            }
        yield from _docstrings(child, package, module, f"{name}.")


def read_pydocs(settings: DataSettings) -> Dataset:
    """All docstrings of the listed packages; kept as Parquet by package versions."""
    owners = importlib.metadata.packages_distributions()
    found = {
        name: importlib.metadata.version(owners[name][0])
        for name in settings.packages
        if name in owners
    }
    file = runs.cache_dir() / f"pydocs-{runs.fingerprint(found)}.parquet"
    if not file.is_file() or len(found) < len(settings.packages):
        gc.disable()  # syntax trees hold no cycles, and looking for some takes half of the time
        try:
            rows = [row for package in settings.packages for row in read_package(package)]
        finally:
            gc.enable()
        runs.write_table(file, pd.DataFrame(rows))
    return Dataset.from_pandas(pd.read_parquet(file), preserve_index=False)


def is_prose(text: str) -> bool:
    """Whether a docstring's paragraph reads as an English sentence, not as code or a table."""
    return (
        len(text.split()) >= 6
        and PROSE.fullmatch(text) is not None
        and not any(mark in text for mark in (">>>", "---", "===", ":param", "\\", "``` "))
        and sum(letter.isalpha() or letter == " " for letter in text) >= 0.8 * len(text)
    )


# --- files and hub data sets ------------------------------------------------------------------


def require_file(path: Path) -> None:
    """Refuse what cannot be a file of rows.

    Raises:
        KdlibError: missing, empty, or of unknown format.
    """
    if not path.is_file():
        raise KdlibError(f"data file {path} does not exist; check the path")
    if path.stat().st_size == 0:
        raise KdlibError(f"data file {path} is empty; it needs at least one row")
    if path.suffix not in FORMATS:
        raise KdlibError(f"data file {path}: '{path.suffix}' is not one of {', '.join(FORMATS)}")


def read_file(path: Path, columns: dict[str, str]) -> Dataset:
    """Rows of a JSONL, CSV or Parquet file.

    Args:
        path: the file.
        columns: our name (instruction, context, response, category) to the file's column; a name
            not given is its own column.

    Raises:
        KdlibError: missing, empty, unknown format, not UTF-8, not parsable, lacks a column, or an
            empty instruction or response (which row, counted from 1).
    """
    require_file(path)
    if path.suffix != ".parquet":
        try:
            with path.open(encoding="utf-8") as lines:
                for _ in lines:
                    pass
        except UnicodeDecodeError as error:
            raise KdlibError(
                f"data file {path} is not UTF-8 (byte {error.start}); save it as UTF-8"
            ) from None
    try:
        kept = str(runs.cache_dir() / "datasets")
        loaded = load_dataset(
            FORMATS[path.suffix], data_files=str(path), split="train", cache_dir=kept
        )
    except Exception as error:  # the readers' errors share no base class
        reason = str(error.__cause__ or error).splitlines()[0][:200]
        raise KdlibError(f"data file {path} cannot be read as {path.suffix}: {reason}") from None
    return named(loaded, columns, str(path))


def read_dolly(settings: DataSettings) -> Dataset:
    """databricks-dolly-15k by hub name, or the same file by path.

    Raises:
        KdlibError: the hub is not reached; says how to give a path.
    """
    name = settings.path or DOLLY
    if Path(name).suffix in FORMATS:
        return read_file(Path(name), settings.columns)
    try:
        loaded = load_dataset(name, split="train")
    except Exception as error:  # offline, unknown name and timeouts have no common class
        raise KdlibError(
            f"data set '{name}' cannot be loaded ({type(error).__name__}); without a network, "
            "download databricks-dolly-15k.jsonl elsewhere and set data.path to the file"
        ) from None
    return named(loaded, settings.columns, name)


def named(loaded: Dataset, columns: dict[str, str], origin: str) -> Dataset:
    """The same rows under our column names, checked."""
    frame = loaded.to_pandas()
    out = pd.DataFrame(index=frame.index)
    for ours in FIELDS:
        theirs = columns.get(ours, ours)
        if theirs in frame:
            out[ours] = frame[theirs].fillna("").astype(str).str.strip()
        elif ours in columns or ours in ("instruction", "response"):
            raise KdlibError(
                f"{origin} has no column '{theirs}' for {ours}; it has {', '.join(frame)}; "
                "name the right one in data.columns"
            )
        else:
            out[ours] = ""
    for field in ("instruction", "response"):
        empty = out.index[out[field] == ""]
        if len(empty):
            raise KdlibError(
                f"{origin}: row {empty[0] + 1} has an empty {field} ({len(empty)} such rows); "
                "remove them"
            )
    return Dataset.from_pandas(out, preserve_index=False)
