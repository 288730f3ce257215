"""Defences as settings of a run: names, identity, and what of the run they change."""

import json

import pandas as pd
import pytest
import torch
from own_data import ALL, run_of
from toy import weights_of

from kdlib import runs
from kdlib.config.defences import DEFENCES
from kdlib.data import scrubbing
from kdlib.errors import KdlibError
from kdlib.study import defending, stages
from kdlib.study.run import load, load_rows

NEEDS = {"lora": "peft", "dp_sgd": "opacus"}
OWN = {"dp_sgd": {"epsilon": 8.0, "delta": 1e-2}, "lora": {"rank": 4}}


def defended(folder, method, name):
    pytest.importorskip(NEEDS.get(name, "torch"))
    return run_of(folder, method).defended(name, **OWN.get(name, {}))


def test_a_defended_run_has_a_folder_a_label_and_an_identity_of_its_own(folder):
    sft = run_of(folder, "sft")
    many = [sft.defended(name) for name in DEFENCES]
    assert len({one.identity for one in (sft, *many)}) == len(DEFENCES) + 1
    assert len({one.folder for one in (sft, *many)}) == len(DEFENCES) + 1
    less = sft.defended("goldfish", k=8)
    assert less.folder.name == "sft-small-defence=goldfish-k=8"
    assert less.label == "SFT, small, goldfish loss, k = 8"
    assert sft.defended("goldfish").label == "SFT, small, goldfish loss"
    assert less.identity != sft.defended("goldfish").identity
    assert sft.defended("goldfish", k=4, h=13) == sft.defended("goldfish")
    assert less.defended() == sft and sft.defended() == sft
    assert less.against == {"k": 8, "h": 13} and sft.against == {}
    assert less.notebook == "15_defences"


def test_a_teacher_has_no_defence_unless_it_is_given_one(folder):
    run = run_of(folder, "word_kd").defended("goldfish", k=3)
    assert run.teacher == run_of(folder, "teacher") and run.base == run_of(folder, "word_kd").base
    teacher = run_of(folder, "teacher").defended("goldfish")
    assert teacher.identity != run.teacher.identity and teacher.folder != run.teacher.folder
    assert teacher.label == "teacher, teacher, goldfish loss"


def test_a_profiles_own_coefficients_are_part_of_the_identity(folder):
    own = ("[measure]", "[defences]\ngoldfish = { k = 3 }\n[measure]")
    assert run_of(folder, "sft", own).identity == run_of(folder, "sft").identity
    run = run_of(folder, "sft", own).defended("goldfish")
    assert run.identity != run_of(folder, "sft").defended("goldfish").identity
    assert run.identity == run_of(folder, "sft").defended("goldfish", k=3).identity


def test_settings_of_training_are_changed(folder):
    sft, minillm = run_of(folder, "sft"), run_of(folder, "minillm")
    assert sft.defended("weight_decay", weight_decay=0.3).settings.weight_decay == 0.3
    assert sft.defended("dropout").settings.dropout == 0.1
    assert sft.defended("lora").settings.lr == 10 * sft.settings.lr
    assert minillm.defended("lora").start.lr == 10 * minillm.start.lr
    assert minillm.defended("dropout").start.dropout == 0.1
    assert sft.defended("dp_sgd", norm=0.3).settings == sft.settings


@pytest.mark.parametrize("method", ["rkld", "gkd", "distillm", "distillm2", "minillm"])
def test_dp_sgd_is_refused_where_the_student_writes_its_text(folder, method):
    run = run_of(folder, method).defended("dp_sgd")
    with pytest.raises(KdlibError, match="DP-SGD bounds a row's gradient; its text .* written dur"):
        stages.make(run, load_rows(run.profile, 0))
    assert not run.folder.exists()


def test_a_rank_above_a_layers_width_is_refused_before_anything_is_trained(folder):
    run = run_of(folder, "sft").defended("lora", rank=4096)
    with pytest.raises(KdlibError, match="LoRA: rank = 4096 is above the width"):
        stages.make(run, load_rows(run.profile, 0))
    assert not run.folder.exists()


