"""The table of defences: every entry in range, explained, and what a profile may say of them."""

import math

import pytest
from own_data import make, profile_of

from kdlib.config.defences import DEFENCES, defence
from kdlib.errors import KdlibError


@pytest.mark.parametrize("name", DEFENCES)
def test_every_entry_is_explained_and_lies_in_its_range(name):
    entry = DEFENCES[name]
    published = entry.checked({})
    assert entry.checked(published) == published and entry.paper
    for coefficient, one in entry.coefficients.items():
        assert one.meaning and one.range[0] < one.range[1], coefficient
        for value in (one.range[0] - 1, one.range[1] + 1, math.nan):
            with pytest.raises(ValueError, match=f"{coefficient} = .* must be from"):
                entry.checked(published | {coefficient: value})


def test_labels_differ():
    assert len({one.label for one in DEFENCES.values()}) == len(DEFENCES)


def test_an_unknown_defence_names_the_known_ones():
    with pytest.raises(KdlibError, match="'sharks' is no defence; known: weight_decay, dropout"):
        defence("sharks")


def test_an_epsilon_needs_its_delta():
    with pytest.raises(ValueError, match="DP-SGD: epsilon = 2 without delta is no guarantee"):
        DEFENCES["dp_sgd"].checked({"epsilon": 2})
    assert DEFENCES["dp_sgd"].checked({"epsilon": 2, "delta": 1e-4})["norm"] == 1


def test_a_profile_gives_coefficients_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    folder, block = make(tmp_path), "[measure]"

    def given(text):
        return profile_of(folder, (block, f"[defences]\n{text}\n{block}"))

    own = given("goldfish = { k = 3 }")
    assert own.defence_coefficients("goldfish") == {"k": 3, "h": 13}
    assert own.defence_coefficients("goldfish", k=5)["k"] == 5
    for text, said in [
        ("sharks = { k = 3 }", "'sharks' is no defence; known: weight_decay"),
        ("goldfish = { k = 1 }", r"goldfish loss: k = 1 .* must be from 2 to 1000"),
        ("goldfish = { k = 2.5 }", "must be a whole number"),
        ("goldfish = { x = 3 }", "goldfish loss has no coefficient 'x'; it has: k, h"),
        ("dp_sgd = { epsilon = 2 }", "epsilon = 2 without delta"),
    ]:
        with pytest.raises(KdlibError, match=said):
            given(text)
