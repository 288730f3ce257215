"""What the reference run found: put into notebooks, and held against its tables.

A finding stands in the notebook's cell tagged `finding`, behind a heading: the answer of `answers`,
and folded behind it the sentences of `sentences`.
"""

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from kdlib import runs
from kdlib.config.methods import METHODS, PAPER
from kdlib.config.profile import Profile, load_profile
from kdlib.errors import KdlibError
from kdlib.report import answers, lookups, results, sentences
from kdlib.report.from_scratch import LEDGERS
from kdlib.report.from_scratch import PROFILE as SCRATCH
from kdlib.stats import MIN_SEEDS

REFERENCE = "laptop"  # the profile whose committed tables README and notebooks speak of
OPENING = "**In the reference run**"
FROM_SCRATCH = "**Models from scratch**"
FOLD = "<details><summary>In full, and how sure</summary>"


def said(stem: str, settings: Profile) -> str:
    """The finding of a notebook in the tables of a profile; of what was not run, what makes it."""
    return re.sub(r" *\n\n *", "\n\n", " ".join(parts(stem, settings))).rstrip()


def parts(stem: str, settings: Profile) -> list[str]:
    """The sentences of this finding."""
    texts, missing = _sentences(stem, settings)
    if missing:
        subject = "The rest" if texts else "This"
        texts.append(f"{subject} was not run: `{_command(settings.name, missing)}` makes it.")
    return texts


def _sentences(stem: str, settings: Profile) -> tuple[list[str], list[str]]:
    """The sentences whose tables are there, and what makes the tables of each other one."""
    texts, missing = [], list[str]()
    for requirement, sentence in sentences.OF[stem]:
        try:
            text = sentence(settings)
        except lookups.NotRun:
            missing.append(requirement)
        else:
            texts += [capital(text)] if text else []
    return texts, missing


def from_scratch(stem: str, settings: Profile) -> str:
    """What a notebook found on models from scratch, where a profile's models were not asked.

    "" where they were, or models from scratch were not. Of 14 to 16 (LEDGERS) also where a
    profile's models are of fewer seeds than a verdict takes.
    """
    if settings.name == SCRATCH:
        return ""
    if _sentences(stem, settings)[0] and (
        stem not in LEDGERS or len(lookups.probed(settings)) >= MIN_SEEDS
    ):
        return ""
    scratch = load_profile(SCRATCH)
    text = with_intervals(stem, scratch) if _sentences(stem, scratch)[0] else ""
    return text and f"{FROM_SCRATCH} (profile `{SCRATCH}`): {text}"


def answer(stem: str, settings: Profile) -> str:
    """The answer to a notebook's question in one sentence; "" where it has none.

    Where a profile's models were not asked, of models from scratch.
    """
    with suppress(KeyError, lookups.NotRun):
        return capital(answers.OF[stem](settings))
    if not from_scratch(stem, settings):
        return ""
    with suppress(KeyError, lookups.NotRun):
        return f"{FROM_SCRATCH}: {answers.OF[stem](load_profile(SCRATCH))}"
    return ""


def capital(text: str) -> str:
    """A sentence with its first letter large."""
    return text[0].upper() + text[1:]


def cell(stem: str) -> str:
    """The finding of a notebook in the reference run, as it stands in its cell."""
    reference, scratch = load_profile(REFERENCE), load_profile(SCRATCH)
    text = _answered(OPENING, stem, reference, _commits_clause(REFERENCE, stem))
    if not from_scratch(stem, reference):
        return text
    n = lookups.lines(SCRATCH, "lengths", split="member")["rows"].min()
    note = f"{_commits_clause(SCRATCH, stem)}; {n} member rows a seed. Small and not pretrained: "
    note += "what is found of them need not hold for a pretrained model. Their answers are too bad "
    note += "to be judged, and *useful* means a low held-out loss"
    return f"{text}\n\n{_answered(FROM_SCRATCH, stem, scratch, note)}"


def _answered(opening: str, stem: str, settings: Profile, note: str) -> str:
    """The answer in a sentence, and folded behind it the finding; this alone where it is none."""
    text, profile = with_intervals(stem, settings), f"profile `{settings.name}`"
    try:
        sentence = answers.OF[stem](settings)
    except (KeyError, lookups.NotRun):
        return f"{opening} ({profile}{note}): {text}"
    folded = f"{FOLD}\n\n{capital(profile)}{note}.\n\n{text}\n\n</details>"
    return f"{opening}: **{capital(sentence)}**\n\n{folded}"


