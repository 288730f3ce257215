"""What a model remembers of a file of tuples, streamed (see `python -m kdlib audit --help`)."""

import json
import os
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from kdlib import runs
from kdlib.audit import (
    brief,
    gate,
    policy,
    prices,
    record,
    report,
    scoring,
    secrets,
    summary,
    verifying,
)
from kdlib.audit.scoring import Loaded
from kdlib.config.profile import read_templates
from kdlib.config.sections import SECRETS, AuditSettings
from kdlib.data import sources, stream_rows
from kdlib.errors import KdlibError
from kdlib.model import checkpoints, packaged

BLOCK = 512  # rows read, measured and written at a time
MIB = 2**20
GATE = "gate.csv"
COST = "cost.json"
CLAIM = "audit.json"  # written first: whose folder it is
Rows = dict[str, dict[str, int]]  # by split: rows, and how many of them are empty


def run(
    settings: AuditSettings,
    asked: policy.Read | None = None,
    sign: Path | None = None,
    priced: Path | None = None,
) -> Path:
    """Measure every tuple, or those that an interrupted run left; the path of the report.

    Files may be larger than memory. Only into `settings.out` go rows/part-*.parquet (one line per
    tuple), summary.csv, report.html and manifest.json, with a policy also gate.csv, cost.json,
    the record, which the private key of the file `sign` signs, and the brief, with the prices of
    the file `priced`; a model "package:NAME" is kept where the study keeps it, too. KdlibError: bad
    input (see `scoring.load`, `inspect`, `stream_rows.read`, `gate.require_rows`,
    `record.private_key`, `prices.read`), or the folder is not this audit's.
    """
    key, table = None if sign is None else record.private_key(sign), prices.read(priced)
    if key is not None and asked is None:
        raise KdlibError("--sign signs the record of a gated audit; name a policy with --policy")
    if priced is not None and asked is None:
        raise KdlibError("--prices is for the brief of a gated audit; name a policy with --policy")
    identity = fingerprint(settings)
    facts = claimed(settings.out, identity)
    loaded = scoring.load(settings)
    if facts is None:
        facts = {"fingerprint": identity, "rows": inspect(settings, loaded.tokenizer.eos_token)}
        facts["files"] = record.digests(settings)
    else:
        record.require_same(settings, facts["files"])
    if asked is not None:
        gate.require_rows(asked.policy, facts["rows"])
    with runs.alone(settings.out / "audit"):
        if claimed(settings.out, identity) is None:
            runs.write_text(settings.out / CLAIM, json.dumps(facts, indent=1) + "\n")
        started = time.perf_counter()
        call: dict[str, Any] = {"machine": runs.machine(), "threads": torch.get_num_threads()}
        call["tokens"] = measure_all(settings, loaded, facts["rows"])
        call["seconds"] = time.perf_counter() - started
        record.require_same(settings, facts["files"])
        loaded = replace(loaded, reference=None)  # its memory is none of the model's costs
        about = write_report(settings, loaded, facts, asked, key)
        if asked is not None:
            brief.write(settings.out, table)
        runs.write_manifest(settings.out, identity, **about, last_call=call)
    return settings.out / "report.html"


def fingerprint(settings: AuditSettings) -> str:
    """Hash of settings, the data's ends, the models' files; a smaller batch goes on with a run."""
    facts = described(settings, {"out", "batch", "show_rows"})
    facts["measured by"] = [version("kdlib"), str(checkpoints.device())]
    for split, path in settings.files.items():
        stream_rows.require_file(path)
        about, data = path.stat(), np.memmap(path, mode="r")
        ends = runs.digest((data[:MIB].tobytes() + data[-MIB:].tobytes()).hex())
        facts[split] = [str(path.resolve()), about.st_size, about.st_mtime_ns, ends]
    for name in ("model", "reference"):
        if packed := packaged.sha256(facts[name]):
            facts[name] = packed  # known before it is fetched
        elif facts[name] and (folder := Path(facts[name])).is_dir():
            files = [(one.name, one.stat()) for one in sorted(folder.iterdir()) if one.is_file()]
            facts[name] = [[one, about.st_size, about.st_mtime_ns] for one, about in files]
    return runs.fingerprint(facts)


def described(settings: AuditSettings, exclude: set[str] | None = None) -> dict[str, Any]:
    """The settings as text and numbers; a shipped template by its name."""
    facts = settings.model_dump(mode="json", exclude=exclude)
    names = [name for name, one in read_templates().items() if one == settings.template]
    return facts | {"template": names[0] if names else facts["template"]}


