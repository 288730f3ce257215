"""Text from a model: greedy or sampled, batched and sorted by length.

Taught in notebooks 05_sequence_level_kd and 06_reverse_kl.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from kdlib.tokens import Example


@torch.no_grad()
def continue_prompts(
    model: Any,
    prompts: Sequence[tuple[int, ...]],
    *,
    end_id: int,
    max_new: int,
    greedy: bool,
    batch: int = 64,
) -> list[tuple[int, ...]]:
    """What the model writes after each prompt, in the order of the prompts.

    Args:
        model: any causal model of transformers; used in eval mode, then left as it was.
        prompts: token ids.
        end_id: end token, also used to pad on the left.
        max_new: longest answer, tokens.
        greedy: arg-max at every step; else a draw at temperature 1 from the whole vocabulary,
            from torch's global generator.
        batch: prompts decoded together.

    Returns:
        token ids, with the end token where one was written.
    """
    was_training = model.training
    model.eval()
    answers: dict[int, list[int]] = {i: [] for i in range(len(prompts))}
    order = sorted(answers, key=lambda i: len(prompts[i]))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        _decode(model, prompts, chosen, answers, end_id, max_new, greedy)
    model.train(was_training)
    return [tuple(answers[i]) for i in range(len(prompts))]


def _decode(
    model: Any,
    prompts: Sequence[tuple[int, ...]],
    chosen: list[int],
    answers: dict[int, list[int]],
    end_id: int,
    max_new: int,
    greedy: bool,
) -> None:
    """Decode one left-padded batch with a key-value cache; finished rows leave it.

    `generate` gives the same tokens under greedy decoding (tested). It is not used because its
    draw from the vocabulary costs more than a small model's forward pass.
    """
    where = next(model.parameters()).device
    longest = max(len(prompts[i]) for i in chosen)
    ids = torch.tensor([[end_id] * (longest - len(prompts[i])) + [*prompts[i]] for i in chosen])
    pad = torch.tensor([longest - len(prompts[i]) for i in chosen])
    mask = (torch.arange(longest) >= pad[:, None]).long().to(where)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    ids, alive = ids.to(where), torch.tensor(chosen)
    cache = DynamicCache(config=model.config)
    for _ in range(max_new):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        tokens = logits.argmax(-1) if greedy else draw(logits)
        written = tokens.tolist()
        for i, token in zip(alive.tolist(), written, strict=True):
            answers[i].append(token)
        positions = positions[:, -1:] + 1
        going = [row for row, token in enumerate(written) if token != end_id]
        if not going:
            return
        if len(going) < len(written):
            kept = torch.tensor(going, device=where)
            cache.batch_select_indices(kept)
            alive, tokens = alive[going], tokens[kept]
            mask, positions = mask[kept], positions[kept]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        ids = tokens[:, None]


def draw(logits: Tensor) -> Tensor:
    """One token per row at temperature 1, by inverting the cumulative distribution.

    Args:
        logits: float [B, V].

    Returns:
        int64 [B].
    """
    cumulative = logits.float().softmax(-1).cumsum(-1)
    uniform = torch.rand(len(logits), 1, device=logits.device) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, uniform, right=True)[:, 0].clamp_max(logits.shape[1] - 1)


def rewrite(model: Any, examples: Sequence[Example], **how: Any) -> list[Example]:
    """The same examples with the model's answers for responses; `how` as in `continue_prompts`."""
    answers = continue_prompts(model, [example.prompt for example in examples], **how)
    return [
        Example(example.row_id, example.prompt, answer)
        for example, answer in zip(examples, answers, strict=True)
    ]
