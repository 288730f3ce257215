"""A run's stage on a user's own data: what it leaves, how it resumes, and how bad input ends."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import toy
from own_data import ALL, run_of, save_base, save_scaled
from safetensors.torch import save_file

from kdlib import runs
from kdlib.distill import objectives, text_sources, trainer
from kdlib.distill.teacher_targets import Live, Remembered, Stored
from kdlib.errors import KdlibError
from kdlib.measure import meter
from kdlib.model import checkpoints, tokens
from kdlib.study import stages, teacher_output
from kdlib.study.run import load_rows

TESTS = str(Path(__file__).parents[1])
DONE = ("base", "teacher", *ALL)
BLIND = ("sft", "seq_kd", "seq_kd_beam", "seq_kd_sampled")  # never see the teacher's probabilities


def make(run):
    return stages.make(run, load_rows(run.profile, run.seed))


def unfinished(run):
    (run.folder / runs.MANIFEST).unlink()
    return run


@pytest.mark.parametrize("method", ["seq_kd", "rkld", "minillm"])
def test_a_few_steps_take_text_or_objective_by_hand(folder, method):
    run = run_of(folder, method)
    rows, how = load_rows(run.profile, 0), run.settings.model_copy(update={"epochs": 1})
    read = stages.reading(run, rows, how)
    own = stages.few_steps(run, rows, read)
    targets = Live(stages.load(run.teacher), how.precision)
    same = objectives.objective(run.recipe.objective, targets, run.coefficients)
    assert stages.few_steps(run, rows, read, minimized=same) == own
    rows_alone = stages.few_steps(run, rows, read, source=text_sources.fixed(read))
    assert abs(rows_alone["loss_nats_per_token"] - own["loss_nats_per_token"]) > 1e-3


# --- what a run leaves


@pytest.mark.parametrize("method", DONE)
def test_a_run_leaves_its_tables(folder, method):
    run = run_of(folder, method)
    rows, manifest = load_rows(run.profile, 0), runs.read_manifest(run.folder)
    expected = {"run_id": run.identity, "method": method, "size": run.size, "seed": 0}
    assert expected.items() <= manifest.items() and manifest["data_hash"]
    tuples = pd.read_parquet(run.folder / "tuples.parquet")
    assert sorted(tuples["row_id"]) == sorted(rows.frame["row_id"])
    assert tuples["split"].value_counts().to_dict() == {"member": 12, "held_out": 8}
    assert tuples["nats_per_token"].gt(0).all() and tuples["prefix"].le(tuples["length"]).all()
    answers = pd.read_parquet(run.folder / "answers.parquet")
    counts = answers.groupby(["split", "decoding"]).size().unstack()
    assert counts["greedy"].tolist() == [3, 3]
    if method != "base":
        assert counts["sampled"].tolist() == [2 * 2, 2 * 2]
    assert answers[["rouge1", "rouge2", "rougeL"]].stack().between(0, 1).all()
    per_token = pd.read_parquet(run.folder / "tokens.parquet").set_index("row_id")
    lengths = per_token.iloc[:, 0].map(len)
    assert lengths.to_dict() == tuples.set_index("row_id")["length"].to_dict()
    assert (run.folder / "path.parquet").is_file() == (method != "base")
    assert not [file.name for file in run.folder.rglob(".*")]


def test_methods_share_the_start_the_rows_and_the_steps(folder):
    files = {name: run_of(folder, name).folder / "path.parquet" for name in ALL}
    paths = {name: pd.read_parquet(file) for name, file in files.items()}
    for path in paths.values():
        assert path["step"].unique().tolist() == [0, 1, 2, 3, 4, 5, 6]
    for name in set(ALL) - {"minillm"}:  # which starts from an SFT student
        start = paths[name][paths[name]["epoch"] == 0].reset_index(drop=True)
        pd.testing.assert_frame_equal(start, paths["sft"][paths["sft"]["epoch"] == 0])
    last = [path.loc[path["step"] == 6, "nats_per_token"].tolist() for path in paths.values()]
    # where the teacher's greedy text and its best beam are the same, so are their students
    teacher = run_of(folder, "teacher")
    texts = [teacher_output.text(teacher, load_rows(teacher.profile, 0), how) for how in
             ("teacher", "teacher_beam")]  # fmt: skip
    assert len(set(map(tuple, last))) == len(ALL) - (texts[0] == texts[1]), "two ended the same"


def watch(monkeypatch):
    """What each call of `trainer.fit` is given: the weights before it, settings, rows read, log."""
    whole, calls = trainer.fit, []

    def fit(model, source, minimized, settings, **named):
        before = {name: one.clone() for name, one in model.state_dict().items()}
        call = {"before": before, "settings": settings, "log": named["log"].name, "rows": set()}
        calls.append(call | {"noted": "on_note" in named})

        def read(reader, epoch):
            for step in source(reader, epoch):
                calls[-1]["rows"] |= {row.split("#")[0] for batch in step for row in batch.row_id}
                yield step

        return whole(model, read, minimized, settings, **named)

    monkeypatch.setattr(stages.trainer, "fit", fit)
    return calls


@pytest.mark.parametrize("epochs", [1, 3])
def test_minillm_starts_from_the_sft_student_of_so_many_epochs(copy, monkeypatch, epochs):
    run = run_of(copy, "minillm").changing(sft_epochs=epochs)
    sft = run_of(copy, "sft", ("epochs = 2", f"epochs = {epochs}"))
    rows, calls = load_rows(run.profile, 0), watch(monkeypatch)
    shutil.rmtree(run.folder, ignore_errors=True)
    folder = make(run)
    first, second = calls
    assert first["settings"] == sft.settings and second["settings"] == run.settings
    assert first["settings"].lr == 2e-3 != second["settings"].lr  # SFT's own
    assert (first["log"], second["log"]) == ("log-start.jsonl", "log.jsonl")
    assert not first["noted"] and second["noted"]
    logged = [
        json.loads((folder / one["log"]).read_text("utf-8").splitlines()[-1]) for one in calls
    ]
    assert [(one["epoch"], one["step"]) for one in logged] == [(epochs - 1, 3 * epochs), (1, 6)]
    plain = stages.train(sft, rows, sft.settings, copy / "log.jsonl").state_dict()
    for name, weight in plain.items():
        torch.testing.assert_close(second["before"][name], weight, atol=1e-6, rtol=1e-4)
    moved = [(plain[name] - one).abs().max() for name, one in first["before"].items()]
    assert max(map(float, moved)) > 1e-3


def test_minillm_is_noted_from_its_start_on(folder):
    columns = ["row_id", "nats_per_token"]
    sft, own = (
        pd.read_parquet(run_of(folder, name).folder / "path.parquet") for name in ("sft", "minillm")
    )
    after, start = sft[sft["epoch"] == 1], own[own["epoch"] == 0]
    both = start[columns].merge(after[columns], on="row_id")
    assert len(both) == len(start) == len(after) > 0
    assert both["nats_per_token_x"].tolist() == pytest.approx(
        both["nats_per_token_y"].tolist(), abs=1e-4
    )
    before = sft[sft["epoch"] == 0]["nats_per_token"].mean()
    assert start["nats_per_token"].mean() < before - 0.01


def test_without_epochs_of_sft_minillm_starts_from_the_base(copy):
    run = run_of(copy, "minillm").changing(sft_epochs=0)
    folder = make(run)
    assert folder.name == "minillm-small-sft_epochs=0"
    assert not (folder / "log-start.jsonl").exists() and (folder / "log.jsonl").exists()
    own, sft = (
        pd.read_parquet(one / "path.parquet") for one in (folder, run_of(copy, "sft").folder)
    )
    start, base = (one[one["epoch"] == 0].reset_index(drop=True) for one in (own, sft))
    pd.testing.assert_frame_equal(start, base)


def test_a_start_reads_no_row_that_the_run_leaves_out(copy, monkeypatch):
    whole = run_of(copy, "minillm")
    rows, calls = load_rows(whole.profile, 0), watch(monkeypatch)
    members = {one.row_id for one in rows.presented}
    left = set(sorted(members)[:4])
    folder = stages.make(whole.without(left, "a"), rows)
    assert [one["rows"] for one in calls] == [members - left] * 2
    assert {file.name for file in folder.glob("*.jsonl")} == {"log-start.jsonl", "log.jsonl"}


def test_checkpoint_gives_the_numbers_in_its_table(folder):
    run = run_of(folder, "sft")
    rows, model = load_rows(run.profile, 0), checkpoints.load_model(run.checkpoint)
    again = meter.meter(model, list(rows.examples.values()), pad_id=rows.pad_id, batch=64)
    kept = pd.read_parquet(run.folder / "tuples.parquet").set_index("row_id")["nats_per_token"]
    assert kept[again["row_id"]].tolist() == pytest.approx(again["nats_per_token"].tolist())


def test_check_holds_a_checkpoint_against_its_tables(copy):
    run = run_of(copy, "sft")
    rows = load_rows(run.profile, 0)
    stages.check([run], rows)
    path = pd.read_parquet(run.folder / "path.parquet")
    runs.write_table(run.folder / "path.parquet", path[path["epoch"] != 1])
    with pytest.raises(AssertionError, match="SFT, small: epochs are missing"):
        stages.check([run], rows)
    shutil.rmtree(run.checkpoint)
    shutil.copytree(run_of(copy, "rkld").checkpoint, run.checkpoint)
    with pytest.raises(AssertionError, match="SFT, small: the checkpoint is not the one"):
        stages.check([run], rows)


# --- resume


def test_second_call_returns_at_once(folder, forbid, capsys):
    forbid(trainer, "fit")
    forbid(checkpoints, "load_model")
    for method in DONE:
        run = run_of(folder, method)
        assert make(run) == run.folder
    assert capsys.readouterr().out.count("done before") == len(DONE)


def test_a_teacher_that_gives_targets_is_not_loaded_a_second_time_to_write(folder):
    run = run_of(folder, "minillm")
    rows = load_rows(run.profile, 0)
    targets = teacher_output.targets(run, rows)
    assert stages.materials(run, rows, run.settings, targets).teacher() is targets.model


def test_unfinished_run_is_redone_bit_by_bit(copy, one_thread):
    run = unfinished(run_of(copy, "rkld"))
    shutil.rmtree(run.folder)
    make(run)
    names = ("path.parquet", "checkpoint/config.json", "checkpoint/model.safetensors")
    before = {name: (run.folder / name).read_bytes() for name in names}
    tuples = pd.read_parquet(run.folder / "tuples.parquet")
    unfinished(run)
    (run.folder / "path.parquet").write_text("half")
    make(run)
    assert {name: (run.folder / name).read_bytes() for name in names} == before
    again = pd.read_parquet(run.folder / "tuples.parquet")
    pd.testing.assert_frame_equal(again, tuples, check_exact=True)


MAKER = """
import sys
from pathlib import Path
import own_data
from kdlib.distill import trainer
from kdlib.study import stages
from kdlib.study.run import load_rows
fit = trainer.fit
def watched(*args, **named):
    print("trains", flush=True)
    return fit(*args, **named)
