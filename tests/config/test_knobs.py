"""The table of knobs is about coefficients that there are, within what they may be."""

import pytest

from kdlib.config import knobs
from kdlib.config.defences import DEFENCES
from kdlib.config.knobs import EVERY, KNOBS, RATE
from kdlib.config.methods import METHODS
from kdlib.errors import KdlibError

ENTRIES = METHODS | DEFENCES


def test_every_block_is_a_method_or_a_defence():
    assert set(KNOBS) - {EVERY} <= set(ENTRIES) and set(KNOBS[EVERY]) == {RATE}
    assert "dp_sgd" not in KNOBS  # its epsilon is a promise


@pytest.mark.parametrize("block", sorted(set(KNOBS) - {EVERY}))
def test_a_knob_is_a_coefficient_searched_within_its_range_and_around_its_value(block):
    for name, knob in KNOBS[block].items():
        known, (low, high) = ENTRIES[block].coefficients[name], knob.range
        assert known.range[0] <= low < high <= known.range[1]
        assert low <= known.value <= high and len(knob.reason) > 20
        numbers = (known.value, *known.range)
        assert knob.whole == all(isinstance(number, int) for number in numbers)
        assert low > 0 or not knob.log


def test_a_student_has_those_of_all_of_its_method_and_of_its_defence():
    assert list(knobs.of("sft")) == ["rate"]
    assert list(knobs.of("word_kd")) == ["rate", "mix", "temperature"]
    assert list(knobs.of("word_kd", "goldfish")) == ["rate", "mix", "temperature", "k"]
    assert knobs.of("sft", "lora")["rate"] == KNOBS["lora"]["rate"]  # in place of the common one
    assert knobs.of("sft", "lora")["rank"].whole and not knobs.of("word_kd")["mix"].whole


def test_knobs_are_chosen_by_name():
    of = knobs.of("word_kd")
    assert knobs.chosen("word_kd", of, []) == of
    assert list(knobs.chosen("word_kd", of, ["mix", "k"])) == ["mix"]  # k is another student's
    with pytest.raises(KdlibError, match="'mux' is no knob; word_kd has: rate, mix, temperature"):
        knobs.chosen("word_kd", of, ["mix", "mux"])
    with pytest.raises(KdlibError, match="word_kd has no knob k or rank; it has: rate, mix"):
        knobs.chosen("word_kd", of, ["k", "rank"])
