"""The callback in the trainers: its numbers are the audit's, and training is left as it was."""

import copy
import functools
import re
import types

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
import toy
from audits import audit_of, table, unseen, written
from project import ROOT
from torch.testing import assert_close
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

from kdlib import callback
from kdlib.audit import command, gate, policy, summary
from kdlib.callback import MemorizationCallback
from kdlib.config.sections import Template
from kdlib.errors import KdlibError
from kdlib.model import checkpoints, tokens

EPOCHS, STEPS = 20, 4  # and steps of an epoch
OF_PEERS = "ignore:`(is_)?gradient_checkpointing`:FutureWarning"  # TRL and PEFT use the old name
PEER = pytest.mark.filterwarnings(OF_PEERS)
pytestmark = pytest.mark.usefixtures("one_thread")


def members():
    """Few of the toy's rows, so that they are soon known by heart."""
    return table().head(8)


def arguments(folder, kind=TrainingArguments, **more):
    how = {"per_device_train_batch_size": 8, "learning_rate": 1e-2, "num_train_epochs": EPOCHS}
    how |= {"lr_scheduler_type": "constant", "logging_steps": 1, "save_strategy": "no"}
    how |= {"report_to": [], "disable_tqdm": True, "use_cpu": True, "seed": 0}
    return kind(str(folder), **how | more)


def trainer_of(folder, model=None, tokenizer=None, **more):
    lines = [
        {
            "input_ids": [*one.prompt, *one.response],
            "labels": [tokens.IGNORE] * len(one.prompt) + list(one.response),
        }
        for one in toy.examples()[: len(members())] * STEPS
    ]
    tokenizer = tokenizer or copy.deepcopy(toy.tokenizer())
    return Trainer(
        toy.new_model() if model is None else model,
        arguments(folder, **more),
        DataCollatorForSeq2Seq(tokenizer),
        datasets.Dataset.from_list(lines),
        processing_class=tokenizer,
    )


def watched(trainer, **more):
    """The callback on the toy's rows, in its trainer."""
    made = MemorizationCallback(trainer, members(), unseen(), **more)
    trainer.add_callback(made)
    return made


