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
    policy_file: policy.PolicyFile | None = None,
    key_path: Path | None = None,
    price_path: Path | None = None,
) -> Path:
    """Measure every tuple, or those that an interrupted run left; the path of the report.

    Files may be larger than memory. Only into `settings.out` go rows/part-*.parquet (one line per
    tuple), summary.csv, report.html and manifest.json, with a policy also gate.csv, cost.json,
    the record, which the private key in `key_path` signs, and the brief, with the prices in
    `price_path`; a model "package:NAME" is kept where the study keeps it, too. KdlibError: bad
    input (see `scoring.load`, `inspect`, `stream_rows.read`, `gate.require_rows`,
    `record.private_key`, `prices.read`), or the folder is not this audit's.
    """
    key, table = None if key_path is None else record.private_key(key_path), prices.read(price_path)
    if key is not None and policy_file is None:
        raise KdlibError("--sign signs the record of a gated audit; name a policy with --policy")
    if price_path is not None and policy_file is None:
        raise KdlibError("--prices is for the brief of a gated audit; name a policy with --policy")
    identity = fingerprint(settings)
    claim = read_claim(settings.out, identity)
    loaded = scoring.load(settings)
    if claim is None:
        claim = {"fingerprint": identity, "rows": inspect(settings, loaded.tokenizer.eos_token)}
        claim["files"] = record.digests(settings)
    else:
        record.require_same(settings, claim["files"])
    if policy_file is not None:
        gate.require_rows(policy_file.policy, claim["rows"])
    with runs.locked(settings.out / "audit"):
        if read_claim(settings.out, identity) is None:
            runs.write_text(settings.out / CLAIM, json.dumps(claim, indent=1) + "\n")
        start = time.perf_counter()
        call: dict[str, Any] = {"machine": runs.machine(), "threads": torch.get_num_threads()}
        call["tokens"] = measure_all(settings, loaded, claim["rows"])
        call["seconds"] = time.perf_counter() - start
        record.require_same(settings, claim["files"])
        loaded = replace(loaded, reference=None)  # its memory is none of the model's costs
        audit = write_report(settings, loaded, claim, policy_file, key)
        if policy_file is not None:
            brief.write(settings.out, table)
        runs.write_manifest(settings.out, identity, **audit, last_call=call)
    return settings.out / "report.html"


def fingerprint(settings: AuditSettings) -> str:
    """Hash of settings, the data's ends, the models' files; a smaller batch goes on with a run."""
    inputs = described(settings, {"out", "batch", "show_rows"})
    inputs["measured by"] = [version("kdlib"), str(checkpoints.device())]
    for split, path in settings.files.items():
        stream_rows.require_file(path)
        stat, data = path.stat(), np.memmap(path, mode="r")
        ends = runs.digest((data[:MIB].tobytes() + data[-MIB:].tobytes()).hex())
        inputs[split] = [str(path.resolve()), stat.st_size, stat.st_mtime_ns, ends]
    for name in ("model", "reference"):
        if digest := packaged.sha256(inputs[name]):
            inputs[name] = digest  # known before it is fetched
        elif inputs[name] and (folder := Path(inputs[name])).is_dir():
            files = [(f.name, f.stat()) for f in sorted(folder.iterdir()) if f.is_file()]
            inputs[name] = [[filename, stat.st_size, stat.st_mtime_ns] for filename, stat in files]
    return runs.fingerprint(inputs)


def described(settings: AuditSettings, exclude: set[str] | None = None) -> dict[str, Any]:
    """The settings as text and numbers; a shipped template by its name."""
    fields = settings.model_dump(mode="json", exclude=exclude)
    names = [name for name, template in read_templates().items() if template == settings.template]
    return fields | {"template": names[0] if names else fields["template"]}


def read_claim(folder: Path, identity: str) -> dict[str, Any] | None:
    """What was written first into a folder of this audit; None where nothing was yet.

    KdlibError: it holds another audit or something else, or cannot be written to.
    """
    existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not existing.is_dir() or not os.access(existing, os.R_OK | os.W_OK | os.X_OK):
        raise KdlibError(f"{existing} is no folder that can be written to; name another with --out")
    entries = set(os.listdir(folder)) if folder.is_dir() else set()
    if CLAIM not in entries:
        if entries - {"audit.lock"}:
            raise KdlibError(f"{folder} holds something else; name a new folder with --out")
        return None
    with suppress(ValueError, RecursionError, TypeError, KeyError):  # no claim at all
        claim = json.loads((folder / CLAIM).read_text("utf-8"))
        if claim["fingerprint"] == identity and claim["files"]:
            return claim
    contents = "the audit of another model, other data or other settings"
    raise KdlibError(f"{folder} holds {contents}; name a new folder with --out, or remove this one")


