"""What the site is built from: one notebook of each name, links between them, plain numbers."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from kdlib.errors import KdlibError
from kdlib.report import site


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Sources 00, 02 and 14; of 02 the copies of two seeds, of 14 none."""
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    sources = tmp_path / "notebooks"
    copies = sources / "executed" / "made"
    copies.mkdir(parents=True)
    text = "# Title\n[a](02_teacher-seed10.ipynb) [b](../../14_cause.ipynb) [c](#A-part) [d](x.md)"
    shown = {"text/markdown": "[e](./00_map.ipynb)", "text/html": '<a href="00_map.ipynb">f</a>'}
    figure = {"image/png": {"alt": "A figure."}}
    for file in ("00_map", "02_teacher", "14_cause", "executed/made/00_map"):
        nbformat.write(new_notebook(cells=[new_markdown_cell(text)]), sources / f"{file}.ipynb")
    for seed in (2, 10):
        output = new_output("display_data", shown, metadata=figure)
        cells = [new_markdown_cell(f"seed {seed}"), new_code_cell("1", outputs=[output])]
        nbformat.write(new_notebook(cells=cells), copies / f"02_teacher-seed{seed}.ipynb")
    return tmp_path


def test_one_of_each_name_with_links_between_them(project):
    folder = project / "pages"
    folder.mkdir()
    (folder / "old.ipynb").touch()
    site.lay_out("made", folder)
    pages = {file.stem: nbformat.read(file, 4).cells for file in folder.iterdir()}
    assert set(pages) == {"00_map", "02_teacher", "14_cause"}
    said = "[a](02_teacher.ipynb) [b](14_cause.ipynb) [c](#a-part) [d](x.md)"
    assert pages["00_map"][0].source.endswith(said) and len(pages["00_map"]) == 1
    assert "Not run on the profile `made`" in pages["14_cause"][1].source
    first, code = pages["02_teacher"]
    assert first.source == "seed 2" and code.metadata["mystnb"]["image"]["alt"] == "A figure."
    assert code.outputs[0].data["text/markdown"] == "[e](00_map.ipynb)"
    assert code.outputs[0].data["text/html"] == '<a href="00_map.ipynb">f</a>'


def test_without_executed_notebooks_the_command_is_named(project):
    with pytest.raises(KdlibError, match="make them with: make study PROFILE=other"):
        site.lay_out("other", project / "pages")
    assert not (project / "pages").exists()


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