def claimed(folder: Path, identity: str) -> dict[str, Any] | None:
    """What was written first into a folder of this audit; None where nothing was yet.

    KdlibError: it holds another audit or something else, or cannot be written to.
    """
    above = next(one for one in (folder, *folder.parents) if os.path.lexists(one))
    if not above.is_dir() or not os.access(above, os.R_OK | os.W_OK | os.X_OK):
        raise KdlibError(f"{above} is no folder that can be written to; name another with --out")
    there = set(os.listdir(folder)) if folder.is_dir() else set()
    if CLAIM not in there:
        if there - {"audit.lock"}:
            raise KdlibError(f"{folder} holds something else; name a new folder with --out")
        return None
    with suppress(ValueError, RecursionError, TypeError, KeyError):  # no claim at all
        facts = json.loads((folder / CLAIM).read_text("utf-8"))
        if facts["fingerprint"] == identity and facts["files"]:
            return facts
    what = "the audit of another model, other data or other settings"
    raise KdlibError(f"{folder} holds {what}; name a new folder with --out, or remove this one")


def inspect(settings: AuditSettings, end: str) -> Rows:
    """Read the files once, before they are measured: what is wrong with them shows at once.

    Of the held-out file, a hash of each response is kept (8 bytes), against which the member rows
    stream by. KdlibError: unreadable (see `stream_rows.read`), all rows empty, a response that
    holds the text of the end token, responses in both files, secrets that stand in no row, or in
    the held-out file alone.
    """
    counted: Rows = {}
    held_out, shared, first = np.array([], np.uint64), 0, None
    named = not scoring.detects(settings)
    for split in reversed(settings.files):
        path, counts, hashes = settings.files[split], Counter(rows=0, empty=0), [held_out]
        column = stream_rows.has(path, settings.columns.get(SECRETS, SECRETS))
        if column and not named:
            lacking = f"has a column '{SECRETS}', and {settings.data} has none"
            raise KdlibError(f"{path} {lacking}; name the strings of both files, or of none")
        said = {True: 0, False: 0}  # strings of the column secrets, by whether they can be found
        for block in scoring.blocks(path, settings, BLOCK):
            if not column and (late := block.index[block[SECRETS] != ""]).size:
                lacking = f"row {late[0]} has '{SECRETS}', and the first row has none"
                raise KdlibError(f"{path}: {lacking}; give that column to every row, if empty")
            for row in block[[SECRETS, *secrets.TEXTS]].to_dict("records") if column else ():
                for one in secrets.named(row[SECRETS]):
                    said[any(one in row[name] for name in secrets.TEXTS)] += 1
            texts = block.query(scoring.COMPLETE)["response"]
            stream_rows.require_plain(texts.rename(lambda n, path=path: f"{n} of {path}"), end)
            counts.update(rows=len(block), empty=len(block) - len(texts))
            hashes.append(pd.util.hash_array(texts.map(sources.normalised).to_numpy(object)))
            if split == "member" and (both := np.isin(hashes.pop(), held_out)).any():
                shared += both.sum()
                first = texts.index[both][0] if first is None else first
        if column:
            counts["unfound"] = said[False]
        held_out, counted[split] = np.unique(np.concatenate(hashes)), counts
        if column and not said[True]:
            few = f"none of its {said[False]} strings stands in its row"
            what = few if said[False] else "no row has a string there"
            raise KdlibError(f"{path}: column '{SECRETS}': {what}; fill it, or rename it")
        if counts["rows"] == counts["empty"]:
            empty = "every row has an empty instruction or response"
            raise KdlibError(f"{path}: {empty}; name the right columns with --columns")
    if shared:
        what = f"{shared} member rows have a response that a held-out row has too, the first is row"
        what += f" {first} of {settings.data}; they tell nothing of guessing"
        raise KdlibError(f"{what}: remove them from {settings.files['held_out']}")
    return counted


def parts(folder: Path) -> list[Path]:
    """The finished parts, in order."""
    return sorted((folder / "rows").glob("part-*.parquet"))


def whole(part: Path) -> bool:
    """Whether a part is there, to its end: a power cut may leave one empty."""
    with suppress(pa.ArrowException, FileNotFoundError):
        return pq.read_metadata(part) is not None
    return False