def _commits_clause(profile: str, stem: str = "") -> str:
    """The commits at which the models of a profile, or of a notebook, were made; behind a name."""
    ledger = results.read(profile, LEDGERS.get(stem, ""), optional=True)
    hashes = ledger["commit"][0].split() if "commit" in ledger else commits(profile)
    quoted = [f"`{commit}`" for commit in hashes]
    if len(quoted) > 1:
        return f", models made at the commits {', '.join(quoted)}"
    return "".join(f", commit {commit}" for commit in quoted)


def check(stem: str, profile: str) -> None:
    """Hold the finding in a notebook's source against the tables of the reference run.

    KdlibError where they differ. Nothing is held, and one line says so, where the notebook runs for
    the reference run itself, or its tables are not here, or of another run than the finding. What
    it says of models from scratch is not held where they ran or run anew.
    """
    file = runs.root() / "notebooks" / f"{stem}.ipynb"
    if profile == REFERENCE:
        print("the finding quotes this run; `python -m kdlib findings` computes it from its tables")
        return
    if not commits() or not file.is_file():
        print("the finding quotes the reference run; here is nothing to compare it with")
        return
    finding = _place(json.loads(file.read_text("utf-8")), file)[2]
    actual, expected = finding.partition(FROM_SCRATCH), cell(stem).partition(FROM_SCRATCH)
    rerun = profile == SCRATCH or not _quotes(actual[2], SCRATCH)
    if not _quotes(actual[0], REFERENCE):
        print("the finding quotes an earlier run than that of the tables here: not compared")
    elif actual[0].rstrip() != expected[0].rstrip() or not (rerun or actual == expected):
        message = f"the finding in {file.name} is not what data/results/{REFERENCE} says"
        raise KdlibError(f"{message}; write it anew with: python -m kdlib findings")


def _quotes(text: str, profile: str) -> bool:
    """Whether a text names a commit at which a profile's models were made."""
    return any(commit in text for commit in commits(profile))


def write() -> None:
    """Write the findings into the notebooks and their executed copies."""
    folder = runs.root() / "notebooks"
    for file in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        _write_cell(file, file.stem)
    copies = (
        path
        for profile in (REFERENCE, SCRATCH)
        for path in (folder / "executed" / profile).glob("*")
    )
    for file in sorted(path for path in copies if path.suffix == ".ipynb"):
        if '"finding"' in file.read_text("utf-8"):  # else it was executed before there were any
            _write_cell(file, file.stem.partition("-seed")[0])


def with_intervals(stem: str, settings: Profile) -> str:
    """The finding, and what its intervals are over, where it has any."""
    text = said(stem, settings)
    if "[" not in text:
        return text
    separator = "\n\n" if text.endswith("|") else " "  # behind a table
    return f"{text}{separator}{sentences.interval_note(settings, text, stem in LEDGERS)}"


def commits(profile: str = REFERENCE) -> list[str]:
    """Those that a profile's models were made at, by seed; none where it was not run."""
    metrics = results.read(profile, "metrics", optional=True)
    if metrics.empty:
        return []
    models = metrics[metrics["size"] != "all"].sort_values(
        "seed", kind="stable"
    )  # no trivial answers
    return list(dict.fromkeys(models["commit"]))


def _command(profile: str, missing: list[str]) -> str:
    """What makes the methods and parts that sentences asked for."""
    methods = [name for name in dict.fromkeys(missing) if name in METHODS and name not in PAPER]
    parts = [name for name in dict.fromkeys(missing) if name and name not in METHODS]
    words = [f"make study PROFILE={profile}", *(f"PARTS={part}" for part in parts)]
    return " ".join([*words, f'METHODS="{" ".join(methods)}"'] if methods else words)


def _place(notebook: Any, file: Path) -> tuple[dict[str, Any], str, str]:
    """The cell tagged `finding`, what stands in it before the finding, and the finding."""
    cells = [block for block in notebook["cells"] if "finding" in block["metadata"].get("tags", [])]
    source = "".join(cells[0]["source"]) if len(cells) == 1 else ""
    head, opening, text = source.partition(OPENING)
    if not opening:
        message = f"needs one cell tagged `finding`, with a heading and {OPENING}"
        raise KdlibError(f"{file.name} {message}; put it back")
    return cells[0], head, opening + text


def _write_cell(file: Path, stem: str) -> None:
    notebook, stat = json.loads(file.read_text("utf-8")), file.stat()
    block, head, finding = _place(notebook, file)
    if (text := cell(stem)) != finding:
        block["source"] = f"{head}{text}".splitlines(keepends=True)
        runs.write_text(file, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
        # nothing is computed from this cell: no stage is due again
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
