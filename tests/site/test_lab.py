"""JupyterLab as `make lab` opens it: links lead on, and a notebook runs to its end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

TOKEN = "of-this-test"
OPENED = "03_supervised_fine_tuning.ipynb"


@pytest.fixture(scope="module")
def lab(smoke_study):
    """JupyterLab in the project whose study ran on smoke; 03 is set to that profile."""
    notebook = smoke_study / "notebooks" / OPENED
    text = notebook.read_text("utf-8")
    changed = text.replace('profile = \\"laptop\\"', 'profile = \\"smoke\\"')
    assert changed != text
    notebook.write_text(changed, "utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {"JUPYTER_TOKEN": TOKEN, "JUPYTER_PORT": str(port), "BROWSER": "true"}
    given |= {"PYTHONPATH": str(smoke_study)}  # as where kdlib is installed from this copy
    given |= {"JUPYTER_CONFIG_DIR": str(smoke_study / "jupyter")}  # none of the user's own tabs
    ours = {"KDLIB_ROOT", "MAKEFLAGS", "MAKELEVEL", "MPLBACKEND"}
    with (smoke_study / "lab.log").open("w") as log:
        run = subprocess.Popen(
            ["make", "lab", f"BIN={Path(sys.executable).parent}"],
            cwd=smoke_study,
            env={name: one for name, one in os.environ.items() if name not in ours} | given,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    address, end = f"http://localhost:{port}", time.monotonic() + 120
    while run.poll() is None and time.monotonic() < end:
        with suppress(OSError), urllib.request.urlopen(f"{address}/api?token={TOKEN}"):
            break
        time.sleep(0.5)
    yield address, notebook
    os.killpg(run.pid, signal.SIGTERM)
    run.wait(60)
    notebook.write_text(text, "utf-8")


@pytest.mark.slow
def test_a_reader_follows_links_and_runs_a_notebook(lab, page):
    address, notebook = lab
    page.goto(f"{address}/lab/tree/00_map.ipynb?token={TOKEN}")
    shown = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")
    for title in ("01 Data and tokens", "02 The teacher", "03 Supervised fine-tuning"):
        shown.locator(".jp-RenderedMarkdown a", has_text="next").first.click()
        shown.locator(".jp-RenderedMarkdown h1", has_text=title).wait_for()
    assert page.get_by_role("tab", name=OPENED).get_attribute("aria-selected") == "true"
    page.locator("#jp-main-statusbar", has_text="Idle").wait_for()  # the kernel is connected
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    end, code = time.monotonic() + 900, []  # two minutes where nothing else runs
    while not (code and all(cell["execution_count"] for cell in code)):
        assert time.monotonic() < end, "not at its end"
        page.wait_for_timeout(2000)
        page.keyboard.press("Control+s")
        cells = json.loads(notebook.read_text("utf-8"))["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        failed = [one for cell in code for one in cell["outputs"] if one["output_type"] == "error"]
        assert not failed, failed[0]["evalue"]
    assert "IProgress not found" not in notebook.read_text("utf-8")  # progress is text here
    assert any("image/png" in one.get("data", {}) for cell in code for one in cell["outputs"])
    assert shown.locator(".jp-OutputArea-output").first.is_visible()
