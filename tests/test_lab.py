"""What a notebook opens first: bad parameters stop it with one message."""

from types import SimpleNamespace

import pytest

from kdlib.errors import KdlibError
from kdlib.study import run

OWN = 'profile = "laptop"  # name\nseed = 0'


def in_a_notebook(monkeypatch, *cells):
    monkeypatch.setattr(run, "get_ipython", lambda: SimpleNamespace(user_ns={"In": list(cells)}))


def test_papermills_known_parameters_pass(monkeypatch):
    in_a_notebook(monkeypatch, "", OWN, '# Parameters\nprofile = "smoke"\nseed = 1\n', "more")
    assert run.open_lab("smoke", "1").seed == 1


def test_unknown_parameter_is_named(monkeypatch):
    in_a_notebook(monkeypatch, "", OWN, '# Parameters\nprofile = "smoke"\nsede = 1\n')
    with pytest.raises(KdlibError, match="no parameter 'sede'; known: profile, seed"):
        run.open_lab("smoke", 0)


def test_seed_that_is_no_number():
    with pytest.raises(KdlibError, match="'x' is no whole number"):
        run.open_lab("smoke", "x")
