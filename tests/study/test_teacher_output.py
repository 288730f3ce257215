"""The teacher's text and targets: made once, kept with what they depend on, never mixed up."""

import functools
import json

import pytest
from own_data import profile_of, run_of

from kdlib import runs
from kdlib.distill.methods import DECODINGS
from kdlib.distill.teacher_targets import Live, Remembered, Stored
from kdlib.errors import KdlibError
from kdlib.model import checkpoints, generation
from kdlib.study import stages, teacher_output
from kdlib.study.run import load_rows


@pytest.mark.parametrize("how", DECODINGS)
def test_text_is_written_once(folder, forbid, how):
    teacher = run_of(folder, "teacher")
    rows = load_rows(teacher.profile, 0)
    first = teacher_output.text(teacher, rows, how)
    forbid(checkpoints, "load_model")
    assert teacher_output.text(teacher, rows, how) == first
    assert [one.row_id for one in first] == [one.row_id for one in rows.presented]
    assert all(one.prompt == rows.examples[one.row_id].prompt for one in first)


def test_text_of_another_decoding_is_made_anew(copy, monkeypatch):
    teacher = run_of(copy, "teacher")
    rows, made = load_rows(teacher.profile, 0), []
    wholes = {name: getattr(generation, name) for name in ("continue_prompts", "beam_search")}

    def watched(name, *args, **named):
        made.append(named.get("beams") or named.get("temperature"))
        return wholes[name](*args, **named)

    for name in wholes:
        monkeypatch.setattr(generation, name, functools.partial(watched, name))
    changed = [("temperature = 1.0", "temperature = 0.3"), ("beams = 4", "beams = 2")]
    other = run_of(copy, "teacher", *changed)
    assert other.identity == teacher.identity  # what it is does not depend on how it is asked
    before = [teacher_output.text(teacher, rows, how) for how in DECODINGS]
    assert not made
    after = [teacher_output.text(other, rows, how) for how in DECODINGS]
    assert made == [2, 0.3] and after[0] == before[0]
    assert after[2] != before[2]
    assert [teacher_output.text(other, rows, how) for how in DECODINGS] == after and len(made) == 2
    assert teacher_output.text(teacher, rows, "teacher_sampled") == before[2]


def test_text_that_another_student_had_written_meanwhile_is_read(copy, meanwhile, forbid):
    teacher = run_of(copy, "teacher")
    rows, file = load_rows(teacher.profile, 0), teacher.folder / "teacher-text.json"
    kept = file.read_text("utf-8")
    file.unlink()
    meanwhile(file, lambda: file.write_text(kept, "utf-8"))
    forbid(checkpoints, "load_model")
    assert len(teacher_output.text(teacher, rows)) == 12


def test_text_of_before_decoding_was_kept_is_still_read(copy, forbid):
    teacher = run_of(copy, "teacher")
    rows, file = load_rows(teacher.profile, 0), teacher.folder / "teacher-text.json"
    kept = json.loads(file.read_text("utf-8"))
    del kept["decoding"]
    file.write_text(json.dumps(kept), "utf-8")
    forbid(checkpoints, "load_model")
    assert len(teacher_output.text(teacher, rows)) == 12


def test_text_of_another_teacher_is_made_anew(copy, forbid):
    teacher = run_of(copy, "teacher", ("epochs = 3", "epochs = 4"))
    rows = load_rows(teacher.profile, 0)
    with pytest.raises(KdlibError, match="made with other settings; run notebook 02_teacher"):
        teacher_output.text(teacher, rows)


def test_students_share_one_store(copy, forbid):
    teacher = run_of(copy, "teacher")
    rows, run = load_rows(teacher.profile, 0), run_of(copy, "off_policy_rkl")
    positions = runs.read_manifest(teacher.folder / "targets")["positions"]
    assert positions == sum(len(one.response) for one in rows.presented)
    (run.folder / runs.MANIFEST).unlink()
    forbid(teacher_output, "load")  # the store of word-level KD serves it too
    stages.make(run, rows)
    assert runs.done(run.folder, run.identity)


def test_a_store_of_other_targets_is_written_anew(copy):
    teacher, run = run_of(copy, "teacher"), run_of(copy, "word_kd")
    rows, store = load_rows(teacher.profile, 0), teacher.folder / "targets"
    before = runs.read_manifest(store)["run_id"]
    changed = ('precision = "fp32"', 'precision = "bf16"')
    other = run_of(copy, "word_kd", changed)
    stages.make(other.teacher, rows)
    assert isinstance(teacher_output.targets(other, rows), Stored)
    assert runs.read_manifest(store)["run_id"] != before
    with pytest.raises(KdlibError):
        Stored(store, before, "fp32")
    stages.make(run.teacher, rows)
    teacher_output.targets(run, rows)
    assert runs.read_manifest(store)["run_id"] == before


@pytest.mark.parametrize(
    ("method", "kind", "capacity"),
    [("word_kd", Stored, None), ("mine", Live, None), ("gkd", Remembered, 12),
     ("distillm", Remembered, 1012), ("minillm", Remembered, 24)],
)  # fmt: skip
def test_how_targets_are_kept(folder, monkeypatch, method, kind, capacity):
    kept, rows = [], load_rows(profile_of(folder), 0)
    monkeypatch.setattr(
        teacher_output, "Remembered", lambda *a: kept.append(a[2]) or Remembered(*a)
    )
    found = teacher_output.targets(run_of(folder, method), rows)
    assert type(found) is kind and kept == ([capacity] if capacity else [])
