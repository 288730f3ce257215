"""Tuples to padded batches: their padding, masks and buckets. Taught in 01_data_and_tokens."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from kdlib.config.sections import Template, TokenSettings
from kdlib.errors import KdlibError
from kdlib.model import checkpoints

IGNORE = -100  # the label torch's cross-entropy leaves out
END = "<|endoftext|>"
WHOLE = TokenSettings(max_prompt=2**30, max_length=2**31)  # of `encode`: nothing is cut or refused
FILES = re.compile(r"tokenizer\.|vocab|merges|piece|tiktoken|tekken")  # of a tokenizer, some such


@dataclass(frozen=True)
class Example:
    """One tuple as token ids; `response` ends with the end token unless it was cut."""

    row_id: str
    prompt: tuple[int, ...]
    response: tuple[int, ...]
    own: tuple[int, ...] = ()  # places in the prompt, above 0, whose tokens are predicted, too

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


@dataclass(frozen=True, eq=False)
class Batch:
    """Right-padded examples [B, T], and the N positions at which a token is to be predicted."""

    input_ids: Tensor  # int64 [B, T]
    attention_mask: Tensor  # int64 [B, T], 1 on tokens, 0 on padding
    labels: Tensor  # int64 [B, T], the token itself where it is to be predicted, else IGNORE
    row_id: tuple[str, ...]
    places: Tensor  # int64 [N], of the predictions in the flattened [B * T]: one before each label
    targets: Tensor  # int64 [N], the tokens to be predicted there
    lengths: tuple[int, ...]  # predicted tokens of each row; they sum to N
    # whose text: also "teacher", "student" (fresh), "replay" (read again, same row id), "general";
    # or "forgotten", rows that are unlearned
    role: str = "rows"
    kept: Tensor | None = None  # bool [N], which of the predictions count in the loss; None: all
    sign: int = 1  # -1: the loss is raised, in unlearning

    @property
    def count(self) -> int:
        """How many predictions count in the loss."""
        return sum(self.lengths) if self.kept is None else int(self.kept.sum())

    def counted(self, nats: Tensor, part: slice) -> Tensor:
        """The nats [n] of a part of the predictions, with the sign; 0 where they do not count."""
        return self.sign * (nats if self.kept is None else nats.where(self.kept[part], 0))

    def to(self, device: torch.device) -> Self:
        """The batch on another device, copied without waiting."""
        if device.type == self.input_ids.device.type:
            return self
        tensors: dict[str, Any] = {k: v for k, v in vars(self).items() if isinstance(v, Tensor)}
        for name, value in tensors.items():  # scores may lie there already
            pinned = device.type == "cuda" and value.device.type == "cpu"  # or the CPU would wait
            tensors[name] = (value.pin_memory() if pinned else value).to(device, non_blocking=True)
        return replace(self, **tensors)


@dataclass(frozen=True, eq=False, kw_only=True)
class Rollout(Batch):
    """Sampled text with what the policy gradient needs at each prediction, float [N]."""

    old_log_q: Tensor  # the student's log-probability when the text was sampled
    advantages: Tensor
    weights: Tensor  # importance weights


# What the training loop is given: whose text is read, and what is minimized there.
Source = Callable[[Any, int], Iterable[list[Batch]]]  # (model, epoch) -> optimizer steps
Objective = Callable[[Tensor, Batch, slice], Tensor]  # (logits [n, V], batch, which) -> nats [n]


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE like GPT-2's, trained on `texts`, with END as end and padding token."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocabulary, 0, show_progress=False, special_tokens=[END])
    tokenizer = Tokenizer.from_str(bpe.to_str())
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)


def load_tokenizer(path: str | Path) -> Any:
    """A tokenizer by folder or hub name; KdlibError: it cannot be read, or has no end token."""
    with checkpoints.quiet(), checkpoints.load_errors("tokenizer", path):
        if Path(path).is_dir() and not any(FILES.search(f.name) for f in Path(path).iterdir()):
            raise ValueError("the folder holds none")
        tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        raise KdlibError(f"the tokenizer at '{path}' has no end token; set eos_token in it")
    tokenizer.pad_token = tokenizer.eos_token  # its own may have no place in the vocabulary
    return tokenizer


def same_tokenizer(teacher: Any, student: Any, names: tuple[str, str]) -> None:
    """Refuse two tokenizers that do not give the same ids, by KdlibError with both names."""
    if teacher.get_vocab() != student.get_vocab():
        problem = f"teacher '{names[0]}' and student '{names[1]}' have different tokenizers"
        sizes = f"{len(teacher)} and {len(student)} tokens"
        raise KdlibError(f"{problem} ({sizes}); take models of one family")


def prompt_text(instruction: str, context: str, template: Template) -> str:
    """What stands before the response: the template with the row's texts in their places."""
    return prompt_parts(instruction, context, template)[0]


