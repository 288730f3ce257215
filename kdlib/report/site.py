"""What the site shows of a profile: its executed notebooks, and one page of plain numbers."""

import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from kdlib import runs
from kdlib.analysis.rates import distilled, student_sizes
from kdlib.config.methods import label
from kdlib.errors import KdlibError
from kdlib.report import executed, results

HEADING = re.compile(r"\]\(#[^)\s]+")  # within a page; Sphinx knows no capitals there
COSTS = {
    "parameters": "parameters",
    "file_bytes": "bytes on disk",
    "ms_per_token": "time per token",
}


def lay_out(profile: str, folder: Path) -> None:
    """Write one notebook of each name to an empty `folder`: its executed copy, else its source.

    Where a notebook ran once for each seed, it is the copy of the first. Links lead from one to
    the other. KdlibError where nothing was executed.
    """
    sources = runs.root() / "notebooks"
    copies: dict[str, Path] = {}
    for file in sorted((sources / "executed" / profile).glob("*.ipynb"), key=_stem_and_seed):
        copies.setdefault(_stem_and_seed(file)[0], file)
    if not copies:
        none = f"no executed notebooks of the profile '{profile}'"
        raise KdlibError(f"{none}; make them with: make study PROFILE={profile}")
    pages = {file.stem: file for file in sources.glob("*.ipynb")} | copies
    shutil.rmtree(folder, ignore_errors=True)
    for stem, file in pages.items():
        notebook = nbformat.read(file, 4)
        if stem not in copies:
            said = f"*Not run on the profile `{profile}`: the source, without outputs.*"
            notebook.cells.insert(1, nbformat.v4.new_markdown_cell(said))
        _relink(notebook, pages)
        runs.write_text(folder / f"{stem}.ipynb", nbformat.writes(notebook))


def _stem_and_seed(file: Path) -> tuple[str, int]:
    stem, _, seed = file.stem.partition("-seed")
    return stem, int(seed or 0)


def _relink(notebook: Any, pages: dict[str, Path]) -> None:
    """Make links lead to `pages`, and give figures their descriptions."""
    relinked = partial(executed.LINK.sub, partial(_link, pages))
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = HEADING.sub(lambda link: link[0].lower(), relinked(cell.source))
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            for kind in {"text/markdown", "text/html"} & data.keys():
                data[kind] = relinked(data[kind])
            if alt := output.get("metadata", {}).get("image/png", {}).get("alt"):
                cell.metadata["mystnb"] = {"image": {"alt": alt}}


def _link(pages: dict[str, Path], link: re.Match[str]) -> str:
    """A link to a notebook, source or copy of whatever seed, leads to its page."""
    stem = _stem_and_seed(Path(link[2]))[0] if link[2].endswith(".ipynb") else ""
    return f"{link[1]}{stem}.ipynb" if stem in pages else link[0]


def decision(profile: str) -> dict[str, Any]:
    """What the page for who decides is filled with, from the tables alone.

    of_hundred (a table in Markdown), rows, sizes; least and most, each the name of a distilled
    student and its texts in a hundred; cost by what is counted (percent of the teacher); canaries
    (times, least, most) and attack (pairs of method and chance), empty where not measured; verdicts
    (number of claims by verdict) and claims.
    """
    first, metrics = results.read(profile, "table1"), results.read(profile, "metrics")
    sizes, taught = student_sizes(first), distilled(first)
    share = first.set_index(["method", "size"])["member"]
    own = share[share.index.isin(taught, level="method")]
    lines = [_line(first, size, own) for size in ("teacher", *sizes)]
    mean = metrics.groupby(["metric", "size"])["value"].mean()
    judged = results.claims(profile)
    verdicts = judged["verdict"].value_counts()
    return {
        "of_hundred": results.markdown(pd.DataFrame(lines)),
        "rows": int(results.read(profile, "lengths").query("split == 'member'")["rows"].min()),
        "smallest": sizes[-1],
        "least": _named(own.idxmin(), own.min()),
        "most": _named(own.idxmax(), own.max()),
        "cost": {
            words: f"{mean[name, sizes[-1]] / mean[name, 'teacher']:.0%}"
            for name, words in COSTS.items()
            if name in mean.index.get_level_values("metric")
        },
        "canaries": _canaries(profile, taught),
        "attack": _attack(profile, share),
        "claims": len(judged),
        "verdicts": {one: verdicts.get(one, 0) for one in ("confirmed", "refuted", "open")},
    }


def of_hundred(share: float) -> str:
    """A share in whole hundredths; "below 1" where it is not quite nothing."""
    return "below 1" if 0 < share < 0.01 else f"{100 * share:.0f}"


def _named(model: tuple[str, str], share: float) -> tuple[str, str]:
    return f"{label(model[0])}, {model[1]}", of_hundred(share)


def _line(first: pd.DataFrame, size: str, taught: "pd.Series[float]") -> dict[str, str]:
    rows = first[(first["size"] == size) & (first["method"] != "base")].set_index("method")
    direct = rows["member"].get("teacher" if size == "teacher" else "sft")
    own = taught[taught.index.get_level_values("size") == size]
    ends = dict.fromkeys(map(of_hundred, (own.min(), own.max()))) if len(own) else {}
    return {
        "model": size,
        "trained on the texts": "" if direct is None else of_hundred(direct),
        "taught by the teacher": " to ".join(ends),
        "texts it never saw": of_hundred(rows["held_out"].max()),
    }


def _canaries(profile: str, taught: list[str]) -> dict[str, Any]:
    table = results.read(profile, "repetitions", optional=True)
    if table.empty:
        return {}
    own = table[(table["kind"] == "canary") & table["method"].isin(taught)]
    often = own[own["times"] == own["times"].max()]["value"]
    if often.empty:
        return {}
    ends = {"least": of_hundred(often.min()), "most": of_hundred(often.max())}
    return {"times": own["times"].max()} | ends


def _attack(profile: str, share: "pd.Series[float]") -> list[tuple[str, str]]:
    """Chances of SFT, and of the distilled method that memorizes least at the size looked at."""
    table = results.read(profile, "membership", optional=True)
    if table.empty:
        return []
    table = table[(table["score"] == "loss") & (table["size"] != "teacher")]
    table = table[table["method"] != "base"].drop_duplicates("method")
    auc = table.set_index("method")["auc"]
    size = table["size"].iloc[0]
    least = min(distilled(table), key=lambda method: share[method, size])
    return [(f"{label(one)}, {size}", of_hundred(auc[one])) for one in ("sft", least)]