def inspect(settings: AuditSettings, eos: str) -> Rows:
    """Read the files once, before they are measured: what is wrong with them shows at once.

    Of the held-out file, a hash of each response is kept (8 bytes), against which the member rows
    stream by. KdlibError: unreadable (see `stream_rows.read`), all rows empty, a response that
    holds the text of the end token, responses in both files, secrets that stand in no row, or in
    the held-out file alone.
    """
    totals: Rows = {}
    held_out, shared, first = np.array([], np.uint64), 0, None
    data_has_column = not scoring.detects(settings)
    for split in reversed(settings.files):
        path, counts, hashes = settings.files[split], Counter(rows=0, empty=0), [held_out]
        has_column = stream_rows.has(path, settings.columns.get(SECRETS, SECRETS))
        if has_column and not data_has_column:
            problem = f"has a column '{SECRETS}', and {settings.data} has none"
            raise KdlibError(f"{path} {problem}; name the strings of both files, or of none")
        string_counts = {True: 0, False: 0}  # of the column secrets, by whether they can be found
        for block in scoring.blocks(path, settings, BLOCK):
            if not has_column and (late := block.index[block[SECRETS] != ""]).size:
                problem = f"row {late[0]} has '{SECRETS}', and the first row has none"
                raise KdlibError(f"{path}: {problem}; give that column to every row, if empty")
            for row in block[[SECRETS, *secrets.TEXTS]].to_dict("records") if has_column else ():
                for string in secrets.named(row[SECRETS]):
                    string_counts[any(string in row[name] for name in secrets.TEXTS)] += 1
            texts = block.query(scoring.COMPLETE)["response"]
            stream_rows.require_plain(texts.rename(lambda n, path=path: f"{n} of {path}"), eos)
            counts.update(rows=len(block), empty=len(block) - len(texts))
            hashes.append(pd.util.hash_array(texts.map(sources.normalised).to_numpy(object)))
            if split == "member" and (overlap := np.isin(hashes.pop(), held_out)).any():
                shared += overlap.sum()
                first = texts.index[overlap][0] if first is None else first
        if has_column:
            counts["unfound"] = string_counts[False]
        held_out, totals[split] = np.unique(np.concatenate(hashes)), counts
        if has_column and not string_counts[True]:
            unfound = f"none of its {string_counts[False]} strings stands in its row"
            note = unfound if string_counts[False] else "no row has a string there"
            raise KdlibError(f"{path}: column '{SECRETS}': {note}; fill it, or rename it")
        if counts["rows"] == counts["empty"]:
            reason = "every row has an empty instruction or response"
            raise KdlibError(f"{path}: {reason}; name the right columns with --columns")
    if shared:
        note = f"{shared} member rows have a response that a held-out row has too, the first is row"
        note += f" {first} of {settings.data}; they tell nothing of guessing"
        raise KdlibError(f"{note}: remove them from {settings.files['held_out']}")
    return totals


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
    tokens_read, number, total = 0, 0, sum(counts["rows"] for counts in rows.values())
    interval = 0.5 if sys.stderr.isatty() else 10  # seconds between two lines of a batch log
    with tqdm(total=total, desc="audit", unit="row", mininterval=interval) as bar:
        for split, path in settings.files.items():
            n = rows[split]["rows"]
            sampled = np.random.default_rng(0).choice(n, min(n, settings.decode), replace=False)
            decode = frozenset((1 + sampled).tolist())
            for block in scoring.blocks(path, settings, BLOCK):
                part = settings.out / "rows" / f"part-{number:05d}.parquet"
                if not whole(part):
                    args = block.query(scoring.COMPLETE), split, settings, loaded, decode
                    frame, n_tokens = scoring.measured(*args)
                    runs.write_table(part, frame)
                    tokens_read += n_tokens
                    speed = tokens_read / max(bar.format_dict["elapsed"], 1e-9)
                    bar.set_postfix_str(f"{speed:,.0f} tokens/s", refresh=False)
                number += 1
                bar.update(len(block))
    return tokens_read


