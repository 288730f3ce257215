"""A refused value is one message: where, the value, and why."""

import pytest
from pydantic import BaseModel, ConfigDict

from kdlib.errors import KdlibError, clearly


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    count: int


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    inner: Inner
    names: list[str] = []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"inner": {"count": "x"}}, "here: inner.count = 'x': Input should be a valid integer"),
        ({"inner": {"count": 1}, "names": ["a", 3]}, "here: names.1 = 3: Input should be a valid"),
        ({"inner": {"cuont": 1}}, "here: inner.cuont = 1: Extra inputs"),  # not: count is missing
        ({"inner": {}}, "here: inner.count: Field required"),
        ({"inner": 3}, "here: inner = 3: "),
    ],
)
def test_settings(values, message):
    with pytest.raises(KdlibError) as error, clearly("here"):
        Outer(**values)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
    assert error.value.__cause__ is None and error.value.__suppress_context__


def test_other_errors():
    with pytest.raises(KdlibError, match="^here: too many$"), clearly("here"):
        raise ValueError("too many")
    for kind in (KdlibError, KeyError, TypeError):
        with pytest.raises(kind, match="^'?too many'?$"), clearly("here"):
            raise kind("too many")
