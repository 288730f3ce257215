"""The pool, the general text, what a seed draws, and halves of it."""

import sys
from pathlib import Path

import pandas as pd
import pytest

from kdlib import runs
from kdlib.config.profile import load_profile
from kdlib.config.sections import DataSettings
from kdlib.data import pool as rowpool
from kdlib.errors import KdlibError


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))


@pytest.fixture
def settings():
    return load_profile("smoke").data.model_copy(update={"packages": ("seaborn",), "pool": 100})


def from_file(folder, responses, **more):
    """Settings of a file with these responses, each to an instruction of its own."""
    rows = [{"instruction": f"say {i}", "response": text} for i, text in enumerate(responses)]
    pd.DataFrame(rows).to_csv(folder / "rows.csv", index=False)
    return DataSettings(source="file", path=str(folder / "rows.csv"), **more)


def test_pool_is_the_same_every_time(settings):
    first, again = rowpool.load_pool(settings), rowpool.load_pool(settings)
    assert rowpool.data_hash(first) == rowpool.data_hash(again)
    assert len(set(first["row_id"])) == len(first) <= 100
    assert first["response"].str.len().between(*settings.response_chars).all()


def test_pool_of_a_file_does_not_depend_on_its_order_or_copies(tmp_path):
    texts = [f"text {i}" for i in range(30)]
    settings = from_file(tmp_path, texts, pool=20, members=10, held_out=10)
    hashed = rowpool.data_hash(rowpool.load_pool(settings))
    frame = pd.read_csv(tmp_path / "rows.csv").sample(frac=2, replace=True, random_state=0)
    frame = pd.concat([frame, pd.read_csv(tmp_path / "rows.csv")[::-1]])
    frame.to_csv(tmp_path / "rows.csv", index=False)
    assert rowpool.data_hash(rowpool.load_pool(settings)) == hashed


def test_general_text_holds_no_response(settings):
    responses = set(rowpool.load_pool(settings)["response"])
    texts = rowpool.general_text(settings)
    assert len(texts) > 100
    joined = "\n".join(texts)
    assert not [response for response in responses if response in joined]


SAID = "Return the number {} of all the pumps."
MORE = "It counts the pumps that run, and those that stand still, from {} on."


