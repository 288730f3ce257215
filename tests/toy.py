"""Rows, a tokenizer and models that train in a second."""

import functools
import tempfile
from pathlib import Path

import torch

from kdlib.config.profile import read_templates
from kdlib.config.sections import ModelSettings, TokenSettings, TrainSettings
from kdlib.distill import objectives, text_sources, trainer
from kdlib.model import checkpoints, tokens

TEMPLATE = read_templates()["short"]
SETTINGS = TokenSettings(vocabulary=300, max_prompt=64, max_length=96)
SHAPE = ModelSettings(layers=2, heads=2, width=32)
WORDS = ["red", "green", "blue", "old", "new", "pump", "valve", "rotor"]


@functools.cache
def rows():
    dice = torch.Generator().manual_seed(0)
    picks = [torch.randint(8, (3 + i % 7,), generator=dice).tolist() for i in range(48)]
    keys = ("row_id", "instruction", "context", "response")
    facts = [
        (f"r{i}", f"say {i}", "" if i % 2 else "list", " ".join(WORDS[i] for i in pick))
        for i, pick in enumerate(picks)
    ]
    return [dict(zip(keys, fact, strict=True)) for fact in facts]


@functools.cache
def tokenizer():
    prompts = [tokens.prompt_text(r["instruction"], r["context"], TEMPLATE) for r in rows()]
    return tokens.train_tokenizer([*prompts, *(r["response"] for r in rows())], 300)


@functools.cache
def examples():
    return tokens.encode(rows(), tokenizer(), SETTINGS, TEMPLATE)


def new_model(seed=0):
    return checkpoints.make_model(SHAPE, tokenizer(), 96, seed)


def weights_of(model):
    """All weights of a model in one row."""
    return torch.cat([one.detach().flatten() for one in model.parameters()])


def how(**changes):
    values = {"epochs": 2, "lr": 5e-3, "batch": 16, "warmup": 2, "precision": "fp32"}
    return TrainSettings(**values | changes)


def reading(settings=None, shown=None, seed=0):
    shown = examples() if shown is None else shown
    return text_sources.Reading(
        shown, settings or how(), tokenizer().pad_token_id, seed, max_new=30
    )


def fitted(folder, settings, minimized=None, source=None, model=None, seed=0):
    """A model after training, and its losses at every step."""
    model, seen = model or new_model(), []
    plain = minimized or objectives.objective("cross_entropy")

    def watched(logits, batch, part):
        nats = plain(logits, batch, part)
        seen.append((float(nats.detach().sum()), len(nats)))
        return nats

    source = source or text_sources.fixed(reading(settings, seed=seed))
    steps = -(-len(examples()) // (settings.batch * settings.accumulate))
    log = folder / "log.jsonl"
    trainer.fit(model, source, watched, settings, epoch_steps=steps, seed=seed, log=log, name="toy")
    groups = [seen[i : i + settings.accumulate] for i in range(0, len(seen), settings.accumulate)]
    return model, [sum(a for a, _ in g) / sum(n for _, n in g) for g in groups]


@functools.cache
def trained():
    """A model that knows some of the rows by heart, and not all."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model, _ = fitted(Path(folder), how(epochs=90))
    torch.set_num_threads(threads)
    return model
