"""Rows of every format through one schema; what is not text, or no file of rows, is refused."""

import datetime
import json
import os
import tracemalloc
from decimal import Decimal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdlib.config.sections import FIELDS
from kdlib.data import stream_rows
from kdlib.errors import KdlibError

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
BOTH = {"instruction": "a", "response": "b"}
GOOD = b'{"instruction": "a", "response": "b"}'


def write(rows, path):
    """The rows as a file of that format, as the formats' own writers make it."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), "utf-8")
    elif path.suffix == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def read(path, columns=None, size=7):
    return pd.concat(stream_rows.read(path, columns or {}, size))


def refused(path, *words, columns=None):
    """One line that names the file and holds the words, and nothing but a KdlibError."""
    with pytest.raises(KdlibError) as error:
        read(path, columns)
    text = str(error.value)
    assert len(text.splitlines()) == 1 and path.name in text
    for word in words:
        assert word in text, text


# --- what is read -----------------------------------------------------------------------------

WORDS = [
    "NA",
    "null",
    "None",
    "nan",
    "007",
    "0.50",
    "2024-01-02 03:04:05",
    "TRUE",
    "1e5",
    "-",
    "ö😀",
]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_text_stays_the_text_of_the_file(tmp_path, suffix):
    texts = [*WORDS, 'two\nlines, and "quotes"', "a\u2028b", "x" * 5000]
    rows = [{"instruction": f"q{i}", "context": "c", "response": x} for i, x in enumerate(texts)]
    frame = read(write(rows, tmp_path / f"rows{suffix}"))
    assert list(frame) == list(FIELDS) and list(frame["response"]) == texts
    assert (frame["category"] == "").all()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_blocks_are_the_file_in_pieces(tmp_path, suffix):
    rows = [{"q": f"say {i}", "response": f" r{i} ", "other": "x"} for i in range(48)]
    path = write(rows, tmp_path / f"rows{suffix}")
    path = path.rename(path.with_suffix(suffix.upper()))
    pieces = list(stream_rows.read(path, {"instruction": "q"}, 20))
    assert [len(piece) for piece in pieces] == [20, 20, 8]
    whole = pd.concat(pieces)
    assert list(whole.index) == list(range(1, 49))
    assert list(whole["instruction"]) == [row["q"] for row in rows]
    assert list(whole["response"]) == [f"r{i}" for i in range(48)]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_absent_and_null_are_empty(tmp_path, suffix):
    rows = [
        BOTH | {"context": None},
        BOTH | {"context": "c"},
        {"instruction": "a", "response": None},
    ]
    frame = read(write(rows, tmp_path / f"rows{suffix}"))
    assert list(frame["context"]) == ["", "c", ""] and list(frame["response"]) == ["b", "b", ""]


def test_a_column_that_only_later_rows_have_is_read(tmp_path):
    path = write([BOTH, BOTH | {"note": "c"}], tmp_path / "rows.jsonl")
    assert list(read(path, {"context": "note"})["context"]) == ["", "c"]
    refused(
        path, "no column 'nota'", "as instruction, response, note;", columns={"context": "nota"}
    )


def test_two_names_share_a_column_only_where_asked(tmp_path):
    path = write([{"instruction": "a", "context": "b"}], tmp_path / "rows.jsonl")
    frame = read(path, {"response": "context"})
    assert frame.to_numpy().tolist() == [["a", "", "b", ""]]
    frame = read(path, {"response": "context", "context": "context"})
    assert frame.to_numpy().tolist() == [["a", "b", "b", ""]]
    refused(path, "must name that of instruction", columns={"response": "instruction"})


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_byte_order_marks_and_line_ends(tmp_path, mark, end):
    lines = f"{mark}instruction,response{end}a,b{end}{end}c,{end}"
    (tmp_path / "rows.csv").write_text(lines, "utf-8", newline="")
    assert read(tmp_path / "rows.csv")[["instruction", "response"]].to_numpy().tolist() == [
        ["a", "b"],
        ["c", ""],
    ]
    for name, text in (("rows.jsonl", GOOD.decode()), ("rows.json", f"[{GOOD.decode()}]")):
        (tmp_path / name).write_text(f"{mark}{text}{end}{end}", "utf-8", newline="")
        assert read(tmp_path / name).to_numpy().tolist() == [["a", "", "b", ""]]


def test_categories_of_parquet_are_text(tmp_path):
    frame = pd.DataFrame([BOTH, BOTH]).assign(category=pd.Categorical(["x", "y"]))
    frame.to_parquet(tmp_path / "rows.parquet")
    assert list(read(tmp_path / "rows.parquet")["category"]) == ["x", "y"]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("chunk", [1, 2, 50, 2**20])
def test_an_array_is_read_across_pieces(tmp_path, monkeypatch, indent, chunk):
    monkeypatch.setattr(stream_rows, "CHUNK", chunk)
    rows = [BOTH | {"response": f"[{i}], {{", "deep": {"a": [{}]}} for i in range(5)]
    (tmp_path / "rows.json").write_text(json.dumps(rows, indent=indent), "utf-8")
    assert list(read(tmp_path / "rows.json")["response"]) == [row["response"] for row in rows]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_memory_does_not_grow_with_the_rows(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(stream_rows, "CHUNK", 2**14)
    peaks = []
    for n in (200, 4000):
        row = {"instruction": "a", "response": "word " * 100}
        path = write([row] * n, tmp_path / f"{n}{suffix}")
        tracemalloc.start()
        assert sum(len(block) for block in stream_rows.read(path, {}, 50)) == n
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0], peaks


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("7", "a number"),
        ("0.5", "a number"),
        ("NaN", "a number"),
        ("9" * 5000, "a number"),
        ("true", "true or false"),
        ('["b"]', "of type list"),
        ('{"b": "c"}', "an object"),
    ],
)
def test_values_of_json_that_are_not_text(tmp_path, field, suffix, value, kind):
    row = json.dumps(BOTH | {field: "HERE"}).replace('"HERE"', value)
    lines = f"[{GOOD.decode()}, {row}]" if suffix == ".json" else f"{GOOD.decode()}\n{row}\n"
    (tmp_path / f"rows{suffix}").write_text(lines)
    place = "row 2" if suffix == ".json" else "line 2"
    refused(tmp_path / f"rows{suffix}", place, f"'{field}' is {kind}, not text; write it as text")


@pytest.mark.parametrize(
    "value",
    [1, 0.5, float("nan"), True, b"b", ["b"], {"b": "c"}, Decimal("0.50"),
     datetime.date(2024, 1, 2), datetime.datetime(2024, 1, 2), datetime.timedelta(1)],
    ids=str,
)  # fmt: skip
def test_values_of_parquet_that_are_not_text(tmp_path, value):
    rows = [BOTH | {"context": None}, BOTH | {"context": value}]
    refused(write(rows, tmp_path / "rows.parquet"), "row 2", "'context' is ", "not text; write it")


def parquet(columns, names):
    """The bytes of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(columns, names=names), sink)
    return sink.getvalue().to_pybytes()


