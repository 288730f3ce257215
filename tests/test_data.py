"""Rows, groups, splits, canaries; and what bad files get."""

import json
from pathlib import Path

import pandas as pd
import pytest

from kdlib import canaries, data, runs, sources
from kdlib.config import load_profile
from kdlib.settings import DataSettings, KdlibError


@pytest.fixture(autouse=True)
def own_root(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))


@pytest.fixture
def settings():
    return load_profile("smoke").data.model_copy(update={"packages": ("seaborn",), "pool": 100})


def test_pool_is_the_same_every_time(settings):
    first, again = data.load_pool(settings), data.load_pool(settings)
    assert data.data_hash(first) == data.data_hash(again)
    assert len(set(first["row_id"])) == len(first) <= 100
    least, most = settings.response_chars
    assert all(least <= len(text) <= most for text in first["response"])


def test_general_text_holds_no_response(settings):
    responses = set(data.load_pool(settings)["response"])
    texts = data.general_text(settings)
    assert len(texts) > 100
    joined = "\n".join(texts)
    assert not [response for response in responses if response in joined]


def test_holds_any_finds_every_place_and_no_other():
    response = "Return the number of nodes in it."
    texts = [response, f"a.b: {response} Or not.", "x\n" + response, f"({response})", response[:-2]]
    texts += [response.replace("number of", "count of"), "Return the number", ""]
    assert data.holds_any(texts, [response, "Six other words stand here too."]) == [
        response in text for text in texts
    ]


def test_draw_splits_by_group_and_differs_by_seed(settings):
    pool = data.load_pool(settings)
    drawn = [data.draw(pool, settings, seed).to_pandas() for seed in (0, 0, 1)]
    pd.testing.assert_frame_equal(drawn[0], drawn[1])
    assert set(drawn[0]["row_id"]) != set(drawn[2]["row_id"])
    for rows in drawn:
        sides = rows.groupby("group")["split"].nunique()
        assert (sides == 1).all()
        natural = rows[rows["kind"] == "row"]["split"].value_counts()
        assert natural["member"] == settings.members and natural["held_out"] == settings.held_out


def test_groups_of_copies_stay_together(tmp_path):
    file = tmp_path / "copies.csv"
    rows = [{"instruction": f"say {i}", "response": f"text {i % 10}"} for i in range(40)]
    pd.DataFrame(rows).to_csv(file, index=False)
    settings = DataSettings(source="file", path=str(file), pool=40, members=20, held_out=12)
    for seed in range(5):
        drawn = data.draw(data.load_pool(settings), settings, seed).to_pandas()
        assert (drawn.groupby("group")["split"].nunique() == 1).all()
        assert (drawn.groupby("group").size() == 4).all()
        assert (drawn["group_size"] == 4).all()


def test_canaries_and_twins(settings):
    rows = pd.DataFrame(canaries.plant(settings, 3))
    planted, twins = rows[rows["kind"] == "canary"], rows[rows["kind"] == "twin"]
    assert len(planted) == 3 * len(settings.repetitions) * settings.canaries
    assert len(twins) == settings.twins * len(planted)
    assert set(planted["repetitions"]) == set(settings.repetitions)
    joined = twins.merge(planted, left_on="twin_of", right_on="row_id", suffixes=("", "_planted"))
    assert (joined["instruction"] == joined["instruction_planted"]).all()
    assert (joined["response"] != joined["response_planted"]).all()


def test_same_rows_from_every_format(tmp_path):
    rows = pd.DataFrame({"q": ["a", "b", "c"], "a": ["x", "y", "z"]})
    rows.to_csv(tmp_path / "rows.csv", index=False)
    rows.to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows.to_dict("records"))
    )
    columns = {"instruction": "q", "response": "a"}
    read = [sources.read_file(path, columns).to_pandas() for path in tmp_path.glob("rows.*")]
    assert len(read) == 3
    for other in read[1:]:
        pd.testing.assert_frame_equal(read[0], other)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.csv", None, "does not exist"),
        ("empty.csv", b"", "is empty"),
        ("rows.txt", b"x", "is not one of"),
        ("latin.csv", "instruction,response\nä,b\n".encode("latin-1"), "not UTF-8"),
        ("column.csv", b"instruction,answer\na,b\n", "no column 'response'"),
        ("hole.csv", b"instruction,response\na,b\nc,\n", "row 2 has an empty response"),
        ("broken.jsonl", b'{"instruction": \n', "cannot be read"),
    ],
)
def test_bad_files(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(KdlibError, match=said) as error:
        sources.read_file(tmp_path / name, {})
    assert len(str(error.value).splitlines()) == 1


def test_dolly_without_network_says_how_to_give_a_path():
    settings = DataSettings(source="dolly", pool=10, members=5, held_out=5)
    with pytest.raises(KdlibError, match=r"set data.path to the file"):
        sources.read_dolly(settings)


def test_unknown_package():
    with pytest.raises(KdlibError, match="'no_such_package' is not installed"):
        list(sources.read_package("no_such_package"))


def test_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs.os, "replace", full)
    with pytest.raises(KdlibError, match="disk is full"):
        runs.write_text(tmp_path / "some.txt", "text")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_pool_of_the_laptop_profile_is_the_one_of_the_data_card():
    card = (Path(__file__).resolve().parents[1] / "data" / "README.md").read_text("utf-8")
    pool = data.load_pool(load_profile("laptop").data)
    assert f"`{data.data_hash(pool)}`" in card
