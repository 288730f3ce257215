"""A real browser, in which tests look at pages as readers do."""

import shutil

import pytest

FLAGS = "no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
FLAGS += " disable-component-update disable-sync"


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A headless Chromium with an empty profile."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("Chromium is not installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra 'docs'")
    with playwright.sync_playwright() as tool:
        context = tool.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("chromium"),
            executable_path=found,
            args=[f"--{flag}" for flag in FLAGS.split()],
            timeout=180_000,
        )
        context.set_default_timeout(120_000)
        yield context
        context.close()


@pytest.fixture
def page(browser):
    """A tab as wide as a desktop's; `page.complaints` are errors, and requests that failed."""
    tab = browser.new_page()
    tab.set_viewport_size({"width": 1280, "height": 900})
    tab.complaints = []
    tab.on("console", lambda said: said.type == "error" and tab.complaints.append(said.text))
    tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
    tab.on("requestfailed", lambda request: tab.complaints.append(request.url))
    tab.on("response", lambda got: got.status >= 400 and tab.complaints.append(got.url))
    yield tab
    tab.close()