NAMES = ["instruction", "response"]
TEXT = pa.array(["a"])
NO_UTF8 = pa.array([b"\xff\xfe"]).cast(pa.binary()).view(pa.string())


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.csv", None, ["does not exist; check"]),
        ("empty.csv", b"", ["is empty"]),
        ("rows.txt", b"x", ["'.txt' is not one of"]),
        ("header.csv", b"instruction,response\n", ["has no rows"]),
        ("blank.jsonl", b"\n \n", ["has no rows"]),
        ("void.json", b" [ ] ", ["has no rows"]),
        ("void.parquet", parquet([TEXT[:0], TEXT[:0]], NAMES), ["has no rows"]),
        ("column.csv", b"instruction,answer\na,b\n",
         ["no column 'response'", "instruction, answer", "name the right one"]),
        ("column.parquet", parquet([TEXT, TEXT], ["q", "a"]), ["no column 'instruction'", "q, a"]),
        ("hole.jsonl", GOOD + b'\n{"instruction": "a"}\n', ["line 2: no column 'response'"]),
        ("hole.json", b"[" + GOOD + b',{"instruction": "a"}]', ["row 2: no column 'response'"]),
        ("wide.csv", b"instruction,response\na,b\na,b,c\n", ["line 3: 3 fields"]),
        ("short.csv", b"instruction,response\na\n", ["line 2: 1 fields"]),
        ("quote.csv", b'instruction,response\na,b\na,"b\nc\n',
         ["line 3: unexpected end", "close its quotes"]),
        ("broken.jsonl", GOOD + b'\n{"a" 1}\n', ["line 2: ", "at character 6"]),
        ("array.jsonl", b'[{"instruction": "a"}]', ["line 1", "one JSON object on each line"]),
        ("number.jsonl", b"7\n", ["line 1", "one JSON object on each line"]),
        ("one.json", b'{"data": [' + GOOD + b"]}", ["no column 'instruction'", "as data;"]),
        ("cut.json", b"[" + GOOD + b",", ["row 2 is no whole"]),
        ("open.json", b"[" + GOOD, ["row 2 is no whole"]),
        ("broken.json", b"[" + GOOD + b', {"a" 1}]', ["row 2 is no whole"]),
        ("behind.json", b"[" + GOOD + b"] x", ["row 2 is no whole"]),
        ("numbers.json", b"[1, 2]", ["row 1 is no whole"]),
        ("key.jsonl", b'{"response": "a", "instruction": "a", "response": "b"}',
         ["line 1: 'response' is there twice; rename"]),
        ("key.json", b'[{"response": "a", "instruction": "a", "response": "b"}]',
         ["row 1: 'response' is there twice"]),
        ("key.csv", b"instruction,response,response\na,b,c\n", ["'response' is there twice"]),
        ("key.parquet", parquet([TEXT] * 3, [*NAMES, "response"]), ["'response' is there twice"]),
        ("latin.csv", "instruction,response\na,b\nä,b\n".encode("latin-1"), ["line 3: ", "UTF-8"]),
        ("latin.jsonl", GOOD + "\n{'ä'".encode("latin-1"), ["line 2: ", "UTF-8"]),
        ("latin.json", b"[" + GOOD.replace(b"b", b"\xe4") + b"]", ["row 1: ", "UTF-8"]),
        ("wide.jsonl", GOOD.decode().encode("utf-16"), ["line 1: ", "UTF-8"]),
        ("wide16.csv", "instruction,response\n".encode("utf-16"), ["line 1: ", "UTF-8"]),
        ("latin.parquet", parquet([TEXT, NO_UTF8], NAMES), ["utf-8"]),
        ("half.jsonl", GOOD.replace(b"b", b"\\ud800"), ["line 1: ", "surrogate"]),
        ("half.csv", b"instruction,response\na,\xed\xa0\x80\n", ["line 2: ", "UTF-8"]),
        ("null.jsonl", b"\0" * 50, ["line 1: ", "NUL"]),
        ("null.csv", b"\0" * 50, ["line 1: ", "NUL"]),
        ("null.json", b"\0" * 50, ["line 1: ", "NUL"]),
        ("null.parquet", b"\0" * 50, ["cannot be read as .parquet"]),
        ("one.csv", b"instruction,response\na,b\0c\n", ["line 2: ", "NUL"]),
        ("escaped.jsonl", GOOD.replace(b"b", b"\\u0000"), ["line 1: ", "NUL"]),
        ("deep.jsonl", b"[" * 100_000, ["line 1: nested too deeply"]),
        ("deep.json", b'[{"a":' + b"[" * 100_000, ["row 1: nested too deeply"]),
        ("broken.parquet", b"PAR1 and no more", ["cannot be read as .parquet"]),
        ("cut.parquet", parquet([TEXT, TEXT], NAMES)[:-30], ["cannot be read as .parquet"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_bad_files(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, *words)


@pytest.mark.parametrize(
    ("kind", "word"),
    [("folder", "a folder, pipe"), ("pipe", "a folder, pipe"), ("loop", "symbolic links"),
     ("nowhere", "No such file"), ("below a file", "does not exist"), ("NUL", "does not exist")],
)  # fmt: skip
def test_what_is_no_file(tmp_path, kind, word):
    path = tmp_path / "rows.csv"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind in ("loop", "nowhere"):
        path.symlink_to(path if kind == "loop" else tmp_path / "gone.csv")
    elif kind == "below a file":
        path.touch()
        path /= "rows.csv"
    else:
        path = tmp_path / "rows\0.csv"
    with pytest.raises(KdlibError, match=word):
        read(path)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = write([BOTH], tmp_path / "rows.csv")

    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(path), "open", forbidden)  # root may read all
    refused(path, "Permission denied")


def test_a_row_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(stream_rows, "LONGEST", 100)
    monkeypatch.setattr(stream_rows, "CHUNK", 50)
    (tmp_path / "rows.json").write_text("[" + GOOD.decode() + ', {"instruction": "' + "x" * 500)
    refused(tmp_path / "rows.json", "row 2 is no whole")
    (tmp_path / "rows.csv").write_text('instruction,response\na,"' + "x\n" * 500)
    refused(tmp_path / "rows.csv", "line 2: ", "larger than field limit")
    stream_rows.csv.field_size_limit(2**24)


def test_the_end_tokens_text_in_a_response():
    responses = pd.Series(["all is well", "it ends<|endoftext|>", "x<|endoftext|>y"], [4, 7, 9])
    stream_rows.require_plain(responses.iloc[:1], "<|endoftext|>")
    with pytest.raises(KdlibError, match=r"row 7: .*'<\|endoftext\|>' as text \(2 of 3 rows\)"):
        stream_rows.require_plain(responses, "<|endoftext|>")
