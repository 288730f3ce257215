"""Model text is escaped, and just its verbatim beginning is marked."""

import pandas as pd
import pytest

from kdlib.report import notebook_display


@pytest.mark.parametrize(
    ("text", "reference", "page"),
    [
        ("the pump leaks", "the pump runs", "<mark><b>the pump </b></mark>leaks"),
        ("the pumps", "the pump", "<mark><b>the </b></mark>pumps"),
        ("a pump", "the pump", "a pump"),
        ("abc", "abc", "<mark><b>abc</b></mark>"),
        ("the pump leaks", "the pumps leak", "<mark><b>the </b></mark>pump leaks"),
        ("the pump leaks", "the pump", "<mark><b>the pump</b></mark> leaks"),
        (" a pump", "the pump", " a pump"),
        ("", "abc", ""),
    ],
)
def test_only_the_verbatim_beginning_is_marked(text, reference, page):
    assert notebook_display.marked(text, reference) == page


def test_model_text_cannot_become_markup():
    evil = '<script>alert("1")</script> & <mark>'
    page = notebook_display.marked(evil, evil[:32])
    assert page.startswith("<mark><b>&lt;script&gt;alert") and page.count("<") == 4
    page = notebook_display.exhibits(*exhibits(evil, evil, evil, evil)).data
    assert "<script" not in page and page.count("&lt;script&gt;") == 6
    assert page.count("<tr>") == page.count("</tr>") == 4


def exhibits(title="1. A row", context="pump", response="It leaks.", text="It runs.", row_id="a"):
    row = {"row_id": row_id, "title": title, "instruction": "What?", "context": context}
    shown = pd.DataFrame([row | {"response": response}], index=["sft"])
    one = {"exhibit": "sft", "model": title, "text": text, "prefix": 1, "length": 3}
    return shown, pd.DataFrame([one | {"memorized": text == response}])


def test_an_exhibit_is_its_prompt_its_response_and_what_each_model_wrote():
    page = notebook_display.exhibits(*exhibits(context="a\nb", text="It\nruns.")).data
    assert "What?<br>a<br>b" in page and ">It leaks.<" in page
    assert "1 of 3 tokens<" in page and "It\u21b5runs." in page
    assert "Memorized, up to token 50: 1. A row: 0 of 1." in page
    page = notebook_display.exhibits(*exhibits(text="It leaks.")).data
    assert "1 of 3 tokens, memorized<" in page and ": 1 of 1." in page
    assert "<mark><b>It leaks.</b></mark>" in page


def test_an_exhibit_that_no_row_meets_has_its_title_alone():
    shown, answers = exhibits()
    nothing, _ = exhibits(title="2. Another: none", row_id="")
    both = pd.concat([shown, nothing.rename(index={"sft": "teacher"})])
    page = notebook_display.exhibits(both, answers).data
    assert page.count("<tr>") == 5 and "2. Another: none</th></tr></table>" in page


def test_a_long_context_loses_its_middle():
    text = "".join(map(str, range(100)))
    short = notebook_display.shortened(text, 21)
    assert short == f"{text[:8]} ... {text[-8:]}" and len(short) == 21
    assert notebook_display.shortened(text, len(text)) == text


def test_tokens_with_a_loss_are_marked_without_a_style():
    row = [("a", False), ("\n", False), ("b", True), ("<b>", True), ("</s>", False)]
    page = notebook_display.tokens([row, [("c", True)]]).data
    marks = "<mark><b>[b]</b></mark><mark><b>[&lt;b&gt;]</b></mark>&lt;/s&gt;|</td>"
    assert f"a|\u21b5|<br>{marks}" in page
    assert page.count("<b>[") == 3 and page.count("<tr>") == 2


def test_folded_text_stays_markdown_and_its_title_cannot_become_markup():
    text = notebook_display.folded("a < b", "- **c**")
    assert text == "<details><summary>a &lt; b</summary>\n\n- **c**\n\n</details>"
