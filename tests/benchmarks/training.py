"""Training speed against the libraries one would use instead, side by side in one run.

`make bench` writes data/results/bench/training-<device>.csv. Same models (the tiny profile's
shapes, weights from a seed), rows, batch, steps and optimizer; each side in the faster of bf16 and
fp32, peers also in the faster of SDPA and eager attention. Peers: TRL's SFTTrainer, GKDTrainer
and DistillationTrainer, and a plain transformers.Trainer with the loss written out; length-grouped
where they can, no logging, no checkpoints, no gradient checkpointing. The teacher store is written
within our time, a tenth of it per epoch, as if for ten epochs; one student reads it.
"""

import dataclasses
import itertools
import statistics
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from datasets import Dataset
from torch.nn import functional as F
from transformers import Trainer, TrainerCallback, TrainingArguments
from trl import DistillationConfig, DistillationTrainer, SFTConfig, SFTTrainer
from trl.experimental.gkd import GKDConfig, GKDTrainer

from kdlib import runs
from kdlib.config.profile import load_profile
from kdlib.config.sections import ModelSettings, TrainSettings
from kdlib.data import pool as rowpool
from kdlib.distill import objectives, text_sources, trainer
from kdlib.distill.teacher_targets import Live, Stored, write_store
from kdlib.model import checkpoints, tokens

ROWS, BATCH, ROUNDS, EPOCHS, MAX_NEW = 320, 16, 5, 10, 50
DEVICE = checkpoints.device()
TASKS = ("sft", "word_kd", "on_policy")
PRECISIONS = ("bf16", "fp32")


class Bench:
    """Rows, shapes of the models, and the folder that stores and logs go to.

    Args:
        folder: a temporary one.
        examples: rows as token ids.
        shapes: settings of "teacher" and "student".
        tokenizer: with an end token; its length is the vocabulary of the models.
        longest: tokens of the longest row.
    """

    def __init__(self, folder: Path, examples, shapes: dict, tokenizer, longest: int) -> None:
        self.folder, self.examples, self.shapes = folder, examples, shapes
        self.tokenizer, self.longest = tokenizer, longest
        self.end = tokenizer.eos_token_id
        rows = [
            {
                "input_ids": list(one.prompt + one.response),
                "completion_mask": [0] * len(one.prompt) + [1] * len(one.response),
                "prompt_length": len(one.prompt),
                "length": len(one),
            }
            for one in examples
        ]
        self.dataset = Dataset.from_list(rows)

    def model(self, size: str, attention: str | None = None):
        """A model of that size, its weights from a seed, with ours or another attention."""
        with DEVICE:  # drawn there: GPT-2 XL's weights take long to draw on a CPU
            model = checkpoints.make_model(self.shapes[size], self.tokenizer, self.longest, 0)
        if attention:
            model.set_attn_implementation(attention)
        return model

    def collate(self, rows: list[dict]) -> dict:
        """What Trainer and GKDTrainer are given: padded rows, and the prompts alone."""
        examples = [
            tokens.Example(
                "",
                tuple(r["input_ids"][: r["prompt_length"]]),
                tuple(r["input_ids"][r["prompt_length"] :]),
            )
            for r in rows
        ]
        batch = tokens.collate(examples, self.end)
        longest = max(len(one.prompt) for one in examples)
        pads = [longest - len(one.prompt) for one in examples]
        prompts = torch.tensor(
            [[self.end] * pad + [*one.prompt] for pad, one in zip(pads, examples, strict=True)]
        )
        mask = (torch.arange(longest) >= torch.tensor(pads)[:, None]).long()
        return {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "labels": batch.labels,
            "prompts": prompts,
            "prompt_attention_mask": mask,
        }


class Clock(TrainerCallback):
    """Seconds from the first step to the end, without what comes before."""

    def on_step_begin(self, args, state, control, **_):
        """Start at the first step."""
        if state.global_step == 0:
            self.started = time.perf_counter()

    def on_train_end(self, args, state, control, **_):
        """Stop."""
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self.started


class Counted:
    """How many labelled tokens the student was trained on."""

    def __init__(self) -> None:
        self.tokens = 0

    def add(self, inputs: dict) -> None:
        """Count one batch of a trainer's."""
        asked = inputs.get("completion_mask")  # DistillationTrainer's
        self.tokens += int(
            (inputs["labels"][:, 1:] != -100).sum() if asked is None else asked.sum()
        )


