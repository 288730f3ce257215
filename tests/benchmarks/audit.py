"""The audit against a bare forward pass, its memory, and all scores against the published way.

`make bench` writes data/results/bench/audit-<device>.csv: part, model, tuples, metric, and the
median, least and greatest value over the rounds. Models have the tiny profile's `middle` shape,
and GPT-2's (124M, vocabulary 50,257), with weights from a seed: speed does not depend on what they
know; and there is the packaged one of 135M. Tuples are docstrings, as the tiny profile reads them,
with a made-up telephone in every fifth response and context. In float32; what is compared takes
turns in one process.

- speed: tokens per second of the audit (reading and checking the file, tokenizing, every score of
  responses and prompts, personal data found by its form, with made-up counterparts, writing the
  parts; the report, which costs the same whatever the rows, is in report_s) over those of
  `model(input_ids, attention_mask)` on the same tuples in the same batches.
  audit_seconds_over_forward (at most 1.3 asked) is the same the other way round.
- gated: seconds of a complete gated audit by the policy that ships (half of the rows are held-out,
  and there is the model before its training; loading, digests, gate, record, the time an answer
  takes, report and brief are in it) over those of the plain forward pass of the model over the same
  rows. The audited model is the other one with one weight changed.
- decoded: seconds of the audit with every row answered (`--decode`) over the plain forward pass.
- memory: peak resident MiB of a whole audit of so many tuples, each in a process of its own.
- scores: every score of the lab from one pass, over a plain forward pass of the same batches
  (one_over_plain, at most 1.3 asked); and the published code's way over it.
  There (mimir's get_probabilities) each score asks the target by itself, one text at a time, with
  log-softmax of all logits on the CPU, from which a loop takes token after token: loss, zlib,
  Min-K%, Min-K%++, verbatim (one pass, where published code decodes), and the target's loss again
  for the reference model and for the reference student: 7 passes. In published_over_one the two
  reference passes, which both ways need, are left out of both; in
  published_over_one_with_references they are in both.
"""

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from faker import Faker
from transformers import GPT2Config, GPT2LMHeadModel

from kdlib import runs
from kdlib.analysis import attacks, extraction
from kdlib.audit import command as audit
from kdlib.audit import policy, record, scoring
from kdlib.config.profile import load_profile, read_templates
from kdlib.config.sections import AuditSettings, TokenSettings
from kdlib.data import sources, stream_rows
from kdlib.measure import meter
from kdlib.model import checkpoints, packaged, tokens

ROUNDS = 3
SHORT = read_templates()["short"]
GPT2 = "gpt2 (124M)"
PACKAGED = "SmolLM2-135M-Instruct"
BATCH = {"tiny middle": 64, GPT2: 16, PACKAGED: 16}
PEAK = r"""
import re, sys
from pathlib import Path
from kdlib.audit import command as audit
from kdlib.config.profile import read_templates
from kdlib.config.sections import AuditSettings
model, data, out, batch = sys.argv[1:]
short = read_templates()["short"]
audit.run(
    AuditSettings(model=model, data=Path(data), out=Path(out), batch=int(batch), template=short)
)
# not getrusage: its peak is inherited from the process that started this one
print(int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024)
"""


def seconds(work) -> float:
    """Of one call, with the device's queue emptied."""
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def alternated(*works) -> list[tuple[float, ...]]:
    """Seconds of each, in turns, after one round that warms up."""
    return [tuple(seconds(work) for work in works) for _ in range(ROUNDS + 1)][1:]


def rows_of(n: int) -> pd.DataFrame:
    """So many docstrings of the tiny profile's packages, different responses first."""
    read = sources.read_pydocs(load_profile("tiny").data)
    read = read[read["response"].map(sources.is_prose)]
    read = read[~read["response"].map(sources.normalised).duplicated()]
    kept = read[["instruction", "context", "response", "category"]].sample(frac=1, random_state=0)
    if len(kept) < n:
        raise SystemExit(f"only {len(kept)} docstrings, {n} asked")
    kept = kept.head(n).reset_index(drop=True)
    fake = Faker("ja_JP")
    fake.seed_instance(0)
    for name, first in (("response", 0), ("context", 2)):
        chosen = kept.index[first::5]
        calls = [f" Call 090-{fake.numerify('####-####')} first." for _ in chosen]
        kept.loc[chosen, name] += calls
    return kept


