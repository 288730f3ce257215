"""The table of methods: whose text the student reads, and what it minimizes there.

Adding a method is one entry here; see CONTRIBUTING. Taught in notebook 00_map.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

# What a coefficient means, and its range (both ends allowed).
COEFFICIENTS: dict[str, tuple[str, float, float]] = {
    "mix": ("weight of the cross-entropy beside the divergence", 0, 1),
    "beta": ("the teacher's weight in the generalized JSD", 0, 1),
    "alpha": ("skew: the share that the first distribution has in the second", 0, 0.99),
    "student_share": ("share of optimizer steps on the student's text", 0, 1),
    "capacity": ("rows that the replay buffer holds", 1, 1e7),
    "share_step": ("raise of the share of student text", 0, 1),
    "loss_rise": ("rise of the validation loss that raises the share, nats per token", 0, 100),
    "teacher_mix": ("the teacher's share in the distribution that text is drawn from", 0, 0.99),
    "importance_weights": ("1: correct for that share; 0: do not", 0, 1),
    "single_step": ("1: a step's own reward exactly, over the vocabulary; 0: as sampled", 0, 1),
    "length_norm": ("1: a return is divided by the number of its rewards", 0, 1),
    "discount": ("of a reward, per position that it lies ahead", 0, 1),
    "reward_scale": ("rewards are divided by it", 1e-3, 1e3),
    "reward_clip": ("greatest absolute reward, nats", 1e-3, 1e6),
    "whiten": ("1: advantages of a rollout to mean 0 and variance 1", 0, 1),
    "clip": ("PPO: how far the ratio of probabilities counts, from 1", 0, 1),
    "rollouts": ("answers sampled at a time", 1, 1e6),
    "inner_epochs": ("passes over them", 1, 100),
    "sft_epochs": ("epochs on the rows before that", 0, 1000),
    "general_text": ("weight of the cross-entropy on general text", 0, 100),
}


@dataclass(frozen=True)
class Method:
    """A method is a pair: whose text the student reads, and what it minimizes there."""

    label: str
    text: str  # see texts.source
    objective: str  # see objectives.objective
    notebook: str  # that trains it
    coefficients: Mapping[str, float] = field(default_factory=dict)  # a profile may change them


_BY_TEXT, _OWN = "05_sequence_level_kd", "07_on_policy"
_MINILLM = {
    **{"teacher_mix": 0.2, "importance_weights": 1, "single_step": 1, "length_norm": 1},
    **{"discount": 0.95, "reward_scale": 0.5, "reward_clip": 100, "whiten": 1, "clip": 0.2},
    **{"rollouts": 256, "inner_epochs": 4, "sft_epochs": 3, "general_text": 1.0},
}
_DISTILLM = {"alpha": 0.1, "capacity": 1000, "share_step": 0.1, "loss_rise": 0.1}

METHODS = {
    "sft": Method("SFT", "rows", "cross_entropy", "03_supervised_fine_tuning"),
    "word_kd": Method(
        "word-level KD", "rows", "mixed_forward_kl", "04_word_level_kd", {"mix": 0.5}
    ),
    "seq_kd": Method("sequence-level KD", "teacher", "cross_entropy", _BY_TEXT),
    "rkld": Method("RKLD", "student", "reverse_kl", "06_reverse_kl"),
    "off_policy_rkl": Method("off-policy RKL", "rows", "reverse_kl", "06_reverse_kl"),
    "seq_kd_beam": Method("sequence-level KD, beams", "teacher_beam", "cross_entropy", _BY_TEXT),
    "seq_kd_sampled": Method(
        "sequence-level KD, sampled", "teacher_sampled", "cross_entropy", _BY_TEXT
    ),
    "imitkd": Method("ImitKD", "student", "forward_kl", _OWN),
    "gkd": Method("GKD", "mix", "generalized_jsd", _OWN, {"beta": 0.5, "student_share": 0.5}),
    "distillm": Method("DistiLLM", "replay", "skew_kl", _OWN, _DISTILLM),
    "distillm2": Method("DistiLLM-2", "pairs", "contrastive", _OWN, {"alpha": 0.1}),
    "minillm": Method("MiniLLM", "rollouts", "policy_gradient", "08_minillm", _MINILLM),
}
PAPER = ("sft", "word_kd", "seq_kd", "rkld")  # the paper's, always run; its claims are about these
DISTILLED = tuple(name for name in PAPER if name != "sft")
LABELS = {"base": "base", "teacher": "teacher"} | {name: one.label for name, one in METHODS.items()}


def require(name: str) -> None:
    """Refuse a method that there is not.

    Raises:
        ValueError: names those that there are.
    """
    if name not in METHODS:
        raise ValueError(f"'{name}' is no method; known: {', '.join(METHODS)}")


def require_coefficients(method: str, given: Mapping[str, float]) -> None:
    """Refuse a coefficient that the method has not, or a value out of its range.

    Raises:
        ValueError: names the coefficient, its meaning and its range.
    """
    label, known = METHODS[method].label, METHODS[method].coefficients
    for name, value in given.items():
        if name not in known:
            raise ValueError(
                f"{label} has no coefficient '{name}'; it has: {', '.join(known) or 'none'}"
            )
        meaning, low, high = COEFFICIENTS[name]
        if not low <= value <= high:
            raise ValueError(
                f"{label}: {name} = {value:g} ({meaning}) must be from {low:g} to {high:g}"
            )
