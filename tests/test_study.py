"""The stages on a CSV file and GPT-2 directories given by path, as a user's own data would run."""

import errno
import shutil

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from kdlib import runs
from kdlib.config.methods import METHODS, PAPER
from kdlib.config.profile import SIZES
from kdlib.config.sections import ModelSettings
from kdlib.distill.teacher_targets import Live, Remembered, Stored
from kdlib.errors import KdlibError
from kdlib.model import checkpoints, tokens
from kdlib.study import stages
from kdlib.study.run import Lab, open_lab

WIDTHS = dict(zip(SIZES, (32, 24, 16, 8), strict=True))
WORDS = ["red", "green", "blue", "old", "new", "pump", "valve", "rotor"]
DONE = [("base", "small"), ("teacher", "teacher"), *((method, "small") for method in METHODS)]
PROFILE = """
seeds = [0]
[data]
source = "file"
path = "{folder}/rows.csv"
columns = {{ instruction = "question", response = "answer" }}
pool = 24
members = 12
held_out = 8
[tokens]
max_prompt = 32
max_length = 64
[models]
teacher = {{ path = "{folder}/teacher" }}
large = {{ path = "{folder}/large" }}
middle = {{ path = "{folder}/middle" }}
small = {{ path = "{folder}/small" }}
[teacher]
epochs = 3
lr = 1e-2
batch = 4
warmup = 0
precision = "fp32"
[student]
epochs = 2
lr = 1e-3
batch = 4
warmup = 0
precision = "fp32"
[methods]
sft = {{ lr = {{ large = 1e-3, middle = 1e-3, small = 2e-3 }} }}
word_kd = {{ lr = {{ large = 1e-3, middle = 1e-3, small = 1e-3 }} }}
seq_kd = {{ lr = {{ large = 1e-3, middle = 1e-3, small = 1e-3 }} }}
rkld = {{ lr = {{ large = 1e-3, middle = 1e-3, small = 1e-3 }} }}
{further}
[measure]
rouge_rows = 3
sampled_rows = 2
sample_seeds = [1, 2]
"""

RATES = "lr = { large = 1e-3, middle = 1e-3, small = 1e-3 }"
OWN = {"minillm": ", coefficients = { rollouts = 12, sft_epochs = 1, general_text = 0 }"}
FURTHER = "\n".join(
    f"{name} = {{ {RATES}{OWN.get(name, '')} }}" for name in METHODS if name not in PAPER
)


def make_folder(folder):
    """Rows, one GPT-2 directory per size, and the profile that names them."""
    dice = torch.Generator().manual_seed(0)
    picks = [torch.randint(8, (3 + i % 6,), generator=dice).tolist() for i in range(24)]
    rows = [
        {"question": f"say {i}", "answer": " ".join([*(WORDS[j] for j in pick), str(i)])}
        for i, pick in enumerate(picks)
    ]
    pd.DataFrame(rows).to_csv(folder / "rows.csv", index=False)
    texts = [tokens.prompt_text(row["question"], "", "short") + row["answer"] for row in rows]
    tokenizer = tokens.train_tokenizer(texts, 300)
    for size, width in WIDTHS.items():
        save_base(folder / size, tokenizer, width)
    (folder / "own.toml").write_text(PROFILE.format(folder=folder, further=FURTHER))
    return folder


