"""Every relative link leads to a file, where the page lies that holds it."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "data/README.md")]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
COPIES = sorted(ROOT.glob("notebooks/executed/*/*.ipynb"))


def texts(page: Path) -> list[str]:
    """What a reader sees as markdown or HTML."""
    if page.suffix == ".md":
        return [page.read_text("utf-8")]
    found = []
    for cell in nbformat.read(page, 4).cells:
        if cell.cell_type == "markdown":
            found.append(cell.source)
        shown = [output.get("data", {}) for output in cell.get("outputs", [])]
        found += [
            data[kind] for data in shown for kind in data if kind in ("text/html", "text/markdown")
        ]
    return found


def targets(text: str) -> list[str]:
    """The relative links of a text, without the place within the page."""
    links = re.findall(r"\]\(\s*<?([^)\s>]+)", text)
    links += re.findall(r"(?:href|src)\s*=\s*[\"']([^\"']+)", text)
    relative = [link for link in links if not re.match(r"[a-z][a-z0-9+.-]*:|#|//", link)]
    return [link.split("#")[0] for link in relative]


def test_links_are_seen():
    text = '[a](b.md#c) ![d](<e.png> "f") [g](https://h.i) <a href="j.html">k</a> [l](#m)'
    assert targets(text) == ["b.md", "e.png", "j.html"]


@pytest.mark.parametrize(
    "page", [*PAGES, *NOTEBOOKS, *COPIES], ids=lambda p: str(p.relative_to(ROOT))
)
def test_links_lead_somewhere(page):
    links = [link for text in texts(page) for link in targets(text)]
    lost = sorted({link for link in links if not (page.parent / link).exists()})
    assert not lost, f"{page.relative_to(ROOT)} links to {lost}"
    assert links or page.suffix == ".md", "no link was found"


@pytest.mark.parametrize("page", COPIES, ids=lambda p: str(p.relative_to(ROOT)))
def test_copies_lead_to_copies_and_hold_final_text(page):
    copies = {copy.name for copy in page.parent.glob("*.ipynb")}
    notebook = nbformat.read(page, 4)
    seed = page.stem.partition("-seed")[2]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for link in targets(cell.source):
                stem = link.rpartition("/")[2].removesuffix(".ipynb")
                if not seed or f"{stem}-seed{seed}.ipynb" not in copies:
                    continue
                pytest.fail(f"{page.name} leads to {link}, not to its copy of seed {seed}")
        streams = [output for output in cell.get("outputs", []) if output.output_type == "stream"]
        assert not any("\r" in output.text for output in streams), "pieces of a progress bar"
        assert sum(output.name == "stderr" for output in streams) <= 1, "pieces of a progress bar"
