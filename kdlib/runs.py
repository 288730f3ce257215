"""Paths, manifests, atomic writes: where everything lies and when a stage is done."""

import errno
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdlib.settings import KdlibError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

MANIFEST = "manifest.json"
VERSIONS = ("torch", "transformers", "datasets", "tokenizers", "numpy", "pandas")


def root() -> Path:
    """The project's folder: `KDLIB_ROOT`, else the nearest that holds kdlib and notebooks."""
    if named := os.environ.get("KDLIB_ROOT"):
        return Path(named)
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "kdlib").is_dir() and (folder / "notebooks").is_dir():
            return folder
    return Path(__file__).resolve().parents[1]


def cache_dir() -> Path:
    """Where read data is kept between runs (ignored by git)."""
    return root() / "data" / "raw"


def runs_dir(profile: str) -> Path:
    """Checkpoints and per-tuple tables of a profile (ignored by git)."""
    return root() / "data" / "runs" / profile


def results_dir(profile: str) -> Path:
    """The tables of a profile (committed)."""
    return root() / "data" / "results" / profile


def figures_dir(profile: str) -> Path:
    """The figures of a profile (committed)."""
    return root() / "data" / "figures" / profile


@contextmanager
def atomic(path: Path) -> "Iterator[Path]":
    """Give a temporary name in the same folder; it takes `path`'s place only when complete.

    Raises:
        KdlibError: the disk is full or not writable. Nothing is left half-written.
    """
    part = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield part
            os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def writing(path: Path) -> "Iterator[None]":
    """Turn a full disk into one message that names what was being written.

    Raises:
        KdlibError: the disk is full.
    """
    try:
        yield
    except Exception as error:  # safetensors and tokenizers have error classes of their own
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left" in str(error):
            raise KdlibError(
                f"the disk is full while writing {path}; free some space and run the same "
                "command again, finished stages are kept"
            ) from None
        raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic(path) as part:
        part.write_text(text, "utf-8")


def write_table(path: Path, frame: "pd.DataFrame") -> None:
    """Write a table atomically, as CSV (6 significant digits) or Parquet by the file's suffix."""
    with atomic(path) as part:
        if path.suffix == ".parquet":
            frame.to_parquet(part, index=False)
        else:
            frame.to_csv(part, index=False, float_format="%.6g")


def digest(*texts: str) -> str:
    """16 hex digits of a SHA-256 that depends on the texts alone."""
    return hashlib.sha256("\x1f".join(texts).encode()).hexdigest()[:16]


def fingerprint(value: Any) -> str:
    """Hash of anything JSON can hold: 16 hex digits of its SHA-256."""
    text = json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
    return digest(text)


@cache
def commit() -> str:
    """The commit of the working tree, with `+` when code or notebooks differ from it."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root()), *words], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "--short=10", "HEAD")
    code = ("kdlib", "notebooks", ":!notebooks/executed", "Snakefile", "constraints.txt")
    changed = git("status", "--porcelain", "--", *code)
    return (head or "unknown") + ("+" if changed else "")


def machine() -> str:
    """The processor's name and how many cores this process may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{len(os.sched_getaffinity(0))} cores of {name}"


def versions() -> dict[str, str]:
    """Python's version and those of the packages on which numbers depend."""
    found = {"python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in VERSIONS}


def write_manifest(folder: Path, identity: str, **facts: Any) -> None:
    """Write the manifest, last of all files of a stage: its presence says the stage is done."""
    body = {"run_id": identity, "commit": commit(), "versions": versions(), **facts}
    write_text(folder / MANIFEST, json.dumps(body, indent=1, default=str) + "\n")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished stage, or None where there is none."""
    try:
        return json.loads((folder / MANIFEST).read_text("utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None


def done(folder: Path, identity: str) -> bool:
    """Whether the stage in `folder` is finished, and with just these settings."""
    found = read_manifest(folder)
    return found is not None and found.get("run_id") == identity


@contextmanager
def alone(folder: Path) -> "Iterator[None]":
    """Hold the folder's lock; the kernel drops it when the process ends, however it ends."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
