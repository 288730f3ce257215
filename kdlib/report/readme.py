"""The README's generated parts: the answer on its first screen, and the numbers below.

Each stands between two marks and says what the tables of a profile say; the texts in which one sees
memorization are those of its executed copy of notebook 04. `python -m kdlib findings` writes them.
"""

import re
import textwrap
from collections.abc import Callable

import nbformat
import pandas as pd

from kdlib import runs
from kdlib.config.methods import PAPER, label
from kdlib.config.profile import load_profile
from kdlib.errors import KdlibError
from kdlib.report import findings, from_scratch, results, sensitivity, site

EXAMPLE = "04_word_level_kd"  # the first that shows SFT beside a distilled student
TITLE = '<th colspan="2"'  # of an exhibit, see `notebook_display.exhibits`
ROW = re.compile(r"<tr><td[^>]*>(.*?)</td><td[^>]*>(.*?)</td></tr>")
CLAIMS = (
    "The whole evidence stands in `claims*.csv`, each rule in `kdlib/analysis/claims.py`, the way "
    "from a claim to its notebook in the [map](notebooks/00_map.ipynb)."
)
MOVES = (
    "What the order of the rows, another base model, float32 or another machine moves, which no "
    "interval here allows for, stands in notebook 18."
)
UNSEEN = ("base", "teacher")  # models whose answers are left out, so that a glance is enough


def answer(profile: str) -> str:
    """The answer in a few sentences, then one training row with what models write to its prompt."""
    sentences = findings.parts("README", load_profile(profile))
    lines = [
        textwrap.fill(
            sentence, 118, break_on_hyphens=False, initial_indent="- ", subsequent_indent="  "
        )
        for sentence in sentences
    ]
    return "\n\n".join(filter(None, ("\n".join(lines), before_and_after(profile))))


def before_and_after(profile: str) -> str:
    """The row that SFT memorizes, and SFT's and a distilled student's answer, in Markdown.

    Empty where notebook 04 was not executed, or SFT memorized nothing.
    """
    copy = site.copies(profile).get(EXAMPLE)
    cells = nbformat.read(copy, 4).cells if copy else []
    outputs = (output.get("data", {}) for cell in cells for output in cell.get("outputs", []))
    documents = (data.get("text/html", "") for data in outputs)
    table = next((document for document in documents if TITLE in document), "").partition(TITLE)[2]
    title, _, rest = table.partition("</th>")
    rows = ROW.findall(rest.partition(TITLE)[0])
    if not rows:
        return ""
    heading, note, lines = title.partition(". ")[2], "", list[str]()
    for head, text in rows:
        name, _, size = head.partition("<br>")[0].partition(", ")
        if name not in UNSEEN:
            verb = "" if name in ("prompt", "response") else " writes"
            lines.append(f"| {name}{verb} | {_inline(text)} |")
            note = f" (size {size}, one seed; chosen by what came out)" if size else note
    return "\n".join([f"| {heading}{note} | text |", "|---|---|", *lines])


def _inline(text: str) -> str:
    """HTML of a notebook as what a cell of a Markdown table can hold."""
    return re.sub(r"([|*_`\\])", r"\\\1", re.sub("</?mark>", "", text))


def numbers(profile: str) -> str:
    """The run, what the paper's methods memorized, each claim in a line, and attackers, if any."""
    claims = results.claims(profile)
    columns = {
        "claim": claims["claim"] + " " + claims["statement"],
        "verdict": "**" + claims["verdict"] + "**",
        "evidence": claims["evidence"].map(_first),
    }
    rates = results.memorized(results.read(profile, "table1"))
    notes = [results.legend(profile), _further(profile)]
    notes += [MOVES] * (not sensitivity.table(profile).empty)
    parts = [_run_line(profile), results.markdown(rates), " ".join(filter(None, notes))]
    sentences = findings.said("README, results", load_profile(profile))
    parts += [results.markdown(pd.DataFrame(columns)), f"{sentences} {CLAIMS}"]
    parts += filter(None, [from_scratch.said(profile)])
    if len(attackers := results.attackers(profile)):
        parts += [results.attackers_legend(profile), results.markdown(attackers)]
    return "\n\n".join(parts)


def _further(profile: str) -> str:
    """What methods memorized that the paper does not have, by size, in a sentence."""
    table = results.read(profile, "table1")
    table = table[~table["method"].isin(("base", "teacher", *PAPER))]
    if table.empty:
        return ""
    parts = [
        f"{label(method)} {' and '.join(rates['member'].map('{:.3f}'.format))}"
        for method, rates in table.groupby("method", sort=False)
    ]
    sizes, n = table["size"].unique(), table["member_seeds"].max()
    sft = " and ".join(f"{share:.3f}" for share in results.sft_of_first(profile, n, sizes))
    text = f"Further methods, of {n} seed{'s' if n > 1 else ''} alone ({' and '.join(sizes)} "
    text += f"size; intervals stand in notebook 10): {', '.join(parts)}"
    return f"{text}; SFT of the same seed{'s' if n > 1 else ''}: {sft}."


def _first(evidence: str) -> str:
    """The first part of the evidence, and those that say why no verdict is given."""
    first, *rest = evidence.split("; ")
    barred = [part for part in rest if part.startswith("no verdict")]
    return "; ".join([first, *barred]) + " ..." * (len(barred) < len(rest))


def _run_line(profile: str) -> str:
    """Where and in what time the run was made."""
    models, stages = (
        results.read(profile, "metrics"),
        results.read(profile, "stages", optional=True),
    )
    commits, devices = (
        ", ".join(findings.commits(profile)),
        ", ".join(sorted(models["device"].unique())),
    )
    times = models[models["metric"] == "seconds"]
    text = f"Reference run: profile `{profile}`, commit {commits}, on {devices}."
    text += f" Its {(times['method'] != 'base').sum()} trained models took "
    seconds = times.loc[times["method"] != "base", "value"]
    text += f"{seconds.sum() / 60:.0f} minutes to train, note and measure, added up."
    if len(stages):  # they were timed
        peak, machine = stages["peak_mib"].max() / 1024, stages["machine"].iloc[0]
        text += f" Stages ran side by side on {machine}; the largest held {peak:.1f} GiB."
    return text


BLOCKS: dict[str, Callable[[str], str]] = {"answer": answer, "results": numbers}


def write(profile: str) -> None:
    """Put what the tables say between the README's marks; KdlibError where one is missing."""
    file = runs.root() / "README.md"
    text = file.read_text("utf-8")
    for name, block in BLOCKS.items():
        before, begin, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        if not (begin and end):
            marks = f"<!-- {name} --> and <!-- /{name} -->, each in a line of its own"
            raise KdlibError(f"README.md lacks the marks {marks}; put them back")
        text = f"{before}{begin}{block(profile)}\n{end}{after}"
    runs.write_text(file, text)
