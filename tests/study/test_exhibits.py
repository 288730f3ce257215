"""The rule that chooses exhibits, the rows that they name, and what models answer to them."""

import pandas as pd
import pytest
from own_data import profile_of, size_of

from kdlib import runs
from kdlib.config.methods import DISTILLED, PAPER
from kdlib.study import exhibits
from kdlib.study.run import Run, load_rows

MODELS = [("base", "middle"), ("teacher", "teacher")]
MODELS += [(method, size) for method in PAPER for size in ("middle", "small")]
# row_id: kind, split, repetitions, category, tokens, and who memorizes it
ROWS = {
    "m1": ("row", "member", 1, "a", 20, {"sft middle", "teacher"}),
    "m2": ("row", "member", 1, "a", 90, {"sft middle", "word_kd middle", "teacher"}),
    "m3": ("row", "member", 1, "a", 30, {"sft middle", "teacher"}),
    "m4": ("row", "member", 1, "a", 30, {"sft middle", "word_kd small"}),
    "m5": ("row", "member", 1, "a", 10, {"teacher"}),
    "m6": ("row", "member", 1, "a", 12, {"teacher"}),
    "m7": ("row", "member", 1, "a", 99, {"sft small", "teacher"}),
    "h1": ("row", "held_out", 0, "a", 40, {"sft middle", "teacher"}),
    "h2": ("row", "held_out", 0, "a", 50, set()),
    "h3": ("row", "held_out", 0, "a", 50, set()),
    "h4": ("row", "held_out", 0, "a", 60, set()),
    "c1": ("canary", "member", 2, "canary telephone", 9, {"teacher"}),
    "c2": ("canary", "member", 2, "canary record", 55, set()),
    "c3": ("canary", "member", 2, "canary record", 65, set()),
    "c4": ("canary", "member", 16, "canary record", 70, {"sft middle"}),
    "c5": ("twin", "held_out", 0, "canary record", 50, set()),
}


def measured(rows, seed=0):
    columns = ["kind", "split", "repetitions", "category", "length", "by"]
    frame = pd.DataFrame(rows, index=columns).T.rename_axis("row_id").reset_index()
    frame = frame.infer_objects().assign(group_size=1, seed=seed)
    parts = []
    for method, size in MODELS:
        by = {f"{method} {size}", "teacher"} if method == "teacher" else {f"{method} {size}"}
        hit = pd.Series([bool(one & by) for one in frame["by"]])
        prefix = frame["length"].where(hit, frame["length"].clip(upper=50) - 1)
        parts.append(frame.assign(method=method, size=size, prefix=prefix))
    return pd.concat(parts, ignore_index=True).drop(columns="by")


def chosen(rows):
    return exhibits.choose(measured(rows), "middle").set_index("exhibit")


def test_each_exhibit_is_chosen_by_its_rule():
    found = chosen(ROWS)
    assert list(found.index) == list(exhibits.EXHIBITS)
    # no distilled student of the size; the longest; of two as long the lower row id
    # the teacher alone: m6, longer than m5; the median of four: the lower of two, the lower row id
    # twice, of the longest kind, the first by row id, although neither is the longest response
    assert found["row_id"].tolist() == ["m3", "m6", "h2", "c2"]
    assert found.loc["sft", ["memorized_by", "of"]].tolist() == [0, len(DISTILLED)]
    assert found.loc["teacher", ["memorized_by", "of"]].tolist() == [0, 2 * len(PAPER)]


def test_the_order_of_rows_and_models_does_not_matter():
    tuples = measured(ROWS)
    again = exhibits.choose(tuples.sample(frac=1, random_state=1), "middle")
    pd.testing.assert_frame_equal(again, exhibits.choose(tuples, "middle"))


def test_where_every_row_is_known_to_others_the_fewest_decide_and_no_row_is_taken_twice():
    known = {name: row for name, row in ROWS.items() if name in ("m2", "m7", "h1")}
    found = chosen(known)
    assert found["row_id"].tolist() == ["m2", "m7", "h1", ""]
    assert found["memorized_by"].tolist()[:2] == [1, 1]
    alone = chosen({name: ROWS[name] for name in ("m2", "h1")})
    assert alone["row_id"].tolist() == ["m2", "", "h1", ""]  # the teacher's would be the same row


def test_where_no_row_meets_a_description_the_title_says_so():
    lines = exhibits.choose(measured({name: ROWS[name] for name in ("h1", "c4")}), "middle")
    assert lines["row_id"].tolist() == ["", "", "h1", ""]
    said = exhibits.titles(lines)
    assert all(title.endswith(": none") for title in (said[0], said[1], said[3]))
    assert said[2] == "3. A held-out row"


def test_each_seed_has_its_own():
    other = {name.upper(): row for name, row in ROWS.items()}
    both = pd.concat([measured(ROWS), measured(other, seed=1)])
    found = exhibits.choose(both, "middle").pivot(index="exhibit", columns="seed", values="row_id")
    assert (found[0].str.upper() == found[1]).all()


# --- the rows of a machine


@pytest.fixture
def rows(copy):
    return load_rows(profile_of(copy), 0)


