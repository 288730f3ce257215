"""Fewer layers: which cost least to leave out, and the model without the others. Taught in 01."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig

from kdlib.errors import KdlibError
from kdlib.model import checkpoints
from kdlib.model.tokens import Example, collate

REMEDY = "give students by path, or a teacher of another family"


def depth(path: str | Path) -> int:
    """How many layers a model has, by folder or hub name; its weights are not read."""
    with checkpoints.quiet(), checkpoints.reading("model", path):
        config = AutoConfig.from_pretrained(str(path), trust_remote_code=False)
    return config.get_text_config().num_hidden_layers


def layers(model: Any) -> tuple[nn.Module, str]:
    """The module that holds the model's layers, and under which name; KdlibError if none does."""
    count = model.config.get_text_config().num_hidden_layers
    for module in model.base_model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == count:
                return module, name
    problem = f"{type(model).__name__} has no list of {count} layers"
    raise KdlibError(f"{problem}; it cannot be pruned: {REMEDY}")


def without(model: Any, loss: Callable[[Any], float]) -> list[float]:
    """The loss of the model without each one of its layers, which are all there again then."""
    holder, name = layers(model)
    whole, config = getattr(holder, name), model.config.get_text_config()
    before, losses = dict(vars(config)), []
    for left_out in range(len(whole)):
        try:
            others = [number for number in range(len(whole)) if number != left_out]
            losses.append(loss(prune(model, others)))
        finally:
            vars(config).update(before)
            _hold(holder, name, whole)
    return losses


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
    whole, config, kept = getattr(holder, name), model.config.get_text_config(), sorted(kept)
    # what a family says of each layer: layer_types, no_rope_layers, ...
    each = {k: v for k, v in vars(config).items() if isinstance(v, list) and "layer" in k}
    for key, values in each.items():
        if len(values) == len(whole):
            setattr(config, key, [values[number] for number in kept])
    config.num_hidden_layers = len(kept)
    _hold(holder, name, nn.ModuleList([whole[number] for number in kept]))
    return model


def _hold(holder: nn.Module, name: str, chosen: nn.ModuleList) -> None:
    setattr(holder, name, chosen)
    for place, layer in enumerate(chosen):
        for module in layer.modules():
            for known in {"layer_idx", "layer_id"} & vars(module).keys():
                setattr(module, known, place)  # where its keys and values lie in the cache


@torch.no_grad()
def require_readable(model: Any, name: str | Path) -> None:
    """Refuse, in a KdlibError, a pruned model that its configuration describes otherwise.

    There are families in which a layer's place decides what it computes.
    """
    try:
        config = type(model.config).from_dict(copy.deepcopy(model.config.to_dict()))
        again = type(model)(config).to(model.device).eval()
        again.load_state_dict(model.state_dict())
        ids = torch.arange(16, device=model.device)[None]
        with checkpoints.inference(model, again):
            one, other = (read(ids, use_cache=False).logits for read in (model, again))
        same = bool((one - other).abs().max() <= 1e-5 * one.abs().max())
    except Exception:  # each family's configuration refuses in its own way
        same = False
    if not same:
        what = "with fewer layers it is another model when it is read again"
        raise KdlibError(f"model '{name}' cannot be pruned: {what}; {REMEDY}")
