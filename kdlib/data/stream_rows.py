"""Rows of a file or a data set for study and audit, a block at a time, however many there are.

Text is what stands in the file (in a CSV, NA and 007 too), stripped; an absent or null value is "".
KdlibError, by file, line or row: unreadable, no rows, a column missing or there twice, no text.
"""

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from kdlib.config.sections import FIELDS
from kdlib.errors import KdlibError

FORMATS = (".jsonl", ".json", ".csv", ".parquet")
NEEDED = ("instruction", "response")
LONGEST = 2**24  # characters of a line or row; beyond it stands a quote that nobody closed
CHUNK = 2**20  # characters or bytes of a file read at a time
FIRST, NEXT = re.compile(r"\s*\[\s*(?={)"), re.compile(r"\s*,\s*(?={)")  # object of an array
NOT_TEXT = re.compile("[\0\ud800-\udfff]")  # the latter stand for bytes that are not UTF-8, too
KINDS = {bool: "true or false", int: "a number", float: "a number", dict: "an object"}
Row = tuple[str, Mapping[str, Any]]  # where it stands ("line 7"), its values by column


def read(
    path: Path, columns: Mapping[str, str], size: int, fields: Sequence[str] = FIELDS
) -> Iterator[pd.DataFrame]:
    """Blocks of `size` rows (`fields`, as text; the index counts the file's rows from 1).

    The file is Parquet, or JSONL, JSON (an array) or CSV in UTF-8, with any line ends. `columns`
    gives its names of them; a field not given has its own name, unless another has that.
    """
    require_file(path)
    origin, missing = f"data file {path}", set(columns.values())
    names = {name: None if name in missing else name for name in fields} | dict(columns)
    if None in (names[name] for name in NEEDED):
        raise KdlibError(f"{origin}: columns must name that of instruction and that of response")
    count = 0
    row: Mapping[str, Any] = {}
    with _reading(f"{origin} cannot be read as {path.suffix.lower()}"):
        rows = _rows(origin, path, {*fields, *missing}, size)
        while chunk := list(islice(rows, size)):
            texts = []
            for location, row in chunk:
                with _reading(f"{origin}, {location}"):
                    texts.append({name: _text(row, name, names[name]) for name in names})
                missing.difference_update(row)
            yield pd.DataFrame(texts, pd.RangeIndex(count + 1, count + len(chunk) + 1))
            count += len(chunk)
    if not count:
        raise KdlibError(f"{origin} has no rows; it needs at least one")
    if missing:
        raise KdlibError(f"{origin}: {_lacks(min(missing), row)}")


def has(path: Path, column: str) -> bool:
    """Whether the file's first row has a column of that name."""
    require_file(path)
    with _reading(f"data file {path}"):
        return column in dict(next(_rows(f"data file {path}", path, {column}, 1), ("", {}))[1])


def require_file(path: Path) -> None:
    """Refuse what cannot be a file of rows: by its kind, size, format or rights."""
    with _reading(f"data file {path}"):
        if not os.path.lexists(path):
            raise ValueError("it does not exist; check the path")
        if not path.stat().st_size and path.is_file():
            raise ValueError("it is empty; it needs at least one row")
        if not path.is_file():
            raise ValueError("a folder, pipe or device; name a file")
        if path.suffix.lower() not in FORMATS:
            raise ValueError(f"'{path.suffix}' is not one of {', '.join(FORMATS)}; convert it")
        path.open("rb").close()


def require_plain(responses: pd.Series, eos: str) -> None:
    """Refuse responses, by their index, that hold the end token's text: they would end there."""
    if (mask := responses.str.contains(eos, regex=False)).any():
        flaw = f"holds the tokenizer's end token '{eos}' as text ({mask.sum()} of {len(mask)} rows)"
        first = responses.index[mask][0]
        raise KdlibError(f"row {first}: its response {flaw}; take it out of the data")


@contextmanager
def _reading(location: str) -> Iterator[None]:
    """Make what a reader raises the one message of a KdlibError."""
    try:
        yield
    except (ValueError, RecursionError, OSError, csv.Error, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, json.JSONDecodeError):
            reason = f"{error.msg} at character {error.pos + 1}; it needs one JSON object"
        elif isinstance(error, csv.Error):
            reason += "; close its quotes"
        elif isinstance(error, RecursionError):
            reason = "nested too deeply; a row is a flat object"
        raise KdlibError(f"{location}: {reason.splitlines()[0][:300]}") from None


