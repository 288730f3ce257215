"""One thing is changed in a training run: each change stands in a line beside the study's run."""

import pandas as pd
import pytest

from kdlib import runs
from kdlib.config.profile import load_profile
from kdlib.report import sensitivity

LINE = {"method": "sft", "size": "small", "seed": 0}
OWN = LINE | {"metric": "exact_rate", "split": "member", "k": 50, "value": 0.75}


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))

    def write(**tables):
        others = [OWN | {"k": 10, "value": 1.0}, OWN | {"split": "held_out", "value": 0.0}]
        for name, lines in {"metrics": [OWN, *others, OWN | {"seed": 1}], **tables}.items():
            runs.write_table(runs.results_dir("made") / f"{name}.csv", pd.DataFrame(lines))
        return sensitivity.table("made")

    return write


def test_without_any_change_there_is_no_table(made):
    assert made().empty
    assert made(second_sft=[{"kind": "own", "size": "small", "seed": 0}]).empty


def test_each_change_is_a_line_beside_the_run_of_its_seed(made):
    bases = [OWN | {"pretraining": 0, "nats": 3.5}, OWN | {"pretraining": 1, "nats": 3.0}]
    bases[1] |= {"value": 0.25}
    bases.append(bases[1] | {"metric": "minus_sft", "value": 9.0})
    there = LINE | {
        "value": 0.125,
        "machine": "M",
        "nats": 4.0,
        "healed_in": None,
        "code": "later code",
        "commit": "1a",
    }
    step = there | {"value": 0.375, "healed_in": "float32", "tuned_in": "bf16"}
    order = {"kind": "order", "size": "small", "seed": 1, "first": 0.75, "second": 0.5}
    other = there | {"method": "word_kd", "size": "large", "value": 0.5}
    found = made(second_sft=[order], other_bases=bases, healed_elsewhere=[there, step, other])
    assert list(found) == [
        *("seed", "changed", "SFT, small", "nats, small", "word-level KD, large"),
    ]
    assert found.to_numpy().tolist() == [
        [0, sensitivity.NOTHING, "0.750", "3.50", ""],
        [0, "order of the general text in healing (1)", "0.250", "3.00", ""],
        [0, "machine (M, healed there; later code, 1a)", "0.125", "4.00", "0.500"],
        [0, "precision: healed in float32, fine-tuned in bf16", "0.375", "4.00", ""],
        [1, sensitivity.NOTHING, "0.750", "3.50", ""],
        [1, "order of the rows", "0.500", "", ""],
    ]


def test_how_steep_the_share_is_beside_a_run_on_another_machine(made):
    there = LINE | {"value": 0.125, "machine": "M", "nats": 4.0, "healed_in": None, "code": "this"}
    there |= {"commit": "1a"}
    path = LINE | {"split": "member", "exact_rate": 0.25}
    noted = [
        path | {"epoch": 2, "accuracy": 0.996, "exact_rate": 0.75},
        path | {"epoch": 1, "accuracy": 0.98},
    ]
    other = path | {"size": "large", "epoch": 3, "accuracy": 1.0}
    made(healed_elsewhere=[there], paths=[*noted, other])
    assert sensitivity.steep("made") == ""
    found = [there | {"accuracy": None, "commit": "2b"}, there | {"accuracy": 0.992}]
    made(healed_elsewhere=found, paths=[*noted, other])
    said = (
        "98.00% and 25.0% after epoch 1, 99.60% and 75.0% after epoch 2; healed and trained on M, "
    )
    assert sensitivity.steep("made").endswith(f"{said}it ended at 99.20% and 12.5%.")


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (
            0.5,
            "SFT of the other notebooks memorizes 75.0% (seed 0), here 50.0%: the models here are "
            "of another run, from the base model on: before fine-tuning the rows cost it 4.500 "
            "nats per token, there 4.250; sequence-level KD, greedy minus SFT is -10.0 percentage "
            "points [-20.0, +10.0] (may be chance) there, -10.0 [-20.0, +10.0] (may be chance) ",
        ),
        (0.75, ""),
    ],
)
def test_models_that_were_trained_anew_for_the_cause_are_said_to_be(made, share, said):
    rows = {"seed": 0, "split": "member", "rows": 10}
    gap = {"value": -0.1, "lo": -0.2, "hi": 0.1}
    by_text = {"method": "cross_entropy on teacher"} | {f"{k}_less": v for k, v in gap.items()}
    to_sft = {"comparison": "to_sft", "metric": "exact_rate", "size": "small", "seed": "all"}
    path = {"method": "sft", "size": "small", "seed": 0, "split": "member", "epoch": 0}
    made(
        cause=[{"method": "sft", "value": share}, by_text],
        lengths=[rows, rows | {"seed": 1}],
        cause_paths=[{"method": "sft", "nats": 4.5}],
        paths=[path | {"nats_per_token": 4.25}],
        differences=[to_sft | {"method": "seq_kd"} | gap],
    )
    probe = load_profile("laptop").probe.model_copy(update={"size": "small"})
    settings = load_profile("laptop").model_copy(update={"name": "made", "probe": probe})
    text = sensitivity.other_models(settings)
    assert text.startswith(said) and bool(text) == bool(said)
