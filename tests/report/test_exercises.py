"""An answer passes if it is what was seen; a wrong one fails and does not learn the solution."""

import numpy as np
import pytest

from kdlib.errors import KdlibError
from kdlib.report import exercises


@pytest.mark.parametrize(
    ("answer", "solution", "printed"),
    [
        (None, 3, "3"),
        (3, 3, "3"),
        (3.0, np.int64(3), "3"),
        (1234567, 1234567, "1234567"),
        (None, 2.0, "2"),
        (0.317, 0.31713, "0.3171"),
        (0, np.float64(0.0003), "0.0003"),
        (-0.12, np.float32(-0.1201), "-0.1201"),
        (" Numpy ", "numpy", "numpy"),
        (True, True, "True"),
        (None, "none", "none"),
    ],
)
def test_the_solution_is_printed(answer, solution, printed, capsys):
    exercises.check("1. what", answer, solution)
    assert capsys.readouterr().out == f"1. what: {printed}\n"


@pytest.mark.parametrize(
    ("answer", "solution"),
    [
        (2, 3),
        (3.01, 3),
        (0.33, 0.31713),
        (0.001, 0.0003),
        ("3", 3),
        ("0.3", 0.3),
        ("torch", "numpy"),
        (0, "none"),
        (float("nan"), 0.3),
        (0.3, float("nan")),
        (False, True),
    ],
)
def test_a_wrong_answer_fails_without_the_solution(answer, solution, capsys):
    with pytest.raises(KdlibError) as error:
        exercises.check("1. what", answer, solution)
    assert not capsys.readouterr().out
    assert str(error.value).startswith(f"1. what: {answer!r} is not what was seen here; ")
    assert str(solution) not in str(error.value).removeprefix(f"1. what: {answer!r}")