def saved(name: str, folder: Path, rows: pd.DataFrame) -> str | Path:
    """A model of that shape on disk, with a tokenizer trained on the rows; or the packaged one."""
    if name == PACKAGED:
        return f"package:{name}"
    vocabulary = 50257 if name == GPT2 else load_profile("tiny").tokens.vocabulary
    texts = [" ".join(one) for one in rows[["instruction", "context", "response"]].to_numpy()]
    tokenizer = tokens.train_tokenizer(texts, min(vocabulary, 16_000))
    if name == GPT2:
        torch.manual_seed(0)
        end = tokenizer.eos_token_id
        model = GPT2LMHeadModel(GPT2Config(bos_token_id=end, eos_token_id=end))
    else:
        model = checkpoints.make_model(load_profile("tiny").models["middle"], tokenizer, 1024, 0)
    checkpoints.save_model(model, tokenizer, folder)
    return folder


def batches(loaded, data: Path, batch: int) -> list[tokens.Batch]:
    """The batches in which the audit reads the file's tuples."""
    settings = TokenSettings(max_prompt=loaded.limit - 1, max_length=loaded.limit)
    found = []
    for block in stream_rows.read(data, {}, audit.BLOCK):
        rows = block.assign(row_id=[str(i) for i in block.index]).to_dict("records")
        examples = tokens.encode(rows, loaded.tokenizer, settings, SHORT)
        for group, size in scoring.length_groups(examples, batch):
            chosen = [examples[i] for i in group]
            found += [tokens.collate(part, 0) for part in tokens.by_length(chosen, size)]
    return found


def forward(model, read: list[tokens.Batch]) -> None:
    """The bare forward pass, all logits made and dropped."""
    where = next(model.parameters()).device
    with torch.no_grad(), checkpoints.inference(model):
        for batch in read:
            here = batch.to(where)
            model(input_ids=here.input_ids, attention_mask=here.attention_mask)


# --- the published code's way -----------------------------------------------------------------


def log_probabilities(model, example) -> tuple[torch.Tensor, torch.Tensor]:
    """One text through the model: log-softmax of all logits on the CPU, at the response's tokens.

    Returns:
        [n, V] and [n].
    """
    where = next(model.parameters()).device
    ids = torch.tensor([example.prompt + example.response], device=where)
    with torch.no_grad():
        all_logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].cpu()
    log_p = torch.log_softmax(all_logits.float(), dim=-1)
    return log_p[len(example.prompt) - 1 : -1], torch.tensor(example.response)


def taken(log_p, ids) -> np.ndarray:
    """The tokens' own values, one after the other."""
    return np.array([log_p[i, token].item() for i, token in enumerate(ids)])


def loss_of(model, example) -> float:
    return -float(taken(*log_probabilities(model, example)).mean())


def min_k_of(model, example) -> float:
    own = sorted(taken(*log_probabilities(model, example)))
    return float(np.mean(own[: max(1, int(len(own) * 0.2))]))


def min_k_plus_of(model, example) -> float:
    log_p, ids = log_probabilities(model, example)
    p = log_p.exp()
    mean = (p * log_p).sum(-1)
    spread = ((p * log_p.square()).sum(-1) - mean.square()).sqrt()
    z = sorted((taken(log_p, ids) - mean.numpy()) / spread.numpy())
    return float(np.mean(z[: max(1, int(len(z) * 0.2))]))


def prefix_of(model, example) -> int:
    log_p, ids = log_probabilities(model, example)
    wrong = (log_p.argmax(-1) != ids).nonzero()
    return int(wrong[0]) if len(wrong) else len(ids)


def published(model, examples, texts, references=()) -> pd.DataFrame:
    """Every score by itself; without references, their losses are 0 at no cost."""
    frame = pd.DataFrame({"nats_per_token": [loss_of(model, one) for one in examples]})
    pairs = list(zip(examples, texts, strict=True))
    frame["zlib"] = [-loss_of(model, one) / len(zlib.compress(s.encode())) for one, s in pairs]
    frame["min_k"] = [min_k_of(model, one) for one in examples]
    frame["min_k_plus"] = [min_k_plus_of(model, one) for one in examples]
    frame["prefix"] = [prefix_of(model, one) for one in examples]
    for i in range(2):
        of = [loss_of(references[i], one) if references else 0.0 for one in examples]
        frame[f"reference_{i}"] = np.array(of) - [loss_of(model, one) for one in examples]
    return frame


