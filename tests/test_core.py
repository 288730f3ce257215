"""Tokens, models, sampling, training and the meter, on toy models that train in a second."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import toy
from toy import SETTINGS, fitted, how, new_model
from transformers import GenerationConfig

from kdlib.config import definitions
from kdlib.config.methods import METHODS
from kdlib.distill import losses, objectives, trainer
from kdlib.distill.teacher_targets import Live, Remembered, Stored, write_store
from kdlib.errors import KdlibError
from kdlib.measure import meter
from kdlib.model import checkpoints, generation, tokens

PUBLISHED = {name: value for one in METHODS.values() for name, value in one.coefficients.items()}
COMPARED = [name for name in objectives.COMPARED if name != "contrastive"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def rows():
    return toy.rows()


@pytest.fixture
def tokenizer():
    return toy.tokenizer()


@pytest.fixture
def examples():
    return toy.examples()


@pytest.fixture
def trained():
    return toy.trained()


# --- tokens


def test_only_responses_carry_labels(examples, tokenizer):
    batch = tokens.collate(examples[:5], tokenizer.pad_token_id)
    assert batch.input_ids.shape == batch.labels.shape == batch.attention_mask.shape
    expected = [token for example in examples[:5] for token in example.response]
    assert batch.targets.tolist() == expected
    assert all(example.response[-1] == tokenizer.eos_token_id for example in examples)
    assert int(batch.attention_mask.sum()) == sum(map(len, examples[:5]))


def test_steps_show_every_row_once_and_change_with_the_epoch(examples):
    epochs = []
    for epoch in (0, 0, 1):
        found = tokens.steps(examples, 4, 2, seed=3, epoch=epoch)
        epochs.append([[e.row_id for micro in step for e in micro] for step in found])
    assert epochs[0] == epochs[1] != epochs[2]
    assert sorted(sum(epochs[2], [])) == sorted(example.row_id for example in examples)


def test_long_prompt_is_refused_by_row(rows, tokenizer):
    long = rows[0] | {"row_id": "too-long", "context": "word " * 200}
    with pytest.raises(KdlibError, match="row too-long .'say 0'.: the prompt has"):
        tokens.encode([long], tokenizer, SETTINGS)


def test_different_tokenizers_are_refused_by_name(tokenizer):
    other = tokens.train_tokenizer(["quite other words here"] * 3, 280)
    tokens.same_tokenizer(tokenizer, tokenizer, ("a", "b"))
    with pytest.raises(KdlibError, match="'big' and student 'tiny' have different tokenizers"):
        tokens.same_tokenizer(tokenizer, other, ("big", "tiny"))


# --- models


def test_padding_and_batch_split_do_not_matter(examples, tokenizer):
    model, pad = new_model().eval(), tokenizer.pad_token_id
    with torch.no_grad():
        together = checkpoints.response_logits(model, tokens.collate(examples[:6], pad))
        alone = [checkpoints.response_logits(model, tokens.collate([e], pad)) for e in examples[:6]]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)


def test_saved_model_comes_back(tokenizer, examples, tmp_path):
    model = new_model().eval()
    checkpoints.save_model(model, tokenizer, tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    again, pad = checkpoints.load_model(tmp_path), tokenizer.pad_token_id
    batch = tokens.collate(examples[:3], pad)
    with torch.no_grad():
        before, after = (checkpoints.response_logits(m, batch) for m in (model, again))
    assert torch.equal(before, after)
    assert tokens.load_tokenizer(tmp_path).get_vocab() == tokenizer.get_vocab()


def test_truncated_and_foreign_checkpoints_are_refused(tokenizer, tmp_path):
    checkpoints.save_model(new_model(), tokenizer, tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(KdlibError, match="no usable model at"):
        checkpoints.load_model(tmp_path)
    weights.unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(KdlibError, match="no usable model at"):
        checkpoints.load_model(tmp_path)
    with pytest.raises(KdlibError, match="no usable model at"):
        checkpoints.load_model(tmp_path / "nothing")


# --- sampling


def test_greedy_equals_generate(trained, examples, tokenizer):
    end = tokenizer.eos_token_id
    prompts = [example.prompt for example in examples]
    ours = generation.continue_prompts(trained, prompts, end_id=end, max_new=40, greedy=True)
    settings = GenerationConfig(do_sample=False, eos_token_id=end, pad_token_id=end)
    for prompt, answer in zip(prompts, ours, strict=True):
        settings.max_new_tokens = len(answer)
        ids = torch.tensor([prompt])
        theirs = trained.generate(
            ids, attention_mask=torch.ones_like(ids), generation_config=settings
        )
        assert tuple(theirs[0, len(prompt) :].tolist()) == answer


def test_an_answer_does_not_depend_on_who_is_decoded_beside(tokenizer):
    model = new_model()
    prompts = [(5, 6, 7), tuple(range(5, 90)), (8,) * 40]
    how = {"end_id": tokenizer.eos_token_id, "max_new": 6, "greedy": True}
    together = generation.continue_prompts(model, prompts, **how)
    assert together == [generation.continue_prompts(model, [one], **how)[0] for one in prompts]
    assert [len(answer) for answer in together] == [6, 6, 6]


def test_beam_search_finds_what_greedy_misses(examples, tokenizer):
    """One beam is greedy decoding; four find answers that are likelier per token, if any."""
    model = new_model(3)
    prompts = [example.prompt for example in examples[:12]]
    how = {"end_id": tokenizer.eos_token_id, "max_new": 8}
    greedy = generation.continue_prompts(model, prompts, greedy=True, **how)
    assert generation.beam_search(model, prompts, beams=1, batch=5, **how) == greedy
    beams = generation.beam_search(model, prompts, beams=4, batch=5, **how)

    def per_token(answers):
        rows = [tokens.Example("", p, a) for p, a in zip(prompts, answers, strict=True)]
        return meter.meter(model, rows, pad_id=tokenizer.pad_token_id)["nats_per_token"]

    assert (per_token(beams) <= per_token(greedy) + 1e-4).all()
    assert (per_token(beams) < per_token(greedy) - 1e-3).any()


def test_a_model_is_left_as_it_was(tokenizer):
    model = new_model().train()
    before = model.config._attn_implementation
    with checkpoints.inference(model):
        assert not model.training and model.config._attn_implementation == "sdpa"
    assert model.training and model.config._attn_implementation == before


def test_draw_follows_the_softmax():
    torch.manual_seed(0)
    logits = torch.tensor([0.0, 1.0, -torch.inf, 2.0])
    drawn = generation.draw(logits.softmax(-1).repeat(100_000, 1))
    counts = torch.bincount(drawn, minlength=4) / 100_000
    torch.testing.assert_close(counts, logits.softmax(-1), atol=0.006, rtol=0)
    assert counts[2] == 0


# --- training


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


@pytest.fixture
def stored(tokenizer, examples, trained, tmp_path):
    def write(top=None, identity="one", batch=5):
        how = {"pad_id": tokenizer.pad_token_id, "precision": "fp32", "batch": batch}
        write_store(tmp_path / "store", identity, trained, examples, top=top, **how)
        return Stored(tmp_path / "store", identity, "fp32")

    write.folder = tmp_path / "store"
    return write


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


def test_interrupted_store_goes_on(stored, tokenizer, examples, trained, monkeypatch):
    calls = []
    whole = checkpoints.response_hidden

    def breaks(model, batch):
        calls.append(batch.row_id)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return whole(model, batch)

    monkeypatch.setattr(checkpoints, "response_hidden", breaks)
    with pytest.raises(KeyboardInterrupt):
        stored()
    kept = stored()
    assert len(calls) == 4 + -(-len(examples) // 5) - 3  # the three finished batches are not redone
    batch = tokens.collate(examples, tokenizer.pad_token_id)
    live = Live(trained, "fp32").logits(batch, slice(None))
    torch.testing.assert_close(kept.logits(batch, slice(None)), live, atol=1e-5, rtol=1e-4)


def test_two_who_want_one_store_compute_it_once(stored, examples, monkeypatch):
    calls, whole = [], checkpoints.response_hidden

    def counted(model, batch):
        calls.append(batch.row_id)
        return whole(model, batch)

    monkeypatch.setattr(checkpoints, "response_hidden", counted)
    with ThreadPoolExecutor(2) as pool:  # the lock is held per opened file, so threads will do
        stores = [job.result() for job in [pool.submit(stored) for _ in range(2)]]
    assert len(calls) == -(-len(examples) // 5)
    assert stores[0].spans == stores[1].spans


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


def test_infinite_loss_stops_at_its_step_with_the_weights_before_it(tmp_path):
    """No step is waited for, so the fault is seen at the next log line; the weights stay good."""
    kept, steps = {}, []

    def breaks_at(step, log_of):
        def minimized(logits, batch, part):
            steps.append(batch.row_id)
            factor = torch.nan if len(steps) >= step else 1.0
            return losses.cross_entropy(logits, batch.targets[part]) * factor

        steps.clear()
        model = new_model()
        with pytest.raises(trainer.NotFinite) as found:
            fitted(log_of, how(epochs=3), minimized=minimized, model=model)
        return model, str(found.value)

    for step in (4, 5):
        model, said = breaks_at(step, tmp_path)
        assert f"at step {step}, learning rate" in said and steps[step - 1][0] in said
        kept[step] = torch.cat([p.detach().flatten() for p in model.parameters()])
        assert torch.isfinite(kept[step]).all() and len(steps) == 9
    assert not torch.equal(kept[4], kept[5])  # step 4 was taken in the second run


def test_out_of_memory_says_what_to_lower(tmp_path):
    def greedy(_logits, _batch, _part):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(KdlibError, match="16 rows of .* tokens at a time; halve batch to 8 and"):
        fitted(tmp_path, how(), minimized=greedy)


def test_remembered_targets_are_read_once(tokenizer, examples, trained, monkeypatch):
    calls, whole = [], checkpoints.response_hidden

    def counted(model, batch):
        calls.append(batch.row_id)
        return whole(model, batch)

    monkeypatch.setattr(checkpoints, "response_hidden", counted)
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


# --- the meter


def test_meter_equals_greedy_decoding(trained, examples, tokenizer):
    end = tokenizer.eos_token_id
    found = meter.meter(trained, examples, pad_id=end, batch=7)
    settings = GenerationConfig(do_sample=False, eos_token_id=end, pad_token_id=end)
    differ = 0
    for example, row in zip(examples, found.itertuples(), strict=True):
        assert row.row_id == example.row_id and row.length == len(example.response)
        settings.max_new_tokens = len(example.response)
        ids = torch.tensor([example.prompt])
        out = trained.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        wrote = out[0, ids.shape[1] :].tolist()
        pairs = list(zip(wrote, example.response, strict=False))
        prefix = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
        differ += prefix != row.prefix
        assert prefix == row.prefix or row.margin < 1e-4, f"{row.row_id} is no near-tie"
    print(f"{differ} of {len(examples)} tuples differ, all near-ties")
    hits = int(definitions.exact(found).sum())
    assert 5 <= hits <= len(examples) - 5, f"{hits} hits: the test would not tell"


def test_meter_does_not_depend_on_the_batch(trained, examples, tokenizer):
    pad = tokenizer.pad_token_id
    one, many = (meter.meter(trained, examples, pad_id=pad, batch=b) for b in (1, 48))
    assert one["prefix"].tolist() == many["prefix"].tolist()
    assert one["nats_per_token"].tolist() == pytest.approx(
        many["nats_per_token"].tolist(), abs=1e-4
    )
