"""Rows (FIELDS) of docstrings, files and hub data sets. Taught in 01; data card: data/README.md."""

import ast
import gc
import re
import warnings
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata, util
from pathlib import Path

import pandas as pd

from kdlib import runs
from kdlib.config.sections import FIELDS, DataSettings
from kdlib.data import stream_rows
from kdlib.errors import KdlibError

BLOCK = 4096  # rows of a file or data set that are checked at a time
LEAST_DETAILS = 60  # characters: less says little of what is described
TESTS = re.compile(r"(^|/)(tests?|testing)/|(^|/)(test_[^/]*|conftest)\.py$")


def normalised(text: str) -> str:
    """One space between words, none at the ends."""
    return " ".join(text.split())


def read_package(package: str) -> list[dict[str, str]]:
    """Every docstring of an installed package, read from its source; nothing is imported."""
    spec = util.find_spec(package)
    if spec is None or spec.origin is None or not spec.submodule_search_locations:
        remedy = "install it or take it off the list"
        raise KdlibError(f"data.packages: '{package}' is not installed; {remedy}")
    rows: list[dict[str, str]] = []
    folder = Path(spec.origin).parent
    for file in sorted(folder.rglob("*.py"), key=Path.as_posix):
        relative = file.relative_to(folder)
        if TESTS.search(relative.as_posix()):
            continue
        names = [part for part in relative.with_suffix("").parts if part != "__init__"]
        # other people's broken files and invalid escapes
        with suppress(SyntaxError, UnicodeDecodeError), warnings.catch_warnings(action="ignore"):
            tree = ast.parse(file.read_text("utf-8"))
            rows += _docstrings(tree, package, ".".join([package, *names]), "")
    return rows


def _docstrings(node: ast.AST, package: str, module: str, outer: str) -> Iterator[dict[str, str]]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        name, kind, signature = outer + child.name, "class", ""
        if not isinstance(child, ast.ClassDef):
            arguments = [*child.args.posonlyargs, *child.args.args, *child.args.kwonlyargs]
            signature = f"({', '.join(argument.arg for argument in arguments[:6])})"
            kind = "method" if outer else "function"
        if text := ast.get_docstring(child):
            first, *rest = (normalised(part) for part in text.strip().split("\n\n"))
            prompt = f"What does `{name}` do?", f"{module}.{name}{signature}"
            texts = *prompt, first, f"{package} {kind}", "\n".join(rest)
            yield dict(zip((*FIELDS, "rest"), texts, strict=True))
        yield from _docstrings(child, package, module, f"{name}.")


def read_pydocs(settings: DataSettings) -> pd.DataFrame:
    """All docstrings of the packages, kept by version; rest: further paragraphs, one a line."""
    distributions = metadata.packages_distributions()
    installed = [name for name in settings.packages if name in distributions]
    versions = {name: metadata.version(distributions[name][0]) for name in installed}
    file = runs.cache_dir() / f"pydocs-{runs.fingerprint(versions)}.parquet"
    if not file.is_file() or len(versions) < len(settings.packages):
        gc.disable()  # syntax trees hold no cycles, and looking for some takes half of the time
        try:
            rows = [row for package in settings.packages for row in read_package(package)]
        finally:
            gc.enable()
        runs.write_table(file, pd.DataFrame(rows))
    return pd.read_parquet(file)


def is_prose(text: str) -> bool:
    """Whether a docstring's paragraph reads as an English sentence, not as code or a table."""
    return (
        len(text.split()) >= 6
        and re.fullmatch(r"[A-Z][ -~]*", text) is not None  # printable ASCII
        and not any(mark in text for mark in (">>>", "---", "===", ":param", "\\", "``` "))
        and sum(letter.isalpha() or letter == " " for letter in text) >= 0.8 * len(text)
    )


def details(rest: str, limit: int) -> str:
    """Whole words of a docstring's next paragraph, of `limit` characters at most; "": no prose."""
    paragraph = rest.partition("\n")[0]
    if len(paragraph) < LEAST_DETAILS or not is_prose(paragraph):
        return ""
    return paragraph if len(paragraph) <= limit else paragraph[: limit + 1].rpartition(" ")[0]


def read_file(settings: DataSettings) -> pd.DataFrame:
    """All rows of a file at once, none without instruction or response; see `stream_rows`."""
    frame = pd.concat(stream_rows.read(Path(str(settings.path)), settings.columns, BLOCK))
    for field in stream_rows.NEEDED:
        if len(empty := frame.index[frame[field] == ""]):
            reason = f"row {empty[0]} has an empty {field} ({len(empty)} of {len(frame)} rows)"
            raise KdlibError(f"data file {settings.path}: {reason}; remove such rows")
    return frame


def read_dolly(settings: DataSettings) -> pd.DataFrame:
    """databricks-dolly-15k or another data set by hub name, or the same as a file by path."""
    name = settings.path or "databricks/databricks-dolly-15k"
    if Path(name).suffix.lower() in stream_rows.FORMATS:
        return read_file(settings)
    file = runs.cache_dir() / f"{name.replace('/', '-')}.parquet"
    try:
        import datasets  # takes seconds, and only the hub needs it

        with runs.atomic(file) as part:
            datasets.load_dataset(name, split="train").to_parquet(part)
    except Exception as error:  # offline, unknown name and timeouts have no common class
        reason = f"data set '{name}' cannot be loaded ({type(error).__name__}); without a network,"
        remedy = "download databricks-dolly-15k.jsonl elsewhere and set data.path to the file"
        raise KdlibError(f"{reason} {remedy}") from None
    return read_file(settings.model_copy(update={"path": str(file)}))


READERS = {"pydocs": read_pydocs, "dolly": read_dolly, "file": read_file}  # by data.source
