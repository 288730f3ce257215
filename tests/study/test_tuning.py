"""Which run a student with turned knobs is, and how its path is kept, found again and stopped."""

import own_data
import pandas as pd
import pytest

from kdlib import runs
from kdlib.distill.trainer import NotFinite
from kdlib.errors import KdlibError
from kdlib.model import checkpoints
from kdlib.study import stages, tuning
from kdlib.study.run import Run, load, load_rows


@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    return own_data.profile_of(own_data.make(tmp_path))


def student(profile, name, named=""):
    return tuning.read(profile, name, named)[0]


def test_students_are_read_with_their_knobs_and_what_these_are_usually(profile):
    word, goldfish, lora = tuning.read(profile, "word_kd sft+goldfish,sft+lora", "")
    assert (word.name, goldfish.name, lora.name) == ("word_kd", "sft+goldfish", "sft+lora")
    assert goldfish.label == "SFT + goldfish loss" and word.label == "word-level KD"
    assert word.usual == {"rate": 1.0, "mix": 0.5, "temperature": 1.0}
    assert goldfish.usual == {"rate": 1.0, "k": 4} and lora.usual == {"rate": 10.0, "rank": 8}
    assert student(profile, "word_kd", "mix rank").usual == {"mix": 0.5}
    assert word.rounded({"mix": 0.123456, "rate": 1.23456}) == {"mix": 0.123, "rate": 1.23}
    assert isinstance(goldfish.rounded({"k": 5})["k"], int)


@pytest.mark.parametrize(
    ("students", "named", "message"),
    [
        ("sgt", "", "'sgt' is no method; known: sft"),
        ("sft+goldfich", "", "'goldfich' is no defence with knobs; known: weight_decay"),
        ("sft+dp_sgd", "", "'dp_sgd' is no defence with knobs"),
        ("sft+", "", "'' is no defence"),
        ("sft", "mux", "'mux' is no knob; sft has: rate"),
        ("sft", "mix", "sft has no knob mix; it has: rate"),
        ("", "", "name some, each once"),
        ("sft sft", "", "name some, each once"),
    ],
)
def test_unknown_names_get_one_message(profile, students, named, message):
    with pytest.raises(KdlibError) as error:
        tuning.read(profile, students, named)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_profile_beyond_what_is_searched_is_refused(profile, tmp_path):
    wide = own_data.profile_of(tmp_path, ("[decoding]", "[defences]\ngoldfish.k = 99\n[decoding]"))
    with pytest.raises(KdlibError, match=r"the profile's k = 99 lies outside of the range 2 to 16"):
        tuning.read(wide, "sft+goldfish", "")


def test_knobs_go_where_they_belong(profile):
    plain = Run(profile, 3, "word_kd", profile.probe_size)
    values = {"rate": 0.5, "mix": 0.25, "temperature": 1.0, "k": 7}
    run = student(profile, "word_kd+goldfish").run(3, values)
    assert run.settings.lr == pytest.approx(plain.settings.lr / 2)
    assert run.coefficients == {"mix": 0.25, "temperature": 1.0} and run.against["k"] == 7
    assert run.teacher.identity == plain.teacher.identity and run.base == plain.base.__class__(
        run.profile, 3, "base", plain.size
    )
    lora = student(profile, "sft+lora").run(3, {"rate": 20.0, "rank": 4})
    sft = Run(profile, 3, "sft", profile.probe_size)
    assert lora.settings.lr == pytest.approx(20 * sft.settings.lr) and lora.against["rank"] == 4


def test_other_values_are_another_run_in_another_folder_and_the_usual_is_the_studys(profile):
    word, plain = student(profile, "word_kd"), Run(profile, 0, "word_kd", profile.probe_size)
    changed = [{}, {"rate": 0.5}, {"rate": 0.25}, {"mix": 0.1}, {"rate": 0.5, "mix": 0.1}]
    made = [word.run(0, word.usual | one) for one in changed]
    assert len({one.folder for one in [plain, *made]}) == len(made) + 1
    assert len({one.identity for one in [plain, *made]}) == len(made)
    assert made[0].identity == plain.identity and "tuning" in made[0].folder.parts


def test_the_seed_that_chooses_is_not_reported(profile, tmp_path):
    assert tuning.seed_of(profile, [0, 1]) == 100
    rule = "[calibration]\nseed = 7\nrates = [1e-3, 2e-3]\nmax_epochs = {teacher = 4, student = 3}"
    ruled = own_data.profile_of(tmp_path, ("[measure]", f"{rule}\n[measure]"))
    assert tuning.seed_of(ruled, [0]) == 7
    with pytest.raises(KdlibError, match="SEEDS: by 100 knobs are chosen"):
        tuning.seed_of(profile, [0, 100])


# --- paths


def test_a_path_is_kept_without_weights_and_found_again(profile, monkeypatch, forbid):
    rows, sft = load_rows(profile, 100), student(profile, "sft")
    run = sft.run(100, {"rate": 2.0})
    folder = tuning.path(run, rows, lambda notes: False)
    assert {one.name for one in folder.iterdir()} == {
        "log.jsonl", "manifest.json", "path.parquet", "tuples.parquet"
    }  # fmt: skip
    kept = pd.read_parquet(folder / "path.parquet")
    assert kept["epoch"].max() == run.settings.epochs
    assert runs.read_manifest(folder)["stopped"] is None
    forbid(stages, "train")
    assert tuning.path(run, rows) == folder
    with pytest.raises(AssertionError, match="must not be called"):
        tuning.path(sft.run(100, {"rate": 3.0}), rows)


def test_what_the_study_has_trained_is_not_trained_again(profile, forbid):
    rows = load_rows(profile, 0)
    made = stages.make(Run(profile, 0, "sft", profile.probe_size), rows)
    forbid(stages, "train")
    assert tuning.path(student(profile, "sft").run(0, {"rate": 1.0}), rows) == made


def test_a_hopeless_run_is_stopped_where_the_rule_says_and_stays_so(profile, forbid):
    rows, run = load_rows(profile, 100), student(profile, "sft").run(100, {"rate": 2.0})
    asked = []

    def rule(notes):
        asked.append(notes.tuples["step"].max())
        return notes.tuples["epoch"].max() >= 1

    folder = tuning.path(run, rows, rule)
    kept, manifest = pd.read_parquet(folder / "path.parquet"), runs.read_manifest(folder)
    assert kept["epoch"].max() == 1 and manifest["stopped"] == kept["step"].max() == asked[-1]
    assert asked == sorted(kept["step"].unique())  # after every noted time
    forbid(stages, "train")
    assert tuning.path(run, rows) == folder


def test_so_is_one_whose_loss_is_no_number(profile, monkeypatch):
    rows, run = load_rows(profile, 100), student(profile, "sft").run(100, {"rate": 2.0})

    def breaks(run, rows, how, log, notes):
        notes(load(run.base), 0)
        checkpoints.save_model(load(run.base), rows.tokenizer, log.parent / "last-good")
        raise NotFinite("loss nan")

    monkeypatch.setattr(stages, "train", breaks)
    with pytest.raises(NotFinite):  # what is not searched is no trial
        tuning.path(run, rows)
    folder = tuning.path(run, rows, lambda notes: False)
    assert runs.read_manifest(folder)["stopped"] == 0
    assert not (folder / "last-good").exists() and (folder / "tuples.parquet").is_file()