def _text(row: Mapping[str, Any], field: str, column: str | None) -> str:
    if column is None or row.get(column, "") is None:
        return ""
    if field in NEEDED and column not in row:
        raise ValueError(_lacks(column, row))
    if not isinstance(value := row.get(column, ""), str):
        kind = KINDS.get(type(value), f"of type {type(value).__name__}")
        raise ValueError(f"'{column}' is {kind}, not text; write it as text")
    return _unicode(value, f"'{column}'").strip()


def _lacks(column: str, row: Mapping[str, Any]) -> str:
    examples = [name for name in row if name.isidentifier()]  # else a row may stand for the names
    summary = f"{len(row)} columns" + (f", such as {', '.join(examples)[:60]}" if examples else "")
    return f"no column '{column}', of {summary}; name the right one in columns"


def _unicode(text: str, label: str) -> str:
    if match := NOT_TEXT.search(text):
        problem = "a NUL, half of a surrogate pair or not UTF-8; save the file as UTF-8 text"
        raise ValueError(f"character {match.start() + 1} of {label} is {match[0]!r}: {problem}")
    return text


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row, names = dict(pairs), [name for name, _ in pairs]
    if len(row) < len(names):
        duplicate = max(names, key=names.count)
        raise ValueError(f"{duplicate!r} is there twice; rename or remove one of the two")
    return row


# Numbers are refused, so that their digits do not matter; floats may have any number of them.
JSON = json.JSONDecoder(object_pairs_hook=_object, parse_int=float)


def _rows(origin: str, path: Path, columns: set[str], size: int) -> Iterator[Row]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        # without pre-buffering, or row groups are held as a whole
        with pq.ParquetFile(path, buffer_size=CHUNK, pre_buffer=False) as file:
            nulls = _object([(name, None) for name in file.schema_arrow.names])
            batches = file.iter_batches(size, columns=[name for name in nulls if name in columns])
            rows = chain.from_iterable(batch.to_pylist() for batch in batches)
            yield from ((f"row {n}", nulls | row) for n, row in enumerate(rows, 1))
        return
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        is_array = suffix == ".json" and stream.read(CHUNK).lstrip().startswith("[")
        stream.seek(0)
        yield from (_csv if suffix == ".csv" else _array if is_array else _jsonl)(origin, stream)


def _jsonl(origin: str, file: TextIO) -> Iterator[Row]:
    for number, line in enumerate(file, 1):
        if line.strip():
            with _reading(f"{origin}, line {number}"):
                if not isinstance(row := JSON.decode(_unicode(line, "it")), dict):
                    raise ValueError("it needs one JSON object on each line, or an array in .json")
            yield f"line {number}", row


def _array(origin: str, file: TextIO) -> Iterator[Row]:
    text, start, count = "", 0, 0
    while len(text) - start <= LONGEST and (chunk := file.read(CHUNK)):
        text, start = text[start:] + chunk, 0
        while match := (NEXT if count else FIRST).match(text, start):
            with _reading(f"{origin}, row {count + 1}"):
                try:
                    row, start = JSON.raw_decode(text, match.end())
                except json.JSONDecodeError:
                    break  # whole only with the next piece
            count += 1
            yield f"row {count}", row
    if not re.fullmatch(r"\s*\]\s*" if count else r"\s*\[\s*\]\s*", text[start:]):
        raise ValueError(f"row {count + 1} is no whole JSON object, or the array is cut off there")


def _csv(origin: str, file: TextIO) -> Iterator[Row]:
    csv.field_size_limit(LONGEST)
    reader = csv.reader((_unicode(line, "it") for line in file), strict=True)
    header: list[str] = []
    fields: list[str] | None = []
    while fields is not None:
        location = f"line {reader.line_num + 1}"
        with _reading(f"{origin}, {location}"):
            fields = next(reader, None)
            if header and fields:
                if len(fields) != len(header):
                    problem = f"where the first line has {len(header)}; put quotes around a field"
                    raise ValueError(f"{len(fields)} fields, {problem} with commas")
                yield location, _object(list(zip(header, fields, strict=True)))
            header = header or fields or []
