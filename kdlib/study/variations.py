"""Students whose text, objective, mix, temperature or number of steps is varied, one at a time.

All are of the profile's `probe_size`. In the grid every text is read with every objective, all else
as SFT is trained, its learning rate too; mixes and temperatures are of word-level KD. Where a
method of the table is trained in just that way, its own run stands there, and nothing is trained
twice. Taught in notebook 14_cause.
"""

from kdlib.config.methods import label
from kdlib.config.profile import Profile
from kdlib.study.run import Run

TEXTS = ("rows", "teacher", "student")
OBJECTIVES = ("cross_entropy", "forward_kl", "reverse_kl", "generalized_jsd")
MIXES = (0, 0.25, 0.5, 0.75, 1)  # the weight of the cross-entropy in word-level KD
TEMPERATURES = (1, 2, 4)
TIMES = 4  # as many epochs for methods that may have had too few, by name
SLOW = {f"{label(method)} x{TIMES}": method for method in ("rkld", "minillm")}

Pair = tuple[str, str]  # whose text is read, and what is minimized there
ROWS: Pair = ("rows", "cross_entropy")  # SFT, against which the others are held
PAIRS = {"sft": ROWS} | {
    f"{objective} on {text}": (text, objective)
    for text in TEXTS
    for objective in OBJECTIVES
    if (text, objective) != ROWS
}
METHOD_OF: dict[Pair, tuple[str, dict[str, float]]] = {  # and the coefficients that make it so
    ("teacher", "cross_entropy"): ("seq_kd", {}),
    ("rows", "forward_kl"): ("word_kd", {"mix": 0, "temperature": 1}),
    ("student", "forward_kl"): ("imitkd", {}),
    ("rows", "reverse_kl"): ("off_policy_rkl", {}),
    ("student", "reverse_kl"): ("rkld", {}),
    ("rows", "generalized_jsd"): ("gkd", {"beta": 0.5, "student_share": 0}),
    ("student", "generalized_jsd"): ("gkd", {"beta": 0.5, "student_share": 1}),
}


def students(profile: Profile, seed: int) -> dict[str, Run]:
    """All of one seed, by name: the grid (PAIRS), then mixes, temperatures, and SLOW for longer.

    Two names may stand for one run, such as "mix 1" and "sft". SLOW are trained for TIMES the
    epochs alone: what fewer would give is noted on the way, exactly so unless the learning rate
    falls towards the end of training.
    """

    def student(method: str) -> Run:
        return Run(profile, seed, method, profile.probe_size)

    runs = {name: _of_grid(student("sft"), pair) for name, pair in PAIRS.items()}
    for mix in MIXES:
        runs[f"mix {mix:g}"] = student("word_kd").changing(mix=mix)
    runs["mix 1"] = _instead(runs["mix 1"], "sft")
    for temperature in TEMPERATURES:
        runs[f"temperature {temperature}"] = student("word_kd").changing(temperature=temperature)
    return runs | {name: student(method).longer(TIMES) for name, method in SLOW.items()}


def _of_grid(sft: Run, pair: Pair) -> Run:
    run = sft.varied(*pair)
    method, coefficients = METHOD_OF.get(pair, ("", {}))
    return _instead(run, method, **coefficients) if method else run


def _instead(run: Run, method: str, **coefficients: float) -> Run:
    """The run of a method that trains what `run` does, if as long and at the same rate."""
    replacement = Run(run.profile, run.seed, method, run.size).changing(**coefficients)
    return replacement if replacement.settings == run.settings else run