@pytest.fixture
def detailed(tmp_path, monkeypatch):
    """Settings of a package whose rows go on with prose, but for three that do not."""
    rest = [MORE.format(i) for i in range(4)] + ["Too short.", "x : number of pumps " * 4, ""]
    texts = [f"{SAID.format(i)}\n\n    {text}" for i, text in enumerate(rest)]
    source = "".join(f'def f{i}(x):\n    """{one}"""\n' for i, one in enumerate(texts))
    (tmp_path / "one_package").mkdir()
    (tmp_path / "one_package" / "__init__.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("one_package", None)
    counts = {"pool": 10, "members": 2, "held_out": 2, "packages": ("one_package",)}
    return DataSettings(**counts, details_chars=200)


def test_the_context_goes_on_with_details_and_rows_without_are_left_out(detailed):
    found = rowpool.load_pool(detailed).sort_values("instruction")
    assert found["response"].tolist() == [SAID.format(i) for i in range(4)]
    assert found["context"].tolist() == [f"one_package.f{i}(x)\n{MORE.format(i)}" for i in range(4)]
    less = rowpool.load_pool(detailed.model_copy(update={"details_chars": 20}))
    assert sorted(less["response"]) == sorted(found["response"])
    assert set(less["context"].str.partition("\n")[2]) == {"It counts the pumps"}
    assert not set(less["row_id"]) & set(found["row_id"])  # another prompt is another row
    longest = len("What does `f0` do?one_package.f0(x)")  # limits are of what stands before them
    for most, count in ((longest, 4), (longest - 1, 0)):
        few = detailed.model_copy(update={"prompt_chars": most, "members": 1, "held_out": 1})
        if count:
            assert len(rowpool.load_pool(few)) == count
        else:
            with pytest.raises(KdlibError, match="only 0 of the source's 7 rows"):
                rowpool.load_pool(few)


def test_without_details_the_pool_is_what_it_was(detailed):
    plain = detailed.model_copy(update={"details_chars": 0})
    found = rowpool.load_pool(plain)
    assert len(found) == 7 and not found["context"].str.contains("\n").any()
    given = {"context": "one_package.f0(x)", "instruction": "What does `f0` do?"}
    row = found.set_index("instruction", drop=False).loc["What does `f0` do?"]
    assert row["row_id"] == runs.digest(given["instruction"], given["context"], SAID.format(0))


def test_too_few_rows_with_details_are_said(detailed):
    more = detailed.model_copy(update={"members": 3})
    said = r"only 4 of the source's 7 rows can be used .*, a paragraph of prose behind it\); lower"
    with pytest.raises(KdlibError, match=said) as error:
        rowpool.load_pool(more)
    assert len(str(error.value).splitlines()) == 1
    with pytest.raises(KdlibError, match=r"prompt of at most 100000\); lower"):
        rowpool.load_pool(more.model_copy(update={"details_chars": 0, "members": 9, "pool": 50}))


def test_general_text_holds_no_response_of_a_pool_with_details(detailed, settings):
    names = {text.partition(": ")[0] for text in rowpool.general_text(detailed)}
    assert names == {f"one_package.f{i}(x)" for i in (4, 5, 6)}
    settings = settings.model_copy(update={"details_chars": 200})
    pool, texts = rowpool.load_pool(settings), rowpool.general_text(settings)
    assert pool["context"].str.contains("\n").all() and len(texts) > 100
    joined = "\n".join(texts)
    assert not [text for text in pool["response"] if text in joined]
    assert not any(rowpool.holds_any(pool["context"], pool["response"]))  # nor does any prompt


def test_holds_any_finds_every_place_and_no_other():
    response = "Return the number of nodes in it."
    texts = [response, f"a.b: {response} Or not.", "x\n" + response, f"({response})", response[:-2]]
    texts += [response.replace("number of", "count of"), "Return the number", ""]
    assert rowpool.holds_any(texts, [response, "Six other words stand here too."]) == [
        response in text for text in texts
    ]


def test_draw_splits_by_group_and_differs_by_seed(settings):
    pool = rowpool.load_pool(settings)
    drawn = [rowpool.draw(pool, settings, seed) for seed in (0, 0, 1)]
    pd.testing.assert_frame_equal(drawn[0], drawn[1])
    assert set(drawn[0]["row_id"]) != set(drawn[2]["row_id"])
    for rows in drawn:
        assert (rows.groupby("group")["split"].nunique() == 1).all()
        natural = rows[rows["kind"] == "row"]["split"].value_counts()
        assert natural["member"] == settings.members and natural["held_out"] == settings.held_out
        assert {"row", "canary", "twin"} == set(rows["kind"])


def test_groups_of_copies_stay_together(tmp_path):
    texts = [f"text {i % 10}" for i in range(40)]
    settings = from_file(tmp_path, texts, pool=40, members=20, held_out=12)
    for seed in range(5):
        drawn = rowpool.draw(rowpool.load_pool(settings), settings, seed)
        assert (drawn.groupby("group")["split"].nunique() == 1).all()
        assert (drawn.groupby("group").size() == 4).all()
        assert (drawn["group_size"] == 4).all()


@pytest.mark.parametrize(
    ("texts", "more", "said"),
    [
        (["x" * 90] * 10, {}, r"held_out = 8, but only 0 of the source's 10 rows can be"),
        (["a"] + ["x" * 90] * 9, {}, r"held_out = 8, but only 1 of the source's 10 rows can be"),
        (["a"] * 10, {}, r"5 of 5 members and 3 of 3 held-out rows .* groups of equal responses "
         r"are never split \(in the pool, rows: 10, different responses: 1\); lower members"),
        (["a"] * 6 + ["b", "c", "d", "e"], {}, r"1 of 5 members and 3 of 3 held-out rows"),
        (["a"] * 10, {"pool": 9}, r"5 of 5 members .* rows: 0, different responses: 0\)"),
    ],
    ids=["none", "short", "alike", "large", "cut"],
)  # fmt: skip
def test_too_few_rows_say_why(tmp_path, texts, more, said):
    counts = {"pool": 10, "members": 5, "held_out": 3, "response_chars": (1, 80)}
    settings = from_file(tmp_path, texts, **counts | more)
    with pytest.raises(KdlibError, match=said) as error:
        rowpool.draw(rowpool.load_pool(settings), settings, 0)
    assert len(str(error.value).splitlines()) == 1


def test_halves_part_the_members_and_keep_groups_together(settings):
    rows = rowpool.draw(rowpool.load_pool(settings), settings, 0)
    members = rows[rows["split"] == "member"]
    copies = members[members["kind"] == "row"].index[:6]
    rows.loc[copies, "group"] = "copies"
    copied = set(rows.loc[copies, "row_id"])
    for split in range(5):
        a, b = rowpool.halves(rows, 0, split)
        assert not a & b and a | b == set(members["row_id"])
        assert abs(len(a) - len(b)) <= 4
        assert copied <= a or copied <= b
    first, second = rowpool.halves(rows, 0, 0), rowpool.halves(rows, 0, 1)
    assert first == rowpool.halves(rows, 0, 0) and first != second


@pytest.mark.slow
def test_pool_of_the_tiny_profile_is_the_one_of_the_data_card():
    card = (Path(__file__).resolve().parents[2] / "data" / "README.md").read_text("utf-8")
    pool = rowpool.load_pool(load_profile("tiny").data)
    assert rowpool.data_hash(pool) == "4477ccb6e731f05f" and "`4477ccb6e731f05f`" in card