def measure_all(settings: AuditSettings, loaded: Loaded, rows: Rows) -> int:
    """Write the parts that are not there yet; how many tokens were read for them."""
    read, number, total = 0, 0, sum(counts["rows"] for counts in rows.values())
    slow = 0.5 if sys.stderr.isatty() else 10  # seconds between two lines of a batch log
    with tqdm(total=total, desc="audit", unit="row", mininterval=slow) as bar:
        for split, path in settings.files.items():
            n = rows[split]["rows"]
            chosen = np.random.default_rng(0).choice(n, min(n, settings.decode), replace=False)
            decode = frozenset((1 + chosen).tolist())
            for block in scoring.blocks(path, settings, BLOCK):
                part = settings.out / "rows" / f"part-{number:05d}.parquet"
                if not whole(part):
                    given = block.query(scoring.COMPLETE), split, settings, loaded, decode
                    frame, count = scoring.measured(*given)
                    runs.write_table(part, frame)
                    read += count
                    speed = read / max(bar.format_dict["elapsed"], 1e-9)
                    bar.set_postfix_str(f"{speed:,.0f} tokens/s", refresh=False)
                number += 1
                bar.update(len(block))
    return read


def costs(settings: AuditSettings, loaded: Loaded) -> dict[str, Any]:
    """What `cost.answering` found, timed once and kept."""
    with suppress(FileNotFoundError, ValueError):
        found: dict[str, Any] = json.loads((settings.out / COST).read_text("utf-8"))
        return found
    found = scoring.cost_of(settings, loaded)
    runs.write_text(settings.out / COST, json.dumps(found, indent=1) + "\n")
    return found


def write_report(
    settings: AuditSettings,
    loaded: Loaded,
    facts: dict[str, Any],
    asked: policy.Read | None = None,
    key: Any = None,
) -> dict[str, Any]:
    """Write what stands in `run`, but for the manifest, from the parts; what was audited.

    That is the settings, limit and vocabulary (tokens), the device, how many prompts were scored,
    how many secrets there are, in which parts, and whether they were detected; and by split how
    many rows there are, are empty, measured, too long, and cut. KdlibError: a verdict is asked of a
    model whose tokenizer is hardly its own.
    """
    rows, tallied = facts["rows"], summary.tally(parts(settings.out))
    table = summary.summary(tallied)
    runs.write_table(settings.out / "summary.csv", table)
    about = described(settings) | {"limit": loaded.limit, "device": str(checkpoints.device())}
    about |= {"vocabulary": len(loaded.tokenizer), "rows": {}, "files": facts["files"]}
    about["blind"] = summary.blind(tallied, len(loaded.tokenizer))
    if about["blind"] and asked is not None:  # nothing comes out of it, and it would pass
        why = f"'{settings.model}' expects its training rows less than a blind guess does"
        remedy = "its tokenizer or --template is not its own; without --policy there is a report"
        raise KdlibError(f"no verdict: {why}; {remedy}")
    about["prompts"] = sum(sums["prompts"] for sums in tallied.sums.values())
    about["detected"] = scoring.detects(settings)
    found = summary.secrets(tallied)
    inside = found[found["member"]]
    about["secrets"] = len(inside)
    about["secret_parts"] = [part for part in secrets.PARTS if part in set(inside["part"])]
    for split in settings.files:
        counts, sums = rows[split], tallied.sums.get(split, Counter())
        too_long = counts["rows"] - counts["empty"] - sums["n"]
        here = {"measured": sums["n"], "too_long": too_long, "cut": sums["cut"]}
        here["lost"] = sums["lost"]
        about["rows"][split] = counts | here
    top = tallied.top
    if len(top):
        ids = loaded.tokenizer(list(top["response"]), add_special_tokens=False)["input_ids"]
        begun = [one[:prefix] for one, prefix in zip(ids, top["prefix"], strict=True)]
        top = top.assign(verbatim=loaded.tokenizer.batch_decode(begun))
    said = None
    if asked is not None:
        sample = summary.sampled(tallied)
        judged = gate.judged(sample, found, asked.policy, about["rows"])
        out = gate.unasked(sample, found, asked.policy, about["rows"])
        about["left_out"] = [one.name for one in out]
        about["short"] = [one.at for one in out if one.measure == "prompt_run"]
        about["unlimited"] = gate.unlimited(found, asked.policy)
        if not about["rows"]["member"]["measured"]:
            why = "no training row fits, so that there is nothing to judge or to time"
            raise KdlibError(f"no verdict: {why}; raise --max-length, or shorten the prompts")
        about["cost"] = costs(settings, loaded)
        runs.write_table(settings.out / GATE, judged)
        record.write(settings.out, record.statement(settings, asked, judged, about), key)
        said = gate.sentences(judged, about["left_out"])
    page = report.page(table, summary.attacked(tallied), top, about, said)
    runs.write_text(settings.out / "report.html", page)
    return about


def verdict(folder: Path) -> tuple[str, list[str]]:
    """The outcome of a gated audit that lies in a folder, and `gate.sentences` of it."""
    table = pd.read_csv(folder / GATE)
    left_out = verifying.read(folder / record.RECORD)["predicate"].get("kdlib_left_out", [])
    return gate.outcome(table), gate.sentences(table, left_out)