def ours(model, examples, texts, batch, references=()) -> pd.DataFrame:
    """The same scores and more from one pass."""
    frame = meter.meter(model, examples, pad_id=0, batch=batch)
    other = [meter.meter(one, examples, pad_id=0, batch=batch) for one in references]
    found = [one["nats_per_token"] for one in other] or [0.0 * frame["nats_per_token"]] * 2
    return frame.join(attacks.membership(frame, extraction.zlib_bytes(texts), *found)[["zlib"]])


# --- the parts --------------------------------------------------------------------------


def speed(name: str, folder: Path, rows: pd.DataFrame) -> dict[str, list[float]]:
    """Part (a)."""
    data = folder / "speed.jsonl"
    rows.to_json(data, orient="records", lines=True)
    model, found = saved(name, folder / "model", rows), []
    asked = AuditSettings(
        model=str(model), data=data, out=folder / "0", batch=BATCH[name], template=SHORT
    )
    loaded = scoring.load(asked)
    read = batches(loaded, data, asked.batch)
    count = sum(int(batch.attention_mask.sum()) for batch in read)

    def audited() -> None:
        own = asked.model_copy(update={"out": folder / f"out{len(found)}"})
        found.append(own)
        facts = audit.inspect(own, loaded.tokenizer.eos_token)
        assert audit.measure_all(own, loaded, facts) == count

    times = alternated(audited, lambda: forward(loaded.model, read))
    facts = {"rows": audit.inspect(asked, loaded.tokenizer.eos_token)}
    facts["files"] = record.digests(asked)
    report = seconds(lambda: audit.write_report(found[-1], loaded, facts))
    return {
        "audit_tokens_per_s": [count / one for one, _ in times],
        "forward_tokens_per_s": [count / two for _, two in times],
        "audit_over_forward": [two / one for one, two in times],
        "audit_seconds_over_forward": [one / two for one, two in times],
        "report_s": [report],
    }


def gated(name: str, folder: Path, rows: pd.DataFrame) -> dict[str, list[float]]:
    """Part (b)."""
    base, files = saved(name, folder / "base", rows), []
    model = checkpoints.load_model(packaged.resolve(str(base)))
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    checkpoints.save_model(
        model, tokens.load_tokenizer(packaged.resolve(str(base))), folder / "model"
    )
    for i, split in enumerate(("member", "held_out")):
        files.append(folder / f"{split}.jsonl")
        rows.iloc[i::2].to_json(files[-1], orient="records", lines=True)
    asked = AuditSettings(
        model=str(folder / "model"), reference=str(base), data=files[0], held_out=files[1],
        out=folder / "0", batch=BATCH[name], template=SHORT,
    )  # fmt: skip
    loaded, rounds = scoring.load(asked), itertools.count()
    read = [one for file in files for one in batches(loaded, file, asked.batch)]

    def audited() -> None:
        own = asked.model_copy(update={"out": folder / f"gated{next(rounds)}"})
        audit.run(own, policy.read("default"))

    times = alternated(audited, lambda: forward(loaded.model, read))
    return {
        "gated_s": [one for one, _ in times],
        "gated_seconds_over_forward": [one / two for one, two in times],
    }


def decoded(name: str, folder: Path, rows: pd.DataFrame) -> dict[str, list[float]]:
    """Part (c)."""
    data = folder / "decoded.jsonl"
    rows.to_json(data, orient="records", lines=True)
    asked = AuditSettings(
        model=str(saved(name, folder / "decoding", rows)), data=data, out=folder / "0",
        batch=BATCH[name], template=SHORT, decode=len(rows),
    )  # fmt: skip
    loaded, rounds = scoring.load(asked), itertools.count()
    read = batches(loaded, data, asked.batch)

    def audited() -> None:
        own = asked.model_copy(update={"out": folder / f"decoded{next(rounds)}"})
        audit.measure_all(own, loaded, audit.inspect(own, loaded.tokenizer.eos_token))

    times = alternated(audited, lambda: forward(loaded.model, read))
    return {"decoded_seconds_over_forward": [one / two for one, two in times]}