def prompt_parts(
    instruction: str, context: str, template: Template
) -> tuple[str, list[tuple[int, int]]]:
    """The prompt's text, and the characters [start, end) at which the row's own texts stand."""
    text = template.text if context else template.without_context or template.text
    fields = {"{instruction}": instruction, "{context}": context}
    prompt, spans = "", []
    for part in re.split(r"(\{instruction\}|\{context\})", text):
        start, prompt = len(prompt), prompt + fields.get(part, part)
        spans += [(start, len(prompt))] if part in fields else []
    return prompt, spans


def encode(
    rows: Iterable[Any], tokenizer: Any, settings: TokenSettings, template: Template
) -> list[Example]:
    """Rows to token ids; a response is cut at `max_length`, a prompt above `max_prompt` refused."""
    if not (rows := list(rows)):
        return []
    prompts = [prompt_text(row["instruction"], row["context"], template) for row in rows]
    responses = [row["response"] for row in rows]
    response_ids = tokenizer(responses, add_special_tokens=False)["input_ids"]
    examples = []
    encoded = prompt_ids(prompts, tokenizer)
    for row, prompt, response in zip(rows, encoded, response_ids, strict=True):
        if len(prompt) > settings.max_prompt:
            problem = (
                f"row {row['row_id']} ('{row['instruction'][:50]}'): the prompt has {len(prompt)}"
            )
            limit = f"tokens, more than tokens.max_prompt = {settings.max_prompt}"
            remedy = "shorten it, or lower data.prompt_chars so that such rows are dropped"
            raise KdlibError(f"{problem} {limit}; {remedy}")
        completion = (*response, tokenizer.eos_token_id)[: settings.max_length - len(prompt)]
        examples.append(Example(row["row_id"], tuple(prompt), completion))
    return examples


