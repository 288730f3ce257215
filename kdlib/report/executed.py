"""Executed copies of notebooks: final text, links that lead somewhere, and why one failed.

`python -m kdlib.report.executed COPY LOG STATUS` is what the Snakefile calls after a failed try.
"""

import functools
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nbformat

from kdlib import runs

LINK = re.compile(r"""(\]\(|(?:href|src)=["'])([^)\s"'#]+)""")
REWRITTEN = re.compile(r".*\r(?!\n|$)")  # what a progress bar wrote over, within one line
KILLED = 128 + 9
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def tidy(folder: Path, sources: Path, seeds: Sequence[int] = ()) -> None:
    """Leave only the last state of progress bars in all copies, and make their links hold there.

    Args:
        folder: of the executed copies.
        sources: the folder of the notebooks, to which links lead where there is no copy.
        seeds: copies without a seed of their own are linked to the first of these.
    """
    for file in sorted(folder.glob("*.ipynb")):
        notebook = nbformat.read(file, 4)
        before = nbformat.writes(notebook)
        own = file.stem.partition("-seed")[2]
        wanted = [own] * bool(own) + [str(seed) for seed in seeds]
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = final(cell.outputs)
            _relink(cell, functools.partial(_link, folder, sources, wanted))
        after = nbformat.writes(notebook)
        if after != before:
            runs.write_text(file, after)


def final(outputs: list[Any]) -> list[Any]:
    """The outputs with all text on stderr in one, and every line as it was last rewritten."""
    kept: list[Any] = []
    streams: dict[str, Any] = {}
    for output in outputs:
        last = kept[-1] if kept else {}
        name = output.get("name")
        if name and (name == last.get("name") or (name == "stderr" and name in streams)):
            streams[name]["text"] += output["text"]
            continue
        kept.append(output)
        if name:
            streams[name] = output
    for output in kept:
        if "text" in output:
            output["text"] = REWRITTEN.sub("", output["text"])
    return kept


def _relink(cell: Any, link: Callable[[str], str]) -> None:
    """Replace the targets of relative links in a cell's markdown and in its outputs."""

    def replaced(text: str) -> str:
        return LINK.sub(lambda found: found[1] + link(found[2]), text)

    if cell.cell_type == "markdown":
        cell.source = replaced(cell.source)
    for output in cell.get("outputs", []):
        for kind in ("text/markdown", "text/html"):
            if kind in output.get("data", {}):
                output["data"][kind] = replaced(output["data"][kind])


def _link(folder: Path, sources: Path, seeds: Sequence[str], target: str) -> str:
    """Where a source's link leads from a copy: to a copy of the same seed, else to the source."""
    if ":" in target or target.startswith("/") or (folder / target).exists():
        return target
    stem = target.removesuffix(".ipynb")
    for copy in (f"{stem}-seed{seed}.ipynb" for seed in seeds):
        if (folder / copy).is_file():
            return copy
    if others := sorted(folder.glob(f"{stem}-seed*.ipynb")) if "/" not in stem else []:
        return others[0].name
    if (sources / target).exists():
        return os.path.relpath(sources / target, folder)
    return target


def reason(copy: Path, log: Path, status: int) -> str:
    """Why a notebook failed: the error that was raised last, or the log's last line.

    Args:
        copy: what papermill wrote, up to the cell that failed.
        log: what it printed.
        status: its exit status.
    """
    if status == KILLED:
        return "killed from outside (SIGKILL); is there memory enough?"
    outputs: list[Any] = []
    if copy.is_file():
        cells = nbformat.read(copy, 4).cells
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
    for error in reversed([one for one in outputs if one.output_type == "error"]):
        kind = "" if error.ename == "KdlibError" else f"{error.ename}: "
        return COLOUR.sub("", kind + error.evalue)
    lines = COLOUR.sub("", log.read_text("utf-8", "replace")).split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no reason was printed")


def keep_failed(copy: Path, log: Path, status: int) -> str:
    """End the log with the reason, and keep it under a name that no later try takes."""
    text = reason(copy, log, status)
    with log.open("a", encoding="utf-8") as lines:
        lines.write(f"\n{text}\n")
    number = 1
    while (kept := log.with_name(f"{log.stem}.failed-{number}.log")).exists():
        number += 1
    shutil.copy2(log, kept)
    return text


if __name__ == "__main__":
    print(keep_failed(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
