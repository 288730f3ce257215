"""What generations keep and what comes back, from made-up models whose memory is known."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest

from kdlib import runs
from kdlib.analysis import claims, life_claims, life_cycle
from kdlib.config.life import (
    AFRESH,
    DIRECTLY,
    ORDINARY,
    PREDECESSOR,
    RETRAINED,
    STUDENT,
    TRAINED,
    UNLEARNED,
    UNREAD,
    WAYS,
)
from kdlib.config.profile import TEACHER

SEEDS, N = (0, 1, 2), 40
SHARES = {TEACHER: 0.5, TRAINED: 0.25, ORDINARY: 0.25, PREDECESSOR: 0.25, AFRESH: 0.75}
CANARIES = {TRAINED: 0.75}  # after the last update; else as at first


def rows_of(way, number, seed, old, canaries):
    """Rows of a model that recites the first so many of each kind."""
    place = np.arange(N)
    kinds = {
        "old": {"kind": "row", "split": "member", "came": 0, "share": old},
        "canary": {"kind": "canary", "split": "member", "came": 0, "share": canaries},
        "held": {"kind": "row", "split": "held_out", "came": 0, "share": 0},
        "new": {"kind": "row", "split": "member", "came": number or 9, "share": 0.5},
    }
    parts = []
    for name, facts in kinds.items():
        hit = (place < facts.pop("share") * N).astype(float)
        ids = [f"{name}{i}" for i in place]
        lines = pd.DataFrame({"row_id": ids, "group": ids, "hit": hit, "nats_per_token": 2 - hit})
        parts.append(lines.assign(**facts, arm="", way=way, generation=number, seed=seed))
    return pd.concat(parts)


@pytest.fixture(scope="module")
def known():
    parts = []
    for seed in SEEDS:
        for way in WAYS:
            parts.append(rows_of(way, 0, seed, 0.5, 0.5))
            parts.append(rows_of(way, 2, seed, SHARES[way], CANARIES.get(way, 0.5)))
    return pd.concat(parts, ignore_index=True)


def of_models(teacher, student, retrained, directly=1, left=0.0, unread=2):
    """Notes: half of the deleted, relearned rows are recited from that epoch on, unread from 4.

    unread: from when on in the new student of the teacher as it was. left: how much less the
    deleted rows cost the new student of the unlearned teacher.
    """
    firsts = {
        (UNLEARNED, TEACHER): teacher,
        (DIRECTLY, STUDENT): directly,
        (UNLEARNED, STUDENT): student,
        (RETRAINED, STUDENT): retrained,
        (UNREAD, STUDENT): unread,
    }
    times = {(False, True): 4, (True, False): 9, (False, False): 9}
    parts = []
    for ((done, who), first), seed, epoch in itertools.product(firsts.items(), SEEDS, range(5)):
        for (deleted, read), start in ({(True, True): first} | times).items():
            ids = [f"{deleted}{read}{i}" for i in range(N)]
            prefix = np.where(np.arange(N) % 2 == 0, 60 * (epoch >= start), 0)
            lines = {"row_id": ids, "group": ids, "prefix": prefix, "length": 60, "kind": "row"}
            lines["nats_per_token"] = 3.0 - epoch + np.linspace(-0.1, 0.1, N)
            lines["nats_per_token"] -= left * (deleted and (done, who) == (UNLEARNED, STUDENT))
            facts = {"epoch": epoch, "deleted": deleted, "read": read, "seed": seed}
            parts.append(pd.DataFrame(lines).assign(**facts, done=done, who=who))
    return pd.concat(parts, ignore_index=True)


def test_levels_and_changes_of_every_generation(known):
    table = life_cycle.generations(known)
    found = table.set_index(["way", "generation", "measure", "kind"])["value"]
    assert found[TEACHER, 0, "old rows", "level"] == 0.5
    assert found[AFRESH, 2, "old rows", "change"] == 0.25
    assert found[TRAINED, 2, "old rows", "change"] == -0.25
    assert found[TRAINED, 2, "old canaries", "change"] == 0.25
    assert found[ORDINARY, 2, "old canaries", "change"] == 0
    assert found[TEACHER, 2, "newest rows", "level"] == 0.5
    assert (TEACHER, 0, "newest rows", "level") not in found.index
    assert found[TEACHER, 0, life_cycle.MEMBERSHIP, "level"] == 0.75
    sure = table.dropna(subset=["lo"])
    assert len(sure) and (sure["lo"] <= sure["value"]).all() and (sure["value"] <= sure["hi"]).all()


def test_only_what_was_not_recited_can_be_brought_back(known):
    found = life_cycle.returned(known).set_index(["rows", "measure", "update"])
    assert found.loc[("old canaries", "brought back", "with"), ["value", "n"]].tolist() == [0.5, 60]
    assert found.loc[("old canaries", "brought back", "without"), "value"] == 0
    new = found.loc[("old canaries", "new", "with")]
    assert new["value"] == pytest.approx(1 / 3) and new["n"] == 90  # half were recited at first
    assert found.loc[("old canaries", "new", "without"), "value"] == 0
    gap = found.loc[("old canaries", "recited", "difference")]
    assert gap["value"] == 0.25 and gap["lo"] > 0
    assert found.loc[("old rows", "brought back", "difference"), "value"] == 0


def test_a_model_is_read_with_the_facts_of_its_rows(tmp_path):
    scores = {"row_id": ["a", "b"], "prefix": [50, 3], "length": [60, 60], "nats_per_token": [0, 1]}
    runs.write_table(tmp_path / "tuples.parquet", pd.DataFrame(scores))
    (tmp_path / runs.MANIFEST).write_text(json.dumps({"run_id": "x", "seed": 4}))
    facts = pd.DataFrame({"came": [0, 1]}, index=["a", "c"])
    assert life_cycle.read(tmp_path, facts).to_dict("records") == [
        {"row_id": "a", "nats_per_token": 0, "hit": 1.0, "seed": 4, "came": 0}
    ]


def test_what_deletion_leaves_is_told_apart_from_what_was_kept(known):
    rows = known[known["generation"] == 0].query("way == @TEACHER")
    gone = (rows["came"] == 0) & (rows["kind"] == "row") & (rows["split"] == "member")
    place = rows["row_id"].str.extract(r"(\d+)")[0].astype(int)
    rows = rows.assign(deleted=gone & (place >= 20), done=RETRAINED, who=TEACHER)
    found = life_cycle.deleted(rows).set_index("measure")
    assert found.loc["deleted rows", ["value", "n"]].tolist() == [0, 60]
    assert found.loc["kept rows", "value"] == 1
    assert found.loc[life_cycle.MEMBERSHIP, "value"] == 0.5  # as held-out rows are
    assert found.loc["held-out nats", "value"] == 2


def test_a_row_that_is_learned_anew_is_no_row_that_comes_back():
    scores = life_cycle.scores(of_models(teacher=1, student=4, retrained=4))
    found = life_cycle.excess(scores).set_index(["done", "who", "read"])
    ahead = found.loc[(UNLEARNED, TEACHER, True)]
    assert ahead[["deleted", "never", "value"]].tolist() == [0.5, 0.125, 0.375] and ahead["lo"] > 0
    same = found.loc[(UNLEARNED, STUDENT, True)]
    assert same["deleted"] == 0.125 and same["value"] == 0  # recited in the end, as unread rows
    assert found.loc[(UNLEARNED, TEACHER, False), "value"] == 0


def test_what_is_noted_while_rows_are_relearned():
    table = life_cycle.relearning(of_models(teacher=1, student=4, retrained=4))
    found = table.set_index(["done", "who", "epoch", "deleted", "read"])
    assert found.loc[(UNLEARNED, TEACHER, 1, True, True), ["value", "nats"]].tolist() == [0.5, 2]
    assert found.loc[(UNLEARNED, TEACHER, 1, False, True), "value"] == 0
    assert (found["lo"] <= found["value"]).all() and (found["value"] <= found["hi"]).all()


def test_few_different_responses_have_no_interval():
    few = of_models(1, 4, 4)[lambda rows: rows["row_id"].str.endswith("0")]
    found = life_cycle.excess(life_cycle.scores(few))
    assert found["lo"].isna().all() and (found["groups"] < 10).all()


@pytest.mark.parametrize(
    ("relearned", "verdicts"),
    [
        ((1, 4, 4, 1), {"F3": "confirmed", "F4": "confirmed"}),
        ((1, 4, 4, 4), {"F3": "open", "F4": "open"}),  # nothing comes back in anybody
        ((4, 1, 4, 4), {"F3": "refuted", "F4": "refuted"}),
        ((4, 4, 1, 4), {"F3": "open", "F4": "refuted"}),  # behind rows never read: not as if
    ],
)
def test_claims(known, relearned, verdicts):
    scores = life_cycle.scores(of_models(*relearned))
    contrasts = life_claims.contrasts(known, scores)
    ledger = claims.ledger(life_claims.CLAIMS, len(SEEDS), contrasts=contrasts)
    found = ledger.set_index("claim")["verdict"]
    assert found.to_dict() == {"F1": "confirmed", "F2": "confirmed"} | verdicts
    assert ledger["evidence"].str.contains("against").all()
    alone = claims.ledger(life_claims.CLAIMS, 1, contrasts=contrasts)
    assert (alone["verdict"] == "open").all()


def test_where_leaving_rows_out_suffices_unlearning_has_shown_nothing(known):
    for unread, verdict in ((2, "confirmed"), (4, "open")):
        scores = life_cycle.scores(of_models(1, 4, 4, unread=unread))
        contrasts = life_claims.contrasts(known, scores)
        row = claims.judge("F3", len(SEEDS), contrasts=contrasts)
        assert row["verdict"] == verdict, row["evidence"]
        assert "without the rows: " in row["evidence"]


def test_a_loss_that_tells_is_no_row_that_was_never_read(known):
    """Nothing of it is recited, and F4 is not confirmed."""
    for left, verdict in ((0.0, "confirmed"), (0.2, "open")):
        scores = life_cycle.scores(of_models(1, 4, 4, left=left))
        contrasts = life_claims.contrasts(known, scores)
        row = claims.judge("F4", len(SEEDS), contrasts=contrasts)
        assert row["verdict"] == verdict
        assert f"in the loss {-left + 0.0:+.3f} [" in row["evidence"]


def test_what_was_not_gone_does_not_come_back():
    notes = of_models(0, 4, 4)  # recited before relearning
    found = life_cycle.excess(life_cycle.scores(notes)).set_index(["done", "who", "read"])
    assert found.loc[(UNLEARNED, TEACHER, True), "deleted"] == 0


def test_where_nothing_is_recited_nothing_can_be_seen(known):
    silent = known.assign(hit=0.0)
    contrasts = life_claims.contrasts(silent, life_cycle.scores(of_models(1, 4, 4)))
    row = claims.judge("F2", len(SEEDS), contrasts=contrasts)
    assert row["verdict"] == "open" and "no difference can be seen" in row["evidence"]


def test_without_canaries_nothing_is_said_of_them(known):
    rows = known[known["kind"] == "row"]
    found = life_cycle.returned(rows).set_index("rows")["value"]
    assert found["old canaries"].isna().all() and not found["old rows"].isna().any()
    contrasts = life_claims.contrasts(rows, life_cycle.scores(of_models(1, 4, 4)))
    ledger = claims.ledger(["F2"], len(SEEDS), contrasts=contrasts)
    assert ledger["verdict"].item() == "open" and "too few" in ledger["evidence"].item()
