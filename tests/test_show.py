"""Model text is escaped, and just its verbatim beginning is marked."""

import matplotlib.pyplot as plt
import pytest

from kdlib.figures import captions
from kdlib.report import notebook_display


@pytest.mark.parametrize(
    ("text", "reference", "same"),
    [("abc", "abc", 3), ("abx", "abc", 2), ("", "abc", 0), ("abcd", "abc", 3), ("xbc", "abc", 0)],
)
def test_verbatim_length(text, reference, same):
    assert notebook_display.verbatim_length(text, reference) == same


def test_only_the_verbatim_beginning_is_marked():
    assert (
        notebook_display.marked("the pump leaks", "the pump runs") == "<mark>the pump </mark>leaks"
    )
    assert notebook_display.marked("the pumps", "the pump") == "<mark>the </mark>pumps"
    assert notebook_display.marked("a pump", "the pump") == "a pump"


def test_model_text_cannot_become_markup():
    evil = '<script>alert("1")</script> & <mark>'
    told = notebook_display.marked(evil, evil[:32])
    assert told.startswith("<mark>&lt;script&gt;alert") and told.count("<") == 2
    asked = {"instruction": evil, "category": evil, "response": evil, "repetitions": 1}
    page = notebook_display.answers([(evil, evil), ("SFT", "none")], asked).data
    assert "<script" not in page and page.count("&lt;script&gt;") == 5
    assert page.count("<tr>") == page.count("</tr>") == 3


def test_a_figure_is_saved_shown_and_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    drawn, axes = plt.subplots()
    axes.plot([0, 1])
    captions.figure("made", drawn, "line", "It rises.", "numbers")
    saved = tmp_path / "data" / "figures" / "made" / "line.png"
    assert saved.read_bytes().startswith(b"\x89PNG") and not plt.fignum_exists(drawn.number)
    assert "Markdown" in capsys.readouterr().out
