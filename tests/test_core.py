"""Tokens, models, sampling, training and the meter, on toy models that train in a second."""

import json
import pickle

import pytest
import torch
from transformers import GenerationConfig

from kdlib import losses, measure, models, sample, tables, tokens, train
from kdlib.config import METHODS, KdlibError, ModelSettings, TokenSettings, TrainSettings
from kdlib.teacher import Live, Stored, write_store

SETTINGS = TokenSettings(vocabulary=300, max_prompt=64, max_length=96)
SHAPE = ModelSettings(layers=2, heads=2, width=32)
WORDS = ["red", "green", "blue", "old", "new", "pump", "valve", "rotor"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def rows():
    dice = torch.Generator().manual_seed(0)
    picks = [torch.randint(8, (3 + i % 7,), generator=dice).tolist() for i in range(48)]
    texts = [" ".join(WORDS[i] for i in pick) for pick in picks]
    keys = ("row_id", "instruction", "context", "response")
    return [
        dict(zip(keys, (f"r{i}", f"say {i}", "" if i % 2 else "list", text), strict=True))
        for i, text in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def tokenizer(rows):
    texts = [tokens.prompt_text(r["instruction"], r["context"], "short") for r in rows]
    return tokens.train_tokenizer([*texts, *(r["response"] for r in rows)], 300)


@pytest.fixture(scope="module")
def examples(rows, tokenizer):
    return tokens.encode(rows, tokenizer, SETTINGS)


def new_model(tokenizer, seed=0):
    return models.make_model(SHAPE, tokenizer, 96, seed)


def how(**changes):
    values = {"epochs": 2, "lr": 5e-3, "batch": 16, "warmup": 2, "precision": "fp32"}
    return TrainSettings(**values | changes)


def fitted(tokenizer, examples, tmp_path, settings, minimized=None, source=None, seed=0):
    """A model after training, and its losses at every step."""
    model, seen = new_model(tokenizer), []
    plain = minimized or train.objective("cross_entropy")

    def watched(logits, batch, part):
        nats = plain(logits, batch, part)
        seen.append((float(nats.detach().sum()), len(nats)))
        return nats

    pad = tokenizer.pad_token_id
    source = source or train.fixed_source(examples, settings, pad_id=pad, seed=seed)
    steps = -(-len(examples) // (settings.batch * settings.accumulate))
    log = tmp_path / "log.jsonl"
    train.fit(model, source, watched, settings, epoch_steps=steps, seed=seed, log=log, name="toy")
    groups = [seen[i : i + settings.accumulate] for i in range(0, len(seen), settings.accumulate)]
    return model, [sum(a for a, _ in g) / sum(n for _, n in g) for g in groups]


@pytest.fixture(scope="module")
def trained(tokenizer, examples, tmp_path_factory):
    """A model that knows some of the rows by heart, and not all."""
    folder = tmp_path_factory.mktemp("trained")
    return fitted(tokenizer, examples, folder, how(epochs=110))[0]


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
    model, pad = new_model(tokenizer).eval(), tokenizer.pad_token_id
    with torch.no_grad():
        together = models.response_logits(model, tokens.collate(examples[:6], pad))
        alone = [models.response_logits(model, tokens.collate([e], pad)) for e in examples[:6]]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)


def test_saved_model_comes_back(tokenizer, examples, tmp_path):
    model = new_model(tokenizer).eval()
    models.save_model(model, tokenizer, tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    again, pad = models.load_model(tmp_path), tokenizer.pad_token_id
    batch = tokens.collate(examples[:3], pad)
    with torch.no_grad():
        before, after = (models.response_logits(m, batch) for m in (model, again))
    assert torch.equal(before, after)
    assert tokens.load_tokenizer(tmp_path).get_vocab() == tokenizer.get_vocab()


def test_truncated_and_foreign_checkpoints_are_refused(tokenizer, tmp_path):
    models.save_model(new_model(tokenizer), tokenizer, tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(KdlibError, match="no usable model at"):
        models.load_model(tmp_path)
    weights.unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(KdlibError, match="no usable model at"):
        models.load_model(tmp_path)
    with pytest.raises(KdlibError, match="no usable model at"):
        models.load_model(tmp_path / "nothing")


# --- sampling


def test_greedy_equals_generate(trained, examples, tokenizer):
    end = tokenizer.eos_token_id
    prompts = [example.prompt for example in examples]
    ours = sample.continue_prompts(trained, prompts, end_id=end, max_new=40, greedy=True)
    settings = GenerationConfig(do_sample=False, eos_token_id=end, pad_token_id=end)
    for prompt, answer in zip(prompts, ours, strict=True):
        settings.max_new_tokens = len(answer)
        ids = torch.tensor([prompt])
        theirs = trained.generate(
            ids, attention_mask=torch.ones_like(ids), generation_config=settings
        )
        assert tuple(theirs[0, len(prompt) :].tolist()) == answer


def test_an_answer_does_not_depend_on_who_is_decoded_beside(tokenizer):
    model = new_model(tokenizer)
    prompts = [(5, 6, 7), tuple(range(5, 90)), (8,) * 40]
    how = {"end_id": tokenizer.eos_token_id, "max_new": 6, "greedy": True}
    together = sample.continue_prompts(model, prompts, **how)
    assert together == [sample.continue_prompts(model, [one], **how)[0] for one in prompts]
    assert [len(answer) for answer in together] == [6, 6, 6]


def test_draw_follows_the_softmax():
    torch.manual_seed(0)
    logits = torch.tensor([0.0, 1.0, -torch.inf, 2.0])
    counts = torch.bincount(sample.draw(logits.repeat(100_000, 1)), minlength=4) / 100_000
    torch.testing.assert_close(counts, logits.softmax(-1), atol=0.006, rtol=0)
    assert counts[2] == 0


# --- training


def test_training_lowers_the_loss(tokenizer, examples, tmp_path):
    _, curve = fitted(tokenizer, examples, tmp_path, how(epochs=8))
    assert curve[-1] < 0.7 * curve[0]
    log = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [20, 24]


def test_accumulation_gives_the_same_curve(tokenizer, examples, tmp_path):
    _, whole = fitted(tokenizer, examples, tmp_path, how(batch=16))
    _, halves = fitted(tokenizer, examples, tmp_path, how(batch=8, accumulate=2))
    torch.testing.assert_close(torch.tensor(whole), torch.tensor(halves), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_same_seed_is_bit_identical(tokenizer, examples, tmp_path, precision):
    settings = how(precision=precision, dropout=0.1)
    weights = []
    for _ in range(2):
        model, _ = fitted(tokenizer, examples, tmp_path, settings)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*weights)


def test_student_text_is_fresh_at_every_step(tokenizer, examples, tmp_path):
    settings = how(epochs=1)
    pad = tokenizer.pad_token_id
    source = train.student_source(examples, settings, pad_id=pad, max_new=40, seed=0)
    model = new_model(tokenizer).train()
    torch.manual_seed(0)
    rows = {example.row_id: list(example.response) for example in examples}
    passes = []
    for _ in range(2):
        read = {}
        for (batch,) in source(model, 0):
            counts = (batch.labels[:, 1:] != -100).sum(1).tolist()
            texts = [text.tolist() for text in batch.targets.split(counts)]
            read |= dict(zip(batch.row_id, texts, strict=True))
        passes.append(read)
    assert passes[0].keys() == rows.keys() and model.training
    for one, other in ((passes[0], passes[1]), (passes[0], rows)):
        assert sum(one[row] != other[row] for row in rows) > 0.9 * len(rows)


def test_every_method_is_trained_by_what_it_is_about(tokenizer, examples, trained):
    batch = tokens.collate(examples[:4], tokenizer.pad_token_id)
    logits = models.response_logits(new_model(tokenizer), batch)

    class Forbidden(Live):
        def logits(self, batch, part):
            raise AssertionError("the teacher's probabilities were read")

    for name, method in METHODS.items():
        reads = method.objective != "cross_entropy"
        assert reads == (name in ("word_kd", "rkld"))
        minimized = train.objective(method.objective, Forbidden(trained, "fp32"))
        if reads:
            with pytest.raises(AssertionError, match="probabilities were read"):
                minimized(logits, batch, slice(None))
            with pytest.raises(KdlibError, match="needs a teacher"):
                train.objective(method.objective)
        else:
            torch.testing.assert_close(
                minimized(logits, batch, slice(None)), losses.cross_entropy(logits, batch.targets)
            )


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
    whole = models.response_hidden

    def breaks(model, batch):
        calls.append(batch.row_id)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return whole(model, batch)

    monkeypatch.setattr(models, "response_hidden", breaks)
    with pytest.raises(KeyboardInterrupt):
        stored()
    kept = stored()
    assert len(calls) == 4 + -(-len(examples) // 5) - 3  # the three finished batches are not redone
    batch = tokens.collate(examples, tokenizer.pad_token_id)
    live = Live(trained, "fp32").logits(batch, slice(None))
    torch.testing.assert_close(kept.logits(batch, slice(None)), live, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_chunks_give_the_gradients_of_the_whole(name, tokenizer, examples, trained, monkeypatch):
    batch = tokens.collate(examples[:8], tokenizer.pad_token_id)
    minimized = train.objective(METHODS[name].objective, Live(trained, "fp32"))
    found = []
    for logits in (2**24, 7 * len(tokenizer)):
        monkeypatch.setattr(train, "CHUNK_LOGITS", logits)
        model = new_model(tokenizer)
        loss, count = train.step_loss(model, [batch], minimized, "fp32")
        found.append([loss, *(p.grad for p in model.parameters())])
    assert count > 7
    plain = new_model(tokenizer)
    nats = minimized(models.response_logits(plain, batch), batch, slice(None))
    nats.mean().backward()
    for whole, chunked, grad in zip(
        *found, [nats.mean(), *(p.grad for p in plain.parameters())], strict=True
    ):
        torch.testing.assert_close(chunked, whole, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(whole, grad, atol=1e-6, rtol=1e-4)


def test_infinite_loss_stops_the_run(tokenizer, examples, tmp_path):
    def broken(logits, _batch, _part):
        return logits.sum(-1) * torch.nan

    for epochs, step in ((10, 20), (1, 3)):  # a short run ends before its first log line
        with pytest.raises(KdlibError, match=f"toy: the loss is nan by step {step} at learning"):
            fitted(tokenizer, examples, tmp_path, how(epochs=epochs), minimized=broken)


# --- the meter


def test_meter_equals_greedy_decoding(trained, examples, tokenizer):
    end = tokenizer.eos_token_id
    found = measure.meter(trained, examples, pad_id=end, batch=7)
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
    hits = int(tables.exact(found).sum())
    assert 5 <= hits <= len(examples) - 5, f"{hits} hits: the test would not tell"


def test_meter_does_not_depend_on_the_batch(trained, examples, tokenizer):
    pad = tokenizer.pad_token_id
    one, many = (measure.meter(trained, examples, pad_id=pad, batch=b) for b in (1, 48))
    assert one["prefix"].tolist() == many["prefix"].tolist()
    assert one["nats_per_token"].tolist() == pytest.approx(
        many["nats_per_token"].tolist(), abs=1e-4
    )
