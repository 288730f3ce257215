"""What the student minimizes: one `Objective` for each name in the table of methods.

Taught in notebooks 03 to 08.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

from torch import Tensor

from kdlib.config.methods import METHODS, Coefficient
from kdlib.distill import losses, policy_gradient
from kdlib.distill.teacher_targets import Targets
from kdlib.errors import KdlibError
from kdlib.model.tokens import Batch, Objective, Rollout

DIVERGENCES = {  # of `losses`, with the coefficients that they need; each may have a temperature
    **dict.fromkeys(("forward_kl", "reverse_kl", "symmetric_kl", "total_variation"), ()),
    **{"adaptive_kl": (), "generalized_jsd": ("beta",), "mixed_forward_kl": ("mix",)},
    **{"skew_kl": ("alpha",), "skew_reverse_kl": ("alpha",)},
}
OBJECTIVES = ("cross_entropy", "policy_gradient", "contrastive", *DIVERGENCES)


def objective(
    name: str, targets: Targets | None = None, coefficients: Mapping[str, float] | None = None
) -> Objective:
    """The objective of that name; a KdlibError if there is none, or it needs `targets`."""
    if name not in OBJECTIVES:
        raise KdlibError(f"no objective '{name}'; known: {', '.join(OBJECTIVES)}")
    if name == "cross_entropy":
        return lambda logits, batch, part: losses.cross_entropy(logits, batch.targets[part])
    if targets is None:
        raise KdlibError(f"objective '{name}' needs a teacher; train one first")
    c = coefficients or {}
    if name == "policy_gradient":
        return partial(_policy_gradient, targets, c)
    options: dict[str, Any] = {key: c[key] for key in DIVERGENCES.get(name, ("alpha",))}
    if "temperature" in c:
        options["temperature"] = c["temperature"]

    def minimized(logits: Tensor, batch: Batch, part: slice) -> Tensor:
        pair = logits, targets.logits(batch, part)
        if name == "mixed_forward_kl":
            return losses.mixed_forward_kl(*pair, batch.targets[part], **options)
        if name == "contrastive":  # DistiLLM-2: teacher's text is pulled up, the student's down
            divergence = losses.skew_kl if batch.role == "teacher" else losses.skew_reverse_kl
            return 0.5 * divergence(*pair, **options)
        return getattr(losses, name)(*pair, **options)

    return minimized


def published(name: str) -> dict[str, Coefficient]:
    """What a divergence needs, as the first method of the table has it; nothing of the others."""
    coefficients = {k: v for m in reversed(METHODS.values()) for k, v in m.coefficients.items()}
    return {key: coefficients[key] for key in DIVERGENCES.get(name, ())}


def _policy_gradient(
    targets: Targets, c: Mapping[str, float], logits: Tensor, batch: Batch, part: slice
) -> Tensor:
    """MiniLLM (Gu et al. 2024, section 2.2): long-term part, single-step part, general text."""
    nats = losses.cross_entropy(logits, batch.targets[part])
    if batch.role in ("rows", "general"):
        return nats * (c["general_text"] if batch.role == "general" else 1)
    rollout = cast(Rollout, batch)
    weights, advantages = rollout.weights[part], rollout.advantages[part]
    loss = policy_gradient.clipped(-nats, rollout.old_log_q[part], advantages, weights, c["clip"])
    if c["single_step"]:
        loss = loss + weights * losses.reverse_kl(logits, targets.logits(batch, part))
    return loss
