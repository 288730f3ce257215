"""Text from a model: greedy, sampled, mixed with a teacher, or by beam search.

Taught in notebooks 05_sequence_level_kd, 06_reverse_kl and 08_minillm.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, GenerationConfig

from kdlib.model import checkpoints
from kdlib.model.tokens import Example


@torch.no_grad()
def continue_prompts(
    model: Any,
    prompts: Sequence[tuple[int, ...]],
    *,
    end_id: int,
    max_new: int,
    greedy: bool,
    batch: int = 64,
    temperature: float = 1.0,
    teacher: Any | None = None,
    teacher_mix: float = 0.0,
) -> list[tuple[int, ...]]:
    """What the model writes after each prompt, in the order of the prompts.

    Args:
        model: any causal model of transformers; used in eval mode, then left as it was.
        prompts: token ids.
        end_id: end token, also used to pad on the left.
        max_new: longest answer, tokens.
        greedy: arg-max at every step; else a draw from the whole vocabulary, from torch's global
            generator.
        batch: prompts decoded together.
        temperature: of the draw, above 0; logits are divided by it.
        teacher: a second model with the same vocabulary, read beside the first.
        teacher_mix: its share a in the distribution that is drawn from: a p + (1 - a) q
            (Gu et al. 2024, MiniLLM, section 2.2).

    Returns:
        token ids, with the end token where one was written.
    """
    mixed = [(model, 1 - teacher_mix)]
    if teacher is not None and teacher_mix > 0:
        mixed.append((teacher, teacher_mix))
    answers: dict[int, list[int]] = {i: [] for i in range(len(prompts))}
    with ExitStack() as stack:
        for one, _ in mixed:
            stack.enter_context(checkpoints.inference(one))
        for chosen in _by_length(prompts, batch):
            _decode(mixed, prompts, chosen, answers, end_id, max_new, 0 if greedy else temperature)
    return [tuple(answers[i]) for i in range(len(prompts))]


def _by_length(prompts: Sequence[tuple[int, ...]], batch: int) -> Iterator[list[int]]:
    """Places of the prompts, shortest first, in batches: so that little is padded."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), batch):
        yield order[start : start + batch]


def _left_padded(prompts: Sequence[tuple[int, ...]], end_id: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, int64 [B, T]."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[end_id] * (longest - len(one)) + [*one] for one in prompts])
    pad = torch.tensor([longest - len(one) for one in prompts])
    return ids, (torch.arange(longest) >= pad[:, None]).long()


def _decode(
    mixed: list[tuple[Any, float]],
    prompts: Sequence[tuple[int, ...]],
    chosen: list[int],
    answers: dict[int, list[int]],
    end_id: int,
    max_new: int,
    temperature: float,
) -> None:
    """Decode one left-padded batch with a key-value cache; finished rows leave it.

    At temperature 0 every token is the arg-max.

    `generate` gives the same tokens under greedy decoding (tested). It is not used because its
    draw from the vocabulary costs more than a small model's forward pass.
    """
    where = next(mixed[0][0].parameters()).device
    padded = _left_padded([prompts[i] for i in chosen], end_id)
    ids, mask = (values.to(where) for values in padded)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    alive = torch.tensor(chosen)
    caches = [DynamicCache(config=model.config) for model, _ in mixed]
    additive = _additive(mask, mixed[0][0].dtype)  # after the prompt: need not be built each time
    for _ in range(max_new):
        seen = [
            _next_logits(model, ids, mask, positions, cache)
            for (model, _), cache in zip(mixed, caches, strict=True)
        ]
        tokens = draw(_mixture(seen, mixed, temperature)) if temperature else seen[0].argmax(-1)
        written = tokens.tolist()
        for i, token in zip(alive.tolist(), written, strict=True):
            answers[i].append(token)
        positions = positions[:, -1:] + 1
        going = [row for row, token in enumerate(written) if token != end_id]
        if not going:
            return
        if len(going) < len(written):
            kept = torch.tensor(going, device=where)
            for cache in caches:
                cache.batch_select_indices(kept)
            alive, tokens = alive[going], tokens[kept]
            additive, positions = additive[kept], positions[kept]
        mask = additive = functional.pad(additive, (0, 1))
        ids = tokens[:, None]


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """For one query a row: 0 where a token is, the least number where padding is; [B, 1, 1, T]."""
    zeros = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return zeros.masked_fill(mask == 0, torch.finfo(dtype).min)[:, None, None]


def _next_logits(
    model: Any, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache
) -> Tensor:
    """Logits [B, V] of the token after the last."""
    hidden = model.base_model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return model.get_output_embeddings()(hidden[:, -1])


def _mixture(logits: list[Tensor], mixed: list[tuple[Any, float]], temperature: float) -> Tensor:
    """Probabilities [B, V]: those of the models, each with its share."""
    shares = [
        share * (one.float() / temperature).softmax(-1)
        for one, (_, share) in zip(logits, mixed, strict=True)
    ]
    return torch.stack(shares).sum(0)


def draw(probabilities: Tensor) -> Tensor:
    """One token per row, by inverting the cumulative distribution.

    Args:
        probabilities: float [B, V], at least 0; they need not sum to exactly 1.

    Returns:
        int64 [B].
    """
    cumulative = probabilities.cumsum(-1)
    uniform = torch.rand(len(cumulative), 1, device=cumulative.device) * cumulative[:, -1:]
    found = torch.searchsorted(cumulative, uniform, right=True)[:, 0]
    return found.clamp_max(cumulative.shape[1] - 1)


@torch.no_grad()
def beam_search(
    model: Any,
    prompts: Sequence[tuple[int, ...]],
    *,
    end_id: int,
    max_new: int,
    beams: int = 4,
    batch: int = 64,
) -> list[tuple[int, ...]]:
    """The best answer that a search with `beams` beams finds, by transformers' `generate`.

    Scores are log-probabilities divided by length, transformers' default (`length_penalty` 1).

    Returns:
        token ids in the order of the prompts, with the end token where one was written.
    """
    how = GenerationConfig(
        num_beams=beams,
        do_sample=False,
        max_new_tokens=max_new,
        eos_token_id=end_id,
        pad_token_id=end_id,
    )
    where = next(model.parameters()).device
    answers: dict[int, tuple[int, ...]] = {}
    for chosen in _by_length(prompts, batch):
        ids, mask = _left_padded([prompts[i] for i in chosen], end_id)
        with checkpoints.inference(model):
            found = model.generate(
                ids.to(where), attention_mask=mask.to(where), generation_config=how
            )
        for i, tokens in zip(chosen, found[:, ids.shape[1] :].tolist(), strict=True):
            length = tokens.index(end_id) + 1 if end_id in tokens else len(tokens)
            answers[i] = tuple(tokens[:length])
    return [answers[i] for i in range(len(prompts))]


def rewrite(model: Any, examples: Sequence[Example], **how: Any) -> list[Example]:
    """The same examples with the model's answers for responses; `how` as in `continue_prompts`."""
    answers = continue_prompts(model, [example.prompt for example in examples], **how)
    return answered(examples, answers)


def answered(examples: Sequence[Example], answers: Sequence[tuple[int, ...]]) -> list[Example]:
    """The same prompts with these answers for responses."""
    return [
        Example(example.row_id, example.prompt, answer)
        for example, answer in zip(examples, answers, strict=True)
    ]
