"""Fewer layers: which cost least to leave out, and the model without the others. Taught in 02."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from kdlib.errors import KdlibError
from kdlib.model import checkpoints
from kdlib.model.tokens import Example, collate


def layers(model: Any) -> tuple[nn.Module, str]:
    """The module that holds the model's layers, and under which name; KdlibError if none does."""
    count = model.config.get_text_config().num_hidden_layers
    for module in model.base_model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == count:
                return module, name
    raise KdlibError(f"{type(model).__name__} has no list of {count} layers; it cannot be pruned")


def without(model: Any, loss: Callable[[Any], float]) -> list[float]:
    """The loss of the model without each one of its layers, which are all there again then."""
    holder, name = layers(model)
    losses = []
    for left_out in range(len(getattr(holder, name))):
        with _without(holder, name, left_out):
            losses.append(loss(model))
    return losses


@contextmanager
def _without(holder: nn.Module, name: str, left_out: int) -> Iterator[None]:
    whole = getattr(holder, name)
    setattr(holder, name, nn.ModuleList([*whole[:left_out], *whole[left_out + 1 :]]))
    try:
        yield
    finally:
        setattr(holder, name, whole)


@torch.no_grad()
def mean_loss(model: Any, blocks: Sequence[Example], pad_id: int, batch: int) -> float:
    """Nats per token of the model on blocks of text."""
    total, count = 0.0, 0
    with checkpoints.inference(model):
        for start in range(0, len(blocks), batch):
            read = collate(blocks[start : start + batch], pad_id).to(model.device)
            for logits, targets in checkpoints.response_chunks(model, read):
                total += float(nn.functional.cross_entropy(logits, targets, reduction="sum"))
                count += len(targets)
    return total / count


def prune(model: Any, kept: Sequence[int]) -> Any:
    """The same model with the layers `kept` alone, in their order; changed in place."""
    holder, name = layers(model)
    whole = getattr(holder, name)
    chosen = nn.ModuleList([whole[number] for number in sorted(kept)])
    for place, layer in enumerate(chosen):  # where its keys and values lie in the cache
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = place  # type: ignore[assignment]
    setattr(holder, name, chosen)
    config = model.config.get_text_config()
    config.num_hidden_layers = len(chosen)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[number] for number in sorted(kept)]
    return model
