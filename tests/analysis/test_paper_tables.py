"""The paper's figures stand beside ours where they belong, and nowhere else."""

import pandas as pd
import studies

from kdlib.analysis import paper_tables
from kdlib.config.methods import PAPER


def tables(sizes=studies.SIZES, methods=PAPER):
    tuples, answers = studies.study(studies.ladder(0.9, sizes=sizes), {}, 0.1, methods, 20, sizes)
    return paper_tables.table1(tuples), paper_tables.table2(answers)


def test_the_papers_figures_stand_by_size_from_the_largest_on():
    first, second = (one.set_index(["method", "size"]) for one in tables())
    assert first.loc[("teacher", "teacher"), ["paper_size", "paper"]].tolist() == ["1.5B", 0.654]
    assert first.loc["sft", "paper"].tolist() == [0.523, 0.433, 0.330]
    assert first["paper"].count() == 13 and "base" not in first.index
    assert first.loc[("sft", "large"), ["member", "held_out"]].tolist() == [0.8, 0.1]
    assert second.loc[("minillm", "small"), "paper_rougeL_held_out"] == 0.21
    assert second.loc["word_kd", "paper_rouge1_member"].isna().all()
    assert second.loc[("base", "teacher"), "rougeL_held_out"] > 0.4


def test_further_methods_follow_without_a_figure():
    first, _ = tables(methods=(*PAPER, "gkd", "rkld"))
    first = first.set_index(["method", "size"])
    assert first["paper"].count() == 13
    assert [*first.index[-6::3]] == [("rkld", "large"), ("gkd", "large")]


def test_trivial_answers_stand_last_with_their_groups():
    tuples, answers = studies.study(studies.ladder(0.9), {}, 0.1, n=20)
    asked = answers.query("method == 'sft' and size == 'small'")
    said = asked.assign(method="constant", size="all", rougeL=0.25, rouge1=0.0)
    alone = paper_tables.table2(answers)
    both = paper_tables.table2(pd.concat([answers, said]))
    pd.testing.assert_frame_equal(both[:-1], alone, check_dtype=False)
    last = both.iloc[-1]
    assert last[["method", "size"]].tolist() == ["constant", "all"]
    assert last["rougeL_held_out"] == 0.25 and last.filter(like="paper_").isna().all()
    assert last[["rougeL_held_out_groups", "rougeL_held_out_hit_groups"]].tolist() == [20, 20]
    assert last["rouge1_member_hit_groups"] == 0
    first = paper_tables.table1(tuples).set_index(["method", "size"]).loc[("sft", "large")]
    assert first[["member_groups", "member_hit_groups"]].tolist() == [20, 16]


def test_with_other_sizes_the_papers_students_stay_away():
    for sizes in (("only",), ("xl", "l", "m", "s")):
        first, second = tables(sizes)
        assert first["paper"].count() == 1 and second["paper_rougeL_member"].count() == 1
        assert list(first["size"]) == ["teacher", *sizes * len(PAPER)]
