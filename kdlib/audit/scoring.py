"""A block of tuples to one line of scores each, whatever their lengths, under any causal model."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from kdlib.analysis import attacks, extraction
from kdlib.config.sections import AuditSettings, TokenSettings
from kdlib.errors import KdlibError
from kdlib.measure import meter
from kdlib.model import checkpoints, tokens
from kdlib.model.tokens import Example

BUDGET = 2**14  # tokens of a forward pass, padding included: long rows go fewer at a time
UNLIMITED = 2**30  # tokens
LENGTH = 2048  # tokens, for models without a greatest position when nothing is asked


@dataclass(frozen=True)
class Loaded:
    """The models and how many tokens they read."""

    model: Any
    reference: Any
    tokenizer: Any
    limit: int


def load(asked: AuditSettings) -> Loaded:
    """The models on the device, and the tokens that they read.

    Raises:
        KdlibError: a model or tokenizer is missing or broken, they do not fit together, or they
            read fewer tokens than asked.
    """
    names = [name for name in (asked.model, asked.reference) if name]
    for name in names:
        if Path(name).is_absolute() and not Path(name).is_dir():
            raise KdlibError(f"model folder {name} does not exist; check the path")
    found = [checkpoints.load_model(name).to(checkpoints.device()) for name in names]
    tokenizers = [tokens.load_tokenizer(name) for name in names]
    if tokenizers[-1].get_vocab() != tokenizers[0].get_vocab():
        raise KdlibError(
            f"--reference {asked.reference} has another tokenizer than {asked.model} "
            f"({len(tokenizers[-1])} and {len(tokenizers[0])} tokens); take the model's own base"
        )
    rooms = []
    for name, model, tokenizer in zip(names, found, tokenizers, strict=True):
        tokenizer.model_max_length = UNLIMITED  # what is too long is counted here
        known = model.get_input_embeddings().num_embeddings
        if known < len(tokenizer):
            raise KdlibError(
                f"model '{name}' knows {known} tokens, its tokenizer {len(tokenizer)}; "
                "they do not belong together"
            )
        rooms.append(getattr(model.config, "max_position_embeddings", None) or UNLIMITED)
    room = min(rooms)
    if asked.max_length and asked.max_length > room:
        raise KdlibError(f"--max-length {asked.max_length}: '{asked.model}' reads {room} tokens")
    limit = asked.max_length or (room if room < UNLIMITED else LENGTH)
    return Loaded(found[0], found[1] if asked.reference else None, tokenizers[0], limit)


def measured(
    rows: pd.DataFrame, split: str, asked: AuditSettings, loaded: Loaded
) -> tuple[pd.DataFrame, int]:
    """Every score of the tuples that fit, and how many tokens they have.

    Args:
        rows: instruction, context, response, category; the index numbers them.
        split: member or held_out.
        asked: the settings.
        loaded: the models.

    Returns:
        row_id ("member-17" is row 17 of its file), split, what `meter.meter` gives, cut (whether
        the response was cut at the limit, its end token with it), the scores of
        `attacks.membership` (reference_base with a reference), instruction, response, category.
    """
    rows = rows.assign(row_id=[f"{split}-{number}" for number in rows.index])
    whole = TokenSettings(template=asked.template, max_prompt=UNLIMITED, max_length=2 * UNLIMITED)
    encoded = tokens.encode(rows.to_dict("records"), loaded.tokenizer, whole)
    fits = [len(example.prompt) < loaded.limit for example in encoded]
    kept = list(itertools.compress(encoded, fits))
    cut = [len(example) > loaded.limit for example in kept]
    kept = [replace(one, response=one.response[: loaded.limit - len(one.prompt)]) for one in kept]
    frame = metered(loaded.model, kept, asked, loaded)
    base = None
    if loaded.reference is not None:
        base = metered(loaded.reference, kept, asked, loaded)["nats_per_token"]
    texts = rows[fits].reset_index(drop=True)[["instruction", "response", "category"]]
    found = attacks.membership(frame, extraction.zlib_bytes(texts["response"]), base=base)
    frame = frame.assign(cut=np.array(cut, bool), **found)
    frame.insert(1, "split", split)
    return pd.concat([frame, texts], axis=1), sum(map(len, kept))


def metered(
    model: Any, examples: Sequence[Example], asked: AuditSettings, loaded: Loaded
) -> pd.DataFrame:
    """`meter.meter` in the order of the examples, fewer at a time where they are long."""
    how: dict[str, Any] = {"pad_id": loaded.tokenizer.pad_token_id, "precision": asked.precision}
    places, found = [], [meter.meter(model, [], **how)]
    try:
        for group, batch in alike(examples, asked.batch):
            found.append(meter.meter(model, [examples[i] for i in group], batch=batch, **how))
            places += group
    except torch.OutOfMemoryError:
        raise KdlibError(
            f"not enough memory for --batch {asked.batch}; run the same command with a smaller "
            "one, finished parts are kept"
        ) from None
    return pd.concat(found[len(places) > 0 :]).set_index(pd.Index(places)).sort_index()


def alike(examples: Sequence[Example], batch: int) -> Iterator[tuple[list[int], int]]:
    """Places of examples whose lengths need equally many bits, and how many go at a time."""
    bits = [len(example).bit_length() for example in examples]
    order = sorted(range(len(examples)), key=lambda i: bits[i], reverse=True)
    for size, group in itertools.groupby(order, key=lambda i: bits[i]):
        yield list(group), max(1, min(batch, BUDGET >> size))
