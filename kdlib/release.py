"""From rows to a model that answers: filtered, distilled, audited, gated, and opened only then.

`make` writes one folder: model/ (what is released: weights, tokenizer, the map of the decoding
filter), rows/ (what it was trained on, and the held-out rows: not to be passed on), filtered.csv,
and audit/ with the record, which binds every file of model/ by its digest. `load` opens a folder
whose record says that it passed, and nothing else. Taught in 17_release.
"""

import json
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from transformers import LogitsProcessorList

from kdlib import runs
from kdlib.audit import command, gate, record, verifying
from kdlib.audit import policy as policies
from kdlib.audit.access_log import Log
from kdlib.config.profile import Profile
from kdlib.config.sections import FIELDS, AuditSettings, Template
from kdlib.data import sources
from kdlib.errors import KdlibError
from kdlib.model import checkpoints, memfree, tokens
from kdlib.study import pretraining, releasing
from kdlib.study.run import Run, load_rows

MODEL, ROWS, AUDIT = "model", "rows", "audit"
CLAIM = "release.json"  # of the folder: whose it is; of the model: how it is asked
NGRAMS, FILTERED = "ngrams.npz", "filtered.csv"
LOG = "log.jsonl"
# Of transformers' generate: how to decode. All else may give tokens back before they are noted (a
# streamer, a stopping criterion, a function of allowed tokens), or without the filter (which reads
# tokens that a mask may hide from the model).
DECODING_OPTIONS = {
    "max_new_tokens",
    "min_new_tokens",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
}
DECODING_OPTIONS |= {"num_beams", "num_return_sequences", "length_penalty", "early_stopping"}
DECODING_OPTIONS |= {"repetition_penalty", "no_repeat_ngram_size"}


def make(
    profile: Profile,
    seed: int,
    out: Path,
    policy_file: policies.PolicyFile,
    sign: Path | None = None,
) -> pd.DataFrame:
    """Filter, distil, audit and gate, or what is left of it; the gate's table (`gate.judged`).

    The student is that of `profile.release`. Called again with another policy it judges what it
    has measured. KdlibError, before any model is made (but what a tokenizer from scratch takes):
    the policy needs more rows than there are, the key is none, or the folder holds something else.
    """
    if sign is not None:
        record.private_key(sign)
    if profile.from_scratch:  # rows need the tokenizer, which is trained; base models come after
        pretraining.prepare(profile)
    rows = load_rows(profile, seed)
    filtered = releasing.filtered(profile, rows)
    splits = written_rows(filtered.rows)
    counts = {name: {"rows": len(frame), "empty": 0} for name, frame in splits.items()}
    gate.require_rows(policy_file.policy, counts)
    pretraining.prepare(profile)
    student = releasing.student(profile, seed, filtered)
    claim(out, student)
    releasing.make(student, filtered.rows)
    with runs.locked(out / MODEL):
        if not (out / MODEL).is_dir():
            for name, frame in splits.items():
                lines = frame.to_json(orient="records", lines=True, force_ascii=False)
                runs.write_text(out / ROWS / f"{name}.jsonl", lines)
            runs.write_table(out / FILTERED, filtered.counts)
            write_model(out / MODEL, student, filtered)
    files = {name: out / ROWS / f"{name}.jsonl" for name in splits}
    settings = AuditSettings(
        model=str(out / MODEL),
        data=files["member"],
        held_out=files["held_out"],
        out=out / AUDIT,
        batch=profile.measure.batch,
        template=profile.template,
    )
    command.run(settings, policy_file, sign)
    return pd.read_csv(out / AUDIT / command.GATE)


