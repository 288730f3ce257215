"""Tokenizer and base models, made once for all seeds. Taught in notebook 01_data_and_tokens."""

import copy
import functools
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from kdlib import runs
from kdlib.config.profile import TEACHER, Profile
from kdlib.config.sections import DataSettings, TrainSettings
from kdlib.data import pool
from kdlib.distill import objectives, text_sources, trainer
from kdlib.distill.teacher_targets import Live
from kdlib.errors import KdlibError
from kdlib.model import checkpoints, packaged, pruning, tokens
from kdlib.study.run import (
    BASE,
    Run,
    base_identity,
    fitting,
    load,
    load_pool,
    load_tokenizer,
    tokenizer_dir,
)

MEAN_TOKENS = 20  # fewer than a paragraph of general text has, so that enough are taken
GENERAL_DOCUMENTS = 2000  # that MiniLLM reads beside its own text
BLOCK = 128  # tokens of general text
WARMUP = 100  # optimizer steps at most


def prepare(profile: Profile) -> None:
    """Make what the profile names no path of: tokenizer and base models, once for all seeds.

    KdlibError, before any model is: a path or package is not to be had, sizes do not share a
    tokenizer, students are not smaller than the teacher's model, or too few rows fit.
    """
    for path in (*(model.path for model in profile.models.values()), profile.measure.encoder):
        packaged.resolve(path or "")
    sizes = [size for size, model in profile.models.items() if model.path is None]
    _require_fewer(profile, [size for size in sizes if profile.cut(size)])
    if not profile.from_scratch:
        fitting(profile)  # with the tokenizer that all sizes share
    if not sizes:
        return
    documents = _pretraining_text(profile)
    if profile.from_scratch:
        train_tokenizer(profile, documents)
        fitting(profile)
    for size in sizes:
        pretrain(Run(profile, 0, BASE, size), documents)


def prepare_another(run: Run) -> None:
    """The base model of a run that starts from another than the study's: `run.pretraining`."""
    pretrain(run.base, _pretraining_text(run.profile))


