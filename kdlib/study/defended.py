"""Students with a defence, alone and with distillation, beside those without (notebook 15).

All are of the profile's `probe_size`. Every defence of the table is trained alone, that is, with
SFT, DP-SGD for each of EPSILONS, and beside PARTNER, so that neither side has a defence that the
other lacks (the teacher has none). So a seed needs 21 runs more than the paper's methods; all
defences beside every method that can carry them would be 40.
"""

from collections.abc import Mapping

from kdlib.config.defences import DEFENCES
from kdlib.config.methods import DISTILLED, PAPER, label
from kdlib.config.profile import Profile
from kdlib.study.run import Run

PARTNER = "word_kd"  # the method of the students that are distilled and defended
EPSILONS = (8, 2)  # of DP-SGD alone; with PARTNER the first
DP_SGD = "dp_sgd"

Sides = tuple[tuple[str, ...], tuple[str, ...]]  # names of students that are held against others


def students(profile: Profile, seed: int) -> dict[str, Run]:
    """All of one seed, by name: the paper's methods, defences alone, then those with PARTNER."""
    size = profile.probe_size
    undefended = {method: Run(profile, seed, method, size) for method in PAPER}
    runs = dict(undefended)
    for defence in DEFENCES:
        runs |= _defended(undefended["sft"], defence, EPSILONS)
    for defence in DEFENCES:
        runs |= _defended(undefended[PARTNER], defence, EPSILONS[:1])
    return runs


def named(defence: str, method: str = "sft", epsilon: float = EPSILONS[0]) -> str:
    """The name of a defended student."""
    name = DEFENCES[defence].label
    name += f", epsilon {epsilon:g}" if defence == DP_SGD else ""
    return name if method == "sft" else f"{label(method)} + {name}"


def _defended(run: Run, defence: str, epsilons: tuple[float, ...]) -> dict[str, Run]:
    if defence != DP_SGD:
        return {named(defence, run.method): run.defended(defence)}
    delta = run.profile.defence_coefficients(defence)["delta"]
    return {
        named(defence, run.method, epsilon): run.defended(defence, epsilon=epsilon, delta=delta)
        for epsilon in epsilons
    }


def cheap(students: Mapping[str, Run]) -> tuple[str, ...]:
    """The names of those without a teacher; not DP-SGD, which takes several times as long."""
    names = (name for name, run in students.items() if run.method == "sft")
    return tuple(name for name in names if students[name].defence != DP_SGD)


def distilled(students: Mapping[str, Run], methods: tuple[str, ...] = DISTILLED) -> tuple[str, ...]:
    """The names of those that these methods distil; not with DP-SGD, likewise."""
    names = (name for name, run in students.items() if run.method in methods)
    return tuple(name for name in names if students[name].defence != DP_SGD)


def contrasts(students: Mapping[str, Run]) -> dict[str, Sides]:
    """Whom each claim of `analysis.plane` holds against whom, by its name.

    B1: what is distilled, without a defence, against SFT; B2: PARTNER against SFT, both with the
    goldfish loss; from B3 on each distilled method against all that is cheap.
    """
    goldfish = (named("goldfish", PARTNER),), (named("goldfish"),)
    sides: dict[str, Sides] = {"B1": (DISTILLED, ("sft",)), "B2": goldfish}
    for number, method in enumerate(DISTILLED, start=3):
        sides[f"B{number}"] = distilled(students, (method,)), cheap(students)
    return sides