trainer.fit = watched
run = own_data.run_of(Path(sys.argv[1]), "sft")
rows = load_rows(run.profile, 0)
print("ready", flush=True)
stages.make(run, rows)
"""


def test_two_processes_train_the_same_run_once(copy):
    run = unfinished(run_of(copy, "sft"))
    command = [sys.executable, "-c", MAKER, str(copy)]
    how = {"stdout": subprocess.PIPE, "text": True, "env": os.environ | {"PYTHONPATH": TESTS}}
    with runs.locked(run.folder):
        both = [subprocess.Popen(command, **how) for _ in range(2)]
        assert [one.stdout.readline() for one in both] == ["ready\n"] * 2
    text = "".join(one.communicate()[0] for one in both)
    assert [one.returncode for one in both] == [0, 0]
    assert text.count("trains") == 1 and runs.done(run.folder, run.identity)


# --- what a method may read


def test_seq_kd_reads_the_teachers_text_and_never_its_probabilities(copy, forbid):
    for kind in (Live, Stored, Remembered):
        forbid(kind, "logits")
    for method in ALL:
        run = run_of(copy, method)
        shutil.rmtree(run.folder)
        if method in BLIND:
            make(run)
        else:
            with pytest.raises(AssertionError, match="must not be called"):
                make(run)


def test_a_student_of_the_teachers_text_reads_that(folder):
    run = run_of(folder, "seq_kd")
    rows = load_rows(run.profile, 0)
    of_rows = {one.row_id: one.response for one in rows.presented}
    written = {one.row_id: one.response for one in teacher_output.text(run.teacher, rows)}
    assert written.keys() == of_rows.keys() and written != of_rows
    for method, wanted in (("seq_kd", written), ("sft", of_rows)):
        run = run_of(folder, method)
        source = stages.methods.text(run.recipe.text).source
        materials = stages.materials(run, rows, run.settings, None)
        for (batch,) in source(materials)(None, 0):
            assert batch.targets.tolist() == [i for row in batch.row_id for i in wanted[row]]


def test_ablations_have_folders_of_their_own(copy):
    run = run_of(copy, "gkd")
    changed = run.changing(student_share=0)
    assert make(changed).name == "gkd-small-student_share=0"
    assert make(changed) == changed.folder != run.folder
    assert changed.coefficients == {"beta": 0.5, "student_share": 0}
    with pytest.raises(KdlibError, match="GKD has no coefficient 'alpha'; it has: beta, student"):
        make(run.changing(alpha=0.1))


# --- bad input


def test_infinite_loss_keeps_the_last_good_model(copy, monkeypatch):
    run = unfinished(run_of(copy, "sft", ("small = 2e-3", "small = 1e-1")))
    whole, calls = objectives.losses.cross_entropy, []

    def breaks(logits, labels):
        calls.append(1)
        return whole(logits, labels) * (torch.nan if len(calls) > 3 else 1.0)

    monkeypatch.setattr(objectives.losses, "cross_entropy", breaks)
    with pytest.raises(KdlibError, match="SFT, small: loss nan.* at step 4, learning rate 0.1, ro"):
        make(run)
    kept = checkpoints.load_model(run.folder / "last-good")
    assert all(torch.isfinite(weight).all() for weight in kept.parameters())
    assert runs.read_manifest(run.folder) is None


def test_sft_before_a_method_that_breaks_off_keeps_the_model_too(copy, monkeypatch):
    run = unfinished(run_of(copy, "minillm"))
    monkeypatch.setattr(
        objectives.losses, "cross_entropy", lambda logits, labels: logits[:, 0] * torch.nan
    )
    with pytest.raises(trainer.NotFinite, match="SFT before: loss nan.* at step 1"):
        make(run)
    assert checkpoints.load_model(run.folder / "last-good")


def test_unknown_method_and_general_text_that_is_not_there(copy):
    with pytest.raises(KdlibError, match="'gdk' is no method; known: sft, .*, mine"):
        make(run_of(copy, "gdk"))
    with pytest.raises(KdlibError, match="no general text; set general_text = 0 in methods.mini"):
        make(run_of(copy, "minillm").changing(general_text=1))


def test_different_tokenizers_are_refused_by_name(copy):
    save_base(copy / "large", 16, tokens.train_tokenizer(["quite other words"] * 3, 280))
    run = unfinished(run_of(copy, "teacher"))
    with pytest.raises(KdlibError, match="/teacher' and student '.*/large' have different token"):
        make(run)


def spoil_truncate(base):
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def spoil_foreign(base):
    save_file({"foo": torch.zeros(3)}, base / "model.safetensors", metadata={"format": "pt"})


def spoil_pickle(base):
    (base / "model.safetensors").unlink()
    torch.save({"transformer.wte.weight": torch.zeros(3)}, base / "pytorch_model.bin")


def spoil_config(base):
    (base / "config.json").write_text('{"model_type": "gpt')


def spoil_tokenizer(base):
    (base / "tokenizer.json").write_text("{")


def spoil_all(base):
    shutil.rmtree(base)


def spoil_positions(base):
    save_base(base, 8, positions=95)


def spoil_vocabulary(base):
    save_base(base, 8)
    model = checkpoints.load_model(base)
    model.resize_token_embeddings(290)
    model.save_pretrained(base)


def spoil_head(base):
    shutil.rmtree(base)
    save_scaled(base, toy.tokenizer())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_truncate, "no usable model at .*/small'"),
        (spoil_foreign, "no usable model at .*/small': 17 weights are missing"),
        (spoil_pickle, "no usable model at .*/small'"),
        (spoil_config, "no .* at .*/small'"),
        (spoil_tokenizer, "no usable tokenizer at .*/small'"),
        (spoil_all, "no usable tokenizer at 'small'"),
        (spoil_positions, "/small' reads 95 tokens, fewer than tokens.max_length = 96"),
        (spoil_vocabulary, r"/small' give \d+ and 290 logits"),
        (spoil_head, "/small' changes its logits behind the LM head .*; take another family"),
    ],
)
def test_bad_checkpoints_are_refused_by_name(copy, forbid, spoil, message):
    unfinished(run_of(copy, "sft"))
    spoil(copy / "small")
    forbid(torch, "load")
    with pytest.raises(KdlibError, match=message) as error:
        make(run_of(copy, "sft"))
    assert len(str(error.value).splitlines()) <= 2


def test_missing_teacher_says_what_makes_it(copy):
    run = run_of(copy, "word_kd")
    for one in (run, run.teacher):
        shutil.rmtree(one.folder)
    with pytest.raises(KdlibError, match="run notebook 02_teacher first"):
        make(run)
    assert runs.read_manifest(run.folder) is None


def test_full_disk_ends_with_one_message_and_can_be_repeated(copy, monkeypatch):
    run = unfinished(run_of(copy, "sft"))

    def full(*_args, **_named):
        raise OSError(errno.ENOSPC, "No space left on device")

    for place, name in ((runs.os, "replace"), (tokens.PreTrainedTokenizerFast, "save_pretrained")):
        with monkeypatch.context() as patch, pytest.raises(KdlibError, match="the disk is full"):
            patch.setattr(place, name, full)
            make(run)
        assert runs.read_manifest(run.folder) is None and not list(run.folder.rglob(".*"))
    make(run)
    assert runs.done(run.folder, run.identity)
