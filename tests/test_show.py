"""Model text is escaped, and just its verbatim beginning is marked."""

import pytest

from kdlib import show


@pytest.mark.parametrize(
    ("text", "reference", "same"),
    [("abc", "abc", 3), ("abx", "abc", 2), ("", "abc", 0), ("abcd", "abc", 3), ("xbc", "abc", 0)],
)
def test_verbatim_length(text, reference, same):
    assert show.verbatim_length(text, reference) == same


def test_only_the_verbatim_beginning_is_marked():
    assert show.marked("the pump leaks", "the pump runs") == "<mark>the pump </mark>leaks"
    assert show.marked("the pumps", "the pump") == "<mark>the </mark>pumps"
    assert show.marked("a pump", "the pump") == "a pump"


def test_model_text_cannot_become_markup():
    evil = '<script>alert("1")</script> & <mark>'
    told = show.marked(evil, evil[:32])
    assert told.startswith("<mark>&lt;script&gt;alert") and told.count("<") == 2
    asked = {"instruction": evil, "category": evil, "response": evil, "repetitions": 1}
    page = show.answers([(evil, evil), ("SFT", "none")], asked).data
    assert "<script" not in page and page.count("&lt;script&gt;") == 5
    assert page.count("<tr>") == page.count("</tr>") == 3
