"""What a model on disk remembers of a file of tuples: streamed, resumed, reported.

`python -m kdlib audit --help` is its front door.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from kdlib import runs
from kdlib.audit import report, scoring, summary
from kdlib.audit.scoring import Loaded
from kdlib.config.sections import AuditSettings
from kdlib.data import sources, stream_rows
from kdlib.errors import KdlibError
from kdlib.model import checkpoints

BLOCK = 512  # rows read, measured and written at a time
MIB = 2**20
CLAIM = "audit.json"  # written first: whose folder it is


def run(asked: AuditSettings) -> Path:
    """Measure every tuple, or those that an interrupted run left, and write the report.

    Files larger than memory are read a block at a time. Into `asked.out` go rows/part-*.parquet
    (one line per tuple), summary.csv, report.html and manifest.json; nothing is written elsewhere.

    Returns:
        the report's path.

    Raises:
        KdlibError: bad input (see `scoring.load`, `inspect`, `stream_rows.read`), or the folder is
            not this audit's.
    """
    identity = fingerprint(asked)
    facts = claimed(asked.out, identity)
    loaded = scoring.load(asked)
    facts = facts or {"fingerprint": identity, "rows": inspect(asked)}
    with runs.alone(asked.out / "audit"):
        if claimed(asked.out, identity) is None:
            runs.write_text(asked.out / CLAIM, json.dumps(facts, indent=1) + "\n")
        started = time.perf_counter()
        read = measure_all(asked, loaded, facts["rows"])
        call: dict[str, Any] = {"tokens": read, "seconds": time.perf_counter() - started}
        about = write_report(asked, loaded, facts["rows"])
        call |= {"machine": runs.machine(), "threads": torch.get_num_threads()}
        runs.write_manifest(asked.out, identity, **about, last_call=call)
    return asked.out / "report.html"


# --- whose folder, which files ----------------------------------------------------------------


def fingerprint(asked: AuditSettings) -> str:
    """Hash of what the numbers depend on: settings, the data's ends, the models' files.

    The batch is not part of it: who ran out of memory goes on with a smaller one.
    """
    facts: dict[str, Any] = asked.model_dump(mode="json", exclude={"out", "batch"})
    for split, path in asked.files.items():
        stream_rows.require_file(path)
        about = path.stat()
        with path.open("rb") as file:
            ends = file.read(MIB)
            file.seek(max(0, about.st_size - MIB))
            ends += file.read(MIB)
        place = [str(path.resolve()), about.st_size, about.st_mtime_ns]
        facts[split] = [*place, runs.digest(ends.hex())]
    for name in ("model", "reference"):
        folder = Path(facts[name] or "")
        if facts[name] and folder.is_dir():
            found = [(one.name, one.stat()) for one in sorted(folder.iterdir()) if one.is_file()]
            facts[name] = [[one, about.st_size, about.st_mtime_ns] for one, about in found]
    return runs.fingerprint(facts)


def claimed(folder: Path, identity: str) -> dict[str, Any] | None:
    """What was written first into a folder of this audit; None where nothing was yet.

    Raises:
        KdlibError: it holds another audit, or something else.
    """
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if CLAIM not in there:
        if there - {"audit.lock"} or folder.is_file():
            raise KdlibError(f"{folder} holds something else; name a new folder with --out")
        return None
    try:
        facts = json.loads((folder / CLAIM).read_text("utf-8"))
    except json.JSONDecodeError:
        facts = {}
    if facts.get("fingerprint") != identity:
        raise KdlibError(
            f"{folder} holds the audit of another model, other data or other settings; name a new "
            "folder with --out, or remove this one"
        )
    return facts


def inspect(asked: AuditSettings) -> dict[str, dict[str, int]]:
    """Read the files once, before a model does: what is wrong with them is told within moments.

    Of the held-out file, 8 bytes a row are kept (a hash of each response), against which the
    member rows stream by: a million held-out rows take 8 MiB, and members none.

    Returns:
        by split: rows, and how many of them are empty (no instruction or no response).

    Raises:
        KdlibError: unreadable (see `stream_rows.read`), all rows empty, or responses in both files.
    """
    found: dict[str, dict[str, int]] = {}
    seen, shared = np.array([], np.uint64), 0
    first: list[str] = []
    for split in reversed(asked.files):
        found[split], hashes = {"rows": 0, "empty": 0}, [seen[:0]]
        for block in stream_rows.read(asked.files[split], asked.columns, BLOCK):
            whole = complete(block)
            found[split]["rows"] += len(block)
            found[split]["empty"] += len(block) - len(whole)
            own = [int(runs.digest(sources.normalised(text)), 16) for text in whole["response"]]
            if split == "held_out":
                hashes.append(np.array(own, np.uint64))
                continue
            both = np.isin(np.array(own, np.uint64), seen)
            shared += int(both.sum())
            first += list(whole["response"][both][: 3 - len(first)])
        seen = np.unique(np.concatenate(hashes)) if split == "held_out" else seen
        if found[split]["rows"] == found[split]["empty"]:
            raise KdlibError(
                f"{asked.files[split]}: every row has an empty instruction or response; name the "
                "right columns with --columns"
            )
    if shared:
        told = "; ".join(repr(text[:60]) for text in first)
        raise KdlibError(
            f"{shared} member rows have a response that a held-out row has too: {told}; rows like "
            "these tell nothing of guessing: remove them from the held-out file"
        )
    return found


def complete(block: pd.DataFrame) -> pd.DataFrame:
    """The rows that have an instruction and a response."""
    return block[(block["instruction"] != "") & (block["response"] != "")]


def parts(folder: Path) -> list[Path]:
    """The finished parts, in order."""
    return sorted((folder / "rows").glob("part-*.parquet"))


# --- measuring and reporting -------------------------------------------------------------------


def measure_all(asked: AuditSettings, loaded: Loaded, rows: dict[str, dict[str, int]]) -> int:
    """Write the parts that are not there yet; how many tokens were read for them."""
    done, read, number = len(parts(asked.out)), 0, 0
    slow = 0.5 if sys.stderr.isatty() else 10  # seconds between two lines of a batch log
    total = sum(counted["rows"] for counted in rows.values())
    with tqdm(total=total, desc="audit", unit="row", mininterval=slow) as bar:
        for split, path in asked.files.items():
            for block in stream_rows.read(path, asked.columns, BLOCK):
                if number >= done:
                    frame, count = scoring.measured(complete(block), split, asked, loaded)
                    runs.write_table(asked.out / "rows" / f"part-{number:05d}.parquet", frame)
                    read += count
                    seconds = bar.format_dict["elapsed"]
                    bar.set_postfix_str(f"{read / max(seconds, 1e-9):,.0f} tokens/s", refresh=False)
                number += 1
                bar.update(len(block))
    return read


def write_report(
    asked: AuditSettings, loaded: Loaded, rows: dict[str, dict[str, int]]
) -> dict[str, Any]:
    """Write summary.csv and report.html from the parts.

    Returns:
        what was audited: the settings, the longest tuple (tokens), the device, and by split the
        rows: how many there are, are empty, do not fit, were cut, and were measured.
    """
    tallied = summary.tally(parts(asked.out))
    table = summary.summary(tallied)
    runs.write_table(asked.out / "summary.csv", table)
    about = asked.model_dump(mode="json") | {
        "limit": loaded.limit,
        "device": str(checkpoints.device()),
    }
    about["rows"] = {}
    for split in asked.files:
        counted = rows[split]
        found = tallied.splits.get(split, summary.Counts())
        too_long = counted["rows"] - counted["empty"] - found.n
        here = {"measured": found.n, "too_long": too_long, "cut": found.cut}
        about["rows"][split] = counted | here
    top = tallied.top
    if len(top):
        tokenizer = loaded.tokenizer
        ids = tokenizer(list(top["response"]), add_special_tokens=False)["input_ids"]
        begun = [one[:prefix] for one, prefix in zip(ids, top["prefix"], strict=True)]
        top = top.assign(verbatim=tokenizer.batch_decode(begun))
    sample = summary.attacked(tallied)
    runs.write_text(asked.out / "report.html", report.page(table, sample, top, about))
    return about
