"""What the site is built from: one notebook of each name, links between them, plain numbers."""

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from project import ROOT

from kdlib.errors import KdlibError
from kdlib.report import findings, site


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Sources 00, 02 and 14; of 02 the copies of two seeds, of 14 none."""
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    sources = tmp_path / "notebooks"
    copies = sources / "executed" / "made"
    copies.mkdir(parents=True)
    text = "# Title\n[a](02_teacher-seed10.ipynb) [b](../../14_cause.ipynb) [c](#A-part) [d](x.md)"
    text += " [g](../data/README.md)"
    shown = {"text/markdown": "[e](./00_map.ipynb)", "text/html": '<a href="00_map.ipynb">f</a>'}
    figure = {"image/png": {"alt": "A figure."}}
    for file in ("00_map", "02_teacher", "14_cause", "executed/made/00_map"):
        nbformat.write(new_notebook(cells=[new_markdown_cell(text)]), sources / f"{file}.ipynb")
    for seed in (2, 10):
        output = new_output("display_data", shown, metadata=figure)
        cells = [new_markdown_cell(f"seed {seed}"), new_code_cell("1", outputs=[output])]
        nbformat.write(new_notebook(cells=cells), copies / f"02_teacher-seed{seed}.ipynb")
    tables = tmp_path / "data" / "results"
    for profile in ("made", "other"):
        (tables / profile).mkdir(parents=True)
        (tables / profile / "table1.csv").write_text("method,size\n")
    return tmp_path


def test_one_of_each_name_with_links_between_them(project):
    folder = project / "pages"
    folder.mkdir()
    (folder / "old.ipynb").touch()
    site.lay_out("made", folder)
    pages = {file.stem: nbformat.read(file, 4).cells for file in folder.iterdir()}
    assert set(pages) == {"00_map", "02_teacher", "14_cause"}
    said = "[a](02_teacher.ipynb) [b](14_cause.ipynb) [c](#a-part) [d](x.md) [g](../data.md)"
    assert pages["00_map"][0].source.endswith(said) and len(pages["00_map"]) == 1
    assert "Not run on the profile `made`" in pages["14_cause"][1].source
    first, code = pages["02_teacher"]
    assert first.source == "seed 2" and code.metadata["mystnb"]["image"]["alt"] == "A figure."
    assert code.outputs[0].data["text/markdown"] == "[e](00_map.ipynb)"
    assert code.outputs[0].data["text/html"] == '<a href="00_map.ipynb">f</a>'


def test_what_was_not_executed_says_so(project):
    site.lay_out("other", project / "pages")
    assert site.copies("other") == {}
    for file in (project / "pages").iterdir():
        assert "Not run on the profile `other`" in nbformat.read(file, 4).cells[1].source


def test_without_tables_the_command_is_named(project):
    with pytest.raises(KdlibError, match="make them with: make study PROFILE=absent"):
        site.lay_out("absent", project / "pages")
    assert not (project / "pages").exists()


def test_the_published_site_is_the_reference_run_s():
    for file in (".ci/run", ".github/workflows/site.yml"):
        profiles = re.findall(r"make site PROFILE=(\w+)", (ROOT / file).read_text("utf-8"))
        assert profiles == [findings.REFERENCE], file


@pytest.mark.parametrize(
    ("share", "said"), [(0, "0"), (0.001, "below 1"), (0.126, "13"), (1, "100")]
)
def test_shares_in_a_hundred(share, said):
    assert site.of_hundred(share) == said


def test_the_page_for_who_decides_says_what_the_tables_say():
    said = site.decision("tiny")
    assert sum(said["verdicts"].values()) == said["claims"]
    assert said["of_hundred"].count("\n") == 5  # heading, teacher, three sizes
    assert said["cost"] and said["canaries"] and len(said["attack"]) == 2
    assert all(0 <= float(chance) <= 100 for _, chance in said["attack"])


def test_another_language_has_the_same_numbers():
    say = site.translator({"large": "GROSS", ", large": " (GROSS)", " to ": "-", "below 1": "<1"})
    assert say("SFT, large: enlarged, larger large") == "SFT (GROSS): enlarged, larger GROSS"
    for page in (site.decision, site.conclusion):
        ours, theirs = page("tiny"), page("tiny", say)
        assert list(ours) == list(theirs)
        numbers = [re.findall(r"\d+", str(list(one.values()))) for one in (ours, theirs)]
        assert numbers[0] == numbers[1]
    assert "GROSS" in site.decision("tiny", say)["of_hundred"]


@pytest.mark.parametrize(
    ("lo", "hi", "advice"), [(-0.2, -0.1, "less"), (0.1, 0.2, "more"), (-0.1, 0.1, "open")]
)
def test_the_advice_follows_the_interval(project, lo, hi, advice):
    tables = project / "data" / "results" / "made"
    (tables / "lengths.csv").write_text("seed,split,rows\n3,member,9\n")
    (tables / "claims.csv").write_text("claim,verdict\nA1,open\nC1,refuted\n")
    assert site.conclusion("made") == {
        "seeds": "3",
        "gaps": {},
        "advice": "open",
        "planted": [],
        "open": ["A1"],
    }
    (tables / "primary.csv").write_text(f"claim,value,lo,hi\nA1,0.0,{lo},{hi}\n")
    said = site.conclusion("made")
    assert said["advice"] == advice
    (gap,) = said["gaps"].values()
    assert f"{100 * lo:+.1f} to {100 * hi:+.1f}]" in gap


def test_canaries_of_the_fewest_and_the_most_showings(project):
    tables = project / "data" / "results" / "made"
    (tables / "lengths.csv").write_text("seed,split,rows\n3,member,9\n")
    (tables / "claims.csv").write_text("claim,verdict\n")
    lines = [
        f"{method},canary,{times},{times / 10}"
        for method in ("sft", "teacher")
        for times in (1, 4, 8)
    ]
    lines += ["minillm,canary,8,0.25", "minillm,row,1,0.9"]
    (tables / "repetitions.csv").write_text("\n".join(["method,kind,times,value", *lines]))
    assert site.conclusion("made")["planted"] == [(1, "10%", "10%"), (8, "25%", "80%")]
