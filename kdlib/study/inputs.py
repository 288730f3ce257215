"""What every run of a profile stands on: the pool, the versions, what base models depend on."""

import functools
from pathlib import Path
from typing import Any

from kdlib import runs
from kdlib.config.profile import TEACHER, Profile
from kdlib.config.sections import DataSettings, PretrainSettings
from kdlib.data import pool
from kdlib.model import checkpoints, packaged

# settings of data on which no base model depends: they draw a seed's rows from the pool
ROW_DRAW_SETTINGS = {"members", "held_out", "canaries", "canary_kinds", "repetitions", "twins"}


def base_identity(profile: Profile, size: str, pretraining: int = 0) -> str:
    """Hash of everything that a base model's weights depend on; `pretraining` is its seed."""
    model, tuned = profile.models[size], {"lr", "epochs"}  # of its students
    path = profile.models[TEACHER if profile.cut(size) else size].path
    files = sorted(Path(path or "no folder").glob("*.safetensors"))
    stats: list[Any] = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    if digest := packaged.sha256(path):
        stats = [digest]  # known before it is fetched
    elif profile.cut(size) and not files:
        stats = [path]
    shape = model.model_dump(exclude=tuned | {"path"} if files else tuned)
    # the pool's hash stands for the file
    data = profile.data.model_dump(exclude={"path"} | ROW_DRAW_SETTINGS)
    # of a model by path nothing is pretrained: the defaults stand for that
    training = PretrainSettings() if model.path else profile.pretrain
    pretrain = training.model_dump(exclude=set() if profile.cut(size) else {"mix", "apart"})
    facts: list[Any] = [data, profile.tokens.model_dump(), shape, stats, pretrain]
    if profile.tokens.template in profile.templates:
        facts.append(profile.template.model_dump())
    if pretraining:
        facts.append(pretraining)
    precision = checkpoints.resolved(profile.teacher.precision, checkpoints.device())
    return runs.fingerprint(
        [run_environment(profile), *facts, precision if model.path is None else ""]
    )


def run_environment(profile: Profile) -> list[str]:
    """What all runs of a profile stand on: device, hash of the pool, versions."""
    installed = runs.versions()
    versions = [f"{name} {installed[name]}" for name in ("torch", "transformers", "tokenizers")]
    return [checkpoints.device().type, pool.data_hash(load_pool(profile.data)), *versions]


def load_pool(settings: DataSettings) -> Any:
    """The fixed pool of rows, read once for as long as its file stays the same."""
    file = Path(settings.path or "no file")
    stamp = file.stat().st_mtime_ns if file.is_file() else 0
    return _pool(settings.model_dump_json(), stamp, str(runs.root()))


@functools.lru_cache(maxsize=2)
def _pool(settings: str, _stamp: int, _root: str) -> Any:
    return pool.load_pool(DataSettings.model_validate_json(settings))
