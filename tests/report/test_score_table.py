"""The score so far grows by one line a method, and shows what was run."""

import pandas as pd
import pytest

from kdlib import runs
from kdlib.config.profile import load_profile
from kdlib.report import score_table

SMOKE = load_profile("smoke")
NAMES = ["model", *score_table.COLUMNS]


@pytest.fixture
def seed(tmp_path, monkeypatch):
    """Seed 4 of smoke: 40 member and 20 held-out rows of 10 tokens, half of the members known."""
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    ids = {
        split: [f"{split}{i}" for i in range(count)]
        for split, count in (("member", 40), ("held_out", 20))
    }
    tuples = pd.DataFrame(
        [(one, split) for split in ids for one in ids[split]], columns=["row_id", "split"]
    )
    tuples = tuples.assign(
        kind="row", group=tuples["row_id"], length=10, prefix=0, nats_per_token=2.5
    )
    tuples.loc[tuples.index[:20], "prefix"] = 10
    tuples.loc[tuples["split"] == "member", "nats_per_token"] = 1.5
    canary = tuples.iloc[:1].assign(kind="canary", row_id="canary", nats_per_token=99.0)
    answers = pd.DataFrame({"row_id": ids["held_out"], "split": "held_out", "decoding": "greedy"})
    answers = answers.assign(usefulness=0.25)
    sampled = answers.assign(decoding="sampled", usefulness=1.0)

    path = pd.DataFrame({"step": [0, 5, 10]})

    def run(method, size="middle"):
        folder = runs.seed_dir("smoke", 4) / f"{method}-{size}"
        written = {"tuples": [tuples, canary], "answers": [answers, sampled], "path": [path]}
        for name, frames in written.items():
            runs.write_table(folder / f"{name}.parquet", pd.concat(frames))
        runs.write_manifest(folder, "id", method=method, size=size)
        return folder

    for method in ("base", "sft", "word_kd", "rkld", "imitkd"):
        run(method)
    run("teacher", "teacher"), run("sft", "small")
    return run


def lines(notebook, size="middle"):
    """The lines of a size's table, by model."""
    tables = score_table.so_far(SMOKE, 4, notebook).split("Size ")[1:]
    assert [one.partition(":")[0] for one in tables] == list(SMOKE.sizes)
    table = tables[SMOKE.sizes.index(size)].strip().splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert cells[0] == NAMES and all(len(line) == len(NAMES) for line in cells)
    return {line[0]: line[1:] for line in cells[2:]}


def test_it_grows_and_marks_what_is_new(seed):
    shown = lines("03_supervised_fine_tuning")
    assert list(shown) == ["base", "teacher", "**SFT**"]
    assert list(lines("04_word_level_kd"))[2:] == ["SFT", "**word-level KD**"]
    further = list(lines("07_on_policy"))  # those of 06 that the paper has not stand in 06 alone
    assert further[2:] == ["SFT", "word-level KD", "**ImitKD**"]
    assert "**on-policy RKL**" in lines("06_reverse_kl")
    seed("minillm")
    assert list(lines("08_minillm"))[-1] == "**MiniLLM**"


def test_every_size_has_its_table(seed):
    assert list(lines("04_word_level_kd", "small")) == ["teacher", "SFT"]
    assert list(lines("04_word_level_kd", "large")) == ["teacher"]


def test_what_a_line_says(seed):
    cells = lines("04_word_level_kd")["SFT"]
    told = ["50.0%", "0.0%", "1.500", "2.500", "0.250"]
    assert [cell.split(" [")[0] for cell in cells] == told
    assert all(cell.endswith("]") for cell in cells)
    assert cells[3] == "2.500 [2.500, 2.500]"  # a loss is no share
    assert cells[1] != "0.0% [0.0%, 0.0%]"  # of rows that were not seen nothing is certain
    bold = lines("04_word_level_kd")["**word-level KD**"]
    assert bold == [f"**{cell}**" for cell in cells]


def test_what_was_not_finished_is_not_shown(seed):
    (runs.seed_dir("smoke", 4) / "word_kd-middle" / "manifest.json").unlink()
    assert list(lines("04_word_level_kd")) == ["base", "teacher", "SFT"]


def test_how_models_were_trained(seed):
    models = [("teacher", "teacher"), ("word_kd", "middle")]
    table = score_table.training(SMOKE, [seed(*model) for model in models])
    assert list(table.index) == ["teacher", "word-level KD, middle"]
    for model, line in zip(models, table.to_dict("records"), strict=True):
        how = SMOKE.train_settings(*model)
        assert float(line["learning rate"]) == how.lr and line["epochs"] == how.epochs
        assert line["rows of a step"] == how.batch * how.accumulate and line["steps"] == 10


def test_what_the_calibration_came_to(seed):
    assert score_table.on_calibration_seed(SMOKE) == ""
    how = SMOKE.train_settings("sft", "middle")
    tried = pd.DataFrame({"lr": [how.lr, how.lr, 2 * how.lr], "exact_rate": [0.25, 0.5, 0.75]})
    tried = tried.assign(epoch=[how.epochs, how.epochs + 1, how.epochs])
    facts = {"method": "sft", "size": "middle", "split": "member"}
    runs.write_table(runs.results_dir("smoke") / "calibration.csv", tried.assign(**facts))
    assert score_table.on_calibration_seed(SMOKE) == "middle 25.0%"
