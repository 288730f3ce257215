"""Tokenizer and base models: made once and shared by all seeds, as published checkpoints are.

Taught in notebook 01_data_and_tokens.
"""

import time
from pathlib import Path
from typing import Any

import torch

from kdlib import data, models, objectives, runs, texts, tokens, train
from kdlib.config import SIZES
from kdlib.lab import FIRST, Lab, need
from kdlib.settings import KdlibError, TrainSettings
from kdlib.tokens import Example

MEAN_TOKENS = 20  # fewer than a paragraph of general text has, so that enough are taken


def prepare(lab: Lab) -> None:
    """Train the tokenizer and pretrain the base models, once for all seeds."""
    if not lab.profile.from_scratch:
        return
    documents = data.general_text(lab.profile.data)
    if not documents:
        raise KdlibError(
            f"profile '{lab.profile.name}': models from scratch need general text, and data.source "
            "is not pydocs; give models by path, or take pydocs"
        )
    budget = lab.profile.pretrain.tokens // MEAN_TOKENS
    documents = documents[: max(1000, budget)]  # shuffled: any part is like the whole
    if not runs.done(lab.tokenizer_dir, lab.base_id("teacher")):
        prompts = [
            tokens.prompt_text(row["instruction"], row["context"], lab.profile.tokens.template)
            for row in lab.pool
        ]
        made = tokens.train_tokenizer([*documents, *prompts], lab.profile.tokens.vocabulary)
        (lab.tokenizer_dir / runs.MANIFEST).unlink(missing_ok=True)
        with runs.writing(lab.tokenizer_dir):
            made.save_pretrained(lab.tokenizer_dir)
        runs.write_manifest(lab.tokenizer_dir, lab.base_id("teacher"))
    tokenizer = tokens.load_tokenizer(lab.tokenizer_dir)
    blocks = tokens.text_blocks(documents, tokenizer, min(128, lab.profile.tokens.max_length))
    for size in SIZES:
        pretrain(lab, size, tokenizer, blocks)


def pretrain(lab: Lab, size: str, tokenizer: Any, blocks: list[Example]) -> None:
    """One base model: next-token prediction on the general text."""
    folder, identity = lab.base_dir(size), lab.base_id(size)
    assert isinstance(folder, Path)
    if runs.done(folder, identity):
        return
    (folder / runs.MANIFEST).unlink(missing_ok=True)
    settings = lab.profile.pretrain
    wanted = max(settings.batch, settings.tokens // len(blocks[0]))
    kept = blocks[:wanted]
    how = TrainSettings(
        epochs=max(1, round(wanted / len(kept))),
        lr=settings.lr,
        batch=settings.batch,
        schedule="cosine",
        warmup=100,
    )
    model = models.make_model(
        lab.profile.models[size], tokenizer, lab.profile.tokens.max_length, seed=0
    ).to(lab.device)
    started = time.perf_counter()
    train.fit(
        model,
        texts.fixed(texts.Reading(kept, how, tokenizer.pad_token_id, seed=0)),
        objectives.objective("cross_entropy"),
        how,
        epoch_steps=-(-len(kept) // how.batch),
        seed=0,
        log=folder / "log.jsonl",
        name=f"pretrain {size}",
    )
    models.save_model(model, tokenizer, folder)
    runs.write_manifest(
        folder,
        identity,
        size=size,
        threads=torch.get_num_threads(),
        seconds=time.perf_counter() - started,
    )


def checkpoint(lab: Lab, size: str) -> str | Path:
    """The base model's folder or name; says what makes it when it is missing."""
    where = lab.base_dir(size)
    return need(where, lab.base_id(size), lab, FIRST) if isinstance(where, Path) else where


def load(lab: Lab, size: str, dropout: float | None = None) -> Any:
    """The base model of that size.

    Raises:
        KdlibError: it is not there, or reads fewer tokens than `tokens.max_length`.
    """
    path = checkpoint(lab, size)
    model = models.load_model(path, dropout)
    wanted = lab.profile.tokens.max_length
    room = getattr(model.config, "max_position_embeddings", wanted)
    if room < wanted:
        raise KdlibError(
            f"model '{path}' reads {room} tokens, fewer than tokens.max_length = {wanted}; "
            "lower tokens.max_length"
        )
    return model.to(lab.device)
