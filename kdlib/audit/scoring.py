"""A block of tuples to one line of scores each, whatever their lengths, under any causal model."""

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from kdlib import runs
from kdlib.analysis import attacks, extraction
from kdlib.audit import secrets
from kdlib.config.sections import FIELDS, SECRETS, AuditSettings
from kdlib.data import sources, stream_rows
from kdlib.errors import KdlibError
from kdlib.measure import cost, meter, scores
from kdlib.model import checkpoints, generation, packaged, tokens
from kdlib.model.tokens import Example

BUDGET = 2**14  # tokens of a forward pass, padding included: long rows go fewer at a time
UNLIMITED = 2**30  # tokens
LENGTH = 2048  # tokens, for models without a greatest position when nothing is asked
COMPLETE = "instruction != '' and response != ''"  # rows that can be measured
TIMED, ANSWER = 4, 64  # rows whose prompts are answered to see what that costs, and tokens of each
NO_ANSWERS = extraction.approximate([], [])


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


def detects(settings: AuditSettings) -> bool:
    """Whether strings are found by their form: the training rows have no column that names them."""
    return not stream_rows.has(settings.data, settings.columns.get(SECRETS, SECRETS))


def measured(
    rows: pd.DataFrame,
    split: str,
    settings: AuditSettings,
    loaded: Loaded,
    decode: Collection[int] = (),
) -> tuple[pd.DataFrame, int]:
    """Every score of the rows (FIELDS, SECRETS) that fit, and how many tokens they have.

    Columns: row_id ("member-17" is row 17 of its file), split, what `meter.meter` gives of the
    response and `scores.of_prompts` of the prompt, cut (whether the response was cut at the limit,
    its end token with it), the scores of `attacks.membership` (reference_base with a reference),
    instruction, response, category, prompt_group (equal where the longer of instruction and context
    is), those of `secrets.table` with secrets_lost (how many stand in the row, behind a cut or
    first of all, and could not be measured), and, of the rows whose numbers `decode` names, those
    of `extraction.approximate` (else nan).
    """
    rows = rows.assign(row_id=[f"{split}-{number}" for number in rows.index])
    if detects(settings):
        able = loaded.tokenizer.is_fast
        found = [secrets.detected(row) if able else "" for row in rows.to_dict("records")]
        rows = rows.assign(**{SECRETS: found})
    fits, kept, cut = encoded(rows, settings, loaded)
    rows = rows.loc[np.array(fits, bool)]
    frame, base = metered(loaded.model, kept, settings, loaded), None
    if loaded.reference is not None:
        plain = [replace(one, own=()) for one in kept]
        base = metered(loaded.reference, plain, settings, loaded)["nats_per_token"]
    texts = rows.reset_index(drop=True)[["instruction", "response", "category"]]
    membership = attacks.membership(frame, extraction.zlib_bytes(texts["response"]), base=base)
    nats, leads = (frame[name] for name in meter.PROMPT_TOKEN)
    more = [
        scores.of_prompts(nats, leads, [e.own for e in kept]),
        texts.assign(prompt_group=[prompt_group(row) for row in rows.to_dict("records")]),
        strings(rows, kept, frame, settings, loaded),
        decoded([n in decode for n in rows.index], kept, settings, loaded),
    ]
    frame = frame.drop(columns=[*meter.PROMPT_TOKEN]).assign(cut=np.array(cut, bool), **membership)
    frame.insert(1, "split", split)
    return pd.concat([frame, *more], axis=1), sum(map(len, kept))


def encoded(
    rows: pd.DataFrame, settings: AuditSettings, loaded: Loaded
) -> tuple[list[bool], list[Example], list[bool]]:
    """Of each row whether its prompt fits; examples of those that do, and which of them are cut."""
    records, tokenizer = rows.to_dict("records"), loaded.tokenizer
    every = tokens.encode(records, tokenizer, tokens.WHOLE, settings.template)
    fits = [len(one.prompt) < loaded.limit for one in every]
    examples, read = (list(itertools.compress(of, fits)) for of in (every, records))
    kept = tokens.with_own_text(examples, read, tokenizer, settings.template)
    cut = [len(one) > loaded.limit for one in kept]
    return fits, tokens.within(kept, loaded.limit), cut


