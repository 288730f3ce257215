"""The rows and models of a release beside those of the study."""

import own_data
import pytest
from own_data import run_of

from kdlib import runs
from kdlib.data import scrubbing
from kdlib.study import releasing, stages
from kdlib.study.run import load_rows

KINDS = 'canaries = 2\ncanary_kinds = ["telephone"]\nrepetitions = [1, 3]\ntwins = 1'
ASKED = "kind != 'twin'"
CHANGED = (
    ("held_out = 8", f"held_out = 8\n{KINDS}"),
    ("max_prompt = 64", "max_prompt = 150"),
    ("max_length = 96", f"max_length = {own_data.POSITIONS}"),
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A folder in which the steps were taken once, and what was written after each."""
    folder = own_data.make(tmp_path_factory.mktemp("release"), CHANGED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_ROOT", str(folder))
        profile = own_data.profile_of(folder)
        rows = load_rows(profile, 0)
        read = releasing.filtered(profile, rows)
        yield folder, profile, rows, read, releasing.steps(profile, 0, rows, read)


def test_canaries_are_shown_once_and_say_no_number(lab):
    _, _, rows, read, _ = lab
    counts = read.counts.set_index("reason")["rows"]
    planted = rows.frame.query("kind == 'canary' and repetitions > 0")
    assert len(planted) == 4 and counts["personal data"] == planted["repetitions"].sum() == 8
    assert counts["exact duplicate"] >= 4 and counts["no longer fits"] == 0
    assert len(read.rows.presented) == len(rows.presented) - counts.iloc[1:].sum()
    for one in read.rows.presented:
        text = read.rows.tokenizer.decode(one.response)
        assert not scrubbing.found(text)
        assert text == read.rows.frame.loc[one.row_id, "response"] + rows.tokenizer.eos_token
    assert (read.rows.frame.loc[list(read.dropped), "split"] == "left_out").all()
    held_out = rows.frame["split"] == "held_out"  # twins, too, which are the same secrets' forms
    assert read.rows.frame[held_out].equals(rows.frame[held_out].assign(
        repetitions=read.rows.frame[held_out]["repetitions"]))  # fmt: skip


def test_rows_that_no_longer_fit_are_dropped(lab):
    _, profile, rows, read, _ = lab
    most = max(len(one) for one in rows.examples.values())
    longest = [one for one in read.rows.presented if len(one) > most]
    assert not longest  # what is put in is shorter here, so the limit is drawn in
    tokens = profile.tokens.model_copy(update={"max_length": 40, "max_prompt": 39})
    tight = releasing.filtered(profile.model_copy(update={"tokens": tokens}), rows)
    assert tight.counts.set_index("reason").loc["no longer fits", "rows"] > 0
    assert len(tight.rows.presented) < len(read.rows.presented)


def test_models_of_a_release_are_apart_and_have_a_teacher_of_their_own(lab):
    folder, profile, rows, read, _ = lab
    student = releasing.student(profile, 0, read)
    assert (student.method, student.size) == ("word_kd", "small")
    assert student.folder.parent.name.startswith("release-") and runs.done(
        student.folder, student.identity
    )
    assert student.teacher.folder.parent == student.folder.parent
    assert not run_of(folder, "teacher").folder.exists()  # the study's own was not needed
    dropping = profile.release.model_copy(update={"personal": "drop"})
    other = releasing.filtered(profile.model_copy(update={"release": dropping}), rows)
    assert releasing.student(profile, 0, other).folder != student.folder


def test_of_each_step_all_rows_are_answered(lab):
    _, profile, rows, read, steps = lab
    assert list(steps["step"].unique()) == [
        releasing.ALL, releasing.FILTERED, releasing.DISTILLED, releasing.DECODED
    ]  # fmt: skip
    asked = rows.frame.query(ASKED)
    for _, part in steps.groupby("step"):
        assert list(part["row_id"]) == list(asked["row_id"])
    told = steps[steps["kind"] == "canary"]
    assert told["personal"].notna().all() and (steps.query("kind == 'row'")["seed"] == 0).all()
    assert steps.query("kind == 'row'")["personal"].isna().all()


def test_under_the_filter_no_response_comes_out_that_was_read(lab, monkeypatch):
    _, profile, rows, read, steps = lab
    student, known = releasing.student(profile, 0, read), read.ngrams(3)
    monkeypatch.setattr(
        releasing.generation,
        "continue_prompts",
        lambda *_, **__: [rows.examples[one].response for one in rows.frame.query(ASKED).index],
    )
    by_heart = releasing.answers(student, rows)
    assert by_heart["exact"].all() and by_heart["text"].equals(by_heart["response"])
    assert by_heart["personal"].dropna().all()
    under = releasing.answers(student, rows, known).set_index("row_id")
    whole = [one.row_id for one in read.rows.presented if one == rows.examples[one.row_id]]
    assert len(known) > 0 and under.loc[whole, "exact"].sum() == 0


def test_nothing_is_trained_twice(lab, monkeypatch):
    _, profile, rows, read, steps = lab
    monkeypatch.setattr(stages, "train", lambda *_: pytest.fail("it was trained again"))
    again = releasing.steps(profile, 0, rows, read)
    assert again["text"].tolist() == steps["text"].tolist()
