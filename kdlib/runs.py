"""Paths, manifests, atomic writes: where everything lies and when a stage is done."""

import errno
import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock

from kdlib.errors import KdlibError

MANIFEST = "manifest.json"
VERSIONS = ("torch", "transformers", "datasets", "tokenizers", "numpy", "pandas")
FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)


def root() -> Path:
    """The project's folder: `KDLIB_ROOT`, else the nearest that holds kdlib and notebooks."""
    if configured := os.environ.get("KDLIB_ROOT"):
        return Path(configured).absolute()
    candidates = (Path.cwd(), *Path.cwd().parents)
    matches = (
        folder
        for folder in candidates
        if (folder / "kdlib").is_dir() and (folder / "notebooks").is_dir()
    )
    return next(matches, Path(__file__).resolve().parents[1])


def cache_dir() -> Path:
    """Where read data is kept between runs (ignored by git)."""
    return root() / "data" / "raw"


def runs_dir(profile: str) -> Path:
    """Checkpoints and per-tuple tables of a profile (ignored by git)."""
    return root() / "data" / "runs" / profile


def seed_dir(profile: str, seed: int) -> Path:
    """What belongs to one seed: a folder for each model, named method-size."""
    return runs_dir(profile) / f"seed-{seed}"


def results_dir(profile: str) -> Path:
    """The tables of a profile (committed)."""
    return root() / "data" / "results" / profile


def figures_dir(profile: str) -> Path:
    """The figures of a profile (committed)."""
    return root() / "data" / "figures" / profile


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary name in the same folder; it takes `path`'s place only when complete."""
    part = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield part
            os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink()


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, or the system's refusal to write there, into a KdlibError that names it."""
    try:
        yield
    except KdlibError:  # says already what failed, and where
        raise
    except Exception as error:  # safetensors and tokenizers have error classes of their own
        codes = [code for code in FULL + REFUSED if os.strerror(code) in str(error)]
        code = getattr(error, "errno", None) or next(iter(codes), None)
        if code in FULL:
            remedy = "free some space and run the same command again, finished stages are kept"
            raise KdlibError(f"the disk is full while writing {path}; {remedy}") from None
        if code in REFUSED:
            raise KdlibError(f"{path} cannot be written: {error}") from None
        raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic(path) as part:
        part.write_text(text, "utf-8")


def write_table(path: Path, frame: Any) -> None:
    """Write a DataFrame atomically, as CSV (6 significant digits) or Parquet, by the suffix."""
    with atomic(path) as part:
        if path.suffix == ".parquet":
            frame.to_parquet(part, index=False)
        else:
            frame.to_csv(part, index=False, float_format="%.6g")


def digest(*texts: str) -> str:
    """16 hex digits of a SHA-256 that depends on the texts alone."""
    return hashlib.sha256("\x1f".join(texts).encode()).hexdigest()[:16]


def fingerprint(value: Any) -> str:
    """`digest` of anything JSON can hold; numpy's numbers are numbers."""
    options: dict[str, Any] = {"sort_keys": True, "ensure_ascii": False}
    options["default"] = lambda x: x.item() if hasattr(x, "item") else str(x)
    return digest(json.dumps(value, **options))


@cache
def commit() -> str:
    """The commit of the working tree, with `+` when code or notebooks differ from it."""
    pathspec = "-- kdlib notebooks :!notebooks/executed Snakefile constraints.txt"
    commands = ("git rev-parse --short=10 HEAD", f"git status --porcelain {pathspec}")
    options: dict[str, Any] = {"text": True, "stderr": subprocess.DEVNULL, "cwd": root()}
    with suppress(OSError, subprocess.CalledProcessError):
        head, changed = (
            subprocess.check_output(command.split(), **options) for command in commands
        )
        return head.strip() + ("+" if changed else "")
    return "unknown"


def machine() -> str:
    """The processor's name and how many cores this process may use."""
    match = re.search(r"model name\s*: *(.+)", Path("/proc/cpuinfo").read_text("utf-8"))
    name = match[1] if match else platform.processor() or platform.machine()
    return f"{len(os.sched_getaffinity(0))} cores of {name}"


def versions() -> dict[str, str]:
    """Python's version and those of the packages on which numbers depend."""
    return {"python": platform.python_version()} | {name: version(name) for name in VERSIONS}


def write_manifest(folder: Path, identity: str, **facts: Any) -> None:
    """Write the manifest, last of all files of a stage: its presence says the stage is done."""
    body = {"run_id": identity, "commit": commit(), "versions": versions(), **facts}
    write_text(folder / MANIFEST, json.dumps(body, indent=1, default=str) + "\n")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished stage, or None where there is none, or only part of one."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        return manifest if isinstance(manifest, dict) else None
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    except OSError as error:
        raise KdlibError(f"{error.filename} cannot be read: {error.strerror}") from None


def done(folder: Path, identity: str) -> bool:
    """Whether the stage in `folder` is finished, and with just these settings."""
    return (read_manifest(folder) or {}).get("run_id") == identity


def require(folder: Path, identity: str, profile: str, notebook: str) -> Path:
    """The folder, if its stage is done under that identity; else KdlibError says what makes it."""
    if done(folder, identity):
        return folder
    shipped = Path(__file__).with_name("config") / "profiles" / f"{profile}.toml"
    profile_arg = profile if shipped.is_file() else f"<path of {profile}.toml>"
    missing = f"{os.path.relpath(folder, root())} is not there, or was made with other settings"
    remedy = f"run notebook {notebook} first, or all with: make study PROFILE={profile_arg}"
    raise KdlibError(f"{missing}; {remedy}")


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the folder's lock, a file beside it that stays; filelock.Timeout if held, no `wait`."""
    with write_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f"{folder.name}.lock"), blocking=wait).acquire()
    with lock:  # dropped by the kernel however the process ends
        yield
