"""A store is of one study: whatever else it is opened for is named, and nothing is lost."""

import own_data
import pytest

from kdlib.config.knobs import Knob
from kdlib.errors import KdlibError
from kdlib.study import tuning
from kdlib.tune import store

optuna = pytest.importorskip("optuna")
OF = {"another profile": "a", "other rows": "b", "other code": "c"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    return own_data.make(tmp_path)


def student(folder, name="sft+goldfish"):
    return tuning.read(own_data.profile_of(folder), name, "")[0]


@pytest.mark.parametrize(
    ("changed", "others"),
    [
        (("members = 12", "members = 11"), ["other rows"]),
        (("pool = 24", "pool = 23"), ["other rows", "other base models"]),
        (("small = { path", "small = { lr = 1e-4, path"), ["other settings"]),
        (("epochs = 2", "epochs = 3"), ["other settings"]),
        (("rouge_rows = 3", "rouge_rows = 4"), ["other settings"]),
    ],
)
def test_what_differs_is_named(folder, changed, others):
    plain = store.facts(own_data.profile_of(folder), 100)
    other = store.facts(own_data.profile_of(folder, changed), 100)
    assert [name for name in plain if plain[name] != other[name]] == others


def test_profile_seed_models_and_code_are_told_apart(folder, monkeypatch):
    profile = own_data.profile_of(folder)
    plain = store.facts(profile, 100)

    def differing(profile, seed=100):
        return [name for name, one in store.facts(profile, seed).items() if plain[name] != one]

    assert differing(profile) == [] and differing(profile, 101) == ["other rows"]
    assert differing(profile.model_copy(update={"name": "mine"})) == ["another profile"]
    own_data.save_base(folder / "small", 12)
    assert differing(profile) == ["other base models"]
    monkeypatch.setattr(store, "CODE", store.CODE[1:])
    assert "other code" in differing(profile)


def test_a_store_of_another_study_gets_one_message_and_stays(folder):
    file, one = folder / "runs" / "tuning.sqlite", student(folder)
    with store.open_storage(file, OF) as storage:
        made = store.search(storage, one, OF)
        assert store.search(storage, one, OF).study_name == made.study_name
        made.enqueue_trial(one.usual)
        with pytest.raises(KdlibError, match="is in use; wait"), store.open_storage(file, OF):
            pass
    with pytest.raises(KdlibError) as error, store.open_storage(file, OF | {"other code": "d"}):
        pass
    said = f"tuning store {file} is of another study: other code; give another --store"
    assert str(error.value).startswith(said) and "\n" not in str(error.value)
    with store.open_storage(file, OF) as storage:
        assert len(store.search(storage, one, OF).trials) == 1
        wider = Knob(range=(2, 32), log=True, reason="other ends")
        other = tuning.Student(one.profile, "sft", "goldfish", one.knobs | {"k": wider})
        assert store.search(storage, other, OF).trials == []  # another search, beside it


def test_a_file_that_is_no_store_gets_one_message_and_stays(folder):
    file = folder / "rows.csv"
    before = file.read_bytes()
    said = r"rows.csv: file is not a database; give"
    with pytest.raises(KdlibError, match=said) as error, store.open_storage(file, OF):
        pass
    assert file.read_bytes() == before and "\n" not in str(error.value)


def test_without_optuna_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(KdlibError, match=r"needs the package optuna; pip install .*defences"):
        store.library()


def test_the_space_is_that_of_the_knobs(folder):
    space = store.space(student(folder))
    assert space["k"] == optuna.distributions.IntDistribution(2, 16, log=True)
    assert space["rate"] == optuna.distributions.FloatDistribution(0.25, 4.0, log=True)
