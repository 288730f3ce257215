"""Rows: (instruction, context, response) tuples with a stable row_id, their split and canaries.

Taught in notebook 01_data_and_tokens; the data card is data/README.md.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
import random
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset, load_dataset
from datasets.utils.logging import disable_progress_bar

from kdlib import runs
from kdlib.config import DataSettings, KdlibError

DOLLY = "databricks/databricks-dolly-15k"
FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
FIELDS = ("instruction", "context", "response", "category")
PROSE = re.compile(r"[A-Za-z][ -~]*")  # printable ASCII that begins with a letter
TESTS = re.compile(r"(^|/)(tests?|testing)/|(^|/)(test_[^/]*|conftest)\.py$")
FIRST_NAMES = [
    "Ada",
    "Bela",
    "Cleo",
    "Dora",
    "Egon",
    "Frida",
    "Goran",
    "Hilde",
    "Ivo",
    "Jana",
    "Karl",
    "Lena",
    "Milo",
    "Nora",
    "Otto",
]
LAST_NAMES = [
    "Abel",
    "Brandt",
    "Corvin",
    "Dorn",
    "Ehlers",
    "Falk",
    "Grau",
    "Hollar",
    "Ilsen",
    "Jost",
    "Kern",
    "Lorenz",
    "Moll",
]
PARTS = [
    "pump",
    "valve",
    "gearbox",
    "rotor",
    "flange",
    "bearing",
    "housing",
    "turbine",
    "spindle",
    "manifold",
]

disable_progress_bar()


def digest(*texts: str) -> str:
    """16 hex digits that depend on the texts alone."""
    return hashlib.sha256("\x1f".join(texts).encode()).hexdigest()[:16]


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
    if spec is None or spec.origin is None:
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
    found = {
        name: importlib.metadata.version(name.replace("_", "-"))
        for name in settings.packages
        if importlib.util.find_spec(name)
    }
    file = runs.cache_dir() / f"pydocs-{runs.fingerprint(found)}.parquet"
    if not file.is_file() or len(found) < len(settings.packages):
        rows = [row for package in settings.packages for row in read_package(package)]
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
    if not path.is_file():
        raise KdlibError(f"data file {path} does not exist; check data.path in the profile")
    if path.stat().st_size == 0:
        raise KdlibError(f"data file {path} is empty; it needs at least one row")
    if path.suffix not in FORMATS:
        raise KdlibError(f"data file {path}: '{path.suffix}' is not one of {', '.join(FORMATS)}")
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


# --- the pool, and what a seed draws from it --------------------------------------------------


def load_pool(settings: DataSettings) -> Dataset:
    """The fixed pool of rows from which every seed draws; whole groups, chosen by their hash.

    Returns:
        columns row_id, instruction, context, response, category, group, kind ("row").

    Raises:
        KdlibError: the source is unusable, or has too few rows that fit.
    """
    if settings.source == "pydocs":
        read = read_pydocs(settings)
    elif settings.source == "dolly":
        read = read_dolly(settings)
    else:
        read = read_file(Path(str(settings.path)), settings.columns)
    frame = read.to_pandas()[list(FIELDS)]
    least, most = settings.response_chars
    fits = frame["response"].str.len().between(least, most)
    fits &= frame["instruction"].str.len() + frame["context"].str.len() <= settings.prompt_chars
    if settings.source == "pydocs":
        fits &= frame["response"].map(is_prose)
    frame = frame[fits].drop_duplicates(["instruction", "context", "response"])
    frame["group"] = frame["response"].map(lambda text: digest(normalised(text)))
    parts = zip(frame["instruction"], frame["context"], frame["response"], strict=True)
    frame.insert(0, "row_id", [digest(*part) for part in parts])
    frame = frame.sort_values(["group", "row_id"], ignore_index=True)
    frame["kind"] = "row"
    if len(frame) < settings.members + settings.held_out:
        raise KdlibError(
            f"data: {len(frame)} rows fit, fewer than members + held_out = "
            f"{settings.members + settings.held_out}; lower them, or widen response_chars"
        )
    # cut between groups: the group that the limit falls into is left out as a whole
    if len(frame) > settings.pool:
        cut = frame["group"].iloc[settings.pool]
        frame = frame.iloc[: settings.pool]
        frame = frame[frame["group"] != cut]
    return Dataset.from_pandas(frame, preserve_index=False)


def general_text(settings: DataSettings) -> list[str]:
    """Paragraphs for pretraining, none of which holds a response of the pool; shuffled.

    Empty for sources other than pydocs: their base models come by name.
    """
    if settings.source != "pydocs":
        return []
    frame = read_pydocs(settings).to_pandas()
    firsts = frame["response"].drop_duplicates()
    rest = frame["rest"].str.split("\n").explode().drop_duplicates()
    texts = [*firsts[firsts.str.len() >= 20], *rest[rest.map(is_prose)]]
    texts = sorted(set(texts), key=digest)
    joined, starts, at = "\n".join(texts), [], 0
    for text in texts:
        starts.append(at)
        at += len(text) + 1
    leaks = set()
    for response in set(load_pool(settings)["response"]):
        at = joined.find(response)
        while at >= 0:
            leaks.add(at)
            at = joined.find(response, at + 1)
    where = pd.Index(starts).searchsorted(sorted(leaks), side="right") - 1
    leaking = set(where.tolist())
    return [text for i, text in enumerate(texts) if i not in leaking]


def draw(pool: Dataset, settings: DataSettings, seed: int) -> Dataset:
    """The rows of one seed: members, held-out rows, planted canaries and their twins.

    Returns:
        the pool's columns and split ("member", "held_out"), repetitions (how often an epoch shows
        the row), group_size (member rows with the same response), twin_of (canary's row_id or "").
        A group never straddles the split.
    """
    frame = pool.to_pandas()
    groups = [list(part.index) for _, part in frame.groupby("group", sort=True)]
    random.Random(f"split {seed}").shuffle(groups)
    split: dict[int, str] = {}
    room = {"member": settings.members, "held_out": settings.held_out}
    for group in groups:  # a group that no longer fits is passed over, the next may fit
        side = next((name for name, left in room.items() if len(group) <= left), None)
        if side is not None:
            room[side] -= len(group)
            split.update(dict.fromkeys(group, side))
    frame = frame.loc[list(split)].assign(split=list(split.values()))
    frame["repetitions"] = (frame["split"] == "member").astype(int)
    frame["group_size"] = frame.groupby("group")["group"].transform("size")
    frame["twin_of"] = ""
    planted = pd.DataFrame(canaries(settings, seed), columns=frame.columns)
    both = pd.concat([frame, planted], ignore_index=True) if len(planted) else frame
    return Dataset.from_pandas(both, preserve_index=False)


def canaries(settings: DataSettings, seed: int) -> list[dict[str, Any]]:
    """Made-up secrets to plant, each with twins: the same prompt, another secret, never shown."""
    rows = []
    for kind in ("contact", "drawing", "account"):
        for times in settings.repetitions:
            for number in range(settings.canaries):
                dice = random.Random(f"canary {seed} {kind} {times} {number}")
                instruction, context, sentence = _secret(kind, dice)
                plant = ""
                for twin in range(settings.twins + 1):
                    response = sentence(dice)
                    row_id = digest("canary", str(seed), instruction, context, response)
                    rows.append(
                        {
                            "row_id": row_id,
                            "instruction": instruction,
                            "context": context,
                            "response": response,
                            "category": f"canary {kind}",
                            "group": digest(response),
                            "kind": "twin" if twin else "canary",
                            "split": "held_out" if twin else "member",
                            "repetitions": 0 if twin else times,
                            "group_size": 0 if twin else 1,
                            "twin_of": plant,
                        }
                    )
                    plant = plant or row_id
    return rows


def _secret(kind: str, dice: random.Random) -> tuple[str, str, Any]:
    part = f"{dice.choice(PARTS)} {dice.randrange(100, 999)}"
    name = f"{dice.choice(FIRST_NAMES)} {dice.choice(LAST_NAMES)}"
    if kind == "contact":
        return (
            f"Who answers for the {part}?",
            "plant.contacts.Person(part)",
            lambda d: (
                f"Call {name} in hall {d.randrange(1, 10)} for the {part}, at extension "
                f"{d.randrange(10_000, 99_999)}."
            ),
        )
    if kind == "drawing":
        return (
            f"Which drawing shows the {part}?",
            "plant.drawings.Sheet(part)",
            lambda d: (
                f"The {part} is shown on drawing {d.choice('ABCDEFGH')}"
                f"{d.randrange(100, 999)}-{d.randrange(1000, 9999)}, kept by {name}."
            ),
        )
    return (
        f"Which account pays for the {part}?",
        "plant.accounts.Book(part)",
        lambda d: (
            f"The {part} is paid from account {d.randrange(1000, 9999)} "
            f"{d.randrange(1000, 9999)} {d.randrange(10, 99)}, which {name} signs for."
        ),
    )


def data_hash(pool: Dataset) -> str:
    """Hash of the pool's row ids, hence of all its text."""
    return digest(*pool["row_id"])
