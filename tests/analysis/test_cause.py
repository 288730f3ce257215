"""Which of text and objective carries recitation, and why it is less: on paths that are known."""

import itertools

import numpy as np
import pandas as pd
import pytest

from kdlib import runs
from kdlib.analysis import cause, claims, equal_usefulness

ENTROPY = ("rows", "cross_entropy")
PAIRS = {"sft": ENTROPY} | {
    f"{how} on {text}": (text, how)
    for text in ("rows", "teacher", "student")
    for how in ("cross_entropy", "forward_kl", "reverse_kl", "generalized_jsd")
    if (text, how) != ENTROPY
}
SEEDS, ROWS = (0, 1, 2), 100


def noted(memorized, fit=None, epochs=4):
    """Notes of methods: `memorized` at the end by name; what `fit` of the rows' loss is lost."""
    dice, parts = np.random.default_rng(0), []
    hardness = {seed: dice.random(ROWS) for seed in SEEDS}  # the same for all methods
    for (method, share), seed in itertools.product(memorized.items(), SEEDS):
        last = epochs * (2 if method.endswith("x4") else 1)
        for epoch, split in itertools.product(range(last + 1), ("member", "held_out")):
            done, member = epoch / last, split == "member"
            ids = [f"{split}-{seed}-{i}" for i in range(ROWS)]
            facts = {"method": method, "size": "small", "seed": seed, "epoch": float(epoch)}
            hit = (hardness[seed] < share * done) if member else np.zeros(ROWS, bool)
            nats = 4.0 - 3.0 * done * (fit or {}).get(method, 1.0) if member else 3.0
            frame = {"row_id": ids, "group": ids, "kind": "row", "split": split, "hit": hit}
            parts.append(pd.DataFrame(frame | {"nats_per_token": nats} | facts))
    return pd.concat(parts, ignore_index=True)


def last(memorized):
    return cause.ends(equal_usefulness.members(noted(memorized)))


def grid(share):
    """What each student of the grid memorizes, by its text and objective."""
    return {name: share(*pair) for name, pair in PAIRS.items()}


def of_text(text, objective):
    return {"rows": 0.6, "teacher": 0.3, "student": 0.2}[text]


def of_objective(text, objective):
    return 0.6 if objective == "cross_entropy" else 0.2


def test_effects_are_differences_of_means_over_the_grid():
    shares = dict(zip(PAIRS, np.random.default_rng(2).permutation(12) / 20 + 0.1, strict=True))
    ends = last(shares)
    m = {PAIRS[name]: one for name, one in ends.groupby("method")["value"].mean().items()}
    found = cause.effects(ends, PAIRS).set_index(["text", "objective"])["value"]
    divergences = ("forward_kl", "reverse_kl", "generalized_jsd")
    student = np.mean([m["student", one] - m["rows", one] for one in divergences])
    every = ("cross_entropy", *divergences)
    teacher = np.mean([m["teacher", one] - m["rows", one] for one in every])
    jsd = np.mean([m[x, "generalized_jsd"] - m[x, "cross_entropy"] for x in ("rows", "teacher")])
    assert found["student", ""] == pytest.approx(student)
    assert found["teacher", ""] == pytest.approx(teacher)
    assert found["", "generalized_jsd"] == pytest.approx(jsd)
    alone = m["teacher", "cross_entropy"] - m["rows", "generalized_jsd"]
    assert found["teacher", "generalized_jsd"] == pytest.approx(alone)
    assert len(found) == 2 + 3 + 3


def test_which_is_larger_is_the_difference_of_main_effects_in_a_square():
    shares = {"sft": 0.6, "cross_entropy on teacher": 0.5, "reverse_kl on rows": 0.2}
    square = {name: PAIRS[name] for name in (*shares, "reverse_kl on teacher")}
    found = cause.effects(last(shares | {"reverse_kl on teacher": 0.15}), square)
    value = found.set_index(["text", "objective"])["value"]
    apart = value["teacher", ""] - value["", "reverse_kl"]
    assert value["teacher", "reverse_kl"] == pytest.approx(apart) and apart > 0.2


def test_what_nobody_taught_enters_no_effect():
    shares = grid(of_text)
    ends = [last(shares | {"cross_entropy on student": one}) for one in (0.0, 0.9)]
    pd.testing.assert_frame_equal(*(cause.effects(one, PAIRS) for one in ends))


