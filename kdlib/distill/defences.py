"""What a defence changes of text, model, gradients and weights. Taught in notebook 15_defences."""

import functools
import importlib
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from kdlib.distill import trainer
from kdlib.errors import KdlibError
from kdlib.model.tokens import Batch, Objective, Source

PRIME, BASE = 2**31 - 1, 1_103_515_245  # of the hash: a value lies below the prime


def context_hash(input_ids: Tensor, h: int) -> Tensor:
    """A number from 0 to below 1, [B, T], of the h tokens that end at each place, and their order.

    Rabin and Karp's polynomial: the sum of (token + 1) x BASE^i over the places i of the window,
    modulo a prime. Where fewer tokens stand before, the window holds these.
    """
    powers = torch.tensor([pow(BASE, i, PRIME) for i in range(1, h + 1)], device=input_ids.device)
    windows = F.pad(input_ids + 1, (h - 1, 0)).unfold(1, h, 1)  # [B, T, h]
    return (windows * powers).sum(-1).remainder(PRIME).double() / PRIME


def goldfish_kept(batch: Batch, end_id: int, k: int, h: int) -> Tensor:
    """Which predictions count, bool [N]: all but one in k, by the h tokens before (Hans et al.).

    The same passage always loses the same tokens, so that no repetition shows them. The hash looks
    at what stands before the target, not at the target itself, which the published code includes
    (section 3.1 of the paper, h = 13, k = 4). The end token always counts: a student that never
    learned where a short answer ends would go on.
    """
    hashes = context_hash(batch.input_ids, h).flatten().index_select(0, batch.places)
    return (hashes >= 1 / k) | (batch.targets == end_id)


def goldfish(source: Source, end_id: int, k: int, h: int) -> Source:
    """The same text, of which `goldfish_kept` says what counts."""

    def masked(model: Any, epoch: int) -> Iterator[list[Batch]]:
        for batches in source(model, epoch):
            yield [replace(batch, kept=goldfish_kept(batch, end_id, k, h)) for batch in batches]

    return masked