def written_rows(rows: tokens.TokenizedRows) -> dict[str, pd.DataFrame]:
    """FIELDS of the rows that are read, and of held-out rows with other responses, by split."""
    frame = rows.frame
    member = frame[frame["repetitions"] > 0]
    held_out = frame[(frame["split"] == "held_out") & (frame["kind"] == "row")]
    responses = held_out["response"].map(sources.normalised)
    shared = responses.isin(set(member["response"].map(sources.normalised)))
    return {"member": member[list(FIELDS)], "held_out": held_out.loc[~shared, list(FIELDS)]}


def claim(out: Path, student: Run) -> None:
    """Take a folder for the release of this student; KdlibError where it holds another thing."""
    settings = student.profile.release.model_dump(include={"ngram"})
    facts = {"student": student.identity, "rows": student.part} | settings
    text = json.dumps(facts, indent=1) + "\n"
    with runs.write_errors(out):
        names = {path.name for path in out.iterdir()} if out.exists() else set()
        if CLAIM in names and (out / CLAIM).read_text("utf-8") == text:
            return
    if names:
        content = "another release" if CLAIM in names else "something else"
        raise KdlibError(f"{out} holds {content}; name a new folder with --out, or remove this one")
    runs.write_text(out / CLAIM, text)


def write_model(folder: Path, student: Run, filtered: releasing.ReleaseRows) -> None:
    """The released model's folder, which is there only when it is complete."""
    profile, partial = student.profile, folder.with_name(f".{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    with runs.write_errors(folder):
        shutil.copytree(student.folder / "checkpoint", partial)
    filtered.ngrams(profile.release.ngram).save(partial / NGRAMS)
    options = {"template": profile.template.model_dump(), "max_new": profile.tokens.max_new}
    runs.write_text(partial / CLAIM, json.dumps(options, indent=1, ensure_ascii=False) + "\n")
    os.replace(partial, folder)


def load(
    folder: str | Path,
    key: str | Path | None = None,
    log: str | Path | None = None,
    policy: str | Path | None = None,
) -> "Released":
    """Open a release whose record holds, with its decoding filter and its log.

    The record has to say that the gate passed, and every file of model/ has to be the one that it
    names; with `key`, a public key, it has to be signed by that, too. Without a key it says what
    its owner says. With `policy`, a file or "default", it has to have passed that one. `log` is a
    file, by default log.jsonl in the folder. What is opened is a copy, checked where nobody else
    reads or writes (in TMPDIR, which needs room for model/ meanwhile). KdlibError says what is
    wrong, such as the file that has changed.
    """
    folder = Path(folder)
    if not (folder / AUDIT / record.RECORD).is_file():
        remedy = "it has no record; make it with: python -m kdlib release"
        raise KdlibError(f"{folder} is not opened: {remedy}")
    with TemporaryDirectory() as temporary:
        copy = _copied(folder, Path(temporary))
        _require_passed(folder, copy, key, policy)
        options = json.loads((copy / MODEL / CLAIM).read_text("utf-8"))
        model = checkpoints.load_model(copy / MODEL).to(checkpoints.device())
        tokenizer, ngrams = tokens.load_tokenizer(copy / MODEL), memfree.load(copy / MODEL / NGRAMS)
    access_log, template = Log(Path(log or folder / LOG)), Template(**options["template"])
    return Released(model, tokenizer, ngrams, access_log, template, options["max_new"])


def _copied(folder: Path, target: Path) -> Path:
    """What is checked and then opened, where only this user writes: nobody changes it between."""
    for name in (record.RECORD, record.ENVELOPE):
        if (folder / AUDIT / name).is_file():
            (target / AUDIT).mkdir(exist_ok=True)
            shutil.copyfile(folder / AUDIT / name, target / AUDIT / name)
    if (folder / MODEL).is_dir():
        shutil.copytree(folder / MODEL, target / MODEL)
    return target


def _require_passed(
    folder: Path, copy: Path, key: str | Path | None, policy: str | Path | None
) -> None:
    """Refuse what is not as its record says, or did not pass; `folder` is what is named."""
    path, prefix = copy / AUDIT / record.RECORD, f"{folder} is not opened"
    body = verifying.read(path)
    signer = None if key is None else Path(key)
    faults = verifying.faults(path, signer, {MODEL: copy / MODEL}, roles=(MODEL,))
    names = {entry["name"] for entry in body["subject"]}
    faults += [
        f"{path.name} does not name {MODEL}/{name}"
        for name in (NGRAMS, CLAIM)
        if f"{MODEL}/{name}" not in names
    ]
    if faults:
        raise KdlibError(f"{prefix}: {'; '.join(faults)}".replace(str(copy), str(folder)))
    if (result := body["predicate"].get("result")) != record.RESULT[gate.PASS]:
        required = f"{record.RESULT[gate.PASS]} alone is released"
        raise KdlibError(f"{prefix}: its gate says {result}, and {required}; see {folder / AUDIT}")
    digests = [entry["digest"]["sha256"] for entry in body["predicate"]["configuration"]]
    if policy is not None and digests != [policies.read(str(policy)).sha256]:
        problem = f"its gate had another policy than {policy}"
        raise KdlibError(f"{prefix}: {problem}; see {folder / AUDIT}")


class Released:
    """A model that answers under its decoding filter, and notes who asked."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        ngrams: memfree.NGrams,
        log: Log,
        template: Template,
        max_new: int,
    ) -> None:
        self.model, self.tokenizer, self.known = model, tokenizer, ngrams
        self.log, self.template, self.max_new = log, template, max_new

    def answer(self, instruction: str, context: str = "", *, user: str, **kwargs: Any) -> str:
        """The answer to one row, greedy by default; `kwargs` are of transformers' `generate`."""
        prompt = tokens.prompt_text(instruction, context, self.template)
        ids = torch.tensor(tokens.prompt_ids([prompt], self.tokenizer), device=self.model.device)
        output = self.generate(ids, user=user, **{"do_sample": False} | kwargs)
        return self.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)

    @torch.no_grad()
    def generate(self, input_ids: Tensor, *, user: str, **kwargs: Any) -> Tensor:
        """What `generate` of transformers writes under the filter, from prompts int64 [B, T].

        They have no padding: a mask could hide tokens from the model, and not from the filter.
        Noted when it is asked, and before it is given back. KdlibError: no user is named, an
        argument is not of DECODING_OPTIONS, the prompt leaves no room for `max_new_tokens`, or the
        log cannot be written: then there is no answer.
        """
        if banned := sorted(set(kwargs) - DECODING_OPTIONS):
            raise KdlibError(f"{', '.join(banned)}: a release does not answer so; leave it out")
        if not user.strip():
            raise KdlibError("no user is named, and the log needs one; give user='...'")
        kwargs = {
            "max_new_tokens": self.max_new,
            "pad_token_id": self.tokenizer.pad_token_id,
        } | kwargs
        kwargs.setdefault("attention_mask", torch.ones_like(input_ids))
        max_positions = getattr(self.model.config, "max_position_embeddings", None)
        if max_positions and input_ids.shape[1] + kwargs["max_new_tokens"] > max_positions:
            limit = max_positions - kwargs["max_new_tokens"]
            raise KdlibError(f"the prompt has {input_ids.shape[1]} tokens; shorten it to {limit}")
        processor = memfree.MemFree(self.known)
        prompts = self.tokenizer.batch_decode(input_ids, skip_special_tokens=True)
        request_id = self.log.write("asked", user, prompts)
        try:
            processors = LogitsProcessorList([processor])
            output = self.model.generate(input_ids, logits_processor=processors, **kwargs)
        except BaseException:  # an interrupt, too: tokens may have been seen
            self.log.write("failed", user, prompts, asked=request_id)
            raise
        refused = processor.refused.reshape(len(input_ids), -1).sum(axis=1)  # beams of one prompt
        self.log.write("answered", user, prompts, refused.tolist(), request_id)
        return output
