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
    models, tokenizers, context_size = [], [], UNLIMITED
    for name in [packaged.resolve(name) for name in (settings.model, settings.reference) if name]:
        model, tokenizer = checkpoints.load_model(name), tokens.load_tokenizer(name)
        checkpoints.require_match(model, tokenizer, name)
        tokenizer.model_max_length = UNLIMITED  # what is too long is counted here
        config = model.config.get_text_config()
        context_size = min(
            context_size, getattr(config, "max_position_embeddings", None) or UNLIMITED
        )
        models.append(model.to(checkpoints.device()))
        tokenizers.append(tokenizer)
    if tokenizers[-1].get_vocab() != tokenizers[0].get_vocab():
        sizes = f"{settings.model} ({len(tokenizers[-1])} and {len(tokenizers[0])} tokens)"
        mismatch = f"--reference {settings.reference} has another tokenizer than {sizes}"
        raise KdlibError(f"{mismatch}; take the model's own base")
    if len(models) > 1 and checkpoints.same_weights(*models):
        duplicate = f"--reference {settings.reference} is {settings.model} itself, weight by weight"
        raise KdlibError(f"{duplicate}; take the model before it was trained on these rows")
    limit = settings.max_length or (context_size if context_size < UNLIMITED else LENGTH)
    if limit > context_size:
        raise KdlibError(f"--max-length {limit}: '{settings.model}' reads {context_size} tokens")
    return Loaded(models[0], models[1] if settings.reference else None, tokenizers[0], limit)


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
        fast = loaded.tokenizer.is_fast
        detected = [secrets.detected(row) if fast else "" for row in rows.to_dict("records")]
        rows = rows.assign(**{SECRETS: detected})
    fits, examples, cut = encoded(rows, settings, loaded)
    rows = rows.loc[np.array(fits, bool)]
    frame, base = metered(loaded.model, examples, settings, loaded), None
    if loaded.reference is not None:
        plain = [replace(example, own=()) for example in examples]
        base = metered(loaded.reference, plain, settings, loaded)["nats_per_token"]
    texts = rows.reset_index(drop=True)[["instruction", "response", "category"]]
    membership = attacks.membership(frame, extraction.zlib_bytes(texts["response"]), base=base)
    nats, leads = (frame[name] for name in meter.PROMPT_TOKEN)
    extra = [
        scores.of_prompts(nats, leads, [example.own for example in examples]),
        texts.assign(prompt_group=[prompt_group(row) for row in rows.to_dict("records")]),
        strings(rows, examples, frame, settings, loaded),
        decoded([n in decode for n in rows.index], examples, settings, loaded),
    ]
    frame = frame.drop(columns=[*meter.PROMPT_TOKEN]).assign(cut=np.array(cut, bool), **membership)
    frame.insert(1, "split", split)
    return pd.concat([frame, *extra], axis=1), sum(map(len, examples))


def encoded(
    rows: pd.DataFrame, settings: AuditSettings, loaded: Loaded
) -> tuple[list[bool], list[Example], list[bool]]:
    """Of each row whether its prompt fits; examples of those that do, and which of them are cut."""
    records, tokenizer = rows.to_dict("records"), loaded.tokenizer
    encodings = tokens.encode(records, tokenizer, tokens.WHOLE, settings.template)
    fits = [len(example.prompt) < loaded.limit for example in encodings]
    fitting, fitting_rows = (
        list(itertools.compress(items, fits)) for items in (encodings, records)
    )
    examples = tokens.with_own_text(fitting, fitting_rows, tokenizer, settings.template)
    cut = [len(example) > loaded.limit for example in examples]
    return fits, tokens.within(examples, loaded.limit), cut


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
    args = (loaded.tokenizer, settings.template)
    records = rows.to_dict("records")
    occurrences = secrets.located(records, examples, *args)
    fake_rows, originals = secrets.counterparts(rows, occurrences)
    fits, fake_examples, _ = encoded(fake_rows, settings, loaded)
    fake_rows = fake_rows.loc[np.array(fits, bool)]
    fake_occurrences = secrets.located(fake_rows.to_dict("records"), fake_examples, *args)
    fake_scores = metered(loaded.model, fake_examples, settings, loaded)
    lost = [
        secrets.count_present(row) - len(present)
        for row, present in zip(records, occurrences, strict=True)
    ]
    preferred: dict[str, bool] = {}
    fitting = itertools.compress(originals, fits)
    for i, ((index, original), fakes) in enumerate(zip(fitting, fake_occurrences, strict=True)):
        if fakes and fakes[0].part == original.part:
            true_nats = secrets.nats(original, frame.iloc[index])
            preferred[original.digest] = true_nats < secrets.nats(fakes[0], fake_scores.iloc[i])
    return secrets.table(occurrences, frame, preferred).assign(secrets_lost=lost)


