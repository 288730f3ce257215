"""Model text is escaped, and just its verbatim beginning is marked."""

import pytest

from kdlib.report import notebook_display


@pytest.mark.parametrize(
    ("text", "reference", "page"),
    [
        ("the pump leaks", "the pump runs", "<mark><b>the pump </b></mark>leaks"),
        ("the pumps", "the pump", "<mark><b>the </b></mark>pumps"),
        ("a pump", "the pump", "a pump"),
        ("abc", "abc", "<mark><b>abc</b></mark>"),
        ("", "abc", ""),
    ],
)
def test_only_the_verbatim_beginning_is_marked(text, reference, page):
    assert notebook_display.marked(text, reference) == page


def test_model_text_cannot_become_markup():
    evil = '<script>alert("1")</script> & <mark>'
    page = notebook_display.marked(evil, evil[:32])
    assert page.startswith("<mark><b>&lt;script&gt;alert") and page.count("<") == 4
    example = {"instruction": evil, "category": evil, "response": evil, "repetitions": 1}
    page = notebook_display.answers([(evil, evil), ("SFT", "none")], example).data
    assert "<script" not in page and page.count("&lt;script&gt;") == 5
    assert page.count("<tr>") == page.count("</tr>") == 3


def test_lines_stay_lines_without_a_style():
    example = {"instruction": "a", "category": "b", "response": "c\nd", "repetitions": 4}
    page = notebook_display.answers([("SFT", "c\nd")], example).data
    assert page.count("c<br>d") == 2 and "shown 4 times an epoch" in page


def test_tokens_with_a_loss_are_marked_without_a_style():
    row = [("a", False), ("\n", False), ("b", True), ("<b>", True), ("</s>", False)]
    page = notebook_display.tokens([row, [("c", True)]]).data
    marks = "<mark><b>[b]</b></mark><mark><b>[&lt;b&gt;]</b></mark>&lt;/s&gt;|</td>"
    assert f"a|\u21b5|<br>{marks}" in page
    assert page.count("<b>[") == 3 and page.count("<tr>") == 2