def prompt_ids(prompts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Token ids of prompts, without the end token that some tokenizers put behind every text."""
    pairs = zip(prompts, tokenizer(list(prompts))["input_ids"], strict=True)
    end_id, end_token = tokenizer.eos_token_id, tokenizer.eos_token
    return [
        ids[:-1] if ids[-1:] == [end_id] and not text.endswith(end_token) else ids
        for text, ids in pairs
    ]


def with_own_text(
    examples: Sequence[Example], rows: Sequence[Any], tokenizer: Any, template: Template
) -> list[Example]:
    """Examples of `encode` whose `own` are the tokens of instruction and context.

    A token is theirs if any of its characters is; the template's words are not predicted. `rows`
    are those of the examples. A tokenizer that does not say where its tokens stand (it is not
    `is_fast`) leaves the examples as they are.
    """
    if not examples or not tokenizer.is_fast:
        return list(examples)
    parts = [prompt_parts(row["instruction"], row["context"], template) for row in rows]
    mapping = tokenizer([text for text, _ in parts], return_offsets_mapping=True)["offset_mapping"]
    return [
        replace(example, own=tuple(i for i in in_spans(offsets, spans) if i > 0))
        for example, offsets, (_, spans) in zip(examples, mapping, parts, strict=True)
    ]


def in_spans(offsets: Sequence[Sequence[int]], spans: Iterable[tuple[int, int]]) -> list[int]:
    """Which tokens, standing at characters [start, end) of a text, have any within the spans."""
    starts, ends = np.array(offsets, dtype=int).reshape(-1, 2).T
    inside = np.zeros(len(starts), bool)
    for start, end in spans:
        inside |= (starts < end) & (ends > start)
    return np.flatnonzero(inside).tolist()


def within(examples: Iterable[Example], limit: int) -> list[Example]:
    """Those whose prompts leave room in `limit` tokens, with their responses cut there."""
    remaining = (x for x in examples if len(x.prompt) < limit)
    return [replace(x, response=x.response[: limit - len(x.prompt)]) for x in remaining]


def collate(examples: Sequence[Example], pad_id: int, role: str = "rows") -> Batch:
    """Pad on the right to the longest; labels are at responses, and at what is `own`."""
    rows = [torch.tensor(x.prompt + x.response, dtype=torch.int64) for x in examples]
    ids = pad_sequence(rows, batch_first=True, padding_value=pad_id)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    starts = torch.tensor([[max(1, len(x.prompt))] for x in examples])
    predicted = (torch.arange(ids.shape[1]) >= starts) & (mask == 1)
    for row, example in enumerate(examples):
        predicted[row, list(example.own)] = True
    places, lengths = predicted.flatten().nonzero()[:, 0] - 1, tuple(predicted.sum(1).tolist())
    row_ids = tuple(x.row_id for x in examples)
    return Batch(
        ids, mask, ids.where(predicted, IGNORE), row_ids, places, ids[predicted], lengths, role
    )


def steps(
    examples: Sequence[Example], batch: int, accumulate: int, *, seed: int, epoch: int
) -> Iterator[list[list[Example]]]:
    """One epoch, shuffled: optimizer steps of `accumulate` micro-batches of rows of like length."""
    size = batch * accumulate  # this alone decides which rows share a step
    generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
    groups: list[list[Example]] = []
    for indices in torch.randperm(len(examples), generator=generator).split(8 * size):
        rows = sorted((examples[i] for i in indices.tolist()), key=len)
        groups += [rows[i : i + size] for i in range(0, len(rows), size)]
    for index in torch.randperm(len(groups), generator=generator).tolist():
        rows = groups[index]
        yield [rows[i : i + batch] for i in range(0, len(rows), batch)]


def by_length(
    examples: Sequence[Example], batch: int, positions: float = math.inf
) -> Iterator[list[Example]]:
    """Every example once, longest first, in batches of similar length (for measuring).

    A batch has at most `batch` examples and, padded, `positions` tokens, but at least one example.
    """
    remaining = sorted(examples, key=len, reverse=True)
    while remaining:
        count = int(min(batch, max(1, positions // len(remaining[0]))))
        yield remaining[:count]
        remaining = remaining[count:]


def text_blocks(texts: Sequence[str], tokenizer: Any, length: int) -> list[Example]:
    """General text as blocks of `length` tokens, documents separated by the end token."""
    documents = tokenizer(list(texts))["input_ids"]
    ids = [token for document in documents for token in (*document, tokenizer.eos_token_id)]
    starts = range(0, len(ids) - length + 1, length)
    return [Example(f"text-{i}", (), tuple(ids[i : i + length])) for i in starts]


@dataclass(frozen=True)
class TokenizedRows:
    """The rows of one seed, as text and as tokens."""

    frame: pd.DataFrame  # one line per row, indexed by row_id, as `pool.draw` gives them
    tokenizer: Any  # that of all models
    examples: dict[str, Example]  # by row_id

    @property
    def pad_id(self) -> int:
        """The padding token, which is the end token."""
        return self.tokenizer.pad_token_id

    def split(self, split: str, kind: str = "row", limit: int | None = None) -> list[Example]:
        """Examples of a split (`member`, `held_out`, `left_out`) and kind (`row`, ...)."""
        subset = self.frame[(self.frame["split"] == split) & (self.frame["kind"] == kind)]
        return [self.examples[row] for row in subset["row_id"][:limit]]

    @property
    def presented(self) -> list[Example]:
        """What one epoch shows: members once, canaries as often as planted."""
        return [self.examples[row] for row in self.frame.index.repeat(self.frame["repetitions"])]

    @property
    def shown(self) -> list[Example]:
        """What notebooks show in full: planted canaries, or member rows where none are planted."""
        return self.split("member", "canary") or self.split("member")

    def without(self, left_out: Iterable[str]) -> "TokenizedRows":
        """The same rows, of which these are "left_out": not trained on, and still measured."""
        frame = self.frame.copy()
        frame.loc[frame["row_id"].isin(list(left_out)), ["split", "repetitions"]] = ["left_out", 0]
        return replace(self, frame=frame)
