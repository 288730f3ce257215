"""From an entry of the table of methods to what the training loop takes: whose text is read.

What is minimized there is `objectives.objective`. Taught in notebooks 03 to 08.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from kdlib.distill.rollouts import Rollouts
from kdlib.distill.teacher_targets import Targets
from kdlib.distill.text_sources import Reading, Replay, fixed, mix, pairs
from kdlib.errors import KdlibError
from kdlib.model.tokens import Example, Source


@dataclass(frozen=True)
class Materials:
    """What a text may be made from; what is a function is made only when it is called.

    Attributes:
        reading: the presented rows, and how they are batched and sampled.
        coefficients: the method's.
        validation: held-out examples that no reported number asks.
        teacher: the fine-tuned teacher.
        teacher_text: what it writes for every presented row, by decoding (a key of DECODINGS).
        general: blocks of general text.
        targets: the teacher's targets, where the objective needs them.
    """

    reading: Reading
    coefficients: Mapping[str, float]
    validation: Sequence[Example]
    teacher: Callable[[], Any]
    teacher_text: Callable[[str], list[Example]]
    general: Callable[[], Sequence[Example]]
    targets: Targets | None = None


@dataclass(frozen=True)
class Text:
    """A text that students may read.

    Attributes:
        source: makes it.
        targets: how the teacher's targets for it are kept: "stored" (the rows: written once, for
            all students), "live" (text that is new each time), "remembered" (text that is read
            again: kept in memory).
    """

    source: Callable[[Materials], Source]
    targets: Literal["stored", "live", "remembered"] = "remembered"


DECODINGS = {"teacher": "greedy", "teacher_beam": "beam search", "teacher_sampled": "sampled"}


def _written(decoding: str) -> Callable[[Materials], Source]:
    """The teacher's text in place of the rows' responses."""

    def source(m: Materials) -> Source:
        written = {one.row_id: one for one in m.teacher_text(decoding)}
        shown = [written[example.row_id] for example in m.reading.examples]
        return fixed(replace(m.reading, examples=shown), "teacher")

    return source


def _replay(m: Materials) -> Source:
    names = ("capacity", "share_step", "loss_rise")
    return Replay(m.reading, m.validation, **{name: m.coefficients[name] for name in names})


def _pairs(m: Materials) -> Source:
    return pairs(m.reading, {one.row_id: one for one in m.teacher_text("teacher")})


def _rollouts(m: Materials) -> Source:
    assert m.targets is not None  # its objective needs a teacher
    general = m.general() if m.coefficients["general_text"] else []
    return Rollouts(m.reading, m.teacher(), m.targets, general, m.coefficients)


TEXTS = {
    "rows": Text(lambda m: fixed(m.reading), "stored"),
    **{name: Text(_written(name)) for name in DECODINGS},
    "student": Text(lambda m: mix(m.reading, 1.0), "live"),
    "mix": Text(lambda m: mix(m.reading, m.coefficients["student_share"])),
    "replay": Text(_replay),
    "pairs": Text(_pairs),
    "rollouts": Text(_rollouts),
}


def text(name: str) -> Text:
    """The text of that name.

    Raises:
        KdlibError: there is no such text.
    """
    if name not in TEXTS:
        raise KdlibError(f"no text '{name}'; known: {', '.join(TEXTS)}")
    return TEXTS[name]
