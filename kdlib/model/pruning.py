"""Fewer layers: which cost least to leave out, and the model without the others. Taught in 01."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdlib.errors import KdlibError
from kdlib.model import checkpoints
from kdlib.model.tokens import Example, collate

REMEDY = "give students by path, or a teacher of another family"


def depth(path: str | Path) -> int:
    """How many layers a model has, by folder or hub name; its weights are not read."""
    return checkpoints.read_config(path).get_text_config().num_hidden_layers


def layers(model: Any) -> tuple[nn.Module, str]:
    """The module that holds the model's layers, and under which name; KdlibError if none does."""
    count = model.config.get_text_config().num_hidden_layers
    for module in model.base_model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == count:
                return module, name
    problem = f"{type(model).__name__} has no list of {count} layers"
    raise KdlibError(f"{problem}; it cannot be pruned: {REMEDY}")


def losses_without_layers(model: Any, loss: Callable[[Any], float]) -> list[float]:
    """The loss of the model without each one of its layers; afterwards it has all of them again."""
    holder, name = layers(model)
    stack, config = getattr(holder, name), model.config.get_text_config()
    original, losses = dict(vars(config)), []
    for omitted in range(len(stack)):
        try:
            indices = [i for i in range(len(stack)) if i != omitted]
            losses.append(loss(prune(model, indices)))
        finally:
            vars(config).update(original)
            _hold(holder, name, stack)
    return losses


@torch.no_grad()
def mean_loss(model: Any, blocks: Sequence[Example], pad_id: int, batch: int) -> float:
    """Nats per token of the model on blocks of text."""
    total, count = 0.0, 0
    with checkpoints.inference(model):
        for start in range(0, len(blocks), batch):
            inputs = collate(blocks[start : start + batch], pad_id).to(model.device)
            for logits, targets in checkpoints.response_chunks(model, inputs):
                total += float(nn.functional.cross_entropy(logits, targets, reduction="sum"))
                count += len(targets)
    return total / count


def prune(model: Any, indices: Sequence[int]) -> Any:
    """The same model with the layers at `indices` alone, in their order; changed in place."""
    holder, name = layers(model)
    stack, config, indices = getattr(holder, name), model.config.get_text_config(), sorted(indices)
    # what a family says of each layer: layer_types, no_rope_layers, ...
    per_layer = {k: v for k, v in vars(config).items() if isinstance(v, list) and "layer" in k}
    for key, values in per_layer.items():
        if len(values) == len(stack):
            setattr(config, key, [values[i] for i in indices])
    config.num_hidden_layers = len(indices)
    _hold(holder, name, nn.ModuleList([stack[i] for i in indices]))
    return model


def _hold(holder: nn.Module, name: str, stack: nn.ModuleList) -> None:
    setattr(holder, name, stack)
    for index, layer in enumerate(stack):
        for module in layer.modules():
            for attribute in {"layer_idx", "layer_id"} & vars(module).keys():
                setattr(module, attribute, index)  # where its keys and values lie in the cache


@torch.no_grad()
def require_readable(model: Any, name: str | Path) -> None:
    """Refuse, in a KdlibError, a pruned model that its configuration describes otherwise.

    There are families in which a layer's place decides what it computes.
    """
    try:
        config = type(model.config).from_dict(copy.deepcopy(model.config.to_dict()))
        reloaded = type(model)(config).to(model.device).eval()
        reloaded.load_state_dict(model.state_dict())
        ids = torch.arange(16, device=model.device)[None]
        with checkpoints.inference(model, reloaded):
            expected, actual = (m(ids, use_cache=False).logits for m in (model, reloaded))
        equal = bool((expected - actual).abs().max() <= 1e-5 * expected.abs().max())
    except Exception:  # each family's configuration refuses in its own way
        equal = False
    if not equal:
        problem = "with fewer layers it is another model when it is read again"
        raise KdlibError(f"model '{name}' cannot be pruned: {problem}; {REMEDY}")
