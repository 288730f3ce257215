"""Docstrings of packages, whole files for the study, and data sets of the hub."""

import json
import sys
import types

import pandas as pd
import pyarrow.parquet as pq
import pytest
from pyarrow import Table

from kdlib import runs
from kdlib.config.profile import load_profile
from kdlib.config.sections import DataSettings
from kdlib.data import sources
from kdlib.errors import KdlibError

HUB = DataSettings(source="dolly", pool=10, members=5, held_out=5)
ROWS = [
    {"instruction": "a", "response": "b", "category": "c"},
    {"instruction": "d", "response": "e"},
]


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))


def test_docstrings_are_read_and_nothing_is_imported(tmp_path, monkeypatch):
    package = tmp_path / "a_package"
    (package / "tests").mkdir(parents=True)
    (package / "__init__.py").write_text('raise SystemExit("imported")')
    (package / "tests" / "some.py").write_text('def g():\n    """Not read, it is a test."""')
    (package / "broken.py").write_text("def (")
    (package / "some.py").write_text(
        'class A:\n    """Makes\n    one.\n\n    More of it."""\n\n'
        '    async def f(self, x, /, y, *, z):\n        """Does\n        it."""\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("a_package", None)
    assert list(sources.read_package("a_package")) == [
        {"instruction": "What does `A` do?", "context": "a_package.some.A",
         "response": "Makes one.", "category": "a_package class", "rest": "More of it."},
        {"instruction": "What does `A.f` do?", "context": "a_package.some.A.f(self, x, y, z)",
         "response": "Does it.", "category": "a_package method", "rest": ""},
    ]  # fmt: skip


NEXT = "It is the sum of the two numbers that are given, whatever they are."


def test_further_paragraphs_stand_one_a_line(tmp_path, monkeypatch):
    (tmp_path / "b_package").mkdir()
    (tmp_path / "b_package" / "__init__.py").write_text(
        'def f(x):\n    """Adds\n    both.\n\n    More\n    of it.\n\n    >>> f(1)\n    2\n"""\n'
        '    return "Returns."\n\ndef g(x): """Alone."""\n\ndef h(x):\n    return 1\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("b_package", None)
    rows = sources.read_package("b_package")
    assert [(row["response"], row["rest"]) for row in rows] == [
        ("Adds both.", "More of it.\n>>> f(1) 2"),
        ("Alone.", ""),
    ]


@pytest.mark.parametrize(
    ("rest", "most", "found"),
    [
        (NEXT, 200, NEXT),
        (f"{NEXT}\nMore of it.", len(NEXT), NEXT),  # just so many, and the first paragraph alone
        (NEXT, len(NEXT) - 1, NEXT.removesuffix(" are.")),
        (NEXT, 26, "It is the sum of the two"),
        (NEXT, 24, "It is the sum of the two"),
        (NEXT, 23, "It is the sum of the"),
        (NEXT, 2, "It"),
        (NEXT, 1, ""),  # not even its first word: as if there were none
        (NEXT[:59], 200, ""),
        (NEXT[:60], 200, NEXT[:60]),
        (f"Parameters ---------- x : the number of all the things that are\n{NEXT}", 200, ""),
        (f"number of things that are given, and not of those that are\n{NEXT}", 200, ""),
        ("", 200, ""),
    ],
)
def test_details_are_whole_words_of_the_next_paragraph(rest, most, found):
    assert sources.details(rest, most) == found


def test_docstrings_are_kept(monkeypatch):
    settings = load_profile("smoke").data.model_copy(update={"packages": ("seaborn",)})
    first = sources.read_pydocs(settings)
    monkeypatch.setattr(sources, "read_package", None)
    pd.testing.assert_frame_equal(first, sources.read_pydocs(settings))
    assert len(list(runs.cache_dir().glob("pydocs-*.parquet"))) == 1


def test_unknown_package():
    with pytest.raises(KdlibError, match="'no_such_package' is not installed; install it"):
        list(sources.read_package("no_such_package"))


@pytest.mark.parametrize(
    ("text", "prose"),
    [
        ("Return the number of nodes in it.", True),
        ("return the number of nodes in it.", False),
        ("Return the number.", False),
        ("Return >>> the number of nodes in it.", False),
        ("Return the number of nodes in it: ä.", False),
        ("A 1 2 3 4 5 6 7 8 9 10 11 12 13", False),
    ],
)
def test_prose(text, prose):
    assert sources.is_prose(text) is prose


def own(path, columns=None):
    return HUB.model_copy(update={"source": "file", "path": str(path), "columns": columns or {}})


@pytest.mark.parametrize("field", ["instruction", "response"])
@pytest.mark.parametrize("value", ["", " \n", None])
def test_rows_without_text_are_refused(tmp_path, field, value):
    rows = [*ROWS, {"instruction": "a", "response": "b"} | {field: value}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    said = rf"rows\.jsonl: row 3 has an empty {field} \(1 of 3 rows\); remove such rows"
    with pytest.raises(KdlibError, match=said):
        sources.read_file(own(tmp_path / "rows.jsonl"))


def test_a_whole_file_is_its_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "BLOCK", 3)
    pd.DataFrame({"q": range(10), "response": "b"}).to_csv(tmp_path / "rows.csv", index=False)
    frame = sources.read_file(own(tmp_path / "rows.csv", {"instruction": "q"}))
    assert list(frame["instruction"]) == [str(i) for i in range(10)]
    assert list(frame.index) == list(range(1, 11))


def hub(monkeypatch, rows):
    """A hub that gives these rows under any name."""

    class Loaded:
        def to_parquet(self, path):
            pq.write_table(Table.from_pylist(rows), path)

    fake = types.SimpleNamespace(load_dataset=lambda name, split: Loaded())
    monkeypatch.setitem(sys.modules, "datasets", fake)


def test_a_data_set_of_the_hub_goes_through_the_same_schema(monkeypatch):
    hub(monkeypatch, ROWS)
    frame = sources.read_dolly(HUB)
    assert frame.to_numpy().tolist() == [["a", "", "b", "c"], ["d", "", "e", ""]]
    hub(monkeypatch, [ROWS[0], ROWS[1] | {"category": None, "response": ""}])
    with pytest.raises(KdlibError, match="row 2 has an empty response"):
        sources.read_dolly(HUB)
    hub(monkeypatch, [{"instruction": "a", "response": ["b"]}])
    with pytest.raises(KdlibError, match="dolly.*, row 1: 'response' is of type list, not text"):
        sources.read_dolly(HUB)


def test_dolly_by_path(tmp_path):
    (tmp_path / "dolly.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    settings = HUB.model_copy(update={"path": str(tmp_path / "dolly.jsonl")})
    assert list(sources.read_dolly(settings)["response"]) == ["b", "e"]


def test_without_network_dolly_says_how_to_give_a_path():
    with pytest.raises(KdlibError, match=r"set data.path to the file"):
        sources.read_dolly(HUB)
