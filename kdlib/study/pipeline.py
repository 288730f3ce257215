"""The study as one command: checked, locked against a second run, started with the Snakefile."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from filelock import Timeout

from kdlib import runs
from kdlib.config.methods import METHODS, PAPER
from kdlib.config.profile import SHIPPED, Profile, load_profile, read_methods, read_seeds
from kdlib.errors import KdlibError

SOURCE = Path(__file__).resolve().parents[2]  # where Snakefile and notebooks lie
ALWAYS = TEACHER, METER = ("02_teacher", "09_memorization_meter")  # of one seed, for all methods
# Notebooks beyond the study itself, by the part that they belong to: run where that is asked for.
PARTS = {
    "lab": ("11_inheritance", "12_what_stays", "13_membership_and_canaries"),
    "cause": ("14_cause",),
    "defences": ("15_defences",),
    "life": ("16_life_cycle",),
    "release": ("17_release",),
}
NOTEBOOK = re.compile(r"\d\d_[a-z0-9_]+")  # Jupyter's "-Copy1" is none of the series
FLAGS = "--quiet all --nolock --rerun-incomplete --rerun-triggers mtime --scheduler greedy"


class Plan(NamedTuple):
    """What one call of the study runs."""

    profile: Profile
    seeds: list[int]  # reported
    methods: tuple[str, ...]  # chosen, in the order of the table
    named: str  # the methods as notebooks are given them: "paper", "all", or the further ones
    trained: dict[str, list[str]]  # by notebook: the chosen methods that it trains
    parameters: dict[str, set[str]]  # by notebook: the names in its parameters cell

    def needs_teacher(self, notebook: str) -> bool:
        """Whether one of the chosen methods that the notebook trains learns from the teacher."""
        names = self.trained.get(notebook, [])
        return any(self.profile.method(name).needs_teacher for name in names)

    def samples(self, notebook: str) -> bool:
        """Whether a student writes text while it trains there, which takes longest."""
        names = self.trained.get(notebook, [])
        return any(self.profile.method(name).on_policy for name in names)


def plan(
    profile: str, seeds: str | int | None, methods: str | None, parts: str | None = None
) -> Plan:
    """Read and check what is to run; KdlibError where a method's notebook cannot train it.

    `parts` are names of PARTS beside the study itself, "all", or nothing ("study").
    """
    settings = load_profile(profile)
    method_names = read_methods(methods, settings)
    further = " ".join(name for name in method_names if name not in PAPER)
    selection = {PAPER: "paper", tuple(settings.all_methods): "all"}.get(method_names, further)
    files = sorted(SOURCE.glob("notebooks/*.ipynb"))
    notebooks = {file.stem: parameters(file) for file in files if NOTEBOOK.fullmatch(file.stem)}
    skipped = {name for part in PARTS for name in PARTS[part] if part not in read_parts(parts)}
    notebooks = {name: names for name, names in notebooks.items() if name not in skipped}
    trained: dict[str, list[str]] = {}
    for name in method_names:
        notebook = settings.method(name).notebook
        trained.setdefault(notebook, []).append(name)
        if "seed" not in notebooks.get(notebook, ()) or notebook in ALWAYS:
            raise KdlibError(f"method '{name}': there is no notebook '{notebook}' for methods")
        others = {
            key for key, method in settings.all_methods.items() if method.notebook == notebook
        } - {name}
        if name not in METHODS and others and "methods" not in notebooks[notebook]:
            problem = f"notebook '{notebook}' trains {min(others)} alone"
            remedy = "name one with a parameter 'methods', such as 07_on_policy"
            raise KdlibError(f"method '{name}': {problem}; {remedy}")
    return Plan(settings, read_seeds(seeds, settings), method_names, selection, trained, notebooks)


def read_parts(text: str | None) -> tuple[str, ...]:
    """The parts that are run beside the study itself."""
    words = (text or "").replace(",", " ").split()
    if unknown := [word for word in words if word not in ("study", "all", *PARTS)]:
        choices = f"known: study, {', '.join(PARTS)}, all"
        raise KdlibError(f"PARTS: '{unknown[0]}' is no part of the study; {choices}")
    return tuple(PARTS) if "all" in words else tuple(part for part in PARTS if part in words)


def parameters(notebook: Path) -> set[str]:
    """The names that a notebook's parameters cell sets; none where there is no such cell."""
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    sources = [c["source"] for c in cells if "parameters" in c["metadata"].get("tags", [])]
    return set(assigned("".join(sources[0] if sources else "")))


