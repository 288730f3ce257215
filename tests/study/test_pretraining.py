"""Tokenizer and base models are made once, shared by all seeds, and made again after a change."""

from pathlib import Path

import own_data
import pandas as pd
import pytest

from kdlib import runs
from kdlib.config.profile import load_profile
from kdlib.config.sections import ModelSettings
from kdlib.distill import trainer
from kdlib.errors import KdlibError
from kdlib.model import checkpoints
from kdlib.study import pretraining
from kdlib.study.run import BASE, Run, load, load_rows, load_tokenizer, tokenizer_dir

TINY = {"layers": 1, "heads": 1, "width": 8}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The smoke profile with tiny models of two sizes, prepared in a folder of its own."""
    profile = load_profile("smoke")
    shape = profile.models["small"].model_copy(update=TINY)
    fewer = {
        "models": {"teacher": shape.model_copy(update={"width": 16}), "tiny": shape},
        "pretrain": profile.pretrain.model_copy(update={"tokens": 9000}),
        "data": profile.data.model_copy(update={"packages": ("seaborn",), "pool": 60}),
    }
    profile = profile.model_copy(update=fewer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_ROOT", str(tmp_path_factory.mktemp("bases")))
        pretraining.prepare(profile)
        yield profile


def test_what_is_prepared(prepared):
    tokenizer = load_tokenizer(prepared)
    assert len(tokenizer) <= prepared.tokens.vocabulary and tokenizer.pad_token_id is not None
    widths = {}
    for size in prepared.models:
        model = load(Run(prepared, 0, BASE, size))
        widths[size] = model.config.n_embd
        assert model.config.vocab_size == len(tokenizer)
        assert model.config.max_position_embeddings == prepared.tokens.max_length
        assert (Run(prepared, 0, BASE, size).checkpoint / "log.jsonl").is_file()
        assert runs.read_manifest(Run(prepared, 0, BASE, size).checkpoint)["size"] == size
    assert widths == {"teacher": 16, "tiny": 8}
    assert load_rows(prepared, 1).split("member")


def test_second_call_makes_nothing(prepared, forbid):
    forbid(trainer, "fit")
    forbid(pretraining.tokens, "train_tokenizer")
    pretraining.prepare(prepared)


def test_what_changed_is_made_again(prepared, monkeypatch):
    fitted = []
    monkeypatch.setattr(trainer, "fit", lambda *_, **named: fitted.append(named["name"]))
    wider = {**prepared.models, "tiny": prepared.models["tiny"].model_copy(update={"width": 12})}
    pretraining.prepare(prepared.model_copy(update={"models": wider}))
    assert fitted == ["pretrain tiny"]
    other = {**wider, "tiny": prepared.models["tiny"].model_copy(update={"lr": 1e-3, "epochs": 7})}
    fitted.clear()  # rate and length of its students
    monkeypatch.setattr(checkpoints, "save_model", lambda *_: None)
    pretraining.prepare(prepared.model_copy(update={"models": other}))
    assert fitted == ["pretrain tiny"]  # the wider one lies there now
    pretraining.prepare(prepared.model_copy(update={"models": other}))
    assert len(fitted) == 1
    for size in prepared.models:
        (tokenizer_dir(prepared).parent / size / runs.MANIFEST).unlink()
    fitted.clear()
    pretraining.prepare(prepared)
    assert fitted == ["pretrain teacher", "pretrain tiny"]


def test_general_text_in_blocks(prepared):
    blocks = pretraining.general_blocks(prepared, load_tokenizer(prepared))
    assert {len(one.response) for one in blocks} == {pretraining.BLOCK}
    assert all(not one.prompt for one in blocks)


def test_data_without_general_text(folder):
    profile = own_data.profile_of(folder)
    pretraining.prepare(profile)  # models by path: there is nothing to make
    with pytest.raises(KdlibError, match="no general text; set general_text = 0 in methods.mini"):
        pretraining.general_blocks(profile, None)
    shapes = dict.fromkeys(profile.models, load_profile("smoke").models["small"])
    with pytest.raises(
        KdlibError,
        match="profile 'own': its data has no general text; models made here need it",
    ):
        pretraining.prepare(profile.model_copy(update={"models": shapes}))


@pytest.fixture(scope="module")
def cut(prepared, tmp_path_factory):
    """A profile whose students are cut from a teacher by path; it reads the prepared folder."""
    folder, tokenizer = tmp_path_factory.mktemp("whole") / "teacher", load_tokenizer(prepared)
    shape = ModelSettings(layers=4, heads=2, width=16)
    whole = checkpoints.make_model(shape, tokenizer, prepared.tokens.max_length, seed=1)
    checkpoints.save_model(whole, tokenizer, folder)
    models = {"teacher": ModelSettings(path=str(folder))}
    models |= {name: ModelSettings(layers=layers) for name, layers in (("three", 3), ("one", 1))}
    healing = prepared.pretrain.model_copy(update={"mix": 0.5, "apart": 4})
    return prepared.model_copy(update={"models": models, "pretrain": healing, "name": "cut"})


def test_students_are_cut_from_the_teacher_and_healed(cut, forbid):
    pretraining.prepare(cut)
    costs = pd.read_csv(runs.runs_dir("cut") / BASE / "layers" / "layers.csv")
    assert costs["layer"].tolist() == [0, 1, 2, 3] and costs["nats_without"].is_unique
    cheapest = costs["nats_without"].idxmin()
    made = {size: Run(cut, 0, BASE, size) for size in cut.sizes}
    facts = {size: runs.read_manifest(run.checkpoint) for size, run in made.items()}
    assert facts["three"]["layers"] == [one for one in range(4) if one != cheapest]
    assert facts["three"]["nats_cut"] == pytest.approx(costs["nats_without"].min(), abs=1e-4)
    assert len(facts["one"]["layers"]) == 1
    for size, layers in (("three", 3), ("one", 1)):
        assert load(made[size]).config.num_hidden_layers == layers
        assert facts[size]["nats_healed"] < facts[size]["nats_cut"] - 0.01
    whole = load(Run(cut, 0, BASE, "teacher"))
    assert whole.config.num_hidden_layers == 4  # it was not changed
    forbid(trainer, "fit")
    forbid(pretraining.pruning, "without")
    pretraining.prepare(cut)


def test_another_teacher_makes_other_students(cut):
    before = {size: Run(cut, 0, BASE, size).identity for size in cut.models}
    Path(cut.models["teacher"].path, "model.safetensors").touch()
    assert all(Run(cut, 0, BASE, size).identity != before[size] for size in cut.models)


def test_more_layers_than_the_teacher_has(cut):
    models = cut.models | {"five": ModelSettings(layers=4)}
    deeper = cut.model_copy(update={"models": models})
    with pytest.raises(KdlibError, match="models.five: layers = 4, .* model has 4; give fewer"):
        pretraining.prepare(deeper)
    assert not Path(Run(deeper, 0, BASE, "five").checkpoint, "config.json").exists()