def decoded(
    selected: Sequence[bool], examples: Sequence[Example], settings: AuditSettings, loaded: Loaded
) -> pd.DataFrame:
    """`extraction.approximate` of the `selected` examples, answered greedily; nan of others.

    An answer ends where the response does. This takes a forward pass for each of its tokens.
    """
    indices = np.flatnonzero(selected).tolist()
    pairs: dict[int, list[str]] = {}
    options: dict[str, Any] = {"end_id": loaded.tokenizer.eos_token_id, "greedy": True}
    for group, batch in length_groups([examples[i] for i in indices], settings.batch):
        subset = [examples[indices[i]] for i in group]
        longest = max(len(example.response) for example in subset)
        with checkpoints.autocast(checkpoints.device(), settings.precision):
            answers = generation.continue_prompts(
                loaded.model,
                [example.prompt for example in subset],
                max_new=longest,
                batch=batch,
                **options,
            )
        for i, example, answer in zip(group, subset, answers, strict=True):
            pair = (answer[: len(example.response)], example.response)
            texts = loaded.tokenizer.batch_decode(pair, skip_special_tokens=True)
            pairs[indices[i]] = [text.strip() for text in texts]
    similarity = extraction.approximate(*zip(*pairs.values(), strict=True)) if pairs else NO_ANSWERS
    similarity = similarity.astype(float).set_index(pd.Index(list(pairs), dtype=int))
    return similarity.reindex(range(len(examples)))


def metered(
    model: Any, examples: Sequence[Example], settings: AuditSettings, loaded: Loaded
) -> pd.DataFrame:
    """`meter.meter` in the order of the examples, fewer at a time where they are long."""
    options: dict[str, Any] = {
        "pad_id": loaded.tokenizer.pad_token_id,
        "precision": settings.precision,
    }
    indices, frames = [], [meter.meter(model, [], **options)]
    try:
        for group, batch in length_groups(examples, settings.batch):
            frames.append(meter.meter(model, [examples[i] for i in group], batch=batch, **options))
            indices += group
    except torch.OutOfMemoryError:
        remedy = "run the same command with a smaller one, finished parts are kept"
        message = f"not enough memory for --batch {settings.batch}; {remedy}"
        raise KdlibError(message) from None
    return pd.concat(frames[len(indices) > 0 :]).set_index(pd.Index(indices)).sort_index()


def cost_of(settings: AuditSettings, loaded: Loaded) -> dict[str, Any]:
    """`cost.generation_cost` of the first training rows that are complete."""
    answer_length = max(1, min(ANSWER, loaded.limit // 2))
    prompt_limit, prompts = max(1, loaded.limit - answer_length), []
    for block in blocks(settings.data, settings, TIMED):
        rows = block.query(COMPLETE).assign(row_id="")
        # of a prompt that leaves no room for the answer only its end: what it says costs nothing
        prompts += [
            example.prompt[-prompt_limit:] for example in encoded(rows, settings, loaded)[1]
        ]
        if len(prompts) >= TIMED:
            break
    options: dict[str, Any] = {"tokens": answer_length, "precision": settings.precision}
    return cost.generation_cost(loaded.model, prompts[:TIMED], **options)


def length_groups(examples: Sequence[Example], batch: int) -> Iterator[tuple[list[int], int]]:
    """Indices of examples whose lengths need equally many bits, and how many go at a time."""
    bits = np.array([len(example).bit_length() for example in examples], int)
    for size in sorted(set(bits.tolist()), reverse=True):
        yield np.flatnonzero(bits == size).tolist(), max(1, min(batch, BUDGET >> size))
