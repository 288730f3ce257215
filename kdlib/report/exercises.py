"""A reader's answer to an exercise, held against what the run of a notebook has seen."""

from math import isclose
from numbers import Integral, Real

from kdlib.errors import KdlibError

Answer = str | float


def check(exercise: str, answer: Answer | None, solution: Answer) -> None:
    """Print an exercise's solution, unless a reader's answer is another one.

    `exercise` is its number and what it asks for, such as "1. lowest loss, after epoch". An
    answer agrees with a text whatever its capitals, with a whole number if it is the same, and
    with any other number if it is within 1% or 0.0005 of it. None is no answer. KdlibError, which
    does not tell the solution, where they do not agree.
    """
    if answer is not None and not _agree(answer, solution):
        remedy = "try again, or set it to None to see the solution"
        raise KdlibError(f"{exercise}: {answer!r} is not what was seen here; {remedy}")
    exact = isinstance(solution, Integral | str)
    print(f"{exercise}: {solution if exact else format(solution, '.4g')}")


def _agree(answer: Answer, solution: Answer) -> bool:
    if isinstance(solution, str):
        return isinstance(answer, str) and answer.strip().casefold() == solution.casefold()
    if isinstance(solution, Integral):
        return answer == solution
    return isinstance(answer, Real) and isclose(answer, solution, rel_tol=0.01, abs_tol=5e-4)