def costs(settings: AuditSettings, loaded: Loaded) -> dict[str, Any]:
    """What `cost.generation_cost` found, timed once and kept."""
    with suppress(FileNotFoundError, ValueError):
        cost: dict[str, Any] = json.loads((settings.out / COST).read_text("utf-8"))
        return cost
    cost = scoring.cost_of(settings, loaded)
    runs.write_text(settings.out / COST, json.dumps(cost, indent=1) + "\n")
    return cost


def write_report(
    settings: AuditSettings,
    loaded: Loaded,
    claim: dict[str, Any],
    policy_file: policy.PolicyFile | None = None,
    key: Any = None,
) -> dict[str, Any]:
    """Write what stands in `run`, but for the manifest, from the parts; what was audited.

    That is the settings, limit and vocabulary (tokens), the device, how many prompts were scored,
    how many secrets there are, in which parts, and whether they were detected; and by split how
    many rows there are, are empty, measured, too long, and cut. KdlibError: a verdict is asked of a
    model whose tokenizer is hardly its own.
    """
    rows, tally = claim["rows"], summary.tally(parts(settings.out))
    table = summary.summary(tally)
    runs.write_table(settings.out / "summary.csv", table)
    audit = described(settings) | {"limit": loaded.limit, "device": str(checkpoints.device())}
    audit |= {"vocabulary": len(loaded.tokenizer), "rows": {}, "files": claim["files"]}
    audit["blind"] = summary.blind(tally, len(loaded.tokenizer))
    if audit["blind"] and policy_file is not None:  # nothing comes out of it, and it would pass
        problem = f"'{settings.model}' expects its training rows less than a blind guess does"
        remedy = "its tokenizer or --template is not its own; without --policy there is a report"
        raise KdlibError(f"no verdict: {problem}; {remedy}")
    audit["prompts"] = sum(sums["prompts"] for sums in tally.sums.values())
    audit["detected"] = scoring.detects(settings)
    secret_table = summary.secrets(tally)
    member_secrets = secret_table[secret_table["member"]]
    audit["secrets"] = len(member_secrets)
    audit["secret_parts"] = [part for part in secrets.PARTS if part in set(member_secrets["part"])]
    for split in settings.files:
        counts, sums = rows[split], tally.sums.get(split, Counter())
        too_long = counts["rows"] - counts["empty"] - sums["n"]
        split_counts = {"measured": sums["n"], "too_long": too_long, "cut": sums["cut"]}
        split_counts["lost"] = sums["lost"]
        audit["rows"][split] = counts | split_counts
    top = tally.top
    if len(top):
        ids = loaded.tokenizer(list(top["response"]), add_special_tokens=False)["input_ids"]
        verbatim = [tokens[:prefix] for tokens, prefix in zip(ids, top["prefix"], strict=True)]
        top = top.assign(verbatim=loaded.tokenizer.batch_decode(verbatim))
    sentences = None
    if policy_file is not None:
        sample = summary.sampled(tally)
        results = gate.judged(sample, secret_table, policy_file.policy, audit["rows"])
        left_out = gate.inapplicable_limits(sample, secret_table, policy_file.policy, audit["rows"])
        audit["left_out"] = [limit.name for limit in left_out]
        audit["short"] = [limit.at for limit in left_out if limit.measure == "prompt_run"]
        audit["unlimited"] = gate.uncovered_secrets(secret_table, policy_file.policy)
        if not audit["rows"]["member"]["measured"]:
            problem = "no training row fits, so that there is nothing to judge or to time"
            raise KdlibError(f"no verdict: {problem}; raise --max-length, or shorten the prompts")
        audit["cost"] = costs(settings, loaded)
        runs.write_table(settings.out / GATE, results)
        record.write(settings.out, record.statement(settings, policy_file, results, audit), key)
        sentences = gate.sentences(results, audit["left_out"])
    page = report.page(table, summary.attacked(tally), top, audit, sentences)
    runs.write_text(settings.out / "report.html", page)
    return audit


def verdict(folder: Path) -> tuple[str, list[str]]:
    """The outcome of a gated audit that lies in a folder, and `gate.sentences` of it."""
    table = pd.read_csv(folder / GATE)
    left_out = verifying.read(folder / record.RECORD)["predicate"].get("kdlib_left_out", [])
    return gate.outcome(table), gate.sentences(table, left_out)
