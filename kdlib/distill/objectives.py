"""What the student minimizes: one objective for each name in the table of methods.

An objective takes the student's logits [n, V] at some positions of a batch, the batch, and which
positions these are; it gives nats [n]. Taught in notebooks 03 to 08.
"""

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor

from kdlib.distill import losses, policy_gradient
from kdlib.distill.teacher_targets import Targets
from kdlib.errors import KdlibError
from kdlib.model.tokens import Batch, Objective, Rollout

DIVERGENCES = {  # of `losses`, with the coefficients that they take
    **dict.fromkeys(("forward_kl", "reverse_kl", "symmetric_kl", "total_variation"), ()),
    **{"adaptive_kl": (), "generalized_jsd": ("beta",), "mixed_forward_kl": ("mix",)},
    **{"skew_kl": ("alpha",), "skew_reverse_kl": ("alpha",)},
}
OBJECTIVES = ("cross_entropy", "policy_gradient", "contrastive", *DIVERGENCES)


def objective(
    name: str, targets: Targets | None = None, coefficients: Mapping[str, float] | None = None
) -> Objective:
    """The objective of that name; all but cross_entropy read the teacher's `targets`.

    Args:
        name: one of OBJECTIVES.
        targets: the teacher's logits.
        coefficients: those of the method, by name.

    Raises:
        KdlibError: there is no such objective, or it needs a teacher.
    """
    if name not in OBJECTIVES:
        raise KdlibError(f"no objective '{name}'; known: {', '.join(OBJECTIVES)}")
    if name == "cross_entropy":
        return lambda logits, batch, part: losses.cross_entropy(logits, batch.targets[part])
    if targets is None:
        raise KdlibError(f"objective '{name}' needs a teacher; train one first")
    c = {} if coefficients is None else coefficients
    if name == "policy_gradient":
        return _policy_gradient(targets, c)
    taken: dict[str, Any] = {one: c[one] for one in DIVERGENCES.get(name, ("alpha",))}

    def minimized(logits: Tensor, batch: Batch, part: slice) -> Tensor:
        pair = logits, targets.logits(batch, part)
        if name == "mixed_forward_kl":
            return losses.mixed_forward_kl(*pair, batch.targets[part], **taken)
        if name == "contrastive":  # DistiLLM-2: teacher's text is pulled up, the student's down
            divergence = losses.skew_kl if batch.role == "teacher" else losses.skew_reverse_kl
            return 0.5 * divergence(*pair, **taken)
        return getattr(losses, name)(*pair, **taken)

    return minimized


def _policy_gradient(targets: Targets, c: Mapping[str, float]) -> Objective:
    """MiniLLM (Gu et al. 2024, section 2.2): long-term part, single-step part, general text."""

    def minimized(logits: Tensor, batch: Batch, part: slice) -> Tensor:
        nats = losses.cross_entropy(logits, batch.targets[part])
        if batch.role in ("rows", "general"):
            return nats * (c["general_text"] if batch.role == "general" else 1)
        sampled = cast(Rollout, batch)
        old_log_q, weights = sampled.old_log_q[part], sampled.weights[part]
        loss = policy_gradient.clipped(
            -nats, old_log_q, sampled.advantages[part], weights, c["clip"]
        )
        if c["single_step"]:
            loss = loss + weights * losses.reverse_kl(logits, targets.logits(batch, part))
        return loss

    return minimized
