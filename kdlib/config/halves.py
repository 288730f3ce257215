"""The models of halves of the member rows: which are made, and in which part (11_inheritance)."""

from kdlib.config.methods import PAPER
from kdlib.config.profile import TEACHER, Profile

# the distilled methods of the paper's that start from the base model
TAUGHT = ("word_kd", "seq_kd_beam")


def half_models(profile: Profile) -> list[tuple[str, str, str]]:
    """Part, method and size of each.

    Part "half-0a" is side a of the first pair of halves: each row is in one half and out of the
    other. That pair goes to the teacher and the paper's methods, taught by their half's teacher;
    further pairs to SFT alone (references of an attacker). Part "taught-0a" are students of that
    side taught by the teacher of all rows: what they know of the other half was handed down, not
    read.
    """
    size, students = profile.probe_size, []
    for split in range(profile.probe.splits):
        methods = ("sft",) if split else (TEACHER, *PAPER)
        students += [(f"half-{split}{side}", method) for side in "ab" for method in methods]
    students += [("taught-0a", method) for method in TAUGHT]
    return [(part, method, TEACHER if method == TEACHER else size) for part, method in students]
