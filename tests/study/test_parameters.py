"""What a notebook opens first: bad parameters stop it with one message."""

from types import SimpleNamespace

import pytest

from kdlib.errors import KdlibError
from kdlib.study import parameters

CELL = 'profile = "laptop"  # name\nseed = 0'


def in_a_notebook(monkeypatch, *cells):
    shell = SimpleNamespace(user_ns={"In": list(cells)})
    monkeypatch.setattr(parameters, "get_ipython", lambda: shell)


def test_papermills_known_parameters_pass(monkeypatch, capsys):
    in_a_notebook(monkeypatch, "", CELL, '# Parameters\nprofile = "smoke"\nseed = 1\n', "more")
    profile, seed = parameters.open_seed("smoke", "1")
    assert (profile.name, seed) == ("smoke", 1)
    text = capsys.readouterr().out
    assert "profile smoke, seed 1, commit" in text and "torch" in text
    assert "runs in data/runs/smoke" in text


def test_seeds_of_the_whole_study(capsys):
    assert parameters.open_study("smoke", "2 0")[1] == [2, 0]
    assert "seeds 2 0" in capsys.readouterr().out
    profile, seeds = parameters.open_study("smoke", "")
    assert seeds == list(profile.seeds)


def test_unknown_parameter_is_named(monkeypatch):
    in_a_notebook(monkeypatch, "", CELL, '# Parameters\nprofile = "smoke"\nsede = 1\n')
    for opened in (parameters.open_seed, parameters.open_study):
        with pytest.raises(KdlibError, match="no parameter 'sede'; known: profile, seed"):
            opened("smoke", 0)


@pytest.mark.parametrize(
    ("seed", "message"),
    [("x", "'x' is no whole number"), ("1.5", "'1.5' is no whole"), ("0 1", "'0 1' is not one")],
)
def test_what_is_not_one_seed(seed, message):
    with pytest.raises(KdlibError, match=message):
        parameters.open_seed("smoke", seed)
