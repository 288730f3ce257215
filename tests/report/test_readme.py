"""The README's generated parts: what is put between its marks, and the example text."""

import re

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from project import ROOT

from kdlib.errors import KdlibError
from kdlib.report import findings, from_scratch, notebook_display, readme, site

README = (ROOT / "README.md").read_text("utf-8")
SHOWN = pd.DataFrame(
    {
        "row_id": ["a", "b"],
        "title": ["1. A member row that SFT memorizes, and 0 of 3 distilled students", "2. Other"],
        "instruction": "Sum up:",
        "context": "what | it_does",
        "response": "Return the *mean* of x.",
    },
    index=["sft", "teacher"],
)


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """A project, and what puts the display of exhibits into its executed notebook 04."""
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))

    def execute(shown):
        texts = {"base, middle": "No.", "SFT, middle": "Return the *mean* of x."}
        texts |= {"teacher": "A", "word-level KD, middle": "Return the sum."}
        facts = {"prefix": 1, "length": 9, "memorized": False}
        lines = [
            {"exhibit": name, "model": model, "text": text} | facts
            for name in shown.index
            for model, text in texts.items()
        ]
        table = notebook_display.exhibits(shown, pd.DataFrame(lines)).data
        outputs = [
            new_output("display_data", {"text/html": text}) for text in ("<th>x</th>", table)
        ]
        folder = tmp_path / "notebooks" / "executed" / "made"
        folder.mkdir(parents=True)
        notebook = new_notebook(cells=[new_code_cell("1", outputs=outputs)])
        nbformat.write(notebook, folder / "04_word_level_kd-seed0.ipynb")

    return execute


def test_one_row_and_what_sft_and_the_student_write(executed):
    executed(SHOWN)
    assert readme.before_and_after("made").splitlines() == [
        "| A member row that SFT memorizes, and 0 of 3 distilled students "
        "(size middle, one seed; chosen by what came out) | text |",
        "|---|---|",
        "| prompt | Sum up:<br>what \\| it\\_does |",
        "| response | Return the \\*mean\\* of x. |",
        "| SFT writes | <b>Return the \\*mean\\* of x.</b> |",
        "| word-level KD writes | <b>Return the </b>sum. |",
    ]


def test_nothing_is_shown_where_sft_memorized_nothing_or_nothing_was_executed(executed):
    assert readme.before_and_after("made") == ""
    executed(SHOWN.assign(row_id=["", "b"]))
    assert readme.before_and_after("made") == ""


def test_only_what_stands_between_the_marks_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    monkeypatch.setattr(readme, "BLOCKS", {"answer": "yes {}".format, "results": "no {}".format})
    file = tmp_path / "README.md"
    file.write_text(README, "utf-8")
    readme.write("made")
    readme.write("made")
    lines = file.read_text("utf-8").splitlines()
    for name, said in (("answer", "yes made"), ("results", "no made")):
        place = lines.index(f"<!-- {name} -->")
        assert lines[place + 1 : place + 3] == [said, f"<!-- /{name} -->"]
    file.write_text("nothing", "utf-8")
    with pytest.raises(KdlibError, match="<!-- answer -->.*put them back"):
        readme.write("made")


def test_the_answer_stands_on_the_first_screen():
    lines = README.splitlines()
    assert lines.index("<!-- answer -->") < 15 and lines.index("## The notebooks") < 60
    assert len(lines) <= 200


def test_links_lead_to_the_reference_run_or_where_it_has_none_to_models_from_scratch():
    links = re.findall(r"((?:executed|figures)/(\w+)/([\w.-]+))", README)
    assert {profile for _, profile, _ in links} == {findings.REFERENCE, from_scratch.PROFILE}
    for link, profile, file in links:
        assert any(ROOT.glob(f"*/{link}")), link
        if profile != findings.REFERENCE:
            assert file.split(".")[0] not in site.copies(findings.REFERENCE)
