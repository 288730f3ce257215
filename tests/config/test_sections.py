"""Settings are frozen, strict, and bounded."""

import pytest
from pydantic import ValidationError

from kdlib.config import sections
from kdlib.config.sections import AuditSettings, DataSettings, Template, TokenSettings

TRAIN = {"epochs": 1, "lr": 1e-3}
DATA = {"packages": ("x",), "pool": 10, "members": 5, "held_out": 5}
AUDIT = {"model": "m", "data": "rows.csv", "out": "out", "template": {"text": "{instruction}"}}


@pytest.mark.parametrize(
    ("section", "values", "field"),
    [
        ("TrainSettings", TRAIN | {"epochs": True}, "epochs"),
        ("TrainSettings", TRAIN | {"clip": 0}, "clip"),
        ("TrainSettings", TRAIN | {"clip": float("inf")}, "clip"),
        ("TrainSettings", TRAIN | {"weight_decay": -0.1}, "weight_decay"),
        ("TrainSettings", TRAIN | {"dropout": 1.1}, "dropout"),
        ("TrainSettings", TRAIN | {"precision": "fp16"}, "precision"),
        ("TrainSettings", TRAIN | {"schedule": "linear"}, "schedule"),
        ("DataSettings", DATA | {"response_chars": (0, 3)}, "response_chars"),
        ("DataSettings", DATA | {"twins": -1}, "twins"),
        ("MeasureSettings", {"rouge_rows": 0}, "rouge_rows"),
        ("MeasureSettings", {"sample_seeds": (2**31,)}, "sample_seeds"),
        ("PretrainSettings", {"tokens": 1.5}, "tokens"),
        ("ProbeSettings", {"twins": 0}, "twins"),
        ("ModelSettings", {"layers": 1, "heads": 1, "width": 8, "lr": 0}, "lr"),
        ("DecodingSettings", {"temperature": 11}, "temperature"),
        ("AuditSettings", AUDIT | {"batch": 0}, "batch"),
        ("AuditSettings", AUDIT | {"precision": "fp16"}, "precision"),
    ],
)
def test_values_out_of_range_name_their_field(section, values, field):
    with pytest.raises(ValidationError) as error:
        getattr(sections, section)(**values)
    assert [one["loc"][0] for one in error.value.errors()] == [field]


@pytest.mark.parametrize("section", ["TrainSettings", "MeasureSettings", "TokenSettings"])
def test_settings_are_frozen_and_know_their_keys(section):
    values = TRAIN if section == "TrainSettings" else {}
    made = getattr(sections, section)(**values)
    with pytest.raises(ValidationError, match="frozen"):
        made.batch = 3
    with pytest.raises(ValidationError, match="Extra inputs"):
        getattr(sections, section)(**values, nonsense=1)


def test_least_vocabulary_holds_all_bytes_and_the_end_token():
    assert TokenSettings(vocabulary=258).vocabulary == 258
    with pytest.raises(ValidationError, match="greater than 257"):
        TokenSettings(vocabulary=257)


def test_room_for_the_answer():
    assert TokenSettings(max_prompt=100, max_length=101).max_new == 1
    with pytest.raises(ValidationError, match="leaves no room"):
        TokenSettings(max_prompt=100, max_length=100)


def test_rows_of_a_file_need_no_packages():
    with pytest.raises(ValidationError, match="packages is empty"):
        DataSettings(**DATA | {"packages": ()})
    assert DataSettings(**DATA | {"packages": (), "source": "dolly"}).source == "dolly"


def test_a_template_needs_its_place_for_the_instruction():
    assert Template(text="{instruction}").without_context is None
    for values in (
        {"text": "{context}"},
        {"text": "{instruction}", "without_context": "{context}"},
    ):
        with pytest.raises(ValidationError, match="holds no {instruction}"):
            Template(**values)


def test_files_of_an_audit():
    assert list(AuditSettings(**AUDIT).files) == ["member"]
    assert list(AuditSettings(**AUDIT, held_out="b.csv").files) == ["member", "held_out"]
