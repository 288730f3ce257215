"""What is noted of a model along its path, and when."""

import pandas as pd
import pytest
import torch
import toy

from kdlib.config.sections import MeasureSettings
from kdlib.measure import meter
from kdlib.model.tokens import TokenizedRows
from kdlib.study import noting


def test_each_quarter_epoch_to_the_second_then_each_epoch():
    assert sorted(noting.noted_steps(4, 8)) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 24, 32]
    assert sorted(noting.noted_steps(1, 8)) == [0, 2, 4, 6, 8]
    assert sorted(noting.noted_steps(3, 1)) == [0, 1, 2, 3]  # fewer steps than quarters
    assert sorted(noting.noted_steps(4, 8, parts=2)) == [0, 4, 8, 12, 16, 24, 32]
    assert sorted(noting.noted_steps(1, 8, parts=1)) == [0, 8]


def test_notes_are_the_meters_numbers_of_all_but_twins():
    frame = (
        pd.DataFrame(toy.rows()).assign(kind="row", split="member").set_index("row_id", drop=False)
    )
    frame.loc["r1", ["kind", "split"]] = ["canary", "member"]
    frame.loc["r2", ["kind", "split"]] = ["twin", "held_out"]
    frame.loc[["r3", "r4"], "split"] = "held_out"
    examples = {one.row_id: one for one in toy.examples()}
    rows = TokenizedRows(frame.assign(repetitions=1), toy.tokenizer(), examples)
    measure = MeasureSettings(batch=9, path_rows=1)
    notes = noting.Notes(rows, toy.how(batch=12), measure, max_new=5)
    assert notes.steps == noting.noted_steps(2, notes.epoch_steps) == set(range(9))
    assert list(notes.noted) == ["split", "kind"] and len(notes.noted) == 46
    model = toy.new_model().eval()
    notes(model, 0)
    notes(model, 3)
    table = notes.tuples
    assert len(table) == 2 * 46 and table["epoch"].unique().tolist() == [0, 0.75]
    assert not {"r2", "r4"} & set(table["row_id"])  # a twin, and what is kept for validation
    assert table.set_index("row_id").loc["r3", "split"].unique().tolist() == ["held_out"]
    assert table.set_index("row_id").loc["r1", "kind"].unique().tolist() == ["canary"]
    metered = meter.meter(model, toy.examples(), pad_id=toy.tokenizer().pad_token_id)
    metered = metered.set_index("row_id").loc[table["row_id"]]
    assert table["prefix"].tolist() == metered["prefix"].tolist()
    assert table["nats_per_token"].tolist() == pytest.approx(metered["nats_per_token"].tolist())
    assert notes.answers[["row_id", "split", "epoch"]].to_numpy().tolist() == [
        ["r3", "held_out", 0]
    ]


def test_fewer_rows_are_noted_where_that_is_said():
    frame = pd.DataFrame(toy.rows()).assign(kind="row", split="held_out", repetitions=1)
    examples = {one.row_id: one for one in toy.examples()}
    rows = TokenizedRows(frame.set_index("row_id", drop=False), toy.tokenizer(), examples)
    arguments = rows, toy.how(), MeasureSettings(), 5
    chosen = ["r7", "r47", "r3"]
    assert "r47" in {example.row_id for example in noting.validation(rows)}
    notes, few = noting.Notes(*arguments), noting.Notes(*arguments, row_ids=chosen, parts=1)
    assert notes.steps == noting.noted_steps(2, 3) > few.steps == {0, 3, 6}
    assert "r47" not in notes.noted.index and few.noted.index.tolist() == chosen
    model = toy.new_model().eval()
    notes(model, 0), few(model, 0)
    assert few.tuples["row_id"].tolist() == chosen and few.answers.empty
    wanted, found = (one.tuples.set_index("row_id").loc[["r7", "r3"]] for one in (notes, few))
    pd.testing.assert_frame_equal(found, wanted, atol=1e-5)


def test_a_run_is_stopped_where_its_rule_says_so():
    examples = {one.row_id: one for one in toy.examples()}
    frame = pd.DataFrame(toy.rows()).assign(kind="row", split="member", repetitions=1)
    frame.loc[[1, 2], "split"] = "held_out"
    rows = TokenizedRows(frame.set_index("row_id", drop=False), toy.tokenizer(), examples)
    rule = {"hopeless": lambda notes: notes.tuples["step"].max() >= 2}
    notes, model = noting.Notes(rows, toy.how(), MeasureSettings(), 5, **rule), toy.new_model()
    notes(model.eval(), 1)
    with pytest.raises(noting.StoppedByRule) as error:
        notes(model, 2)
    assert error.value.model is model and notes.tuples["step"].unique().tolist() == [1, 2]


def test_notes_do_not_touch_the_chance_of_training():
    examples = {one.row_id: one for one in toy.examples()}
    frame = pd.DataFrame(toy.rows()).assign(kind="row", split="held_out", repetitions=1)
    rows = TokenizedRows(frame.set_index("row_id", drop=False), toy.tokenizer(), examples)
    notes = noting.Notes(rows, toy.how(), MeasureSettings(path_rows=2), max_new=5)
    before = torch.get_rng_state()
    notes(toy.new_model().eval(), 0)
    assert len(notes.answers) == 2 and torch.equal(before, torch.get_rng_state())