def judged(ends):
    split = cause.by_recited(
        ends, ends[["seed", "row_id"]].drop_duplicates().assign(recited=True), PAIRS
    )
    return claims.judge("A3", 3, effects=cause.effects(ends, PAIRS), by_recited=split)


@pytest.mark.parametrize(
    ("share", "verdict"),
    [
        (of_text, "confirmed"),
        (of_objective, "refuted"),
        # either of them is enough, and takes as much away
        (lambda text, objective: 0.6 if (text, objective) == ENTROPY else 0.3, "open"),
        (lambda text, objective: 0.5, "open"),
        (lambda text, objective: 0.0, "open"),
        # the text takes nothing away, and the objective adds
        (lambda text, objective: 0.4 if objective == "cross_entropy" else 0.7, "open"),
    ],
)
def test_claim_a3(share, verdict):
    row = judged(last(grid(share)))
    assert row["verdict"] == verdict, row["evidence"]
    assert "the teacher's text " in row["evidence"] and "reverse KL " in row["evidence"]
    assert "the teacher's text less reverse KL where its text is the row " in row["evidence"]


def test_claim_a3_is_open_where_seeds_disagree():
    ends = last(grid(of_text))
    turned = (ends["seed"] == 2) & ends["method"].str.contains(" on teacher")
    ends.loc[turned, "value"] = 1.0
    assert judged(ends)["verdict"] == "open"


def test_the_teachers_text_takes_nothing_away_where_it_is_the_row():
    """Its effect is all on the other rows, and the mean of both that of all rows."""
    ends = last(grid(of_objective))
    recited = ends[["seed", "row_id"]].drop_duplicates()
    recited = recited.assign(recited=recited["row_id"].str.extract(r"(\d+)$")[0].astype(int) < 40)
    other = ends.merge(recited, on=["seed", "row_id"])
    read = other["method"].str.contains(" on teacher") & ~other["recited"]
    ends = other.assign(value=other["value"].mask(read, 0.0)).drop(columns="recited")
    table = cause.by_recited(ends, recited, PAIRS)
    assert len(table) == 2 * 4 and set(table["text"]) == {"teacher"}
    found = table[table["objective"] == ""].set_index("recited")
    assert found["n"].to_dict() == {True: 120, False: 180}
    assert found.loc[True, "value"] == pytest.approx(0, abs=0.15) and found.loc[False, "hi"] < 0
    whole = (
        cause.effects(ends, PAIRS).query("text == 'teacher' and objective == ''")["value"].item()
    )
    assert (found["value"] * found["n"]).sum() / 300 == pytest.approx(whole)


def test_at_equal_mean_loss_who_reads_some_rows_alone_seems_to_recite_more():
    """Two students that recite alike what they read; one reads 40 of 100 rows, and no others."""
    notes = noted({"sft": 0.8, "cross_entropy on teacher": 0.8}, epochs=8)
    read = notes["row_id"].str.extract(r"(\d+)$")[0].astype(int) < 40
    recited = notes[["seed", "row_id"]].assign(recited=read).drop_duplicates()
    unread = ~read & (notes["method"] != "sft") & (notes["split"] == "member")
    notes["nats_per_token"] -= 0.6 * (notes["split"] == "member") * notes["epoch"] / 8
    notes.loc[unread, "nats_per_token"] = 2.0
    notes["hit"] &= notes["nats_per_token"] < 0.9  # recited is what is fitted closely
    assert equal_usefulness.same_fit(notes)["value"].item() > 0.05
    found = cause.fit_by_recited(notes, recited).set_index(["recited", "method"])
    assert found.loc[(True, "cross_entropy on teacher"), "value"] == pytest.approx(0)
    assert found["nats"].round(9).to_list() == [0.4, 0.4, 2.0, 0.4]
    assert found.loc[(False, "cross_entropy on teacher"), "at_end"] == 0
    of_sft = found.xs("sft", level="method")
    assert of_sft["value"].isna().all() and (of_sft["at_end"] > 0.7).all()