def save_base(folder, tokenizer, width, positions=64):
    """What `save_pretrained` writes of a GPT-2 that was never heard of here."""
    shape = ModelSettings(layers=1, heads=1, width=width)
    checkpoints.save_model(
        checkpoints.make_model(shape, tokenizer, positions, 0), tokenizer, folder
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder after one run of every method."""
    folder = make_folder(tmp_path_factory.mktemp("own"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_ROOT", str(folder))
        lab = open_lab(str(folder / "own.toml"), 0)
        for method, size in DONE:
            stages.run(lab, method, size)
    return folder


@pytest.fixture
def folder(finished, monkeypatch):
    """The finished folder, to be read only."""
    monkeypatch.setenv("KDLIB_ROOT", str(finished))
    return finished


@pytest.fixture
def copy(finished, tmp_path, monkeypatch):
    """A copy that a test may break; its profile names the copy's files."""
    target = shutil.copytree(finished, tmp_path / "own")
    (target / "own.toml").write_text(PROFILE.format(folder=target, further=FURTHER))
    monkeypatch.setenv("KDLIB_ROOT", str(target))
    return target


def lab_of(folder, changed=()):
    """The lab of the folder's profile, with (old, new) texts exchanged in it."""
    text = (folder / "own.toml").read_text()
    for old, new in changed:
        assert old in text
        text = text.replace(old, new)
    (folder / "changed.toml").write_text(text)
    lab = open_lab(str(folder / "changed.toml"), 0)
    return Lab(lab.profile.model_copy(update={"name": "own"}), 0)


def forbid(*_args, **_named):
    raise AssertionError("this must not be called")


# --- what a run leaves


@pytest.mark.parametrize(("method", "size"), DONE)
def test_a_run_leaves_its_tables(folder, method, size):
    lab = lab_of(folder)
    run = lab.run_dir(method, size)
    manifest = runs.read_manifest(run)
    expected = {"run_id": lab.run_id(method, size), "method": method, "size": size, "seed": 0}
    assert expected.items() <= manifest.items() and manifest["data_hash"]
    tuples = pd.read_parquet(run / "tuples.parquet")
    assert sorted(tuples["row_id"]) == sorted(lab.rows["row_id"])
    assert tuples["split"].value_counts().to_dict() == {"member": 12, "held_out": 8}
    assert tuples["nats_per_token"].gt(0).all() and tuples["prefix"].le(tuples["length"]).all()
    answers = pd.read_parquet(run / "answers.parquet")
    counts = answers.groupby(["split", "decoding"]).size().unstack()
    assert counts["greedy"].tolist() == [3, 3]
    if method != "base":
        assert counts["sampled"].tolist() == [2 * 2, 2 * 2]
    assert answers[["rouge1", "rouge2", "rougeL"]].stack().between(0, 1).all()
    assert (run / "path.csv").is_file() == (method != "base")
    assert not [file.name for file in run.rglob(".*")]


def test_methods_share_the_start_the_rows_and_the_steps(folder):
    lab = lab_of(folder)
    paths = {name: pd.read_csv(lab.run_dir(name, "small") / "path.csv") for name in METHODS}
    for path in paths.values():
        assert path["step"].unique().tolist() == [0, 3, 6]
        start = path[path["epoch"] == 0].reset_index(drop=True)
        pd.testing.assert_frame_equal(start, paths["sft"][paths["sft"]["epoch"] == 0])
    last = [path["nats_per_token"].tolist()[-2:] for path in paths.values()]
    # the teacher knows these few rows so well that its greedy text and its best beam are the same
    same = stages.teacher_text(lab) == stages.teacher_text(lab, "teacher_beam")
    assert len(set(map(tuple, last))) == len(METHODS) - same, "two methods ended the same"


def test_checkpoint_gives_the_numbers_in_its_table(folder):
    lab = lab_of(folder)
    run = lab.run_dir("sft", "small")
    model = checkpoints.load_model(run / "checkpoint")
    again = stages.measure.meter(model, list(lab.examples.values()), pad_id=0, batch=64)
    kept = pd.read_parquet(run / "tuples.parquet").set_index("row_id")["nats_per_token"]
    assert kept[again["row_id"]].tolist() == pytest.approx(again["nats_per_token"].tolist())


# --- resume


def test_second_call_returns_at_once(folder, monkeypatch, capsys):
    lab = lab_of(folder)
    monkeypatch.setattr(trainer, "fit", forbid)
    monkeypatch.setattr(checkpoints, "load_model", forbid)
    for method, size in DONE:
        assert stages.run(lab, method, size) == lab.run_dir(method, size)
    assert capsys.readouterr().out.count("done before") == len(DONE)


@pytest.mark.parametrize(
    ("changed", "redone"),
    [
        (("small = 2e-3", "small = 3e-3"), {"sft"}),
        (("epochs = 3", "epochs = 4"), {"teacher", *METHODS} - {"sft"}),
        (("epochs = 2", "epochs = 1"), set(METHODS)),
        (("rollouts = 12", "rollouts = 8"), {"minillm"}),
        (("rouge_rows = 3", "rouge_rows = 4"), {method for method, _ in DONE}),
        (("members = 12", "members = 13"), {method for method, _ in DONE}),
    ],
)
def test_changed_settings_redo_what_depends_on_them(folder, changed, redone):
    lab = lab_of(folder, [changed])
    done = {v for v, s in DONE if runs.done(lab.run_dir(v, s), lab.run_id(v, s))}
    assert done == {method for method, _ in DONE} - redone


def test_changed_data_and_seed_redo_everything(copy):
    lab = lab_of(copy)
    other = Lab(lab.profile, 1)
    assert all(lab.run_id(v, s) != other.run_id(v, s) for v, s in DONE)
    with (copy / "rows.csv").open("a") as lines:
        lines.write("one more,red rotor\n")
    more = lab_of(copy, [("pool = 24", "pool = 25")])
    assert all(lab.run_id(v, s) != more.run_id(v, s) for v, s in DONE)


def test_unfinished_run_is_redone_bit_by_bit(copy):
    lab = lab_of(copy)
    run = lab.run_dir("rkld", "small")
    before = {name: (run / name).read_bytes() for name in ("path.csv", "checkpoint/config.json")}
    weights = (run / "checkpoint" / "model.safetensors").read_bytes()
    tuples = pd.read_parquet(run / "tuples.parquet")
    (run / runs.MANIFEST).unlink()
    (run / "path.csv").write_text("half")
    stages.run(lab, "rkld", "small")
    assert {name: (run / name).read_bytes() for name in before} == before
    assert (run / "checkpoint" / "model.safetensors").read_bytes() == weights
    pd.testing.assert_frame_equal(pd.read_parquet(run / "tuples.parquet"), tuples, check_exact=True)


# --- what a method may read


def test_seq_kd_reads_the_teachers_text_and_never_its_probabilities(copy, monkeypatch):
    lab = lab_of(copy)
    settings = lab.profile.train_settings("seq_kd", "small")
    written = {example.row_id: example.response for example in stages.teacher_text(lab)}
    rows = {example.row_id: example.response for example in lab.presented}
    assert written.keys() == rows.keys() and written != rows
    for text, wanted in (("teacher", written), ("rows", rows)):
        for (batch,) in stages.source(lab, text, settings, {})(None, 0):
            expected = [token for row in batch.row_id for token in wanted[row]]
            assert batch.targets.tolist() == expected
    for kind in (Live, Stored, Remembered):
        monkeypatch.setattr(kind, "logits", forbid)
    for method in METHODS:
        shutil.rmtree(lab.run_dir(method, "small"))
    blind = ("sft", "seq_kd", "seq_kd_beam", "seq_kd_sampled")
    for method in blind:
        stages.run(lab, method, "small")
    for method in [name for name in METHODS if name not in blind]:
        with pytest.raises(AssertionError, match="must not be called"):
            stages.run(lab, method, "small")


def test_teacher_text_is_written_once(folder, monkeypatch):
    lab = lab_of(folder)
    first = stages.teacher_text(lab)
    monkeypatch.setattr(checkpoints, "load_model", forbid)
    assert stages.teacher_text(lab) == first
    assert all(example.row_id in lab.examples for example in first)


def test_students_share_one_store_and_ablations_have_folders_of_their_own(copy, monkeypatch):
    lab = lab_of(copy)
    teacher = lab.run_dir("teacher", "teacher")
    assert runs.read_manifest(teacher / "targets")["positions"] == sum(
        len(one.response) for one in lab.presented
    )
    shutil.rmtree(lab.run_dir("off_policy_rkl", "small"))
    monkeypatch.setattr(stages, "load_teacher", forbid)  # the store of word-level KD serves it too
    stages.run(lab, "off_policy_rkl", "small")
    monkeypatch.undo()
    monkeypatch.setenv("KDLIB_ROOT", str(copy))
    folder = stages.run(lab, "gkd", "small", student_share=0)
    assert folder.name == "gkd-small-student_share=0" and folder != lab.run_dir("gkd", "small")
    assert stages.run(lab, "gkd", "small", student_share=0) == folder
    with pytest.raises(KdlibError, match="GKD has no coefficient 'alpha'; it has: beta, student"):
        stages.run(lab, "gkd", "small", alpha=0.1)


# --- bad input


def test_infinite_loss_keeps_the_last_good_model(copy, monkeypatch):
    lab = lab_of(copy, [("small = 2e-3", "small = 1e-1")])
    whole, calls = stages.objectives.losses.cross_entropy, []

    def breaks(logits, labels):
        calls.append(1)
        return whole(logits, labels) * (torch.nan if len(calls) > 3 else 1.0)

    monkeypatch.setattr(stages.objectives.losses, "cross_entropy", breaks)
    with pytest.raises(KdlibError, match="sft small: loss nan.* at step 4, learning rate 0.1, row"):
        stages.run(lab, "sft", "small")
    kept = checkpoints.load_model(lab.run_dir("sft", "small") / "last-good")
    assert all(torch.isfinite(weight).all() for weight in kept.parameters())
    assert runs.read_manifest(lab.run_dir("sft", "small")) is None


def test_method_without_rates_and_general_text_that_is_not_there(copy):
    lab = lab_of(copy, [(f"gkd = {{ {RATES} }}", "")])
    with pytest.raises(KdlibError, match="has no methods.gkd; add it with its lr per size, or"):
        stages.run(lab, "gkd", "small")
    with pytest.raises(KdlibError, match="no general text; set general_text = 0 in methods.mini"):
        stages.run(lab, "minillm", "small", general_text=1)


def test_different_tokenizers_are_refused_by_name(copy):
    other = tokens.train_tokenizer(["quite other words"] * 3, 280)
    save_base(copy / "middle", other, 16)
    (copy / "data" / "runs" / "own" / "seed-0" / "teacher-teacher" / runs.MANIFEST).unlink()
    with pytest.raises(KdlibError, match="/teacher' and student '.*/middle' have different token"):
        stages.run(lab_of(copy), "teacher", "teacher")


def test_padding_token_of_its_own_is_not_used(copy):
    tokenizer = tokens.load_tokenizer(copy / "small")
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == len(tokenizer) - 1  # beyond the model's vocabulary
    tokenizer.save_pretrained(copy / "padded")
    loaded = tokens.load_tokenizer(copy / "padded")
    assert loaded.pad_token_id == loaded.eos_token_id == tokenizer.eos_token_id


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
    save_base(base, tokens.load_tokenizer(base), 8, positions=63)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_truncate, "no usable model at .*/small'"),
        (spoil_foreign, "no usable model at .*/small': weights are missing"),
        (spoil_pickle, "no usable model at .*/small'"),
        (spoil_config, "no .* at .*/small'"),
        (spoil_tokenizer, "no tokenizer at .*/small'"),
        (spoil_all, "no .* at .*/small'"),
        (spoil_positions, "/small' reads 63 tokens, fewer than tokens.max_length = 64"),
    ],
)
def test_bad_checkpoints_are_refused_by_name(copy, monkeypatch, spoil, said):
    (copy / "data" / "runs" / "own" / "seed-0" / "sft-small" / runs.MANIFEST).unlink()
    spoil(copy / "small")
    monkeypatch.setattr(torch, "load", forbid)
    with pytest.raises(KdlibError, match=said) as error:
        stages.run(lab_of(copy), "sft", "small")
    assert len(str(error.value).splitlines()) <= 2


def test_missing_teacher_says_what_makes_it(copy):
    lab = lab_of(copy)
    for name in ("teacher", "teacher"), ("word_kd", "small"):
        shutil.rmtree(lab.run_dir(*name))
    with pytest.raises(KdlibError, match="run notebook 02_teacher first"):
        stages.run(lab, "word_kd", "small")
    assert runs.read_manifest(lab.run_dir("word_kd", "small")) is None


def test_full_disk_ends_with_one_message_and_can_be_repeated(copy, monkeypatch):
    lab = lab_of(copy)
    run = lab.run_dir("sft", "small")
    (run / runs.MANIFEST).unlink()

    def full(*_args, **_named):
        raise OSError(errno.ENOSPC, "No space left on device")

    for place, name in ((runs.os, "replace"), (tokens.PreTrainedTokenizerFast, "save_pretrained")):
        with monkeypatch.context() as patch, pytest.raises(KdlibError, match="the disk is full"):
            patch.setattr(place, name, full)
            stages.run(lab, "sft", "small")
        assert runs.read_manifest(run) is None and not list(run.rglob(".*"))
    stages.run(lab, "sft", "small")
    assert runs.done(run, lab.run_id("sft", "small"))
