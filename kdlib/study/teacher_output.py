"""What a teacher gives its students: targets on a text, text of its own (notebooks 04 and 05)."""

import json
from typing import Any

import torch

from kdlib import runs
from kdlib.distill import methods
from kdlib.distill.teacher_targets import Live, Remembered, Stored, Targets, write_store
from kdlib.model import generation
from kdlib.model.tokens import Example, TokenizedRows
from kdlib.study.run import Run, decoding, load


def presented_once(teacher: Run, rows: TokenizedRows) -> list[Example]:
    """Every example that an epoch shows the teacher, once."""
    rows = rows.without(teacher.left_out)
    return rows.split("member") + rows.split("member", "canary")


def targets(run: Run, rows: TokenizedRows) -> Targets:
    """The teacher's targets for a student's text, kept as `methods.TEXTS` says."""
    kind, precision = methods.text(run.recipe.text).targets, run.settings.precision
    if kind == "stored" and run.defence == "scrubbing":  # the store is of the rows as they were
        kind = "remembered"
    if kind == "live":
        return Live(load(run.teacher), precision)
    if kind == "remembered":
        presented, coefficients = rows.without(run.left_out).presented, run.coefficients
        capacity = (
            len(presented) + coefficients.get("capacity", 0) + coefficients.get("rollouts", 0)
        )
        return Remembered(load(run.teacher), precision, int(capacity))
    teacher, examples = run.teacher, presented_once(run.teacher, rows)
    shown_ids = [(example.row_id, example.prompt, example.response) for example in examples]
    vocabulary = runs.fingerprint(rows.tokenizer.get_vocab())
    identity = runs.fingerprint([teacher.identity, vocabulary, shown_ids, precision])
    folder, pad = teacher.folder / "targets", rows.pad_id
    if not runs.done(folder, identity):
        write_store(folder, identity, load(teacher), examples, pad_id=pad, precision=precision)
    return Stored(folder, identity, precision)


def text(teacher: Run, rows: TokenizedRows, decoder: str = "teacher") -> list[Example]:
    """What it writes for every member row and canary, decoded as DECODINGS says; made once."""
    settings, members = teacher.profile.decoding, presented_once(teacher, rows)
    file = teacher.folder / f"{decoder}-text.json"
    record = {"run_id": teacher.identity, "decoding": decoding(teacher.profile, decoder)}
    with runs.locked(file):  # other students may ask for the same
        if file.is_file():
            saved = {"decoding": {}} | json.loads(file.read_text("utf-8"))
            responses = saved.pop("text")
            if saved == record:
                return generation.answered(
                    members, [tuple(responses[example.row_id]) for example in members]
                )
        options: dict[str, Any] = {"end_id": rows.pad_id, "batch": teacher.profile.measure.batch}
        options["max_new"] = teacher.profile.tokens.max_new
        options["precision"] = teacher.settings.precision
        prompts, model = [example.prompt for example in members], load(teacher)
        if decoder == "teacher_beam":
            answers = generation.beam_search(model, prompts, beams=settings.beams, **options)
        else:
            options |= {"greedy": decoder == "teacher", "temperature": settings.temperature}
            torch.manual_seed(teacher.seed)
            answers = generation.continue_prompts(model, prompts, **options)
        written = generation.answered(members, answers)
        record["text"] = {example.row_id: example.response for example in written}
        runs.write_text(file, json.dumps(record))
        return written