@contextmanager
def neftune(model: Any, alpha: float) -> Iterator[None]:
    """Noise on the input embeddings while the model trains: alpha / sqrt(L d) x uniform(-1, 1).

    L are the tokens of a row, without its padding, d is the width (Jain et al., algorithm 1). In
    eval mode there is none.
    """

    def noisy(module: Any, args: tuple[Tensor], kwargs: dict[str, Any]) -> Any:
        if not module.training:
            return None
        embeddings = module.get_input_embeddings()(args[0])
        lengths = kwargs["attention_mask"].sum(1)[:, None, None]
        noise = torch.empty_like(embeddings).uniform_(-1, 1) * alpha
        noise = noise * torch.rsqrt(lengths * embeddings.shape[-1])
        return (), kwargs | {"inputs_embeds": embeddings + noise}

    hook = model.base_model.register_forward_pre_hook(noisy, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def matrices_of_rank(model: Any, rank: int) -> dict[str, Any]:
    """The matrices of the layers by name; KdlibError: the rank is above the smaller side of one."""
    head, kinds = model.get_output_embeddings(), (torch.nn.Linear, Conv1D)
    matrices = {k: m for k, m in model.named_modules() if isinstance(m, kinds) and m is not head}
    name, width = min(((k, min(m.weight.shape)) for k, m in matrices.items()), key=lambda x: x[1])
    if rank > width:
        raise KdlibError(f"LoRA: rank = {rank} is above the width {width} of {name}; lower it")
    return matrices


@contextmanager
def low_rank(model: Any, rank: int, alpha: float) -> Iterator[None]:
    """LoRA, by peft: of every matrix W of the layers only a change of low rank is trained.

    W x + alpha / rank x B A x, with A [rank, in] drawn at random and B [out, rank] 0 at first
    (Hu et al., section 4.1); W, embeddings and norms stay. On leaving, B A is added to W, and the
    model is as large as before. KdlibError: the rank is above the smaller side of a matrix.
    """
    peft, matrices = _package("peft"), matrices_of_rank(model, rank)
    transposed = any(isinstance(matrix, Conv1D) for matrix in matrices.values())
    lora: dict[str, Any] = {"r": rank, "lora_alpha": alpha, "fan_in_fan_out": transposed}
    trainable = {weight: weight.requires_grad for weight in model.parameters()}
    tuner = peft.LoraModel(model, peft.LoraConfig(target_modules=list(matrices), **lora), "default")
    try:
        yield
    finally:
        tuner.merge_and_unload()
        for weight, required in trainable.items():
            weight.requires_grad_(required)


def averaged(models: Sequence[Any]) -> Any:
    """The first model, with the mean of all their weights (in place)."""
    with torch.no_grad():
        for weights in zip(*(model.parameters() for model in models), strict=True):
            weights[0].copy_(torch.stack(weights).mean(0))
    return models[0]


def private_gradients(
    model: Any,
    batches: list[Batch],
    objective: Objective,
    precision: str,
    *,
    norm: float,
    noise: float,
    rows: float,
) -> tuple[Tensor, int]:
    """DP-SGD's gradient of a step (Abadi et al., algorithm 1), from batches of one row each.

    (sum of g_i x min(1, norm / |g_i|) + norm x noise x a standard normal) / rows: what one row adds
    is bounded, and hidden in the noise. g_i is of the mean over the row's own tokens, `rows` how
    many a step has on average; a step without any is noise alone. Gives the mean loss, as
    `trainer.step_loss`.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    sums, losses, count = [torch.zeros_like(weight) for weight in weights], [], 0
    for batch in batches:
        loss, positions = trainer.step_loss(model, [batch], objective, precision)
        losses.append(loss)
        count += positions
        pairs = [
            (running, weight.grad)
            for running, weight in zip(sums, weights, strict=True)
            if weight.grad is not None
        ]
        scale = (norm / torch.nn.utils.get_total_norm([grad for _, grad in pairs])).clamp(max=1)
        for running, grad in pairs:
            running.addcmul_(grad, scale)
        model.zero_grad(set_to_none=True)
    for weight, total in zip(weights, sums, strict=True):
        weight.grad = (total + norm * noise * torch.randn_like(total)) / rows
    return torch.stack(losses or [weights[0].new_zeros(())]).mean(), count


@functools.cache  # it takes seconds
def noise_for(epsilon: float, delta: float, chance: float, steps: int) -> float:
    """The noise of DP-SGD, in units of its norm, that spends at most epsilon at delta.

    `chance` is that of a row to be in a step (each by itself), `steps` are all of the training.
    By opacus' accountant of Renyi differential privacy (Mironov 2017), an upper bound.
    """
    accountants = _package("opacus.accountants.utils")
    target = {"target_epsilon": epsilon, "target_delta": delta, "accountant": "rdp"}
    with warnings.catch_warnings():  # that its orders end, at noise so great that none is needed
        warnings.simplefilter("ignore")
        return accountants.get_noise_multiplier(**target, sample_rate=chance, steps=steps)


def spent(noise: float, delta: float, chance: float, steps: int) -> float:
    """The epsilon at delta of so many steps with that noise; infinite without noise."""
    if noise == 0:
        return math.inf
    accountant = _package("opacus.accountants").RDPAccountant()
    accountant.history = [(noise, chance, steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return accountant.get_epsilon(delta)


def _package(name: str) -> Any:
    """A module of a package that only some defences need, read when one does: it takes a second."""
    try:
        return importlib.import_module(name)
    except ImportError:
        problem = f"this defence needs the package {name.split('.')[0]}, which is not installed"
        remedy = "pip install -c constraints.txt -e '.[defences]'"
        raise KdlibError(f"{problem}; {remedy}") from None
