"""A block of tuples to one line of scores each, whatever their lengths, under any causal model."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from kdlib import runs
from kdlib.analysis import attacks, extraction
from kdlib.config.sections import FIELDS, SECRETS, AuditSettings, TokenSettings
from kdlib.data import sources, stream_rows
from kdlib.errors import KdlibError
from kdlib.measure import meter
from kdlib.model import checkpoints, packaged, tokens
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


def load(settings: AuditSettings) -> Loaded:
    """The models on the device, and the tokens that they read.

    KdlibError: a model or tokenizer is missing or broken, a package is not to be had, they do not
    fit together, the reference is the model itself, or they read fewer tokens than `max_length`.
    """
    models, tokenizers, room = [], [], UNLIMITED
    for name in [packaged.resolve(one) for one in (settings.model, settings.reference) if one]:
        model, tokenizer = checkpoints.load_model(name), tokens.load_tokenizer(name)
        checkpoints.require_match(model, tokenizer, name)
        tokenizer.model_max_length = UNLIMITED  # what is too long is counted here
        config = model.config.get_text_config()
        room = min(room, getattr(config, "max_position_embeddings", None) or UNLIMITED)
        models.append(model.to(checkpoints.device()))
        tokenizers.append(tokenizer)
    if tokenizers[-1].get_vocab() != tokenizers[0].get_vocab():
        sizes = f"{settings.model} ({len(tokenizers[-1])} and {len(tokenizers[0])} tokens)"
        other = f"--reference {settings.reference} has another tokenizer than {sizes}"
        raise KdlibError(f"{other}; take the model's own base")
    if len(models) > 1 and checkpoints.same_weights(*models):
        same = f"--reference {settings.reference} is {settings.model} itself, weight by weight"
        raise KdlibError(f"{same}; take the model before it was trained on these rows")
    longest = settings.max_length or (room if room < UNLIMITED else LENGTH)
    if longest > room:
        raise KdlibError(f"--max-length {longest}: '{settings.model}' reads {room} tokens")
    return Loaded(models[0], models[1] if settings.reference else None, tokenizers[0], longest)


def blocks(path: Path, settings: AuditSettings, size: int) -> Iterator[pd.DataFrame]:
    """`stream_rows.read` of an audited file, with its secrets."""
    return stream_rows.read(path, settings.columns, size, (*FIELDS, SECRETS))


def named(secrets: str) -> list[str]:
    """The strings of a row's secrets, one a line."""
    return [one.strip() for one in secrets.splitlines() if one.strip()]


def measured(
    rows: pd.DataFrame, split: str, settings: AuditSettings, loaded: Loaded
) -> tuple[pd.DataFrame, int]:
    """Every score of the rows (FIELDS) that fit, and how many tokens they have.

    Columns: row_id ("member-17" is row 17 of its file), split, what `meter.meter` gives, cut
    (whether the response was cut at the limit, its end token with it), the scores of
    `attacks.membership` (reference_base with a reference), instruction, response, category, and
    secrets (of each that was measured a digest) with secret_hits (`written`).
    """
    rows = rows.assign(row_id=[f"{split}-{number}" for number in rows.index])
    whole = TokenSettings(max_prompt=UNLIMITED, max_length=2 * UNLIMITED)
    encoded = tokens.encode(rows.to_dict("records"), loaded.tokenizer, whole, settings.template)
    fits = [len(one.prompt) < loaded.limit for one in encoded]
    kept = list(itertools.compress(encoded, fits))
    cut = [len(one) > loaded.limit for one in kept]
    kept = [replace(one, response=one.response[: loaded.limit - len(one.prompt)]) for one in kept]
    frame, base = metered(loaded.model, kept, settings, loaded), None
    if loaded.reference is not None:
        base = metered(loaded.reference, kept, settings, loaded)["nats_per_token"]
    texts = rows[fits].reset_index(drop=True)[["instruction", "response", "category"]]
    scores = attacks.membership(frame, extraction.zlib_bytes(texts["response"]), base=base)
    found = written(rows[fits], frame["token_lead"], loaded.tokenizer)
    frame = frame.assign(cut=np.array(cut, bool), **scores)
    frame.insert(1, "split", split)
    return pd.concat([frame, texts, found], axis=1), sum(map(len, kept))


def written(rows: pd.DataFrame, leads: pd.Series, tokenizer: Any) -> pd.DataFrame:
    """Of each row a list of its secrets' digests, and whether greedy decoding writes each.

    It is given the prompt and what stands before the secret in the response. `rows` have response
    and secrets, `leads` their token_lead (a list per row, shorter where the response was cut: what
    lies behind is left out). KdlibError: the tokenizer cannot say where its tokens stand.
    """
    names, hits = [], []
    for response, secrets, lead in zip(rows["response"], rows[SECRETS], leads, strict=True):
        there = [one for one in named(secrets) if one in response]
        spans = _spans(response, there, tokenizer) if there else []
        kept = [
            (one, span) for one, span in zip(there, spans, strict=True) if max(span) < len(lead)
        ]
        names.append([runs.digest(sources.normalised(one)) for one, _ in kept])
        hits.append([bool((np.asarray(lead)[span] > 0).all()) for _, span in kept])
    return pd.DataFrame({SECRETS: names, "secret_hits": hits}, dtype=object)


def _spans(response: str, secrets: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """The tokens of a response in which each secret stands first: later ones could be copied."""
    if not tokenizer.is_fast:
        what = "this tokenizer does not say where in the text its tokens stand"
        raise KdlibError(f"column '{SECRETS}': {what}; leave the column out")
    how: dict[str, Any] = {"add_special_tokens": False, "return_offsets_mapping": True}
    places, found = tokenizer(response, **how)["offset_mapping"], []
    for one in secrets:
        start = response.index(one)
        end = start + len(one)
        found.append([i for i, (a, b) in enumerate(places) if a < end and b > start])
    return found


def metered(
    model: Any, examples: Sequence[Example], settings: AuditSettings, loaded: Loaded
) -> pd.DataFrame:
    """`meter.meter` in the order of the examples, fewer at a time where they are long."""
    how: dict[str, Any] = {"pad_id": loaded.tokenizer.pad_token_id, "precision": settings.precision}
    places, frames = [], [meter.meter(model, [], **how)]
    try:
        for group, batch in alike(examples, settings.batch):
            frames.append(meter.meter(model, [examples[i] for i in group], batch=batch, **how))
            places += group
    except torch.OutOfMemoryError:
        remedy = "run the same command with a smaller one, finished parts are kept"
        message = f"not enough memory for --batch {settings.batch}; {remedy}"
        raise KdlibError(message) from None
    return pd.concat(frames[len(places) > 0 :]).set_index(pd.Index(places)).sort_index()


def alike(examples: Sequence[Example], batch: int) -> Iterator[tuple[list[int], int]]:
    """Places of examples whose lengths need equally many bits, and how many go at a time."""
    bits = np.array([len(one).bit_length() for one in examples], int)
    for size in sorted(set(bits.tolist()), reverse=True):
        yield np.flatnonzero(bits == size).tolist(), max(1, min(batch, BUDGET >> size))
