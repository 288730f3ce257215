"""One small study on a user's own data, in which every method ran once."""

import shutil
from contextlib import contextmanager

import own_data
import pytest

from kdlib import runs
from kdlib.study import stages
from kdlib.study.run import Run, load_rows


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder after one run of every method."""
    folder = own_data.make(tmp_path_factory.mktemp("own"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_ROOT", str(folder))
        profile = own_data.profile_of(folder)
        rows = load_rows(profile, 0)
        for method in ("base", "teacher", *own_data.ALL):
            stages.make(Run(profile, 0, method, own_data.size_of(method)), rows)
    return folder


@pytest.fixture
def folder(finished, monkeypatch):
    """The finished folder, to be read only."""
    monkeypatch.setenv("KDLIB_ROOT", str(finished))
    return finished


@pytest.fixture
def copy(finished, tmp_path, monkeypatch):
    """A copy that a test may break."""
    target = shutil.copytree(finished, tmp_path / "own")
    monkeypatch.setenv("KDLIB_ROOT", str(target))
    return target


@pytest.fixture
def forbid(monkeypatch):
    """Make a function one that must not be called."""

    def refused(*_args, **_named):
        raise AssertionError("this must not be called")

    return lambda place, name: monkeypatch.setattr(place, name, refused)


@pytest.fixture
def meanwhile(monkeypatch):
    """Let another process do something while this one waits for the lock of a folder."""
    locked = runs.locked

    def arrange(folder, act):
        @contextmanager
        def waiting(wanted):
            if wanted == folder:
                monkeypatch.setattr(runs, "locked", locked)
                act()
            with locked(wanted):
                yield

        monkeypatch.setattr(runs, "locked", waiting)

    return arrange