def test_bad_defences_are_refused_with_one_message(folder):
    sft = run_of(folder, "sft")
    with pytest.raises(KdlibError, match="'x' is no defence; known: weight_decay"):
        sft.defended("x")
    with pytest.raises(KdlibError, match="goldfish loss: k = 1 .* must be from 2 to 1000"):
        sft.defended("goldfish", k=1)
    with pytest.raises(KdlibError, match="epsilon = 2 without delta is no guarantee; give delta"):
        sft.defended("dp_sgd", epsilon=2)
    assert sft.defended("dp_sgd", epsilon=2, delta=1e-3).against["epsilon"] == 2
    with pytest.raises(KdlibError, match="base, small is not trained; it can have no defence"):
        run_of(folder, "sft").base.defended("goldfish")


def test_a_delta_that_lets_a_row_out_is_refused(folder):
    pytest.importorskip("opacus")
    run = run_of(folder, "sft").defended("dp_sgd", epsilon=8, delta=0.09)
    rows = load_rows(run.profile, 0)
    with pytest.raises(KdlibError, match=r"delta = 0.09 is not below 1 / 12, the rows that are"):
        stages.few_steps(run, rows, stages.reading(run, rows, run.settings))


@pytest.mark.parametrize("name", DEFENCES)
@pytest.mark.parametrize("method", ["sft", "word_kd", "seq_kd"])
def test_every_defence_trains_beside_a_method(copy, method, name):
    run, plain = defended(copy, method, name), run_of(copy, method)
    rows = load_rows(run.profile, 0)
    folder = stages.make(run, rows)
    assert runs.done(folder, run.identity) and (folder / "answers.parquet").is_file()
    tuples = pd.read_parquet(folder / "tuples.parquet")
    assert tuples["split"].value_counts().to_dict() == {"member": 12, "held_out": 8}
    before, after = weights_of(load(plain)), weights_of(load(run))
    changed = not torch.allclose(before, after, atol=1e-7)
    nothing = name in ("exact_dedup", "near_dedup", "scrubbing")  # these rows give no cause
    assert changed != nothing
    epochs = set(pd.read_parquet(folder / "path.parquet")["epoch"])
    assert {2} < epochs if name != "averaging" else epochs == {2}
    stages.check([run], rows)


@pytest.mark.parametrize("method", sorted({*ALL} - {"sft", "word_kd", "seq_kd"}))
def test_goldfish_stands_beside_every_method(copy, method):
    run = run_of(copy, method).defended("goldfish")
    folder = stages.make(run, load_rows(run.profile, 0))
    assert not torch.allclose(weights_of(load(run)), weights_of(load(run_of(copy, method))))
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
    assert lines[-1]["step"] == 6


def test_the_first_sft_of_a_method_is_defended_too(copy, monkeypatch):
    run = run_of(copy, "minillm").defended("goldfish")
    whole, seen = stages.trainer.fit, []

    def fit(model, source, *how, **named):
        def read(reader, epoch):
            for step in source(reader, epoch):
                seen.append((named["log"].name, all(one.kept is not None for one in step)))
                yield step

        return whole(model, read, *how, **named)

    monkeypatch.setattr(stages.trainer, "fit", fit)
    stages.make(run, load_rows(run.profile, 0))
    assert set(seen) == {("log-start.jsonl", True), ("log.jsonl", True)}


def repeated(rows):
    """The rows, of which the second and third say what the first does, and the fourth nearly."""
    frame, (first, second, third, fourth) = rows.frame.copy(), rows.frame.index[:4]
    frame.loc[[first, second, third], "response"] = "red rotor of the old pump, with a blue valve"
    frame.loc[[first, second, third], "group"] = "one"
    frame.loc[fourth, "response"] = "red rotor of the old pump, with a blue valve 7"
    frame.loc[[second], "repetitions"] = 4
    return stages.replace(rows, frame=frame), (first, second, third, fourth)


