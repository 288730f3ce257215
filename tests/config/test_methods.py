"""The table of methods: every entry resolves, its coefficients are explained and in range."""

import math

import pytest

from kdlib.config.methods import DISTILLED, METHODS, PAPER, Coefficient, Method, label, ordered
from kdlib.distill import methods, objectives
from kdlib.errors import KdlibError

ENTRY = {"label": "Toy", "text": "rows", "objective": "cross_entropy", "notebook": "07_on_policy"}


@pytest.mark.parametrize("name", METHODS)
def test_every_entry_resolves(name):
    entry = METHODS[name]
    assert methods.text(entry.text)
    published = entry.checked({})
    assert callable(objectives.objective(entry.objective, object(), published))
    assert entry.checked(published) == published  # lies in its range
    for coefficient, one in entry.coefficients.items():
        low, high = one.range
        assert one.meaning and low < high, coefficient
        for value in (low, high):
            assert entry.checked({coefficient: value})[coefficient] == value
        for value in (low - 1, high + 1, math.nan, math.inf):
            with pytest.raises(ValueError, match=f"{entry.label}: {coefficient} = .* must be from"):
                entry.checked({coefficient: value})


def test_the_papers_methods_and_their_order():
    assert PAPER == ("sft", "word_kd", "seq_kd_beam", "minillm")
    assert DISTILLED == ("word_kd", "seq_kd_beam", "minillm")
    assert ordered(["mine", "gkd", "sft", "teacher", "gkd", "base"]) == [
        "base", "teacher", "sft", "gkd", "mine"]  # fmt: skip
    assert [label(name) for name in ("sft", "base", "teacher", "mine")] == [
        "SFT", "base", "teacher", "mine"]  # fmt: skip
    assert len({one.label for one in METHODS.values()}) == len(METHODS)
    drawn = {(one.colour, one.marker) for one in METHODS.values()}
    assert len(drawn) == len(METHODS)


@pytest.mark.parametrize("text", methods.TEXTS)
def test_whose_text_and_whether_there_is_a_teacher(text):
    entry = Method(**ENTRY | {"text": text})
    assert entry.on_policy == (text not in ("rows", *methods.DECODINGS))
    assert entry.needs_teacher == (text != "rows")
    assert Method(**ENTRY | {"text": text, "objective": "reverse_kl"}).needs_teacher


def test_whole_numbers_where_the_table_writes_them():
    minillm = METHODS["minillm"]
    assert minillm.checked({"rollouts": 12.0})["rollouts"] == 12
    with pytest.raises(ValueError, match="MiniLLM: rollouts = 1.5 .answers.* must be a whole"):
        minillm.checked({"rollouts": 1.5})
    assert minillm.checked({"teacher_mix": 0.5})["teacher_mix"] == 0.5
    whole = Coefficient(value=1, range=(0, 3), meaning="x")
    real = Coefficient(value=1.0, range=(0, 3), meaning="x")
    toy = Method(**ENTRY, coefficients={"whole": whole, "real": real})
    assert toy.checked({"real": 0.5}) == {"whole": 1, "real": 0.5}
    with pytest.raises(ValueError, match="Toy: whole = 0.5 .x. must be a whole number"):
        toy.checked({"whole": 0.5})


def test_unknown_coefficients_are_named():
    with pytest.raises(ValueError, match="GKD has no coefficient 'x'; it has: beta, student_share"):
        METHODS["gkd"].checked({"x": 1})
    with pytest.raises(ValueError, match="SFT has no coefficient 'x'; it has: none"):
        METHODS["sft"].checked({"x": 1})


@pytest.mark.parametrize("value", [True, "1", math.nan, None])
def test_a_coefficients_value_is_a_number(value):
    with pytest.raises(ValueError, match="value"):
        Coefficient(value=value, range=(0, 3), meaning="x")


def test_a_missing_coefficient_is_bad_input():
    values = METHODS["gkd"].checked({"beta": 0.2})
    assert values["beta"] == 0.2
    with pytest.raises(KdlibError, match="'alpha'"):
        values["alpha"]


def test_word_level_kd_has_a_temperature():
    word_kd = METHODS["word_kd"]
    assert word_kd.checked({}) == {"mix": 0.5, "temperature": 1}
    assert word_kd.checked({"temperature": 2.5})["temperature"] == 2.5
    with pytest.raises(ValueError, match="word-level KD: temperature = 0 .of both distributions"):
        word_kd.checked({"temperature": 0})
