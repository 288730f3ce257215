"""Tokenizer and base models, made once for all seeds. Taught in notebook 01_data_and_tokens."""

import functools
import math
import time
from pathlib import Path
from typing import Any

import torch

from kdlib import runs
from kdlib.config.profile import TEACHER, Profile
from kdlib.config.sections import DataSettings, TrainSettings
from kdlib.data import pool
from kdlib.distill import objectives, text_sources, trainer
from kdlib.errors import KdlibError
from kdlib.model import checkpoints, tokens
from kdlib.study.run import BASE, Run, base_identity, load_pool, tokenizer_dir

MEAN_TOKENS = 20  # fewer than a paragraph of general text has, so that enough are taken
GENERAL_DOCUMENTS = 2000  # that MiniLLM reads beside its own text
BLOCK = 128  # tokens of general text


def prepare(profile: Profile) -> None:
    """Train the tokenizer and pretrain the base models, once for all seeds."""
    if not profile.from_scratch:
        return
    remedy = "models from scratch need it: give models by path, or take data.source = 'pydocs'"
    budget = max(1000, profile.pretrain.tokens // MEAN_TOKENS)
    documents = general_text(profile, budget, remedy)
    folder, identity = tokenizer_dir(profile), base_identity(profile, TEACHER)
    if not runs.done(folder, identity):
        rows = load_pool(profile.data)[["instruction", "context"]].itertuples(index=False)
        prompts = [tokens.prompt_text(asked, given, profile.template) for asked, given in rows]
        made = tokens.train_tokenizer([*documents, *prompts], profile.tokens.vocabulary)
        (folder / runs.MANIFEST).unlink(missing_ok=True)
        with runs.writing(folder):
            made.save_pretrained(folder)
        runs.write_manifest(folder, identity)
    tokenizer = tokens.load_tokenizer(folder)
    blocks = tokens.text_blocks(documents, tokenizer, min(BLOCK, profile.tokens.max_length))
    for size in profile.models:
        pretrain(profile, size, tokenizer, blocks)


def pretrain(profile: Profile, size: str, tokenizer: Any, blocks: list[tokens.Example]) -> None:
    """One base model: next-token prediction on the general text."""
    folder, identity = Path(Run(profile, 0, BASE, size).checkpoint), base_identity(profile, size)
    if runs.done(folder, identity):
        return
    (folder / runs.MANIFEST).unlink(missing_ok=True)
    batch, lr = profile.pretrain.batch, profile.pretrain.lr
    wanted = max(batch, profile.pretrain.tokens // len(blocks[0]))
    kept = blocks[:wanted]
    epochs = max(1, round(wanted / len(kept)))
    named: dict[str, Any] = {"schedule": "cosine", "precision": profile.teacher.precision}
    how = TrainSettings(epochs=epochs, lr=lr, batch=batch, warmup=100, **named)
    shape, positions = profile.models[size], profile.tokens.max_length
    model = checkpoints.make_model(shape, tokenizer, positions, seed=0)
    model, started = model.to(checkpoints.device()), time.perf_counter()
    source = text_sources.fixed(text_sources.Reading(kept, how, tokenizer.pad_token_id, seed=0))
    minimized, steps = objectives.objective("cross_entropy"), math.ceil(len(kept) / batch)
    log, name = folder / "log.jsonl", f"pretrain {size}"
    trainer.fit(model, source, minimized, how, epoch_steps=steps, seed=0, log=log, name=name)
    checkpoints.save_model(model, tokenizer, folder)
    facts = {"threads": torch.get_num_threads(), "seconds": time.perf_counter() - started}
    runs.write_manifest(folder, identity, size=size, **facts)


def general_blocks(profile: Profile, tokenizer: Any) -> list[tokens.Example]:
    """Blocks of general text for MiniLLM, in the order in which they were shuffled."""
    remedy = "set general_text = 0 in methods.minillm.coefficients"
    documents = general_text(profile, GENERAL_DOCUMENTS, remedy)
    return tokens.text_blocks(documents, tokenizer, min(BLOCK, profile.tokens.max_length))


def general_text(profile: Profile, most: int, remedy: str) -> list[str]:
    """At most so many documents, shuffled: any part is like the whole."""
    if documents := _documents(profile.data.model_dump_json())[:most]:
        return documents
    raise KdlibError(f"profile '{profile.name}': its data has no general text; {remedy}")


@functools.lru_cache(maxsize=1)  # every student of a notebook asks for it
def _documents(settings: str) -> list[str]:
    return pool.general_text(DataSettings.model_validate_json(settings))
