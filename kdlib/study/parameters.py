"""What a notebook was given: its parameters, checked, and what a reader needs to repeat it."""

import ast
from itertools import pairwise

import torch
from IPython import get_ipython

from kdlib import runs
from kdlib.config.profile import Profile, load_profile, read_seeds
from kdlib.errors import KdlibError
from kdlib.model import checkpoints


def open_study(profile: str, seeds: str | int) -> tuple[Profile, list[int]]:
    """The profile and the seeds that a notebook's parameters name; describes the run."""
    refuse_unknown_parameters()
    settings = load_profile(profile)
    chosen = read_seeds(seeds, settings)
    describe(settings, chosen)
    return settings, chosen


def open_seed(profile: str, seed: str | int) -> tuple[Profile, int]:
    """As `open_study`, for a notebook of one seed."""
    settings, chosen = open_study(profile, seed)
    if len(chosen) != 1:
        raise KdlibError(f"seed '{seed}' is not one whole number; try 0")
    return settings, chosen[0]


def refuse_unknown_parameters() -> None:
    """Stop where papermill was given a name that the parameters cell lacks: it only warns.

    What it was given stands in a cell that begins with "# Parameters", right behind that cell.
    """
    shell = get_ipython()
    for defaults, injected in pairwise(shell.user_ns.get("In", []) if shell else []):
        if injected.startswith("# Parameters\n"):
            known = assigned(defaults)
            if unknown := [name for name in assigned(injected) if name not in known]:
                raise KdlibError(f"no parameter '{unknown[0]}'; known: {', '.join(known)}")


def assigned(source: str) -> list[str]:
    """The names that the statements of a cell assign to."""
    statements = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    targets = [target for node in statements for target in node.targets]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def describe(profile: Profile, seeds: list[int]) -> None:
    """Print what a reader needs to repeat the run: versions, device, threads, commit, folder."""
    versions = ", ".join(map(" ".join, runs.versions().items()))
    gpu = torch.cuda.get_device_name() if checkpoints.device().type == "cuda" else "CPU"
    named = "seed" if len(seeds) == 1 else "seeds"
    print(f"profile {profile.name}, {named} {' '.join(map(str, seeds))}, commit {runs.commit()}")
    print(f"{gpu}, {torch.get_num_threads()} thread(s); {versions}")
    print(f"runs in {runs.runs_dir(profile.name).relative_to(runs.root())}")
