"""Which students stand on the plane, and who is held against whom."""

from kdlib.analysis import plane
from kdlib.config.defences import DEFENCES
from kdlib.config.methods import DISTILLED, PAPER
from kdlib.config.profile import load_profile
from kdlib.study import defended, run

SMOKE = load_profile("smoke")


def test_every_defence_stands_alone_and_with_distillation():
    students = defended.students(SMOKE, 0)
    assert list(students)[: len(PAPER)] == list(PAPER)
    assert {one.size for one in students.values()} == {SMOKE.probe_size}
    alone = [one.defence for one in students.values() if one.method == "sft"]
    assert set(alone) == {"", *DEFENCES} and alone.count("dp_sgd") == 2
    beside = {one.defence for one in students.values() if one.method == "word_kd"}
    assert beside == {"", *DEFENCES}
    assert len({one.folder for one in students.values()}) == len(students) == len(PAPER) + 21
    assert students["sft"] == run.Run(SMOKE, 0, "sft", "middle")
    assert students["DP-SGD, epsilon 2"].against["epsilon"] == 2
    assert students["DP-SGD, epsilon 8"] == students["sft"].defended("dp_sgd")
    assert students["word-level KD + goldfish loss"].defence == "goldfish"


def test_sides_of_every_claim_are_students_apart_and_without_dp_sgd():
    students = defended.students(SMOKE, 0)
    sides = defended.contrasts(students)
    assert sides.keys() == plane.CLAIMS.keys()
    for one, other in sides.values():
        assert {*one, *other} <= students.keys() and not {*one} & {*other} and one and other
        assert not any("DP-SGD" in name for name in (*one, *other))
    cheap = defended.cheap(students)
    assert all(students[name].method == "sft" for name in cheap) and len(cheap) == 10
    assert sides["B1"] == (DISTILLED, ("sft",)) and sides["B3"][1] == cheap
    assert sides["B2"] == (("word-level KD + goldfish loss",), ("goldfish loss",))
    (word, *_) = plane.CLAIMS["B3"]
    assert word.startswith("Word-level KD lies outside") and "word_kd" in sides["B3"][0]
    assert {"minillm"} == {*sides["B5"][0]} and plane.CLAIMS["B5"][0].startswith("MiniLLM")
