"""Copies of the project in which a test may run the study."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def copy_project(target: Path) -> Path:
    """What git would hold of the project, so that no test touches its results."""
    for name in ("Makefile", "Snakefile"):
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    shutil.copytree(ROOT / "kdlib", target / "kdlib", ignore=shutil.ignore_patterns("__pycache__"))
    (target / "notebooks").mkdir()
    for source in (ROOT / "notebooks").glob("*.ipynb"):
        shutil.copy2(source, target / "notebooks")
    return target


def start_study(project: Path, log: str = "make.log", **given: str) -> subprocess.Popen:
    """Start `make study` on smoke in a process group of its own; its lines go to `log`."""
    # Shells ignore Ctrl-C in what they start in the background; a handler here undoes that there.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ours = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "KDLIB_ROOT", "PYTHONPATH"}
    values = {"PROFILE": "smoke", "SEEDS": "", "METHODS": "paper"}
    values |= {"BIN": str(Path(sys.executable).parent)} | given
    command = ["make", "study", *(f"{name}={value}" for name, value in values.items())]
    with (project / log).open("w") as output:
        return subprocess.Popen(
            command,
            cwd=project,
            env={name: value for name, value in os.environ.items() if name not in ours},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def run_study(
    project: Path,
    seeds: str = "",
    methods: str = "all",
    parts: str = "all",
    profile: str = "smoke",
) -> str:
    """Run `make study` to its end and give what it printed."""
    given = {"SEEDS": seeds, "METHODS": methods, "PARTS": parts, "PROFILE": profile}
    code = start_study(project, **given).wait()
    text = (project / "make.log").read_text()
    logs = sorted(project.glob("data/runs/*/logs/*.log"), key=os.path.getmtime)
    assert code == 0, text + "".join(log.read_text()[-4000:] for log in logs[-2:])
    return text
