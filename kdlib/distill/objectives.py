"""What the student minimizes: one objective for each name in the table of methods.

An objective takes the student's logits [n, V] at some positions of a batch, the batch, and which
positions these are; it gives nats [n]. Taught in notebooks 03 to 08.
"""

from collections.abc import Callable, Mapping
from typing import cast

from torch import Tensor

from kdlib.distill import losses, policy_gradient
from kdlib.distill.teacher_targets import Targets
from kdlib.errors import KdlibError
from kdlib.model.tokens import Batch, Objective, Rollout

# (student logits, teacher logits, labels, role of the batch, coefficients) -> nats
Compared = Callable[[Tensor, Tensor, Tensor, str, Mapping[str, float]], Tensor]


def _contrastive(
    q: Tensor, p: Tensor, _labels: Tensor, role: str, c: Mapping[str, float]
) -> Tensor:
    """DistiLLM-2: pull the teacher's text up, push the student's own text down to the teacher."""
    if role == "teacher":
        return 0.5 * losses.skew_kl(q, p, alpha=c["alpha"])
    return 0.5 * losses.skew_reverse_kl(q, p, alpha=c["alpha"])


COMPARED: dict[str, Compared] = {
    "mixed_forward_kl": lambda q, p, labels, _, c: losses.mixed_forward_kl(q, p, labels, c["mix"]),
    "forward_kl": lambda q, p, *_: losses.forward_kl(q, p),
    "reverse_kl": lambda q, p, *_: losses.reverse_kl(q, p),
    "symmetric_kl": lambda q, p, *_: losses.symmetric_kl(q, p),
    "total_variation": lambda q, p, *_: losses.total_variation(q, p),
    "adaptive_kl": lambda q, p, *_: losses.adaptive_kl(q, p),
    "generalized_jsd": lambda q, p, _, __, c: losses.generalized_jsd(q, p, beta=c["beta"]),
    "skew_kl": lambda q, p, _, __, c: losses.skew_kl(q, p, alpha=c["alpha"]),
    "skew_reverse_kl": lambda q, p, _, __, c: losses.skew_reverse_kl(q, p, alpha=c["alpha"]),
    "contrastive": _contrastive,
}


def objective(
    name: str, targets: Targets | None = None, coefficients: Mapping[str, float] | None = None
) -> Objective:
    """The objective of that name; all but cross_entropy read the teacher's `targets`.

    Args:
        name: cross_entropy, policy_gradient, or a divergence of `kdlib.losses`.
        targets: the teacher's logits.
        coefficients: those the objective has, by name, see `methods.COEFFICIENTS`.

    Raises:
        KdlibError: there is no such objective, or it needs a teacher.
    """
    if name == "cross_entropy":
        return lambda logits, batch, part: losses.cross_entropy(logits, batch.targets[part])
    if name not in (*COMPARED, "policy_gradient"):
        known = ", ".join(("cross_entropy", "policy_gradient", *COMPARED))
        raise KdlibError(f"no objective '{name}'; known: {known}")
    if targets is None:
        raise KdlibError(f"objective '{name}' needs a teacher; train one first")
    given = coefficients or {}
    if name == "policy_gradient":
        return _policy_gradient(targets, given)
    compared = COMPARED[name]
    return lambda logits, batch, part: compared(
        logits, targets.logits(batch, part), batch.targets[part], batch.role, given
    )


def _policy_gradient(targets: Targets, c: Mapping[str, float]) -> Objective:
    """MiniLLM (Gu et al. 2024, section 2.2): long-term part, single-step part, general text."""

    def minimized(logits: Tensor, batch: Batch, part: slice) -> Tensor:
        nats = losses.cross_entropy(logits, batch.targets[part])
        if batch.role == "general":
            return c["general_text"] * nats
        if batch.role == "rows":
            return nats
        seen = cast(Rollout, batch)
        weights = seen.weights[part]
        loss = policy_gradient.clipped(
            -nats, seen.old_log_q[part], seen.advantages[part], weights, c["clip"]
        )
        if c["single_step"]:
            loss = loss + weights * losses.reverse_kl(logits, targets.logits(batch, part))
        return loss

    return minimized