def test_what_is_memorized_at_the_least_loss_that_both_come_to():
    notes = noted({"sft": 0.8, "reverse_kl on rows": 0.2}, {"reverse_kl on rows": 0.5})
    found = cause.least_common_loss(notes).set_index("method")
    one = found.loc["reverse_kl on rows"]
    assert one["loss"] == pytest.approx(2.5) and one["own"] == pytest.approx(0.2, abs=0.05)
    assert one["sft"] == pytest.approx(0.4, abs=0.1)  # half of the way
    assert found.loc["sft", ["loss", "own"]].tolist() == pytest.approx([1, 0.8], abs=0.07)


def test_shares_along_the_path_and_at_the_end():
    notes = noted({"sft": 0.8, "reverse_kl on rows": 0.2})
    shares = cause.memorized(notes)
    assert len(shares) == 2 * 5 and (shares["lo"] <= shares["value"]).all()
    at_end = cause.ends(shares).set_index("method")
    assert at_end.loc["sft", "value"] == pytest.approx(0.8, abs=0.07)
    assert at_end.loc["sft", "nats"] == pytest.approx(1.0) and (at_end["epoch"] == 4).all()
    (less,) = cause.less_than_sft(cause.ends(equal_usefulness.members(notes))).to_dict("records")
    assert less["method"] == "reverse_kl on rows" and less["hi"] < -0.45


def convergence(share, fit, gain):
    """Of a student that was trained longer: its end, its fit, its usefulness in the second half."""
    notes = noted({"sft": 0.7, "a x4": share}, {"a x4": fit})
    useful = equal_usefulness.held_out_loss(notes)
    late = (useful["method"] == "a x4") & (useful["epoch"] > 4)
    useful["value"] += np.minimum(useful["epoch"], 4) + gain * late
    useful["value"] += np.random.default_rng(0).normal(0, 0.2, len(useful))
    margin = equal_usefulness.margins(useful)["small"]
    return cause.convergence(notes, useful, equal_usefulness.same_fit(notes), ["a x4"], margin)


@pytest.mark.parametrize(
    ("share", "fit", "gain", "verdict"),
    [
        (0.2, 1.0, 0.0, "protective"),
        (0.2, 1.0, 2.0, "open"),  # it is still getting better
        (0.7, 1.0, 0.0, "undertrained"),  # at the end it recites as much
        (0.35, 0.5, 0.0, "undertrained"),  # it fits less, and recites what SFT does at that fit
        (0.0, 0.02, 0.0, "open"),  # it never fits the rows as far as SFT recites any
    ],
)
def test_why_a_student_memorizes_less(share, fit, gain, verdict):
    lines = convergence(share, fit, gain)
    assert cause.explained(lines) == {"a x4": verdict}
    row = claims.judge("A4", 3, convergence=lines)
    wanted = {"protective": "confirmed", "undertrained": "refuted", "open": "open"}
    assert row["verdict"] == wanted[verdict] and f"a x4 {verdict}" in row["evidence"]


def test_runs_are_read_by_their_name(tmp_path):
    for seed in (0, 1):
        folder = tmp_path / f"seed-{seed}" / "sft-small-text=teacher"
        ids = ["a", "b"]
        tuples = pd.DataFrame({"row_id": ids, "group": ["g", "h"]})
        path = pd.DataFrame({"row_id": ids, "prefix": [3, 4], "length": 4, "epoch": 1.0})
        answers = pd.DataFrame({"row_id": ["b"], "usefulness": [0.5], "epoch": 1.0})
        named = {"tuples": tuples, "path": path} | ({"path_answers": answers} if seed else {})
        for name, frame in named.items():
            runs.write_table(folder / f"{name}.parquet", frame)
        runs.write_manifest(folder, "x", method="sft", size="small", seed=seed)
    folders = sorted(tmp_path.glob("*/*"))
    frames = cause.read({"cross_entropy on teacher": folders})
    paths, answers = frames["paths"], frames["path_answers"]
    assert set(paths["method"]) == {"cross_entropy on teacher"} and set(paths["size"]) == {"small"}
    assert paths["seed"].tolist() == [0, 0, 1, 1] and paths["group"].tolist() == ["g", "h"] * 2
    assert paths["hit"].tolist() == [False, True] * 2
    assert answers["seed"].tolist() == [1] and answers["group"].tolist() == ["h"]
