"""The site as a reader has it: every page opens, leads on and can be read on a phone."""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from project import ROOT, copy_project

from kdlib.report import findings, from_scratch, site

pytestmark = pytest.mark.slow
READ = ("data/results", "notebooks/executed")  # of models from scratch, too
LOADED = """async () => {
    const pictures = [...document.images].filter(one => one.getClientRects().length)
    await Promise.allSettled(pictures.map(one => (one.loading = "eager", one.decode())))
    return pictures.filter(one => !one.naturalWidth).map(one => one.src)
}"""
LINKS = "() => [...document.links].map(one => one.href)"
ANCHORS = "() => [...document.querySelectorAll('[id]')].map(one => one.id)"
TOO_WIDE = """() => {
    const page = document.documentElement
    return page.scrollWidth > page.clientWidth
}"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The site of the reference run, built in a copy of the project."""
    pytest.importorskip("sphinx_book_theme", reason="needs the extra 'docs'")
    project = copy_project(tmp_path_factory.mktemp("site") / "project")
    ignored = shutil.ignore_patterns("notebooks", "figures", ".doctrees")
    shutil.copytree(ROOT / "docs", project / "docs", ignore=ignored)
    of_reference = [f"{part}/{findings.REFERENCE}" for part in ("data/figures", *READ)]
    for part in (*of_reference, *(f"{one}/{from_scratch.PROFILE}" for one in READ)):
        shutil.copytree(ROOT / part, project / part)
    shutil.copytree(ROOT / "data" / "results" / "bench", project / "data" / "results" / "bench")
    shutil.copy2(ROOT / "data" / "README.md", project / "data")
    profile = f"PROFILE={findings.REFERENCE}"
    command = ["make", "site", profile, f"BIN={Path(sys.executable).parent}"]
    named = os.environ | {"GITHUB_REPOSITORY": "someone/project", "GITHUB_REF_NAME": "main"}
    begun = time.monotonic()
    run = subprocess.run(
        command, cwd=project, env=named, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "WARNING" not in run.stderr, run.stderr
    print(f"the site was built in {time.monotonic() - begun:.0f} s")
    return project / "site"


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and keeps silent."""

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def url(built):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=built))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_it_is_complete_and_small(built):
    notebooks = {file.stem for file in (ROOT / "notebooks").glob("*.ipynb")}
    assert {file.stem for file in (built / "notebooks").glob("*.html")} == notebooks
    size = sum(file.stat().st_size for file in built.rglob("*") if file.is_file())
    assert size < 60e6


def test_notebooks_that_were_not_run_show_models_from_scratch(built):
    others = site.copies(from_scratch.PROFILE).keys() - site.copies(findings.REFERENCE)
    for stem in others:
        text = (built / "notebooks" / f"{stem}.html").read_text("utf-8")
        assert "what is shown is of models from scratch" in text, stem
        assert 'class="cell_output' in text, stem
    everywhere = {file.stem for file in (ROOT / "notebooks").glob("*.ipynb")}
    assert everywhere == others | site.copies(findings.REFERENCE).keys()


def test_a_notebook_leads_to_where_it_runs(built):
    start = "https://mybinder.org/v2/gh/someone/project/main?urlpath=lab/tree"
    for page in (built / "notebooks").glob("*.html"):
        assert f"{start}/notebooks/{page.stem}.ipynb" in page.read_text("utf-8"), page.stem
    assert start not in (built / "decide.html").read_text("utf-8")


def test_every_page_opens_is_readable_on_a_phone_and_leads_on(built, url, page):
    links, anchors = {}, {}
    page.set_viewport_size({"width": 390, "height": 844})
    page.on("request", lambda one: one.url.startswith((url, "data:")) or outside.append(one.url))
    outside = []
    names = [file.relative_to(built).as_posix() for file in sorted(built.rglob("*.html"))]
    for name in (one for one in names if not one.startswith("_static/")):
        page.goto(f"{url}/{name}")
        assert not page.evaluate(LOADED), f"figures of {name}"
        assert not page.evaluate(TOO_WIDE), f"{name} is wider than a phone"
        assert not page.complaints and not outside, f"{name}: {page.complaints} {outside}"
        links[name], anchors[name] = page.evaluate(LINKS), set(page.evaluate(ANCHORS))
    for name, targets in links.items():
        for target in {one for one in targets if one.startswith(f"{url}/")}:
            path, _, anchor = unquote(target.removeprefix(f"{url}/")).partition("#")
            path = path.partition("?")[0] or "index.html"
            assert (built / path).is_file(), f"{name} leads to {path}"
            assert not anchor or anchor in anchors.get(path, ()), f"{name} leads to {path}#{anchor}"
            assert not path.endswith(".ipynb") or path.startswith("_sources/"), f"{name}: {path}"
    assert sum(map(len, links.values())) > 1000


def test_a_reader_goes_on_from_the_map(url, page):
    page.goto(f"{url}/notebooks/00_map.html")
    page.locator("article").get_by_role("link", name="next", exact=True).first.click()
    page.wait_for_url("**/notebooks/01_data_and_tokens.html")
    assert page.locator("h1").first.inner_text().startswith("01 Data and tokens")


def test_solutions_unfold(url, page):
    page.goto(f"{url}/notebooks/03_supervised_fine_tuning.html")
    every = page.locator("article details").all()
    assert every
    for folded in every:
        inside = folded.locator("summary ~ *").first
        assert not inside.is_visible()
        folded.locator("summary").click()
        assert inside.is_visible()


def numbers(page, address):
    """All numbers in the text of a page, unfolded."""
    page.goto(address)
    page.evaluate("() => document.querySelectorAll('details').forEach(one => one.open = true)")
    text = page.locator("article").first.inner_text()
    return set(re.findall(r"(?<![A-Za-z0-9_.])[+-]?\d+(?:\.\d+)?", text))


def test_both_languages_say_the_same_numbers(url, page):
    english = {name: numbers(page, f"{url}/{name}.html") for name in ("decide", "index", "results")}
    assert len(english["decide"]) > 10
    assert numbers(page, f"{url}/ja/decide.html") == english["decide"]
    assert page.locator("html").get_attribute("lang") == "ja"
    whole = english["index"] | numbers(page, f"{url}/notebooks/00_map.html")
    assert english["index"] <= numbers(page, f"{url}/ja/index.html") <= whole
    if "18_conclusion" in site.copies(findings.REFERENCE):
        known = numbers(page, f"{url}/notebooks/18_conclusion.html")
        assert numbers(page, f"{url}/ja/conclusion.html") <= known


@pytest.mark.parametrize(("word", "pages"), [("canary", 4), ("記憶化", 1)])
def test_search_finds_a_word(url, page, word, pages):
    page.goto(f"{url}/search.html?q={word}")
    found = page.locator("#search-results li a")
    found.nth(pages - 1).wait_for()
    assert not page.complaints


def test_dark_and_light(url, page):
    page.goto(f"{url}/decide.html")
    colour = "() => getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] * 1"
    page.emulate_media(color_scheme="light")
    assert page.evaluate(colour) > 200
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"({colour})() < 60")
