"""Whose text a student reads: fresh, replayed, mixed, in pairs."""

import pytest
import torch
import toy

from kdlib.distill import text_sources
from kdlib.model import tokens


def read(source, model, epoch=0):
    """row_id to text, and the roles, of one epoch."""
    found, roles = {}, []
    for step in source(model, epoch):
        for batch in step:
            parts = batch.targets.split(batch.lengths)
            found |= {
                (batch.role, row): part.tolist()
                for row, part in zip(batch.row_id, parts, strict=True)
            }
            roles.append(batch.role)
    return found, roles


def test_student_text_is_fresh_at_every_step():
    model = toy.new_model().train()
    torch.manual_seed(0)
    source = text_sources.mix(toy.reading(), 1.0)
    rows = {("student", one.row_id): list(one.response) for one in toy.examples()}
    one, two = (read(source, model)[0] for _ in range(2))
    assert one.keys() == two.keys() == rows.keys() and model.training
    for first, second in ((one, two), (one, rows)):
        assert sum(first[key] != second[key] for key in rows) > 0.9 * len(rows)


def test_mix_reads_rows_and_student_text_in_its_share():
    model, source = toy.new_model(), text_sources.mix(toy.reading(toy.how(batch=2)), 0.25)
    torch.manual_seed(0)
    roles = [role for epoch in range(4) for role in read(source, model, epoch)[1]]
    assert set(roles) == {"rows", "student"}
    assert roles.count("student") / len(roles) == pytest.approx(0.25, abs=0.12)
    found, _ = read(source, model)
    rows = {one.row_id: list(one.response) for one in toy.examples()}
    for (role, row), text in found.items():
        assert (text == rows[row]) == (role == "rows") or role == "student"
    assert set(read(text_sources.mix(toy.reading(), 0.0), model)[1]) == {"rows"}


def replay(**changes):
    given = {"capacity": 40, "share_step": 0.5, "loss_rise": 0.1} | changes
    return text_sources.Replay(toy.reading(toy.how(batch=4, epochs=4)), toy.examples()[:8], **given)


def test_share_rises_with_the_validation_loss(monkeypatch):
    losses_seen = iter([3.0, 2.5, 3.05, 3.1, 3.15])
    monkeypatch.setattr(text_sources, "mean_cross_entropy", lambda *_: next(losses_seen))
    source, model, shares = replay(), toy.new_model(), []
    for epoch in range(4):
        read(source, model, epoch)
        shares.append(source.share)
    # risen by less than 0.1 over the loss before training, until 3.1 is reached
    assert shares == [0.0, 0.0, 0.0, 0.5]


def test_replay_fills_its_buffer_then_reads_it_again(monkeypatch):
    monkeypatch.setattr(text_sources, "mean_cross_entropy", lambda *_: 0.0)
    torch.manual_seed(0)
    source, model = replay(), toy.new_model()
    source.share, written = 1.0, []
    found, roles = read(source, model, 0)
    assert set(roles) == {"replay"}
    names = [row for _, row in found]
    assert all("#" in row for row in names) and len(source.buffer) == 40

    def forbidden(*_):
        raise AssertionError("text was sampled")

    monkeypatch.setattr(text_sources.Reading, "written", forbidden)
    source.share, held = 1.0, {one.row_id: list(one.response) for one in source.buffer}
    last = read_last(source, model)
    written = {row: text for (_, row), text in last.items()}
    assert written and all(held[row] == text for row, text in written.items())


def read_last(source, model):
    """The end of training, where nothing is sampled any more."""
    source.reading = toy.reading(toy.how(batch=4, epochs=1))
    return read(source, model, 1)[0]


def test_pairs_bring_both_texts_for_the_same_prompts():
    told = {one.row_id: tokens.Example(one.row_id, one.prompt, (9, 9, 0)) for one in toy.examples()}
    torch.manual_seed(0)
    source, model = text_sources.pairs(toy.reading(), told), toy.new_model()
    for step in source(model, 0):
        teacher, student = step
        assert (teacher.role, student.role) == ("teacher", "student")
        assert teacher.row_id == student.row_id
        assert set(teacher.targets.tolist()) == {9, 0}
    one, two = (read(source, model, epoch)[0] for epoch in (0, 1))
    changed = [key for key in one if key[0] == "student" and one[key] != two[key]]
    assert len(changed) > 40
