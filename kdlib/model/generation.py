"""Text of any causal models of transformers, which are left as they were. Taught in 05, 06 and 08.

Answers are up to `max_new` token ids, in the order of the prompts, with the end token (which pads,
too) where one was written; `batch` prompts are decoded together.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, LogitsProcessorList

from kdlib.model import checkpoints
from kdlib.model.tokens import Example

Ids = tuple[int, ...]
Prompts = Sequence[Ids]
Mixture = list[tuple[Any, float]]  # models and their shares
Writer = Callable[[Tensor, Tensor], list[list[int]]]  # ids and mask, int64 [B, T], to B answers


@torch.no_grad()
def continue_prompts(
    model: Any,
    prompts: Prompts,
    *,
    end_id: int,
    max_new: int,
    greedy: bool,
    batch: int = 64,
    precision: str = "fp32",
    temperature: float = 1.0,
    teacher: Any | None = None,
    teacher_mix: float = 0.0,
) -> list[Ids]:
    """The arg-max at every step if greedy, else draws (torch's generator) from the vocabulary.

    They are from q = softmax(logits / temperature), temperature above 0, or with a teacher (of the
    same vocabulary) from a p + (1 - a) q, a `teacher_mix` (Gu et al. 2024, MiniLLM, section 2.2).
    Precision is "fp32" or, for text that is trained on or noted along the way, "bf16".
    """
    mixture: Mixture = [(model, 1 - teacher_mix)]
    if teacher is not None and teacher_mix > 0:
        mixture.append((teacher, teacher_mix))
    write = partial(_decode, mixture, end_id, max_new, 0 if greedy else temperature)
    inference = checkpoints.inference(*(m for m, _ in mixture))
    with inference, checkpoints.autocast(model.device, precision):
        return _generate_all(model, prompts, end_id, batch, write)


def _generate_all(
    model: Any, prompts: Prompts, end_id: int, batch: int, write: Writer
) -> list[Ids]:
    """All answers; the shortest prompts are written to first, so that little is padded."""
    padding: dict[str, Any] = {"batch_first": True, "padding_side": "left"}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers: dict[int, Ids] = {}
    for start in range(0, len(order), batch):
        indices = order[start : start + batch]
        rows = [torch.tensor(prompts[i], device=model.device) for i in indices]
        mask = pad_sequence([torch.ones_like(row) for row in rows], **padding)
        outputs = write(pad_sequence(rows, padding_value=end_id, **padding), mask)
        answers.update(zip(indices, map(tuple, outputs), strict=True))
    return [answers[i] for i in range(len(prompts))]


def _decode(
    mixture: Mixture, end_id: int, max_new: int, temperature: float, ids: Tensor, mask: Tensor
) -> list[list[int]]:
    """The answers to one batch, greedy at temperature 0; finished rows leave the cache."""
    # not by `generate`, whose draw costs more than a small model's forward pass
    answers: list[list[int]] = [[] for _ in ids]
    unfinished = answers
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    caches = [DynamicCache(config=model.config) for model, _ in mixture]
    for _ in range(max_new):
        options = {"attention_mask": mask, "position_ids": positions, "use_cache": True}
        logits = [
            model(ids, past_key_values=cache, logits_to_keep=1, **options).logits[:, -1]
            for (model, _), cache in zip(mixture, caches, strict=True)
        ]
        if temperature:
            pairs = zip(logits, mixture, strict=True)
            p = [share * (x.float() / temperature).softmax(-1) for x, (_, share) in pairs]
            tokens = draw(torch.stack(p).sum(0))
        else:
            tokens = logits[0].argmax(-1)
        token_ids = tokens.tolist()
        for answer, token in zip(unfinished, token_ids, strict=True):
            answer.append(token)
        active = [row for row, token in enumerate(token_ids) if token != end_id]
        if not active:
            break
        positions = positions[:, -1:] + 1
        if len(active) < len(token_ids):
            unfinished = [unfinished[row] for row in active]
            indices = torch.tensor(active, device=ids.device)
            for cache in caches:
                cache.batch_select_indices(indices)
            tokens, mask, positions = tokens[indices], mask[indices], positions[indices]
        ids, mask = tokens[:, None], functional.pad(mask, (0, 1), value=1)
    return answers


def draw(probabilities: Tensor) -> Tensor:
    """One token per row, int64 [B], from [B, V], by inverting the cumulative distribution."""
    cumulative = probabilities.cumsum(-1)
    uniform = torch.rand(len(cumulative), 1, device=cumulative.device) * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, uniform, right=True)[:, 0]
    return tokens.clamp_max(cumulative.shape[1] - 1)


@torch.no_grad()
def beam_search(
    model: Any,
    prompts: Prompts,
    *,
    end_id: int,
    max_new: int,
    beams: int = 4,
    batch: int = 64,
    precision: str = "fp32",
) -> list[Ids]:
    """The best answer by log-probability over length that a search with `beams` beams finds."""
    config = GenerationConfig(num_beams=beams, do_sample=False, max_new_tokens=max_new)
    with checkpoints.inference(model), checkpoints.autocast(model.device, precision):
        return _generate_all(model, prompts, end_id, batch, _by_generate(model, config, end_id))


@torch.no_grad()
def generate_with(
    model: Any,
    prompts: Prompts,
    processor: LogitsProcessor,
    *,
    end_id: int,
    max_new: int,
    batch: int = 64,
) -> list[Ids]:
    """Greedy answers whose logits a processor of transformers has changed at every step."""
    config = GenerationConfig(do_sample=False, max_new_tokens=max_new)
    write = _by_generate(model, config, end_id, LogitsProcessorList([processor]))
    with checkpoints.inference(model):
        return _generate_all(model, prompts, end_id, batch, write)


def _by_generate(
    model: Any, config: GenerationConfig, end_id: int, processors: Any = None
) -> Writer:
    config.update(eos_token_id=end_id, pad_token_id=end_id)
    options = {"generation_config": config, "logits_processor": processors}

    def write(ids: Tensor, mask: Tensor) -> list[list[int]]:
        rows = model.generate(ids, attention_mask=mask, **options)[:, ids.shape[1] :].tolist()
        return [row[: row.index(end_id) + 1] if end_id in row else row for row in rows]

    return write


def rewrite(model: Any, examples: Sequence[Example], **settings: Any) -> list[Example]:
    """The same examples with the model's answers for responses; see `continue_prompts`."""
    return answered(examples, continue_prompts(model, [x.prompt for x in examples], **settings))


def answered(examples: Sequence[Example], answers: Sequence[Ids]) -> list[Example]:
    """The same prompts with these answers for responses."""
    return [replace(x, response=answer) for x, answer in zip(examples, answers, strict=True)]