def ours(bench: Bench, task: str, precision: str) -> float:
    """Response tokens per second of our loop over one epoch."""
    settings = TrainSettings(epochs=1, lr=1e-5, batch=BATCH, precision=precision)
    reading = text_sources.Reading(bench.examples, settings, bench.end, seed=0, max_new=MAX_NEW)
    student, spent = bench.model("student"), 0.0
    source, minimized, log = text_sources.fixed(reading), None, bench.folder / "log.jsonl"
    if task == "sft":
        minimized = objectives.objective("cross_entropy")
    elif task == "word_kd":
        teacher, store = bench.model("teacher"), bench.folder / f"store-{time.time_ns()}"
        started = time.perf_counter()
        how = {"pad_id": bench.end, "precision": precision}
        write_store(store, "bench", teacher, bench.examples, **how)
        spent = (time.perf_counter() - started) / EPOCHS
        minimized = objectives.objective("forward_kl", Stored(store, "bench", precision))
    else:
        source = text_sources.mix(reading, 1.0)
        minimized = objectives.objective("reverse_kl", Live(bench.model("teacher"), precision))
    counted = Counted()

    def watched(model, epoch):
        for step in source(model, epoch):
            counted.tokens += sum(sum(batch.lengths) for batch in step)
            yield step

    steps = -(-len(bench.examples) // BATCH)
    started = time.perf_counter()
    trainer.fit(
        student, watched, minimized, settings, epoch_steps=steps, seed=0, log=log, name=task
    )
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return counted.tokens / (time.perf_counter() - started + spent)


def arguments(kind: type, bench: Bench, precision: str, **more):
    """The peers' settings: nothing that costs time beside the training itself."""
    names = {field.name for field in dataclasses.fields(kind)}
    grouped = (
        {"train_sampling_strategy": "group_by_length"}
        if "train_sampling_strategy" in names
        else {"group_by_length": True}
    )
    return kind(
        output_dir=str(bench.folder / "peer"),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=1e-5,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=20,
        optim="adamw_torch_fused",
        bf16=precision == "bf16",
        use_cpu=DEVICE.type == "cpu",
        gradient_checkpointing=False,
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        length_column_name="length",
        dataloader_pin_memory=DEVICE.type == "cuda",
        **grouped,
        **more,
    )


class PlainTrainer(Trainer):
    """transformers.Trainer with the losses of SFT and word-level KD written out."""

    teacher = None

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean over labelled positions, from the full logits."""
        inputs.pop("prompts"), inputs.pop("prompt_attention_mask")
        labels = inputs.pop("labels")[:, 1:]
        logits = model(**inputs).logits[:, :-1]
        asked = labels != -100
        if self.teacher is None:
            return F.cross_entropy(logits[asked].float(), labels[asked])
        with torch.no_grad():
            told = self.teacher(**inputs).logits[:, :-1]
        p, q = (x[asked].float().log_softmax(-1) for x in (told, logits))
        return F.kl_div(q, p, log_target=True, reduction="batchmean")


def trainer_of(bench: Bench, peer: str, task: str, precision: str, attention: str):
    """A peer's trainer, ready to train one epoch."""
    student, clock = bench.model("student", attention), Clock()
    common = {"model": student, "train_dataset": bench.dataset, "callbacks": [clock]}
    if peer == "TRL SFTTrainer":
        own = {"completion_only_loss": True, "max_length": None}
        args = arguments(SFTConfig, bench, precision, **own)
        return SFTTrainer(args=args, processing_class=bench.tokenizer, **common), clock
    if peer == "TRL DistillationTrainer":
        prompts = [bench.tokenizer.decode(one.prompt) for one in bench.examples]
        common["train_dataset"] = Dataset.from_dict({"prompt": prompts})  # it takes text alone
        common["teacher_model"] = bench.model("teacher", attention)
        own = {"beta": 1.0, "temperature": 1.0, "max_completion_length": MAX_NEW}
        args = arguments(DistillationConfig, bench, precision, **own)
        return DistillationTrainer(args=args, processing_class=bench.tokenizer, **common), clock
    common["data_collator"] = bench.collate
    if peer == "TRL GKDTrainer":
        on = task == "on_policy"
        own = {"lmbda": float(on), "beta": float(on), "temperature": 1.0}
        args = arguments(GKDConfig, bench, precision, max_new_tokens=MAX_NEW, **own)
        teacher = bench.model("teacher", attention)
        trainer = GKDTrainer(
            teacher_model=teacher, args=args, processing_class=bench.tokenizer, **common
        )
        return trainer, clock
    trainer = PlainTrainer(args=arguments(TrainingArguments, bench, precision), **common)
    if task == "word_kd":
        trainer.teacher = bench.model("teacher", attention).eval()
    return trainer, clock


def theirs(bench: Bench, peer: str, task: str, precision: str, attention: str) -> float:
    """Response tokens per second of a peer over the same epoch."""
    trainer, clock = trainer_of(bench, peer, task, precision, attention)
    counted, whole = Counted(), trainer.compute_loss

    def watched(model, inputs, *args, **named):
        counted.add(inputs)
        return whole(model, inputs, *args, **named)

    trainer.compute_loss = watched
    trainer.train()
    return counted.tokens / clock.seconds


PEERS = {
    "sft": ("TRL SFTTrainer", "transformers.Trainer"),
    "word_kd": ("TRL GKDTrainer", "transformers.Trainer"),
    "on_policy": ("TRL GKDTrainer", "TRL DistillationTrainer"),
}


def laptop(folder: Path) -> Bench:
    """The tiny profile's rows and vocabulary, its teacher and its middle student."""
    profile = load_profile("tiny")
    pool = rowpool.load_pool(profile.data).head(ROWS).to_dict("records")
    written = [row["instruction"] + row["context"] + row["response"] for row in pool]
    tokenizer = tokens.train_tokenizer(written, profile.tokens.vocabulary)
    examples = tokens.encode(pool, tokenizer, profile.tokens, profile.template)
    shapes = {"teacher": profile.models["teacher"], "student": profile.models["middle"]}
    return Bench(folder, examples, shapes, tokenizer, profile.tokens.max_length)


def gpt2(folder: Path, teacher=(48, 25, 1600), student=(12, 12, 768), rows=ROWS, length=512):
    """GPT-2 XL teaching GPT-2, random weights and tokens, rows of `length` tokens."""
    words = [f"w{i}" for i in range(50_257 - 257)]
    tokenizer = tokens.train_tokenizer(["a"], 257)
    tokenizer.add_tokens(words)
    dice, prompt = torch.Generator().manual_seed(0), length // 4
    ids = torch.randint(1, 50_000, (rows, length), generator=dice).tolist()
    examples = [
        tokens.Example(f"r{i}", tuple(x[:prompt]), tuple(x[prompt:])) for i, x in enumerate(ids)
    ]
    named = {"teacher": teacher, "student": student}
    shapes = {
        size: ModelSettings(layers=layers, heads=heads, width=width)
        for size, (layers, heads, width) in named.items()
    }
    return Bench(folder, examples, shapes, tokenizer, length)


def utilization(bench: Bench, tokens_per_s: float) -> float:
    """Model FLOPs of the student's step per second, as a share of a measured matrix product's.

    Counted: 6 per weight and token in the body, 6 per weight of the head and response token, and
    12 x layers x width x length per token for attention; the teacher's store is not counted.
    """
    shape, example = bench.shapes["student"], bench.examples[0]
    model = bench.model("student")
    head = model.get_output_embeddings().weight.numel()
    body = model.num_parameters() - head
    ahead = len(example) / len(example.response)  # tokens read per response token
    attention = 12 * shape.layers * shape.width * len(example)
    flops = tokens_per_s * (6 * head + ahead * (6 * body + attention))
    side = 8192 if DEVICE.type == "cuda" else 512
    left, right = torch.randn(2, side, side, device=DEVICE, dtype=torch.bfloat16)
    for timed in (False, True):
        started = time.perf_counter()
        for _ in range(20):
            left @ right
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started if timed else 1.0
    return flops / (20 * 2 * side**3 / seconds)


def compare(bench: Bench, name: str, tasks: tuple[str, ...]) -> list[dict]:
    """Time every task: rounds in turns, each side in its fastest form."""
    rows = []
    for task in tasks:
        sides = {"ours": lambda *how, t=task: ours(bench, t, *how)}
        forms = {"ours": [(precision,) for precision in PRECISIONS]}
        for peer in PEERS[task]:
            sides[peer] = lambda *how, t=task, n=peer: theirs(bench, n, t, *how)
            forms[peer] = list(itertools.product(PRECISIONS, ("sdpa", "eager")))
        for side, run in sides.items():  # the first run of each warms up
            run(*forms[side][0])
        trial = {n: {how: run(*how) for how in forms[n]} for n, run in sides.items()}
        best = {side: max(found, key=found.get) for side, found in trial.items()}
        speeds = [{n: run(*best[n]) for n, run in sides.items()} for _ in range(ROUNDS)]
        for peer in PEERS[task]:
            ratios = [one["ours"] / one[peer] for one in speeds]
            middle = {n: statistics.median(one[n] for one in speeds) for n in ("ours", peer)}
            rows.append(
                {
                    "models": name,
                    "task": task,
                    "peer": peer,
                    "ours_tokens_per_s": round(middle["ours"]),
                    "peer_tokens_per_s": round(middle[peer]),
                    "ratio": round(statistics.median(ratios), 2),
                    "ratio_min": round(min(ratios), 2),
                    "ratio_max": round(max(ratios), 2),
                    "ours_dtype": best["ours"][0],
                    "peer_dtype": best[peer][0],
                    "peer_attention": best[peer][1],
                    "ours_mfu": round(utilization(bench, middle["ours"]), 3)
                    if DEVICE.type == "cuda" and task != "on_policy"
                    else "",
                }
            )
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Time every task; write and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(laptop(Path(folder)), "laptop", TASKS)
        if DEVICE.type == "cuda":
            rows += compare(gpt2(Path(folder)), "GPT-2 XL to GPT-2", ("word_kd",))
    table = pd.DataFrame(rows).assign(
        rounds=ROUNDS,
        rows=ROWS,
        batch=BATCH,
        device=torch.cuda.get_device_name() if DEVICE.type == "cuda" else "CPU",
        machine=runs.machine(),
        threads=torch.get_num_threads(),
        commit=runs.commit(),
    )
    runs.write_table(runs.results_dir("bench") / f"training-{DEVICE.type}.csv", table)
    print(table.drop(columns=["commit", "machine"]).to_string(index=False))


if __name__ == "__main__":
    main()
