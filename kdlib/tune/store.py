"""The file of a search: optuna's, in SQLite, of one study of one state of code."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import Timeout

from kdlib import runs
from kdlib.config.knobs import Knob
from kdlib.config.profile import TEACHER, Profile
from kdlib.errors import KdlibError
from kdlib.study.inputs import base_identity, run_environment
from kdlib.study.tuning import Student

OF = "of"  # what a search is of, in its attributes
# folders whose code and tables make what a trial is told
CODE = ("config", "data", "model", "distill", "measure", "study", "analysis", "tune")


def library() -> Any:
    """The module optuna, silent but for warnings; KdlibError where it is not installed."""
    try:
        import optuna
    except ImportError:
        remedy = "pip install -c constraints.txt -e '.[defences]'"
        raise KdlibError(f"tuning needs the package optuna; {remedy}") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def place(profile: Profile) -> Path:
    """Where a profile's store lies, if not elsewhere."""
    return runs.runs_dir(profile.name) / "tuning.sqlite"


def facts(profile: Profile, seed: int) -> dict[str, str]:
    """A digest of each thing that a trial depends on, by what one says where it is another."""
    device, pool, *packages = run_environment(profile)
    rows = [pool, seed, profile.data.model_dump(exclude={"path"}), profile.tokens.model_dump()]
    size = profile.probe_size
    size_settings = profile.models[size].model_dump(include={"lr", "epochs"})
    parts = {"teacher", "student", "methods", "defences", "decoding", "measure"}
    package = Path(__file__).parents[1]
    files = sorted(file for folder in CODE for file in package.glob(f"{folder}/*.[pt]*"))
    code = [file.read_text("utf-8") for file in files if file.suffix in (".py", ".toml")]
    contents = {
        "another profile": profile.name,
        "other rows": [*rows, profile.template.model_dump()],
        "other base models": [base_identity(profile, model) for model in (TEACHER, size)],
        "other settings": [size, size_settings, profile.model_dump(include=parts)],
        "other packages, or another device": [device, *packages],
        "other code": code,
    }
    return {name: runs.fingerprint(content) for name, content in contents.items()}


@contextmanager
def open_storage(file: Path, digests: dict[str, str]) -> Iterator[Any]:
    """The store, held for this process alone; KdlibError where it is of another study."""
    optuna = library()
    from sqlalchemy.exc import SQLAlchemyError

    remedy = "give another --store, or move this one away"
    try:
        with runs.locked(file, wait=False):
            storage = optuna.storages.RDBStorage(f"sqlite:///{file.absolute()}")
            for summary in optuna.get_all_study_summaries(storage):
                stored = summary.user_attrs.get(OF, {}) if summary.n_trials else digests
                if changed := [
                    name for name, digest in digests.items() if stored.get(name) != digest
                ]:
                    message = f"tuning store {file} is of another study: {', '.join(changed)}"
                    raise KdlibError(f"{message}; {remedy}")
            yield storage
    except Timeout:
        raise KdlibError(f"tuning store {file} is in use; wait for it or stop it") from None
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = error.__cause__ or error
        reason = str(getattr(cause, "orig", cause))
        raise KdlibError(f"tuning store {file}: {reason}; {remedy}") from None


def search(storage: Any, student: Student, digests: dict[str, str]) -> Any:
    """The search of a student over its knobs, made where it is not there yet."""
    optuna, knobs = library(), student.knobs
    ranges = {name: [*knob.range, knob.log] for name, knob in knobs.items()}
    name = f"{student.name}: {', '.join(f'{knob} {ranges[knob]}' for knob in ranges)}"
    options = {"study_name": name, "directions": ["minimize", "maximize"], "load_if_exists": True}
    study = optuna.create_study(storage=storage, **options)
    study.set_user_attr(OF, digests)
    return study


def space(student: Student) -> dict[str, Any]:
    """The knobs as optuna has them."""
    return {name: _distribution(knob) for name, knob in student.knobs.items()}


def _distribution(knob: Knob) -> Any:
    distributions = library().distributions
    kind = distributions.IntDistribution if knob.whole else distributions.FloatDistribution
    return kind(*knob.range, log=knob.log)
