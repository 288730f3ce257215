"""The training loop: its curve, its chunks, and where it stops."""

import errno
import json
import os

import pytest
import torch
from toy import fitted, how, new_model, reading

from kdlib.config.methods import METHODS
from kdlib.distill import losses, objectives, text_sources, trainer
from kdlib.distill.teacher_targets import Live
from kdlib.errors import KdlibError
from kdlib.model import checkpoints, tokens

PUBLISHED = {name: value for one in METHODS.values() for name, value in one.checked({}).items()}
COMPARED = list(objectives.DIVERGENCES)


pytestmark = pytest.mark.usefixtures("one_thread")


def test_training_lowers_the_loss(tokenizer, examples, tmp_path):
    _, curve = fitted(tmp_path, how(epochs=8))
    assert curve[-1] < 0.7 * curve[0]
    log = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [20, 24]


def test_accumulation_gives_the_same_curve(tokenizer, examples, tmp_path):
    _, whole = fitted(tmp_path, how(batch=16))
    _, halves = fitted(tmp_path, how(batch=8, accumulate=2))
    torch.testing.assert_close(torch.tensor(whole), torch.tensor(halves), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_same_seed_is_bit_identical(tokenizer, examples, tmp_path, precision):
    settings = how(precision=precision, dropout=0.1)
    weights = []
    for _ in range(2):
        model, _ = fitted(tmp_path, settings)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*weights)


@pytest.mark.parametrize("name", ["cross_entropy", *COMPARED])
def test_chunks_give_the_gradients_of_the_whole(name, tokenizer, examples, trained, monkeypatch):
    batch = tokens.collate(examples[:8], tokenizer.pad_token_id)
    minimized = objectives.objective(name, Live(trained, "fp32"), PUBLISHED)
    found = []
    for logits in (2**24, 7 * len(tokenizer)):
        monkeypatch.setattr(trainer, "CHUNK_LOGITS", logits)
        model = new_model()
        loss, count = trainer.step_loss(model, [batch], minimized, "fp32")
        found.append([loss, *(p.grad for p in model.parameters())])
    assert count > 7
    plain = new_model()
    nats = minimized(checkpoints.response_logits(plain, batch), batch, slice(None))
    nats.mean().backward()
    for whole, chunked, grad in zip(
        *found, [nats.mean(), *(p.grad for p in plain.parameters())], strict=True
    ):
        torch.testing.assert_close(chunked, whole, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(whole, grad, atol=1e-6, rtol=1e-4)


def test_roles_of_one_step_are_averaged_apart(examples):
    rows, general = examples[:4], examples[4:20]
    batches = [tokens.collate(rows, 0, "rows"), tokens.collate(general, 0, "general")]
    minimized = objectives.objective("cross_entropy")
    loss, count = trainer.step_loss(new_model(), batches, minimized, "fp32")
    apart = [trainer.step_loss(new_model(), [one], minimized, "fp32") for one in batches]
    torch.testing.assert_close(loss, apart[0][0] + apart[1][0])
    assert count == apart[0][1] + apart[1][1]


FAULTS = {
    "NaN loss": lambda nats: nats * torch.nan,
    "infinite loss": lambda nats: nats + torch.inf,
    "NaN gradient": lambda nats: nats + (nats * 0).sqrt(),  # the loss itself is finite
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("step", [1, 4, 5])
def test_a_fault_leaves_the_weights_as_they_were_before_its_step(step, fault, tmp_path):
    """No step is waited for: without notes the fault is seen at the next log line."""
    model, read, before = new_model(), [], []

    def weights():
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    def minimized(logits, batch, part):
        read.append(batch.row_id)
        nats = losses.cross_entropy(logits, batch.targets[part])
        before.append(weights())
        return FAULTS[fault](nats) if len(read) == step else nats  # later steps are sound

    with pytest.raises(trainer.NotFinite) as error:
        fitted(tmp_path, how(epochs=3), minimized=minimized, model=model)
    assert f"at step {step}, learning rate" in str(error.value)
    assert read[step - 1][0] in str(error.value)
    assert len(read) == 9 and torch.equal(weights(), before[step - 1])
    assert torch.isfinite(weights()).all()
    assert step == 1 or not torch.equal(weights(), before[0])


@pytest.mark.parametrize("step", [1, 4, 5])
def test_a_model_that_has_diverged_is_not_noted(step, tmp_path):
    """Nor is the log another one for the notes, of which there are more than its lines."""
    read, noted, settings = [], [], how(epochs=8)

    def breaks(logits, batch, part):
        read.append(batch.row_id)
        nats = losses.cross_entropy(logits, batch.targets[part])
        return nats * torch.nan if len(read) == step else nats

    options = {"epoch_steps": 3, "seed": 0, "name": "toy", "notes": range(0, 25, 2)}
    options["on_note"] = lambda _, at: noted.append(at)
    source, log = text_sources.fixed(reading(settings)), tmp_path / "log.jsonl"
    with pytest.raises(trainer.NotFinite, match=f"at step {step}, learning rate"):
        trainer.fit(new_model(), source, breaks, settings, log=log, **options)
    assert noted == list(range(0, step, 2))
    noted.clear()
    sound = objectives.objective("cross_entropy")
    trainer.fit(new_model(), source, sound, settings, log=log, **options)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert noted == list(range(0, 25, 2)) and [line["step"] for line in lines] == [20, 24]
    _, curve = fitted(tmp_path, settings)
    assert lines[1]["loss_nats_per_token"] == pytest.approx(sum(curve[20:]) / 4, abs=1e-5)


def test_only_a_log_that_cannot_be_written_is_said_to_be_so(tmp_path):
    """A text that may not be read, on the way, is not the log."""

    def unreadable(_logits, _batch, _part):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "rows.parquet")

    with pytest.raises(PermissionError, match="rows.parquet"):
        fitted(tmp_path, how(), minimized=unreadable)

    (tmp_path / "log.jsonl").unlink()
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(KdlibError, match=r"the disk is full while writing .*log\.jsonl"):
        fitted(tmp_path, how())
    (tmp_path / "log.jsonl").unlink()
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(KdlibError, match=r"log\.jsonl cannot be written"):
        fitted(tmp_path, how())


def test_out_of_memory_says_what_to_lower(tmp_path):
    def greedy(_logits, _batch, _part):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(KdlibError, match="16 rows of .* tokens at a time; halve batch to 8 and"):
        fitted(tmp_path, how(), minimized=greedy)
