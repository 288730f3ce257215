"""Rows of a file a block at a time: memory does not depend on how many there are.

`sources.read_file` gives a whole file at once; this is for files larger than memory.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from kdlib import sources
from kdlib.settings import FIELDS, KdlibError

LONGEST_FIELD = 2**24  # characters of a CSV field; beyond it stands a quote that nobody closed
NEEDED = ("instruction", "response")


def read(path: Path, columns: Mapping[str, str], size: int) -> Iterator[pd.DataFrame]:
    """Blocks of rows of a JSONL, CSV or Parquet file, in its order.

    Args:
        path: UTF-8 text, with or without a byte order mark, or Parquet.
        columns: our name (one of FIELDS) to the file's column; a name not given is its own column.
        size: rows of a block; the last may have fewer.

    Yields:
        FIELDS, as text without blanks at its ends ("" for what is absent); the index counts the
        file's rows from 1.

    Raises:
        KdlibError: missing, empty, unknown format, without rows, lacks a column, or cannot be read
            (which line, in text files).
    """
    sources.require_file(path)
    if path.suffix == ".parquet":
        found = _parquet(path, columns, size)
    else:
        lines = _csv(path) if path.suffix == ".csv" else _json(path)
        found = _frames(path, lines, columns, size)
    start = 0
    for block in found:
        block.index = pd.RangeIndex(start + 1, start + len(block) + 1)
        start += len(block)
        if len(block):
            yield block
    if not start:
        raise KdlibError(f"data file {path} has no rows; it needs at least one")


def _named(path: Path, there: Iterable[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Our names to the file's, of the columns that it has."""
    there = list(there)
    names = {ours: columns.get(ours, ours) for ours in FIELDS}
    for ours, theirs in names.items():
        if theirs not in there and (ours in columns or ours in NEEDED):
            raise KdlibError(
                f"{path} has no column '{theirs}' for {ours}; it has {', '.join(there)}; "
                f"name the right one with --columns {ours}=..."
            )
    return {ours: theirs for ours, theirs in names.items() if theirs in there}


def _frames(
    path: Path,
    lines: Iterator[tuple[int, dict[str, Any]]],
    columns: Mapping[str, str],
    size: int,
) -> Iterator[pd.DataFrame]:
    """Rows of numbered lines; the first line says which columns there are."""
    names: dict[str, str] = {}
    while chunk := list(islice(lines, size)):
        names = names or _named(path, chunk[0][1], columns)
        rows = []
        for number, line in chunk:
            row = dict.fromkeys(FIELDS, "")
            for ours, theirs in names.items():
                if theirs not in line and (ours in columns or ours in NEEDED):
                    raise _unreadable(path, number, f"it has no '{theirs}'")
                value = line.get(theirs)
                if isinstance(value, list | dict):
                    raise _unreadable(path, number, f"'{theirs}' is not text")
                row[ours] = "" if value is None else str(value).strip()
            rows.append(row)
        yield pd.DataFrame(rows)


def _unreadable(path: Path, number: int, reason: str) -> KdlibError:
    return KdlibError(f"data file {path} cannot be read at line {number}: {reason}")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise _unreadable(
                    path, number, f"byte {error.start + 1} is not UTF-8; save it as UTF-8"
                ) from None


def _json(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise _unreadable(path, number, f"{error.msg} (column {error.colno})") from None
        if not isinstance(row, dict):
            raise _unreadable(path, number, "it needs one JSON object on each line")
        yield number, row


def _csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    before = csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader((text for _, text in _lines(path)), strict=True)
    try:
        header = next(reader, [])
        for fields in reader:
            if fields and len(fields) != len(header):
                reason = f"{len(fields)} fields, where the first line has {len(header)}"
                raise _unreadable(path, reader.line_num, reason)
            if fields:
                yield reader.line_num, dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise _unreadable(path, reader.line_num, str(error)) from None
    finally:
        csv.field_size_limit(before)


def _parquet(path: Path, columns: Mapping[str, str], size: int) -> Iterator[pd.DataFrame]:
    try:
        # without pre-buffering, or row groups are held as a whole
        with pq.ParquetFile(path, buffer_size=2**20, pre_buffer=False) as file:
            schema = file.schema_arrow
            names = _named(path, schema.names, columns)
            for theirs in names.values():
                if pa.types.is_nested(schema.field(theirs).type):
                    raise KdlibError(f"data file {path}: column '{theirs}' is not text")
            for batch in file.iter_batches(size, columns=list(names.values())):
                block = pd.DataFrame(index=range(batch.num_rows))
                for ours in FIELDS:
                    values = batch[names[ours]].to_pylist() if ours in names else []
                    texts = ["" if one is None else str(one).strip() for one in values]
                    block[ours] = texts or ""
                yield block
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise KdlibError(f"data file {path} cannot be read as .parquet: {reason}") from None
