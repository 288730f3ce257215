"""Every method still makes the curve that was recorded; see reference/record.py."""

import json

import pytest
from reference import record

from kdlib.config.methods import METHODS

RECORDED = json.loads(record.FILE.read_text("utf-8"))


@pytest.mark.parametrize("name", METHODS)
def test_curve_is_as_recorded(name):
    found, wanted = record.curve(name), RECORDED["curves"][name]
    assert len(found) == len(wanted) == record.STEPS
    assert found == pytest.approx(wanted, abs=RECORDED["tolerance"], rel=0), (
        f"{name} made another curve than under {RECORDED['environment']}; if that is meant, "
        "record it anew with python tests/reference/record.py and say why"
    )


def test_recorded_curves_fall_and_differ():
    curves = RECORDED["curves"]
    assert curves.keys() == METHODS.keys()
    for name, values in curves.items():
        if name == "minillm":  # what a policy gradient minimizes step by step is no loss
            continue
        assert sum(values[-4:]) < 0.9 * sum(values[:4]), name
    assert len({tuple(values) for values in curves.values()}) == len(curves)