def prompt_group(row: Any) -> str:
    """The same for rows whose prompts stand or fall together, such as questions about one text."""
    longer = max(row["instruction"], row["context"], key=len)
    return runs.digest(sources.normalised(longer))


def strings(
    rows: pd.DataFrame,
    examples: Sequence[Example],
    frame: pd.DataFrame,
    settings: AuditSettings,
    loaded: Loaded,
) -> pd.DataFrame:
    """`secrets.table` of rows with their examples and scores; their counterparts are read here."""
    how = (loaded.tokenizer, settings.template)
    records = rows.to_dict("records")
    standing = secrets.located(records, examples, *how)
    other, chosen = secrets.counterparts(rows, standing)
    fits, kept, _ = encoded(other, settings, loaded)
    other = other.loc[np.array(fits, bool)]
    made = secrets.located(other.to_dict("records"), kept, *how)
    read = metered(loaded.model, kept, settings, loaded)
    lost = [secrets.standing_in(row) - len(one) for row, one in zip(records, standing, strict=True)]
    preferred: dict[str, bool] = {}
    fitting = itertools.compress(chosen, fits)
    for i, ((place, one), there) in enumerate(zip(fitting, made, strict=True)):
        if there and there[0].part == one.part:
            own = secrets.nats(one, frame.iloc[place])
            preferred[one.digest] = own < secrets.nats(there[0], read.iloc[i])
    return secrets.table(standing, frame, preferred).assign(secrets_lost=lost)


def decoded(
    asked: Sequence[bool], examples: Sequence[Example], settings: AuditSettings, loaded: Loaded
) -> pd.DataFrame:
    """`extraction.approximate` of the examples that are asked, answered greedily; nan of others.

    An answer ends where the response does. This takes a forward pass for each of its tokens.
    """
    chosen = np.flatnonzero(asked).tolist()
    pairs: dict[int, list[str]] = {}
    how: dict[str, Any] = {"end_id": loaded.tokenizer.eos_token_id, "greedy": True}
    for group, batch in alike([examples[i] for i in chosen], settings.batch):
        few = [examples[chosen[i]] for i in group]
        longest = max(len(one.response) for one in few)
        with checkpoints.autocast(checkpoints.device(), settings.precision):
            written = generation.continue_prompts(
                loaded.model, [one.prompt for one in few], max_new=longest, batch=batch, **how
            )
        for i, one, answer in zip(group, few, written, strict=True):
            both = (answer[: len(one.response)], one.response)
            texts = loaded.tokenizer.batch_decode(both, skip_special_tokens=True)
            pairs[chosen[i]] = [text.strip() for text in texts]
    near = extraction.approximate(*zip(*pairs.values(), strict=True)) if pairs else NO_ANSWERS
    near = near.astype(float).set_index(pd.Index(list(pairs), dtype=int))
    return near.reindex(range(len(examples)))


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


def cost_of(settings: AuditSettings, loaded: Loaded) -> dict[str, Any]:
    """`cost.answering` of the first training rows that are complete."""
    answer = max(1, min(ANSWER, loaded.limit // 2))
    room, prompts = max(1, loaded.limit - answer), []
    for block in blocks(settings.data, settings, TIMED):
        rows = block.query(COMPLETE).assign(row_id="")
        # of a prompt that leaves no room for the answer only its end: what it says costs nothing
        prompts += [one.prompt[-room:] for one in encoded(rows, settings, loaded)[1]]
        if len(prompts) >= TIMED:
            break
    how: dict[str, Any] = {"tokens": answer, "precision": settings.precision}
    return cost.answering(loaded.model, prompts[:TIMED], **how)


def alike(examples: Sequence[Example], batch: int) -> Iterator[tuple[list[int], int]]:
    """Places of examples whose lengths need equally many bits, and how many go at a time."""
    bits = np.array([len(one).bit_length() for one in examples], int)
    for size in sorted(set(bits.tolist()), reverse=True):
        yield np.flatnonzero(bits == size).tolist(), max(1, min(batch, BUDGET >> size))
