"""Executed copies of notebooks: final text, links that lead somewhere, and why one failed."""

import os
import re
import shutil
import signal
import sys
from collections.abc import Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import nbformat

from kdlib import runs

LINK = re.compile(r"""(\]\(|(?:href|src)=["'])([^)\s"'#]+)""")
REWRITTEN = re.compile(r".*\r(?!\n|$)")  # what a progress bar wrote over, within one line
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
COMMITTED = ("laptop", "tiny")  # the profiles whose copies git holds


def tidy(folder: Path, sources: Path, seeds: Sequence[int] = ()) -> None:
    """Leave only the last state of progress bars in all copies, and make their links hold there.

    Of the paths of the machine that papermill notes the names of the files are left.
    A link leads to the copy of the same seed, of the first of `seeds` that has one, or of any; else
    to that of a profile whose copies are committed; else to the notebook in `sources`. In text, one
    that led out of the folder leads back once there is a copy; in outputs a source may be meant.
    """
    profiles = "|".join(rf"\.\./{name}" for name in COMMITTED)
    in_outputs = re.compile(rf"^(?:{profiles})/(?=[^/]+\.ipynb$)")
    source_path = re.escape(os.path.relpath(sources, folder))
    in_text = re.compile(rf"^(?:{profiles}|{source_path})/(?=[^/]+\.ipynb$)")
    for file in folder.glob("*.ipynb"):
        notebook = nbformat.read(file, 4)
        before = nbformat.writes(notebook)
        metadata = notebook.metadata.get("papermill", {})
        for key in ("input_path", "output_path"):
            if metadata.get(key):
                metadata[key] = Path(metadata[key]).name
        seed = file.stem.partition("-seed")[2]
        relink_text, relink_output = (
            partial(LINK.sub, partial(_link, folder, sources, [seed, *seeds], prefix))
            for prefix in (in_text, in_outputs)
        )
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = relink_text(cell.source)
            elif cell.cell_type == "code":
                cell.outputs = final(cell.outputs)
            for output in cell.get("outputs", []):
                for kind in {"text/markdown", "text/html"} & output.get("data", {}).keys():
                    output["data"][kind] = relink_output(output["data"][kind])
        if (after := nbformat.writes(notebook)) != before:
            runs.write_text(file, after)


def final(outputs: list[Any]) -> list[Any]:
    """The outputs with all text on stderr in one, and every line as it was last rewritten."""
    merged: list[Any] = []
    streams: dict[str, Any] = {}  # the last output of each
    for output in outputs:
        name = output.get("name")
        if name in streams and (name == "stderr" or merged[-1] is streams[name]):
            streams[name]["text"] += output["text"]
        else:
            merged.append(output)
            if name:
                streams[name] = output
    for output in (item for item in merged if item.get("name")):
        output["text"] = REWRITTEN.sub("", output["text"])
    return merged


def _link(
    folder: Path, sources: Path, seeds: Sequence[Any], prefix: re.Pattern[str], link: re.Match[str]
) -> str:
    target = prefix.sub("", link[2])
    if ":" in target or target.startswith("/") or (folder / target).exists():
        return link[1] + target
    stem = target.removesuffix(".ipynb").partition("-seed")[0]  # a copy that is no more, too
    if "/" not in stem and target.endswith(".ipynb"):
        for directory in (folder, *(folder.parent / name for name in COMMITTED)):
            if name := _copy(directory, stem, seeds):
                return link[1] + os.path.relpath(directory / name, folder)
        target = f"{stem}.ipynb"
    source = sources / target
    return link[1] + (os.path.relpath(source, folder) if source.exists() else target)


def _copy(folder: Path, stem: str, seeds: Sequence[Any]) -> str:
    """The name of a notebook's copy in this folder, of the first of `seeds` if any; or ""."""
    copies = sorted(path.name for path in folder.glob(f"{stem}-seed*.ipynb"))
    candidates = [f"{stem}.ipynb", *(f"{stem}-seed{seed}.ipynb" for seed in seeds), *copies]
    return next((name for name in candidates if (folder / name).is_file()), "")


def reason(copy: Path, log: Path, status: int) -> str:
    """Why a notebook failed: the error raised last in papermill's copy, or the log's last line."""
    if status == 128 + signal.SIGKILL:
        return "killed from outside (SIGKILL); is there memory enough?"
    cells = nbformat.read(copy, 4).cells if copy.is_file() else []
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    for error in reversed([output for output in outputs if output.output_type == "error"]):
        kind = "" if error.ename == "KdlibError" else f"{error.ename}: "
        return COLOUR.sub("", kind + error.evalue)
    lines = COLOUR.sub("", log.read_text("utf-8", "replace")).split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no reason was printed")


def keep_failed(copy: Path, log: Path, status: int) -> str:
    """End the log with the reason, and keep it under a name that no later try takes."""
    message = reason(copy, log, status)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"\n{message}\n")
    names = (log.with_name(f"{log.stem}.failed-{number}.log") for number in count(1))
    shutil.copy2(log, next(name for name in names if not name.exists()))
    return message


if __name__ == "__main__":  # COPY LOG STATUS, by the Snakefile after a failed try
    print(keep_failed(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