def assigned(source: str) -> list[str]:
    """The names that the statements of a cell assign to."""
    names = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)]
    return [node.id for node in names if isinstance(node.ctx, ast.Store)]


def study(
    profile: str, seeds: str, methods: str, parts: str, cores: int, gpu_jobs: int | None = None
) -> bool:
    """Run the study, or what is left of it, and print how long it took."""
    started, name = time.monotonic(), plan(profile, seeds, methods, parts).profile.name
    config_path = runs.runs_dir(name) / "inputs" / "study.json"
    by_path = profile.endswith(".toml") and Path(profile).is_file()
    source = os.path.relpath(profile, SOURCE) if by_path else profile
    arguments = {"profile": source, "seeds": seeds, "methods": methods, "parts": parts}
    copies = runs.root() / "notebooks" / "executed" / name
    private_dirs = (
        () if name in SHIPPED else (runs.results_dir(name), runs.figures_dir(name), copies)
    )
    try:
        with runs.locked(runs.runs_dir(name), wait=False):
            runs.write_text(config_path, json.dumps(arguments))
            for folder in private_dirs:  # may hold text of private data: no part of any repository
                runs.write_text(folder / ".gitignore", "*\n")
            jobs = gpu_jobs or (4 if name in ("smoke", "tiny") else 1)  # small models share
            done = _snakemake(config_path, cores, jobs)
    except Timeout:
        message = f"PROFILE={profile} is being run already; wait for it or stop it"
        raise KdlibError(message) from None
    if done:
        minutes, seconds = divmod(round(time.monotonic() - started), 60)
        print(f"all stages done after {minutes} min {seconds} s")
    return done


def _snakemake(config: Path, cores: int, gpu_jobs: int) -> bool:
    """Run Snakemake in this process, so that the lock is dropped when it is killed."""
    from snakemake import cli

    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ["KDLIB_ROOT"] = str(runs.root())  # whatever the folder that a notebook runs in
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # this environment's kernel, none of the user's
    has_gpu = Path("/dev/nvidia0").exists() and "SNAKEMAKE_PROFILE" not in os.environ
    gpu_options = ["--resources", f"gpu={gpu_jobs}"] if has_gpu else []  # a cluster counts its own
    options = ["--snakefile", SOURCE / "Snakefile", "--directory", SOURCE, "--configfile", config]
    try:
        cli.main([*map(str, [*options, "--cores", cores]), *FLAGS.split(), *gpu_options])
    except SystemExit as error:
        return not error.code
    return True


def study_afresh(profile: str, seeds: str, methods: str, parts: str, cores: int) -> Path:
    """Run the study in a copy of code and notebooks, which the same call resumes; where it lies."""
    name = plan(profile, seeds, methods, parts).profile.name
    copy = runs.root() / "data" / "runs" / f"{name}-verified"
    ignore = shutil.ignore_patterns("__pycache__", "executed", ".ipynb_checkpoints")
    with runs.write_errors(copy):
        for part in ("kdlib", "notebooks"):
            shutil.rmtree(copy / part, ignore_errors=True)
            shutil.copytree(SOURCE / part, copy / part, ignore=ignore)
        shutil.copy2(SOURCE / "Snakefile", copy)
    source = str(Path(profile).absolute()) if Path(profile).is_file() else profile
    command = [sys.executable, "-m", "kdlib", "study", "--profile", source, "--seeds", seeds]
    command += ["--methods", methods, "--parts", parts, "--cores", str(cores)]
    environment = {k: v for k, v in os.environ.items() if k not in ("KDLIB_ROOT", "PYTHONPATH")}
    if subprocess.run(command, cwd=copy, env=environment, check=False).returncode:
        raise KdlibError(f"the study in {copy} did not end well; the same command goes on with it")
    return copy
