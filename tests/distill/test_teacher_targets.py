"""Targets that are stored or remembered equal live ones, and are computed once."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from kdlib.distill import losses
from kdlib.distill.teacher_targets import Live, Remembered, Stored, write_store
from kdlib.errors import KdlibError
from kdlib.model import checkpoints, tokens

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def stored(tokenizer, examples, trained, tmp_path):
    def write(top=None, identity="one", batch=5):
        how = {"pad_id": tokenizer.pad_token_id, "precision": "fp32", "batch": batch}
        write_store(tmp_path / "store", identity, trained, examples, top=top, **how)
        return Stored(tmp_path / "store", identity, "fp32")

    write.folder = tmp_path / "store"
    return write


class Calls(list):
    """The rows of every batch that a teacher has read; at one of them it can be interrupted."""

    breaks_at = None


@pytest.fixture
def calls(monkeypatch):
    calls, whole = Calls(), checkpoints.response_hidden

    def counted(model, batch):
        calls.append(batch.row_id)
        if len(calls) == calls.breaks_at:
            raise KeyboardInterrupt
        return whole(model, batch)

    monkeypatch.setattr(checkpoints, "response_hidden", counted)
    return calls


def test_stored_targets_equal_live_ones(stored, tokenizer, examples, trained):
    pad, live, kept = tokenizer.pad_token_id, Live(trained, "fp32"), stored()
    for rows in (examples[:6], examples[3:9], examples[:6]):
        batch = tokens.collate(rows, pad)
        for part in (slice(None), slice(3, 11), slice(11, 10_000)):
            ours, theirs = kept.logits(batch, part), live.logits(batch, part)
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_top_k_store_keeps_the_top_and_the_mass(stored, tokenizer, examples, trained):
    batch = tokens.collate(examples[:6], tokenizer.pad_token_id)
    exact = Live(trained, "fp32").logits(batch, slice(None)).log_softmax(-1)
    errors = []
    for top in (1, 8, len(tokenizer)):
        found = stored(top, identity=str(top)).logits(batch, slice(None))
        torch.testing.assert_close(found.logsumexp(-1), torch.zeros(len(found)), atol=1e-5, rtol=0)
        best = exact.topk(top).indices
        torch.testing.assert_close(found.gather(1, best), exact.gather(1, best), atol=1e-4, rtol=0)
        errors.append(float(losses.forward_kl(found, exact).mean()))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-5


def test_store_of_another_teacher_is_refused(stored):
    stored()
    with pytest.raises(KdlibError, match="has another teacher, tokenizer or rows"):
        Stored(stored.folder, "two", "fp32")
    (stored.folder / "manifest.json").unlink()
    with pytest.raises(KdlibError, match="is not finished"):
        Stored(stored.folder, "one", "fp32")


def test_interrupted_store_goes_on(stored, tokenizer, examples, trained, calls):
    calls.breaks_at = 4
    with pytest.raises(KeyboardInterrupt):
        stored()
    kept = stored()
    assert len(calls) == 4 + -(-len(examples) // 5) - 3  # the three finished batches are not redone
    batch = tokens.collate(examples, tokenizer.pad_token_id)
    live = Live(trained, "fp32").logits(batch, slice(None))
    torch.testing.assert_close(kept.logits(batch, slice(None)), live, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("other", [{"identity": "two"}, {"top": 4}])
def test_what_was_begun_for_other_targets_is_thrown_away(other, stored, examples, calls):
    calls.breaks_at = 4
    with pytest.raises(KeyboardInterrupt):
        stored()
    kept = stored(**other)
    assert len(calls) == 4 + -(-len(examples) // 5)
    assert set(kept.arrays) == ({"values", "indices", "rest"} if kept.top else {"hidden"})


def test_two_who_want_one_store_compute_it_once(stored, examples, calls):
    with ThreadPoolExecutor(2) as pool:  # the lock is held per opened file, so threads will do
        stores = [job.result() for job in [pool.submit(stored) for _ in range(2)]]
    assert len(calls) == -(-len(examples) // 5)
    assert stores[0].spans == stores[1].spans


def test_remembered_targets_are_read_once(tokenizer, examples, trained, calls):
    kept, live = Remembered(trained, "fp32", capacity=8), Live(trained, "fp32")
    pad = tokenizer.pad_token_id

    def asked(rows, role="rows"):
        calls.clear()
        batch = tokens.collate(rows, pad, role)
        found = kept.logits(batch, slice(2, 9))
        torch.testing.assert_close(found, kept.logits(batch, slice(None))[2:9])
        read = len(calls)
        wanted = live.logits(batch, slice(2, 9))
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
        return read

    assert asked(examples[:4]) == 1
    assert asked([examples[2], examples[0]]) == 0  # any order, any company
    assert asked(examples[4:8]) == 1 and asked(examples[:8]) == 0
    assert asked(examples[8:10]) == 1  # two more than fit: the oldest go
    assert asked(examples[:1]) == 1 and asked(examples[9:10]) == 0
    assert [asked(examples[:2], "student") for _ in range(2)] == [1, 1]  # new text each time
    assert asked(examples[:2], "replay") == 1 and asked(examples[:2], "replay") == 0
