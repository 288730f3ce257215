"""Whose text each method of the table reads; see `objectives` for what it minimizes there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

from kdlib.distill.rollouts import Rollouts
from kdlib.distill.teacher_targets import Targets
from kdlib.distill.text_sources import Reading, Replay, fixed, mix, pairs
from kdlib.errors import KdlibError
from kdlib.model.tokens import Example, Source


@dataclass(frozen=True)
class Materials:
    """What a text may be made from; the functions make theirs only when they are called."""

    reading: Reading  # of the presented rows
    coefficients: Mapping[str, float]  # the method's
    validation: Sequence[Example]  # held out, and not among those of any reported number
    teacher: Callable[[], Any]  # fine-tuned
    teacher_text: Callable[[str], list[Example]]  # for every presented row, by key of DECODINGS
    general: Callable[[], Sequence[Example]]  # blocks of general text
    targets: Targets | None = None  # the teacher's, where the objective needs them

    def teacher_answers(self, decoding: str) -> dict[str, Example]:
        """The teacher's text by row id."""
        return {example.row_id: example for example in self.teacher_text(decoding)}


class Text(NamedTuple):
    """What makes a text that students may read, and how the teacher's targets for it are kept."""

    source: Callable[[Materials], Source]
    # on disk for all students, not at all (text that is new each time), or in memory
    targets: Literal["stored", "live", "remembered"] = "remembered"


def _teacher(decoding: str, m: Materials) -> Source:
    """The teacher's text in place of the rows' responses."""
    answers = m.teacher_answers(decoding)
    examples = [answers[example.row_id] for example in m.reading.examples]
    return fixed(replace(m.reading, examples=examples), "teacher")


def _replay(m: Materials) -> Source:
    names = ("capacity", "share_step", "loss_rise")
    return Replay(m.reading, m.validation, **{name: m.coefficients[name] for name in names})


def _rollouts(m: Materials) -> Source:
    assert m.targets is not None  # its objective needs a teacher
    general = m.general() if m.coefficients["general_text"] else []
    return Rollouts(m.reading, m.teacher(), m.targets, general, m.coefficients)


DECODINGS = {"teacher": "greedy", "teacher_beam": "beam search", "teacher_sampled": "sampled"}
TEXTS = {
    "rows": Text(lambda m: fixed(m.reading), "stored"),
    **{name: Text(partial(_teacher, name)) for name in DECODINGS},
    "student": Text(lambda m: mix(m.reading, 1.0), "live"),
    "mix": Text(lambda m: mix(m.reading, m.coefficients["student_share"])),
    "replay": Text(_replay),
    "pairs": Text(lambda m: pairs(m.reading, m.teacher_answers("teacher"))),
    "rollouts": Text(_rollouts),
}


def text(name: str) -> Text:
    """The text of that name; a KdlibError where there is none."""
    if name not in TEXTS:
        raise KdlibError(f"no text '{name}'; known: {', '.join(TEXTS)}")
    return TEXTS[name]