def kept(copy, **row_ids):
    """exhibits.csv with these rows."""
    lines = [{"seed": 0, "exhibit": name, "row_id": row} for name, row in row_ids.items()]
    counted = pd.DataFrame(lines).assign(memorized_by=1, of=3)
    runs.write_table(runs.results_dir("own") / "exhibits.csv", counted)


def test_before_they_are_chosen_there_are_stand_ins(copy, rows, capsys):
    shown = exhibits.of_seed(profile_of(copy), 0, rows)
    assert "stand-ins: notebook 10 has not chosen them yet" in capsys.readouterr().out
    members, held_out = rows.split("member"), rows.split("held_out")
    longest = sorted(members, key=lambda one: (-len(one.response), one.row_id))
    median = sorted(held_out, key=lambda one: (len(one.response), one.row_id))
    middle = median[(len(median) - 1) // 2].row_id
    alone = [one.row_id for one in longest if rows.frame.loc[one.row_id, "group_size"] == 1]
    assert shown["row_id"].tolist() == [*alone[:2], middle, ""]
    assert shown["title"].str.contains("stand-in").tolist() == [True, True, False, False]
    assert shown["response"].tolist() == [*rows.frame.loc[[*alone[:2], middle], "response"], ""]


def test_chosen_rows_are_shown_where_they_are_the_same(copy, rows, capsys):
    member, held_out = rows.split("member")[3].row_id, rows.split("held_out")[2].row_id
    kept(copy, sft=member, teacher="", held_out=held_out, canary="")
    shown = exhibits.of_seed(profile_of(copy), 0, rows)
    assert not capsys.readouterr().out
    assert shown["row_id"].tolist() == [member, "", held_out, ""]
    assert shown.loc["sft", "title"].endswith("and 1 of the paper's 3 distilled students")
    assert shown.loc["sft", "response"] == rows.frame.loc[member, "response"]


@pytest.mark.parametrize("wrong", ["0123456789012345", "held_out"])
def test_rows_of_other_data_are_not_shown(copy, rows, wrong, capsys):
    """Of another text, hence another row id; or on the other side of the split."""
    member, held_out = rows.split("member")[3].row_id, rows.split("held_out")[2].row_id
    kept(copy, sft=held_out if wrong == "held_out" else wrong, teacher=member, held_out=held_out)
    shown = exhibits.of_seed(profile_of(copy), 0, rows)
    assert "stand-ins: notebook 10 names rows of other data" in capsys.readouterr().out
    assert shown["title"].str.contains("stand-in").sum() == 2


def test_answers_are_what_the_tables_hold(copy, rows):
    profile = profile_of(copy)
    sft = Run(profile, 0, "sft", size_of("sft"))
    asked = [rows.split("member")[0].row_id, rows.split("held_out")[0].row_id]
    kept(copy, sft=asked[0], teacher="", held_out=asked[1], canary="")
    shown = exhibits.of_seed(profile, 0, rows)
    missing = Run(profile, 1, "sft", sft.size)  # is not trained
    found = exhibits.answers([sft.base, sft, missing], rows, shown)
    assert found["model"].tolist() == ["base, small"] * 2 + ["SFT, small"] * 2
    assert found["exhibit"].tolist() == ["sft", "held_out"] * 2
    own = found[found["model"] == "SFT, small"].assign(row_id=asked).set_index("row_id")
    written = pd.read_parquet(sft.folder / "answers.parquet").query("decoding == 'greedy'")
    written = written.set_index("row_id").loc[asked, "text"]
    tuples = pd.read_parquet(sft.folder / "tuples.parquet").set_index("row_id").loc[asked]
    assert own["text"].equals(written) and (own["prefix"] == tuples["prefix"]).all()
    assert (own["length"] == tuples["length"]).all()


def test_measured_answers_are_those_that_are_decoded(copy, rows):
    profile, size = profile_of(copy), size_of("sft")
    run = Run(profile, 0, "sft", size)
    sft, unanswered = (rows.split(one)[0].row_id for one in ("member", "held_out"))
    kept(copy, sft=sft, teacher="", held_out=unanswered, canary="")
    shown = exhibits.of_seed(profile, 0, rows)
    files = {name: run.folder / f"{name}.parquet" for name in ("tuples", "answers")}
    facts = {"seed": 0, "method": "sft", "size": size}
    frames = {name: pd.read_parquet(path).assign(**facts) for name, path in files.items()}
    frames["answers"] = frames["answers"].query("row_id != @unanswered")
    found = exhibits.measured(frames, rows, shown, 0, size).set_index(["exhibit", "model"])
    decoded = exhibits.answers([run], rows, shown)
    decoded["model"] = decoded["model"].str.split(",").str[0]
    decoded = decoded.set_index(["exhibit", "model"])
    assert set(found.index) == set(decoded.index) and len(found) == 2
    for place, one in found.iterrows():
        assert one["prefix"] == decoded.loc[place, "prefix"]
        if one["text"].endswith(" ..."):
            assert decoded.loc[place, "text"].startswith(one["text"].removesuffix(" ..."))
        else:
            assert one["text"] == decoded.loc[place, "text"]
    assert found["text"].str.endswith(" ...").any()