def test_duplicates_are_not_read_and_still_are_members(folder):
    run = run_of(folder, "sft")
    rows, (first, second, third, fourth) = repeated(load_rows(run.profile, 0))
    assert (rows.frame.loc[[first, second], "split"] == "member").all()

    def read(run):
        return [one.row_id for one in stages.reading(run, rows, run.settings).examples]

    plain, exact, near = (read(run.defended(name)) for name in ("", "exact_dedup", "near_dedup"))
    assert len(plain) == 12 + 3 and plain.count(second) == 4
    assert len(exact) == len(set(exact)) == 10 and {first, fourth} <= {*exact}
    assert not {second, third} & {*exact}
    assert set(near) <= set(exact) - {fourth} and first in near
    other = defending.rows_read(run.defended("near_dedup"), rows).frame
    assert other["split"].equals(rows.frame["split"])
    notes = stages.notes_of(run.defended("exact_dedup"), rows, run.settings)
    assert notes.epoch_steps == 3 and notes.noted["split"].eq("member").sum() == 12


def with_secrets(rows, run):
    """The rows, of which the first two member rows hold a telephone number."""
    frame = rows.frame.copy()
    chosen = frame.index[frame["split"] == "member"][:2]
    frame.loc[chosen[0], "response"] = "Ann Lee, telephone (555) 012-3456."
    frame.loc[chosen[1], "context"] = "ask ann@mail.example"
    changed = frame.loc[chosen].to_dict("records")
    encoded = defending.encode(changed, rows.tokenizer, run.profile.tokens, run.profile.template)
    examples = rows.examples | {one.row_id: one for one in encoded}
    return stages.replace(rows, frame=frame, examples=examples), chosen


def test_what_is_scrubbed_is_never_read_and_still_measured(folder):
    run = run_of(folder, "sft").defended("scrubbing")
    rows, (first, second) = with_secrets(load_rows(run.profile, 0), run)
    read = {one.row_id: one for one in stages.reading(run, rows, run.settings).examples}
    text = rows.tokenizer.decode
    assert (
        text(read[first].response) == f"Ann Lee, telephone <telephone>.{rows.tokenizer.eos_token}"
    )
    assert "<e-mail>" in text(read[second].prompt) and "ann@" not in text(read[second].prompt)
    others = read.keys() - {first, second}
    assert len(others) == 10 and all(read[one] is rows.examples[one] for one in others)
    assert "012-3456" in text(rows.examples[first].response)  # as it is measured
    assert all(len(one) <= run.profile.tokens.max_length for one in read.values())


def test_what_the_teacher_writes_is_scrubbed_too(folder):
    run = run_of(folder, "seq_kd").defended("scrubbing")
    rows, (first, second) = with_secrets(load_rows(run.profile, 0), run)
    read, longest = defending.rows_read(run, rows), run.profile.tokens.max_length
    written = [rows.examples[first], rows.examples[second]]
    made = defending.text_read(run, read, written)
    assert [one.prompt for one in made] == [read.examples[one].prompt for one in (first, second)]
    assert made[0].response == read.examples[first].response
    assert made[1].response == written[1].response
    cut = defending.text_read(
        run, read, [stages.replace(written[0], response=written[0].response[:-1])]
    )
    assert cut[0].response == made[0].response[:-1] and len(cut[0]) <= longest
    assert not any(scrubbing.found(rows.tokenizer.decode(one.response)) for one in made)


def test_halves_are_those_of_the_lab(copy):
    run = run_of(copy, "sft").defended("averaging")
    rows = load_rows(run.profile, 0)
    halves = stages.pool.halves(rows.frame, 0, 0)
    stages.make(run, rows)
    parts = []
    for side, other in zip("ab", reversed(halves), strict=True):
        half = run_of(copy, "sft").without(other, f"half-0{side}", own_teacher=True)
        assert runs.done(half.folder, half.identity)
        parts.append(weights_of(load(half)))
    assert torch.allclose(weights_of(load(run)), (parts[0] + parts[1]) / 2)