def memory(name: str, folder: Path, rows: pd.DataFrame) -> dict[str, list[float]]:
    """Part (d), of one number of tuples."""
    data = folder / f"memory-{len(rows)}.jsonl"
    rows.to_json(data, orient="records", lines=True)
    model = saved(name, folder / "memory-model", rows)
    words = [str(model), str(data), str(folder / f"memory-{len(rows)}"), str(BATCH[name])]
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *words], check=True, stdout=subprocess.PIPE, text=True
    )
    return {"peak_mib": [float(done.stdout.split()[-1])]}


def all_scores(name: str, folder: Path, rows: pd.DataFrame) -> dict[str, list[float]]:
    """Part (e)."""
    model = saved(name, folder / "scores-model", rows)
    asked = AuditSettings(model=str(model), data=Path("-"), out=Path("-"), template=SHORT)
    loaded = scoring.load(asked)
    given = rows.assign(row_id=[str(i) for i in range(len(rows))]).to_dict("records")
    settings = TokenSettings(max_prompt=loaded.limit - 1, max_length=loaded.limit)
    examples = tokens.encode(given, loaded.tokenizer, settings, SHORT)
    texts, batch = list(rows["response"]), BATCH[name]
    read = [tokens.collate(part, 0) for part in tokens.by_length(examples, batch)]
    one, other = (
        ours(loaded.model, examples, texts, batch),
        published(loaded.model, examples, texts),
    )
    for column in ("nats_per_token", "zlib", "min_k", "min_k_plus", "prefix"):
        np.testing.assert_allclose(one[column], other[column], rtol=2e-3, atol=1e-4, err_msg=column)
    both = (loaded.model, loaded.model)  # as large as the target
    times = alternated(
        lambda: ours(loaded.model, examples, texts, batch),
        lambda: forward(loaded.model, read),
        lambda: published(loaded.model, examples, texts),
        lambda: ours(loaded.model, examples, texts, batch, both),
        lambda: published(loaded.model, examples, texts, both),
    )
    return {
        "one_pass_s": [t[0] for t in times],
        "one_over_plain": [t[0] / t[1] for t in times],
        "published_over_one": [t[2] / t[0] for t in times],
        "published_over_one_with_references": [t[4] / t[3] for t in times],
    }


def main() -> None:
    """Run what is asked; write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--tuples", type=int, nargs=3, default=[4096, 256, 1000], help="by model; 0: not"
    )
    parser.add_argument("--gated", type=int, nargs=3, default=[1024, 0, 256], help="the same")
    parser.add_argument("--decoded", type=int, nargs=3, default=[256, 0, 32], help="the same")
    parser.add_argument("--scores", type=int, nargs=3, default=[512, 16, 0], help="the same")
    parser.add_argument("--memory", type=int, nargs="*", default=[500, 2000, 10_000])
    parser.add_argument("--gpt2", action="store_true", help="memory of GPT-2's shape too (slow)")
    asked = parser.parse_args()
    names, made = list(BATCH), []

    def note(part: str, name: str, n: int, work) -> None:
        if not n:
            return
        with tempfile.TemporaryDirectory() as folder:
            found = work(name, Path(folder), rows_of(n))
        for metric, values in found.items():
            middle, ends = statistics.median(values), (min(values), max(values))
            made.append((part, name, n, metric, middle, *ends, len(values)))
            print(*made[-1], flush=True)

    for name, n in zip(names, asked.tuples, strict=True):
        note("speed", name, n, speed)
    for work in (gated, decoded):
        for name, n in zip(names, getattr(asked, work.__name__), strict=True):
            note(work.__name__, name, n, work)
    for name in names if asked.gpt2 else names[:1]:
        for n in asked.memory:
            note("memory", name, n, memory)
    for name, n in zip(names, asked.scores, strict=True):
        note("scores", name, n, all_scores)
    columns = ["part", "model", "tuples", "metric", "value", "least", "greatest", "rounds"]
    table, where = pd.DataFrame(made, columns=columns), checkpoints.device()
    table["device"] = torch.cuda.get_device_name() if where.type == "cuda" else "CPU"
    table = table.assign(machine=runs.machine(), threads=torch.get_num_threads())
    table = table.assign(commit=runs.commit())
    runs.write_table(runs.results_dir("bench") / f"audit-{where.type}.csv", table)


if __name__ == "__main__":
    main()
