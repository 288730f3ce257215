"""What a notebook was given: its parameters, checked, and what a reader needs to repeat it."""

from itertools import pairwise

import torch
from IPython import get_ipython

from kdlib import runs
from kdlib.config.profile import Profile, load_profile, read_seeds
from kdlib.errors import KdlibError
from kdlib.model import checkpoints
from kdlib.study.pipeline import assigned


def open_study(profile: str, seeds: str | int) -> tuple[Profile, list[int]]:
    """The profile and the seeds that a notebook's parameters name; prints how to repeat the run."""
    refuse_unknown_parameters()
    settings = load_profile(profile)
    numbers = read_seeds(seeds, settings)
    seed_text = f"{'seed' if len(numbers) == 1 else 'seeds'} {' '.join(map(str, numbers))}"
    versions = ", ".join(map(" ".join, runs.versions().items()))
    gpu = torch.cuda.get_device_name() if checkpoints.device().type == "cuda" else "CPU"
    print(f"profile {settings.name}, {seed_text}, commit {runs.commit()}")
    print(f"{gpu}, {torch.get_num_threads()} thread(s); {versions}")
    print(f"runs in {runs.runs_dir(settings.name).relative_to(runs.root())}")
    return settings, numbers


def open_seed(profile: str, seed: str | int) -> tuple[Profile, int]:
    """As `open_study`, for a notebook of one seed."""
    settings, numbers = open_study(profile, seed)
    if len(numbers) != 1:
        raise KdlibError(f"seed '{seed}' is not one whole number; try 0")
    return settings, numbers[0]


def refuse_unknown_parameters() -> None:
    """Stop where papermill was given a name that the parameters cell lacks: it only warns."""
    shell = get_ipython()  # what papermill was given stands in a cell right behind the defaults
    for defaults, injected in pairwise(shell.user_ns.get("In", []) if shell else []):
        if injected.startswith("# Parameters\n"):
            declared = assigned(defaults)
            if unknown := [name for name in assigned(injected) if name not in declared]:
                raise KdlibError(f"no parameter '{unknown[0]}'; known: {', '.join(declared)}")
