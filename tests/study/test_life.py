"""A model's life on a user's own data: whose weights, whose teacher, which rows."""

import own_data
import pandas as pd
import pytest

from kdlib import runs
from kdlib.config.life import (
    AFRESH,
    DIRECTLY,
    KEPT,
    NEVER,
    ORDINARY,
    PREDECESSOR,
    RETRAINED,
    STUDENT,
    TRAINED,
    UNLEARNED,
)
from kdlib.config.profile import TEACHER
from kdlib.distill import trainer
from kdlib.errors import KdlibError
from kdlib.study import life, life_rows, stages
from kdlib.study.run import load_rows

KINDS = 'canaries = 1\ncanary_kinds = ["telephone"]\nrepetitions = [1, 3]\ntwins = 1'
CHANGED = (
    ("members = 12", "members = 8"),
    ("held_out = 8", f"held_out = 4\n{KINDS}"),
    ("max_prompt = 64", "max_prompt = 150"),
    ("max_length = 96", f"max_length = {own_data.POSITIONS}"),
    ("[measure]", "[life]\nupdates = 2\nrelearning = 2\n[measure]"),
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A folder in which one life was lived, its profile, and its rows."""
    folder = own_data.make(tmp_path_factory.mktemp("life"), CHANGED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_ROOT", str(folder))
        profile = own_data.profile_of(folder)
        own = load_rows(profile, 0)
        rows = life_rows.later(profile, 0, own)
        chain = life.generations(profile, 0, rows)
        for run in chain.values():
            if not run.part:
                stages.make(run, own)
        for run in chain.values():
            life.make(run, rows)
        yield folder, profile, rows, chain


def read(run, rows):
    return {one.row_id for one in rows.without(run.left_out).presented}


def test_later_rows_are_others_and_each_update_has_its_own(lab):
    _, profile, rows, _ = lab
    frame = rows.frame
    own, new = frame[frame["came"] == 0], frame[frame["came"] != 0]
    assert not set(own["group"]) & set(new["group"]) and frame.index.is_unique
    counts = new.groupby(["came", "arm"]).size().to_dict()
    assert counts[1, ""] == counts[2, ""] == 2 and counts[1, "ordinary"] == 1
    assert counts[1, "personal"] == counts[2, "personal"] == 1 and counts[NEVER, ""] == 3
    records = new[new["arm"] == "personal"]
    assert (new[new["arm"] == "ordinary"]["repetitions"] == 3).all()  # as often as a record
    assert (records["repetitions"] == 3).all() and (records["category"] == "canary telephone").all()
    assert (frame[frame["came"] == NEVER]["repetitions"] == 0).all()
    assert life_rows.later(profile, 0, load_rows(profile, 0)).frame.equals(frame)


def test_each_generation_reads_its_update_alone_and_starts_from_the_last(lab):
    _, _, rows, chain = lab
    frame = rows.frame
    shown = {
        (came, arm): set(frame.index[(frame["came"] == came) & (frame["arm"] == arm)])
        for came in (1, 2)
        for arm in ("", "personal", "ordinary")
    }
    for came in (1, 2):
        for way in (TEACHER, TRAINED, ORDINARY, PREDECESSOR):
            arm = "ordinary" if way == ORDINARY else "personal"
            run = chain[way, came]
            assert read(run, rows) == shown[came, ""] | shown[came, arm]
            assert run.base == chain[way, came - 1] and run.settings.epochs == 2
    assert chain[PREDECESSOR, 2].teacher == chain[PREDECESSOR, 1]
    first = set(frame.index[(frame["came"] == 0) & (frame["repetitions"] > 0)])
    for came in (1, 2):
        anew = chain[AFRESH, came]
        assert anew.teacher == chain[TEACHER, came] and anew.base.method == "base"
        so_far = (shown[k] for k in shown if k[0] <= came and k[1] != "ordinary")
        assert read(anew, rows) == first.union(*so_far)
    assert (chain[AFRESH, 0], chain[TRAINED, 0]) == (chain[PREDECESSOR, 0], chain[ORDINARY, 0])
    assert len({one.folder for one in chain.values()}) == len(chain) - 3
    assert len({one.identity for one in chain.values()}) == len(chain) - 3


def test_a_finished_life_is_not_lived_again(lab, monkeypatch):
    _, _, rows, chain = lab
    monkeypatch.setattr(trainer, "fit", None)
    for run in chain.values():
        life.make(run, rows)
        scored = pd.read_parquet(run.folder / "tuples.parquet").set_index("row_id")["split"]
        later = run.part and set(scored[list(run.left_out)]) == {"left_out"}
        assert later or len(scored) < len(rows.frame)


def test_without_the_study_a_message_says_what_makes_it(lab, tmp_path, monkeypatch):
    _, _, rows, chain = lab
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    with pytest.raises(KdlibError, match="run notebook 02_teacher first"):
        life.make(chain[TEACHER, 0], rows)


def test_a_request_by_chance_has_a_share_of_the_rows_and_a_canary_of_each_kind(lab):
    _, profile, rows, _ = lab
    asked = life_rows.asked_to_delete(profile, 0, rows, "")
    lines = rows.frame.loc[sorted(asked)]
    assert (lines["came"] == 0).all() and (lines["split"] == "member").all()
    assert lines["kind"].value_counts().to_dict() == {"row": 2, "canary": 1}
    assert lines[lines["kind"] == "canary"]["repetitions"].item() == 3


def test_a_request_that_names_unknown_rows_says_which(lab):
    _, profile, rows, _ = lab
    frame = rows.frame
    member = frame.index[(frame["came"] == 0) & (frame["split"] == "member")]
    held_out = frame.index[frame["split"] == "held_out"][0]
    found = life_rows.asked_to_delete(profile, 0, rows, f"{member[0]}, {member[1]}")
    assert found == set(member[:2])
    with pytest.raises(KdlibError, match=f"2 of 3 are no training rows: x7, {held_out}; name"):
        life_rows.asked_to_delete(profile, 0, rows, f"{member[0]} x7 {held_out}")
    with pytest.raises(KdlibError, match="1 of .* no made-up records, .*: two are needed"):
        life_rows.asked_to_delete(profile, 0, rows, member[0])


def test_a_pool_that_is_too_small_is_said_to_be(lab):
    _, profile, _, _ = lab
    more = profile.model_copy(update={"life": profile.life.model_copy(update={"updates": 9})})
    with pytest.raises(KdlibError, match="29 further rows are needed, and the pool has 12"):
        life_rows.later(more, 0, load_rows(more, 0))


def test_deleted_rows_are_read_by_none_and_relearned_beside_unread_ones(lab):
    _, profile, rows, _ = lab
    asked = life_rows.asked_to_delete(profile, 0, rows, "")
    first = life_rows.first(rows)
    assert set(first.frame["came"]) == {0, NEVER} and set(first.examples) == set(first.frame.index)
    models = life.deletion(profile, 0, asked)
    for run in models.values():
        life.make(run, first)
    for (done, _), run in models.items():
        assert (not asked & read(run, first)) == (done != KEPT)
    unlearned, taught = models[UNLEARNED, TEACHER], models[UNLEARNED, STUDENT]
    assert unlearned.base == models[KEPT, TEACHER] and unlearned.unlearns
    assert taught.teacher == unlearned and taught.base.method == "base"
    directly = models[DIRECTLY, STUDENT]
    assert directly.base == models[KEPT, STUDENT] and directly.unlearns
    own, share = profile.train_settings("sft", taught.size).lr, profile.life.unlearning_rate
    assert directly.size == taught.size and directly.settings.lr == own * share < own
    assert life.Generation(profile, 0, "sft", taught.size, after=directly).settings.lr == own
    assert models[RETRAINED, STUDENT].teacher == models[RETRAINED, TEACHER]
    nats = {
        key: pd.read_parquet(run.folder / "tuples.parquet").set_index("row_id")["nats_per_token"]
        for key, run in models.items()
    }
    gone = sorted(asked)
    assert nats[UNLEARNED, TEACHER][gone].mean() > nats[KEPT, TEACHER][gone].mean()
    assert nats[DIRECTLY, STUDENT][gone].mean() > nats[KEPT, STUDENT][gone].mean()
    path = life.relearned(taught, first, asked)
    assert set(path.columns) > {"epoch", "prefix", "length", "deleted", "read", "group", "seed"}
    sides = path[path["epoch"] == 0].groupby(["deleted", "read"]).size()
    assert sides[True].sum() == len(asked) == sides[False].sum() and path["epoch"].max() == 2
    assert set(path["row_id"][path["deleted"]]) == asked
    ends = path[path["epoch"] == 2].set_index("row_id")["nats_per_token"]
    start = path[path["epoch"] == 0].set_index("row_id")["nats_per_token"]
    learned = path["row_id"][path["read"]].unique()
    assert (ends - start)[learned].mean() < 0
    folder = next(runs.seed_dir(profile.name, 0).glob("*-relearned")) / f"sft-{taught.size}"
    assert not (folder / "checkpoint").exists()  # only what was noted is kept
    assert life.relearned(taught, first, asked).equals(path)


def test_names_in_messages_tell_generations_apart(lab):
    _, _, _, chain = lab
    assert chain[TRAINED, 1].label.endswith("(life-trained-on-1)")
    assert chain[TRAINED, 1].notebook == "16_life_cycle"