def curve(trainer):
    return [line for line in trainer.state.log_history if "memorized_member" in line]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trainer with the callback, after training."""
    torch.set_num_threads(1)
    trainer = trainer_of(tmp_path_factory.mktemp("trained"))
    watched(trainer)
    trainer.train()
    return trainer


# --- in the trainers --------------------------------------------------------------------------


def test_the_curves_stand_in_the_trainers_own_log(trained):
    line = curve(trained)
    assert [one["step"] for one in line] == [STEPS * epoch for epoch in range(EPOCHS + 1)]
    first, last = line[0], line[-1]
    assert first["memorized_member"] == 0 and last["memorized_member"] > 0.3
    assert last["memorized_held_out"] < 0.1
    assert last["nats_per_token_member"] < first["nats_per_token_member"] / 2
    assert first["membership_auc"] < 0.9 < last["membership_auc"]  # other kinds of rows, too
    for one in line:
        assert one["memorized_excess_lo"] <= one["memorized_excess"] <= one["memorized_excess_hi"]
    own = [one["step"] for one in trained.state.log_history if "loss" in one]
    assert own == list(range(1, STEPS * EPOCHS + 1))  # none of the trainer's own lines is lost


def test_its_numbers_are_those_of_the_audits_gate(trained, tmp_path):
    checkpoints.save_model(trained.model, toy.tokenizer(), tmp_path / "model")
    settings = audit_of(tmp_path / "model", tmp_path, members(), unseen())
    command.run(settings)
    limit = {"measure": "exact_rate", "at": 50, "below": 0.5}
    tallied = summary.tally(command.parts(settings.out))
    found = summary.sampled(tallied), summary.secrets(tallied)
    judged = gate.judged(*found, policy.Policy(level=0.05, limits=(limit,))).iloc[0]
    last = curve(trained)[-1]
    for ours, theirs in (("", "value"), ("_lo", "lo"), ("_hi", "hi")):
        assert last[f"memorized_excess{ours}"] == pytest.approx(judged[theirs], abs=1e-9)
    nats = written(settings.out).groupby("split")["nats_per_token"].mean()
    for split in ("member", "held_out"):
        assert last[f"nats_per_token_{split}"] == pytest.approx(nats[split], rel=1e-4)


def test_training_is_left_as_it_was(tmp_path):
    models = []
    for name in ("with", "without"):
        trainer = trainer_of(tmp_path / name, num_train_epochs=1)
        if name == "with":
            watched(trainer, steps=3)
        trainer.train()
        models.append(trainer)
    assert [one["step"] for one in curve(models[0])] == [0, 3]
    for one, other in zip(*(each.model.parameters() for each in models), strict=True):
        assert torch.equal(one, other)
    losses = [[one["loss"] for one in each.state.log_history if "loss" in one] for each in models]
    assert losses[0] == losses[1] and len(losses[0]) == STEPS


def test_it_stops_once_the_lower_bound_lies_above_the_limit(tmp_path, caplog):
    trainer = trainer_of(tmp_path)
    watched(trainer, limit=0.1)
    trainer.train()
    bounds = [one["memorized_excess_lo"] for one in curve(trainer)]
    assert bounds[-1] > 0.1 and max(bounds[:-1]) <= 0.1 and trainer.state.epoch < EPOCHS
    assert trainer.state.global_step == curve(trainer)[-1]["step"]
    assert "lies above the limit of 0.1 at step" in caplog.text


def test_resumed_training_is_not_measured_at_its_start(trained, tmp_path):
    made = watched(trainer_of(tmp_path))
    made.on_train_begin(None, types.SimpleNamespace(global_step=3), None)
    assert made.trainer.state.log_history == []


def test_each_part_gets_its_mode_back():
    model = toy.new_model().train()
    model.transformer.h[0].eval()
    before = [part.training for part in model.modules()]
    with pytest.raises(KeyError), callback.evaluating(model):
        assert not any(part.training for part in model.modules())
        raise KeyError
    assert [part.training for part in model.modules()] == before and True in before


def numbers(made):
    with callback.evaluating(made.trainer.model):
        return callback.point(made.measured())


@pytest.mark.parametrize(
    ("more", "side", "near"),
    [({}, "left", 1e-6), ({"activation_checkpointing": True}, "right", 1e-6)]
    + [({"bf16": True}, "right", 0.1)],
)
def test_padding_checkpointing_and_precision(trained, tmp_path, more, side, near):
    tokenizer = copy.deepcopy(toy.tokenizer())
    tokenizer.padding_side = side
    model = copy.deepcopy(trained.model).train()
    trainer = trainer_of(tmp_path, model, tokenizer, num_train_epochs=1, learning_rate=0.0, **more)
    watched(trainer)
    trainer.train()
    last = curve(trained)[-1]
    for line in curve(trainer):
        for name in (one for one in line if one.startswith(("memorized", "nats"))):
            assert line[name] == pytest.approx(last[name], abs=near, rel=near), name
    assert len(curve(trainer)) == 2 and tokenizer.padding_side == side


def test_processes_share_the_rows(trained, monkeypatch):
    """Two processes, one after the other: each measures its part, together all rows."""
    made = MemorizationCallback(trained, members(), unseen())
    whole, parts = made.measured(), []
    real = trained.accelerator
    for rank in (0, 1):
        fake = types.SimpleNamespace(process_index=rank, num_processes=2)
        fake.unwrap_model = real.unwrap_model
        monkeypatch.setattr(trained, "accelerator", fake)
        monkeypatch.setattr(callback, "gather_object", lambda own: parts.append(own) or own)
        with pytest.raises(ValueError):  # its part alone is not the table
            made.measured()
    assert [len(one) for one in parts] == [24, 24]
    monkeypatch.setattr(callback, "gather_object", lambda own: parts[0] + parts[1])
    pd.testing.assert_frame_equal(made.measured(), whole, rtol=1e-4)


@PEER
def test_adapters_are_measured_with_what_they_learned(tmp_path):
    peft = pytest.importorskip("peft")
    # a scale of 8 makes of such a small rank what changes the model
    how = {"r": 4, "lora_alpha": 32, "target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}
    model = peft.get_peft_model(toy.new_model(), peft.LoraConfig(**how))
    trainer = trainer_of(tmp_path, model, num_train_epochs=3)
    watched(trainer)
    trainer.train()
    merged = trainer_of(tmp_path / "merged", copy.deepcopy(trainer.model).merge_and_unload())
    found = numbers(watched(merged))
    first, last = curve(trainer)[0], curve(trainer)[-1]
    assert first["nats_per_token_member"] != pytest.approx(last["nats_per_token_member"], rel=0.05)
    for name, value in found.items():
        assert last[name] == pytest.approx(value, abs=1e-3), name
    prompt = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    with pytest.raises(KdlibError, match="learn a prompt"):
        watched(trainer_of(tmp_path, peft.get_peft_model(toy.new_model(), prompt)))


@PEER
def test_in_trls_trainer(tmp_path):
    trl = pytest.importorskip("trl")
    rows = [
        {
            "prompt": tokens.prompt_text(row["instruction"], row["context"], toy.TEMPLATE),
            "completion": row["response"],
        }
        for row in toy.rows()[: len(members())]
    ] * STEPS
    trainer = trl.SFTTrainer(
        toy.new_model(),
        arguments(tmp_path, trl.SFTConfig, bf16=False),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=copy.deepcopy(toy.tokenizer()),
    )
    watched(trainer, limit=0.1)
    trainer.train()
    line = curve(trainer)
    assert line[-1]["memorized_excess_lo"] > 0.1 and trainer.state.epoch < EPOCHS
    # its averages over steps stay in its own lines
    own = [one for one in trainer.state.log_history if "loss" in one]
    assert all("mean_token_accuracy" in one for one in own) and len(own) == line[-1]["step"]
    assert not any("mean_token_accuracy" in one for one in line)


# --- what it takes ----------------------------------------------------------------------------


def test_rows_of_any_kind(tmp_path):
    trainer = trainer_of(tmp_path)
    given = [table(), table().to_dict("records")]
    given.append(datasets.Dataset.from_list(given[1]))
    given.append(table().assign(context=[None if one == "" else one for one in table()["context"]]))
    given.append(table().assign(response=[f" {one}\n" for one in table()["response"]]))
    made = [MemorizationCallback(trainer, rows, unseen()).examples for rows in given]
    assert all(one == made[0] for one in made)
    assert [one.response for one in made[0][:48]] == [one.response for one in toy.examples()]
    assert [one.prompt for one in made[0][:48]] == [one.prompt for one in toy.examples()]
    own = Template(text="{instruction}: ")
    other = MemorizationCallback(trainer, table(), unseen(), template=own, max_length=12)
    assert max(map(len, other.examples)) == 12


@pytest.mark.parametrize(
    ("rows", "more", "said"),
    [
        ([], {}, "members has no rows"),
        (table().drop(columns="response"), {}, "no column 'response', but instruction"),
        ([{"messages": []}], {}, "no column 'instruction', but messages"),
        (
            table().assign(response=[7, *table()["response"][1:]]),
            {},
            "row 1 of members: .* text",
        ),
        (table().assign(instruction=" "), {}, "row 1 of members has an empty instruction"),
        (table().assign(response="a <|endoftext|>"), {}, "end token"),
        (pd.concat([table(), unseen()]), {}, "40 responses stand in members and in held_out"),
        (table(), {"max_length": 4}, "row 1 of members: its prompt has .* of 4 in all"),
        (table(), {"steps": 0}, "steps = 0"),
        (table(), {"limit": 1.5}, "limit = 1.5"),
        (table(), {"template": "rare"}, "template 'rare' is none of short, alpaca"),
    ],
)
def test_bad_input(tmp_path, rows, more, said):
    with pytest.raises(KdlibError, match=said) as error:
        MemorizationCallback(trainer_of(tmp_path), rows, unseen(), **more)
    assert len(str(error.value).splitlines()) == 1


def test_trainers_that_it_cannot_serve(tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path)
    monkeypatch.setattr(trainer, "is_fsdp_enabled", True)
    with pytest.raises(KdlibError, match="split among processes"):
        watched(trainer)
    monkeypatch.undo()
    trainer.processing_class = None
    with pytest.raises(KdlibError, match="no tokenizer .* give it as processing_class"):
        watched(trainer)
    trainer.processing_class = types.SimpleNamespace(tokenizer=toy.tokenizer())  # a processor
    assert watched(trainer).tokenizer is toy.tokenizer()


def test_the_point_by_hand():
    """Members: of 3 different responses 2 come out, one from one of its rows; others: none."""
    frame = pd.DataFrame(
        {
            "length": [4, 4, 60, 9, 5, 5],
            "prefix": [4, 1, 50, 8, 4, 0],
            "nats_per_token": [0.1, 0.3, 0.5, 1.0, 0.9, 2.0],
            "member": [True, True, True, True, False, False],
            "group": ["a", "a", "b", "c", "d", "e"],
        }
    )
    found = callback.point(frame)
    assert found["memorized_member"] == 2 / 3 and found["memorized_held_out"] == 0
    assert found["memorized_excess"] == 2 / 3
    assert_close(np.array(found["nats_per_token_member"]), np.array(1.9 / 4))
    assert found["membership_auc"] == 5 / 6  # of a, b, c against d, e only c against d is wrong


# --- the page ---------------------------------------------------------------------------------

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "callback.md").read_text(), re.S)


@PEER
@pytest.mark.filterwarnings("ignore:'pin_memory'")
@pytest.mark.parametrize("code", EXAMPLES, ids=["trainer", "trl"])
def test_the_examples_of_the_page_run(tmp_path, monkeypatch, code):
    if "trl" in code:
        trl = pytest.importorskip("trl")
        here = functools.partial(trl.SFTConfig, use_cpu=True)  # whatever the machine has
        monkeypatch.setattr(trl, "SFTConfig", here)
    assert len([line for line in code.splitlines() if line.strip()]) <= 24
    checkpoints.save_model(toy.new_model(), toy.tokenizer(), tmp_path / "model")
    table().to_json(tmp_path / "members.jsonl", orient="records", lines=True)
    unseen().to_json(tmp_path / "others.jsonl", orient="records", lines=True)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert [one["epoch"] for one in curve(names["trainer"])] == [0, 1, 2, 3]
