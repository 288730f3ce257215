"""Every text of the table: made from what it may be made from, and from no more."""

import pytest
import toy

from kdlib.config.methods import METHODS
from kdlib.distill import methods, objectives
from kdlib.distill.teacher_targets import Remembered
from kdlib.errors import KdlibError
from kdlib.model import tokens

NEEDS = {  # what of the materials a text makes; another one must not be made, it may take long
    **{"rows": set(), "student": set(), "mix": set(), "replay": set()},
    **{name: {name} for name in methods.DECODINGS},
    **{"pairs": {"teacher"}, "rollouts": {"model", "general"}},
}
ROLES = {  # of the batches in the first two epochs
    **{"rows": {"rows"}, "student": {"student"}, "mix": {"rows", "student"}, "replay": {"rows"}},
    **{name: {"teacher"} for name in methods.DECODINGS},
    **{"pairs": {"teacher", "student"}, "rollouts": {"replay", "general"}},
}


def materials(made, **coefficients):
    """Materials that note in `made` what is made of them; a teacher's text is one token for all."""
    reading, teacher = toy.reading(toy.how(batch=4, epochs=4)), toy.trained()

    def text(decoding):
        made.add(decoding)
        answer = (5 + list(methods.DECODINGS).index(decoding), 0)
        return [tokens.Example(x.row_id, x.prompt, answer) for x in reversed(toy.examples())]

    return methods.Materials(
        reading,
        coefficients,
        validation=toy.examples()[:4],
        teacher=lambda: made.add("model") or teacher,
        teacher_text=text,
        general=lambda: made.add("general") or [tokens.Example("g", (), tuple(range(5, 25)))],
        targets=Remembered(teacher, "fp32", 1000),
    )


@pytest.mark.parametrize("name", methods.TEXTS)
def test_a_text_makes_what_it_needs_and_no_more(name):
    (method,) = [one for one in METHODS.values() if one.text == name][:1]
    smaller = {"rollouts": 16} if name == "rollouts" else {}
    made, model = set(), toy.new_model()
    source = methods.text(name).source(materials(made, **method.checked(smaller)))
    batches = [one for epoch in (0, 1) for step in source(model, epoch) for one in step]
    assert made == NEEDS[name]
    assert {one.role for one in batches} == ROLES[name]
    if name in methods.DECODINGS:
        place = list(methods.DECODINGS).index(name)
        assert {i for one in batches for i in one.targets.tolist()} == {5 + place, 0}
        prompts = {x.row_id: list(x.prompt) for x in toy.examples()}
        for one in batches:
            for row, ids in zip(one.row_id, one.input_ids.tolist(), strict=True):
                assert ids[: len(prompts[row])] == prompts[row]


def test_no_general_text_is_made_where_it_weighs_nothing():
    made = set()
    nothing = METHODS["minillm"].checked({"general_text": 0})
    methods.text("rollouts").source(materials(made, **nothing))
    assert made == {"model"}


def test_every_method_of_the_table_has_its_text_and_objective():
    for method in METHODS.values():
        assert method.text in methods.TEXTS and method.objective in objectives.OBJECTIVES
    assert {one.text for one in METHODS.values()} == set(methods.TEXTS)
    with pytest.raises(KdlibError, match="no text 'books'; known: rows, teacher, teacher_beam"):
        methods.text("books")


def test_targets_of_text_that_is_new_each_time_are_not_kept():
    kinds = {name: text.targets for name, text in methods.TEXTS.items()}
    assert [name for name, kind in kinds.items() if kind == "live"] == ["student"]
    assert [name for name, kind in kinds.items() if kind == "stored"] == ["rows"]