def _pretraining_text(profile: Profile) -> list[str]:
    remedy = "models made here need it: give models by path, or take data.source = 'pydocs'"
    return general_text(profile, max(1000, profile.pretrain.tokens // MEAN_TOKENS), remedy)


def _require_fewer(profile: Profile, sizes: list[str]) -> None:
    """Refuse students of as many layers as the teacher's model has, before anything is made."""
    depth = pruning.depth(Run(profile, 0, BASE, TEACHER).checkpoint) if sizes else 0
    for size in sizes:
        if (layers := profile.models[size].layers or 0) >= depth:
            problem = f"the teacher's model has {depth}; give fewer, or its path"
            raise KdlibError(f"models.{size}: layers = {layers}, and {problem}")


def train_tokenizer(profile: Profile, documents: list[str]) -> None:
    """The tokenizer of models made from scratch: of the general text and the prompts."""
    folder, identity = tokenizer_dir(profile), base_identity(profile, TEACHER)
    with runs.locked(folder):  # another process may make the same
        if runs.done(folder, identity):
            return
        rows = load_pool(profile.data)[["instruction", "context"]].itertuples(index=False)
        prompts = [
            tokens.prompt_text(instruction, context, profile.template)
            for instruction, context in rows
        ]
        tokenizer = tokens.train_tokenizer([*documents, *prompts], profile.tokens.vocabulary)
        (folder / runs.MANIFEST).unlink(missing_ok=True)
        with runs.write_errors(folder):
            tokenizer.save_pretrained(folder)
        runs.write_manifest(folder, identity)


def pretrain(run: Run, documents: list[str]) -> None:
    """One base model, trained on the general text: from scratch, or cut from the teacher's."""
    profile, size, folder = run.profile, run.size, Path(run.checkpoint)
    identity = base_identity(profile, size, run.pretraining)
    with runs.locked(folder):  # another process may make the same
        if runs.done(folder, identity):
            return
        tokenizer, positions = load_tokenizer(profile), profile.tokens.max_length
        blocks = tokens.text_blocks(documents, tokenizer, min(BLOCK, positions))
        (folder / runs.MANIFEST).unlink(missing_ok=True)
        started = time.perf_counter()
        if profile.cut(size):
            model, facts = heal(run, tokenizer, blocks)
        else:
            model = checkpoints.make_model(
                profile.models[size], tokenizer, positions, seed=run.pretraining
            )
            model, facts = model.to(checkpoints.device()), {}
            fit(run, model, blocks, objectives.objective("cross_entropy"), tokenizer)
        checkpoints.save_model(model, tokenizer, folder)
        facts |= {"threads": torch.get_num_threads(), "seconds": time.perf_counter() - started}
        runs.write_manifest(folder, identity, size=size, **facts)


def heal(run: Run, tokenizer: Any, blocks: list[tokens.Example]) -> tuple[Any, dict[str, Any]]:
    """The teacher's base model with fewer layers, trained until it writes text again.

    Returns the model, the layers that were kept, and its nats per token on general text that it did
    not read: nats_whole (of the teacher's base model), nats_cut (before healing), nats_healed.
    """
    profile, pad_id = run.profile, tokenizer.pad_token_id
    batch, mix = profile.pretrain.batch, profile.pretrain.mix
    held_out, train_blocks = blocks[: profile.pretrain.apart], blocks[profile.pretrain.apart :]
    if not train_blocks:
        problem = f"the general text has {len(blocks)} blocks; lower it, or take more data.packages"
        raise KdlibError(f"pretrain.apart = {profile.pretrain.apart}: {problem}")
    start = Run(profile, 0, BASE, TEACHER)
    original = load(start, dropout=0.0)  # one short pass over text overfits nothing
    loss = partial(pruning.mean_loss, blocks=held_out, pad_id=pad_id, batch=batch)
    layers = kept_layers(profile, run.size, original, loss)
    facts: dict[str, Any] = {"layers": layers, "nats_whole": loss(original)}
    model = pruning.prune(copy.deepcopy(original), layers)
    pruning.require_readable(model, start.checkpoint)
    facts["nats_cut"] = loss(model)
    minimized = objectives.objective("cross_entropy")
    if mix < 1:
        minimized = objectives.objective(
            "mixed_forward_kl", Live(original, profile.teacher.precision), {"mix": mix}
        )
    fit(run, model, train_blocks, minimized, tokenizer)
    return model, facts | {"nats_healed": loss(model)}


def fit(
    run: Run,
    model: Any,
    blocks: list[tokens.Example],
    minimized: tokens.Objective,
    tokenizer: Any,
) -> None:
    """Train on so many tokens of the blocks, again from the first where these are too few."""
    profile, seed, log = run.profile, run.pretraining, Path(run.checkpoint) / "log.jsonl"
    batch, lr = profile.pretrain.batch, profile.pretrain.lr
    count = max(batch, profile.pretrain.tokens // len(blocks[0]))
    used_blocks = blocks[:count]
    epochs, steps = max(1, round(count / len(used_blocks))), math.ceil(len(used_blocks) / batch)
    warmup = WARMUP if profile.from_scratch else min(WARMUP, epochs * steps // 10)
    options: dict[str, Any] = {"schedule": "cosine", "precision": profile.teacher.precision}
    settings = TrainSettings(epochs=epochs, lr=lr, batch=batch, warmup=warmup, **options)
    source = text_sources.fixed(
        text_sources.Reading(used_blocks, settings, tokenizer.pad_token_id, seed)
    )
    options = {"log": log, "name": f"pretrain {run.size}"}
    trainer.fit(model, source, minimized, settings, epoch_steps=steps, seed=seed, **options)


def layer_costs(profile: Profile) -> Path:
    """Where the table of what each layer of the teacher's base model is worth lies."""
    return runs.runs_dir(profile.name) / BASE / "layers" / "layers.csv"


def kept_layers(profile: Profile, size: str, model: Any, loss: Callable[[Any], float]) -> list[int]:
    """The layers of the teacher's base model whose removal, one at a time, costs most.

    The costs are measured once for all sizes, and kept as layers.csv: layer (from 0), nats_without,
    and nats_more, which are those without it less those of the whole model (nats per token).
    """
    path, folder = layer_costs(profile), layer_costs(profile).parent
    identity = runs.fingerprint([base_identity(profile, TEACHER), profile.pretrain.apart])
    with runs.locked(folder):  # other sizes may ask for the same
        if not runs.done(folder, identity):
            (folder / runs.MANIFEST).unlink(missing_ok=True)
            started, baseline = time.perf_counter(), loss(model)
            frame = pd.DataFrame({"nats_without": pruning.losses_without_layers(model, loss)})
            frame.insert(0, "layer", frame.index)
            frame["nats_more"] = frame["nats_without"] - baseline
            runs.write_table(path, frame)
            facts = {"nats_whole": baseline, "seconds": time.perf_counter() - started}
            runs.write_manifest(folder, identity, **facts)
    costs = pd.read_csv(path).sort_values("nats_without", kind="stable")
    return sorted(costs["layer"].tail(profile.models[size].layers or 0))


def general_blocks(profile: Profile, tokenizer: Any) -> list[tokens.Example]:
    """Blocks of general text for MiniLLM, in the order in which they were shuffled."""
    remedy = "set general_text = 0 in methods.minillm.coefficients"
    documents = general_text(profile, GENERAL_DOCUMENTS, remedy)
    return tokens.text_blocks(documents, tokenizer, min(BLOCK, profile.tokens.max_length))


def general_text(profile: Profile, limit: int, remedy: str) -> list[str]:
    """At most `limit` documents, shuffled: any part is like the whole."""
    if documents := _documents(profile.data.model_dump_json())[:limit]:
        return documents
    raise KdlibError(f"profile '{profile.name}': its data has no general text; {remedy}")


@functools.lru_cache(maxsize=1)  # every student of a notebook asks for it
def _documents(settings: str) -> list[str]:
    return pool.general_text(DataSettings.model_validate_json(settings))
