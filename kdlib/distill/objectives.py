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
    divergence = losses.skew_kl if role == "teacher" else losses.skew_reverse_kl
    return 0.5 * divergence(q, p, alpha=c["alpha"])


def _divergence(divergence: Callable[..., Tensor], *names: str) -> Compared:
    """A divergence of `losses` that takes the coefficients of these names."""
    return lambda q, p, _labels, _role, c: divergence(q, p, **{name: c[name] for name in names})


COMPARED: dict[str, Compared] = {
    "mixed_forward_kl": lambda q, p, labels, _, c: losses.mixed_forward_kl(q, p, labels, c["mix"]),
    "forward_kl": _divergence(losses.forward_kl),
    "reverse_kl": _divergence(losses.reverse_kl),
    "symmetric_kl": _divergence(losses.symmetric_kl),
    "total_variation": _divergence(losses.total_variation),
    "adaptive_kl": _divergence(losses.adaptive_kl),
    "generalized_jsd": _divergence(losses.generalized_jsd, "beta"),
    "skew_kl": _divergence(losses.skew_kl, "alpha"),
    "skew_reverse_kl": _divergence(losses.skew_reverse_kl, "alpha"),
    "contrastive": _contrastive,
}
OBJECTIVES = ("cross_entropy", "policy_gradient", *COMPARED)


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
    c = coefficients or {}
    if name == "policy_gradient":
        return _policy_gradient(targets, c)
    compared = COMPARED[name]
    return lambda logits, batch, part: compared(
        logits, targets.logits(batch, part), batch.targets[part], batch.role, c
    )


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
