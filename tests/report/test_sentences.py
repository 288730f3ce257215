"""Every sentence reads the tables alone, and its words are chosen by the interval."""

import itertools
import re
import shutil

import pandas as pd
import pytest
from project import ROOT

from kdlib import runs
from kdlib.analysis.attacks import END, LOWEST, START
from kdlib.analysis.primary import OFF_POLICY
from kdlib.config.life import MODELS
from kdlib.config.methods import METHODS, PAPER
from kdlib.config.profile import load_profile
from kdlib.report import (
    answers,
    findings,
    first_screen,
    lab_sentences,
    lookups,
    part_sentences,
    sentences,
    usefulness_sentences,
)
from kdlib.study import pipeline

SMOKE, NAN = load_profile("smoke"), float("nan")
SIZES = SMOKE.sizes
SPAN = {"value": -0.15, "lo": -0.2, "hi": -0.1}
BESIDE_SFT = {one.notebook for name, one in METHODS.items() if name != "sft"}
DELETED = ("deleted rows", "deleted records", "kept rows", "told by the loss", "held-out nats")
FRONTS = ("one", "other", "difference")
POINTS = "-15.0 percentage points [-20.0, -10.0]"
LESS = "15.0 percentage points fewer [95% interval of the difference -20.0 to -10.0]"


def write(**tables):
    for name, lines in tables.items():
        frame = lines if isinstance(lines, pd.DataFrame) else pd.DataFrame(lines)
        runs.write_table(runs.results_dir("smoke") / f"{name}.csv", frame)


def every(**facts):
    """A line for each method and student's size, and the teacher's."""
    models = [{"method": method, "size": size} for method in ("base", *METHODS) for size in SIZES]
    models += [{"method": name, "size": "teacher"} for name in ("base", "teacher")]
    return pd.DataFrame([one | facts for one in models])


def stopped(value=-0.15, gained=True, own=0.2, sft=0.35, useful=0.0):
    """Every student beside SFT at equal usefulness; the margin is 0.05."""
    line = {"gained": gained, "own": own, "sft": sft, "margin": 0.05, "discordant": 40}
    line |= {"groups": 90, "n": 300, "p": 0.001, "epoch": 2.5, "sft_epoch": 1}
    gaps = every(metric="memorized", value=value, lo=value - 0.05, hi=value + 0.05, **line)
    line |= {"own": 0.3, "sft": 0.31}
    as_useful = every(metric="useful", value=useful, lo=useful - 0.01, hi=useful + 0.01, **line)
    return pd.concat([gaps, as_useful])


def lengths(*seeds):
    facts = [{"seed": seed, "split": split} for seed in seeds for split in ("member", "held_out")]
    return pd.DataFrame(facts).assign(rows=100, median_tokens=40, shorter=0.75)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A project with every table of a study of three seeds, in which all students save 15 points.

    On the path, held-out loss is least in the middle, at epoch 1.
    """
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_ROOT", str(folder))
        write_all()
    return folder


@pytest.fixture(autouse=True)
def tables(whole, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))


def write_all():
    ends = every(member=0.4, member_lo=0.3, member_hi=0.5)
    to_sft = {"comparison": "to_sft", "metric": "exact_rate", "seed": "all"}
    noted = pd.DataFrame(
        {"epoch": [0, 1, 2], "exact_rate": [0.0, 0.125, 0.4], "nats_per_token": [4.0, 3.0, 5.0]}
    )
    path = every().merge(noted, "cross").merge(pd.DataFrame({"seed": [0, 1, 2]}), "cross")
    given = [
        every(attack="given", at=at, value=at, lo=0, hi=0.9, split=split)
        for at in (0.0, 0.5)
        for split in ("member", "held_out")
    ]
    steps = [
        {"step": "distilled", "measure": measure, "kind": kind, "n": 100} | SPAN
        for measure in part_sentences.RELEASED
        for kind in ("level", "change")
    ]
    causes = [part_sentences.TAUGHT_BY_TEXT, "sft"]
    causes += [f"{one} on rows" for one in part_sentences.DIVERGENCES]
    fitted = {"method": part_sentences.TAUGHT_BY_TEXT, "n": 300}
    old = {"measure": "old rows", "kind": "level"}
    auc = {"auc": 0.75, "auc_lo": 0.5, "auc_hi": 1.0}
    trivial = [
        {"against": "echo"} | SPAN,
        {"against": "constant", "value": 0.3, "lo": 0.2, "hi": 0.4},
    ]
    gap = {"kind": "gap", "method": "word_kd", "rows": "left_out", "metric": "memorized"}
    contrast = {"metric": "memorized", "own": 0.2, "sft": 0.35, "gained": True} | SPAN
    roc = {"roc_auc": 0.9, "roc_auc_lo": 0.8, "roc_auc_hi": 1.0}
    loss = every(split="held_out", metric="nats_per_token", value=4.5, seed=0)
    ended = [
        every(split="member", metric="exact_rate", k=50, value=value, seed=seed)
        for seed, value in enumerate((0.3, 0.4, 0.5))
    ]
    useful = {"split": "held_out", "metric": "usefulness_greedy", "seed": 0}
    ended.append(every(value=0.25, **useful))
    no_model = pd.DataFrame([{"method": "echo", "size": "all", "value": 0.3} | useful])
    beside = [one | {"method": "sft", "size": size} for one in trivial for size in SIZES]
    write(
        lengths=lengths(0, 1, 2),
        metrics=pd.concat([loss, *ended, no_model]).assign(commit="1a"),
        table1=ends,
        paths=pd.concat([path.assign(split=split) for split in ("member", "held_out")]),
        differences=every(**to_sft, n=300, **SPAN),
        equal_usefulness=stopped(),
        over_trivial=[
            *({"method": "teacher", "size": "teacher"} | one for one in trivial),
            *beside,
        ],
        extraction=pd.concat(
            [one.assign(split=s) for one in given for s in ("member", "held_out")]
        ),
        same_fit=every(**SPAN),
        primary=[
            {"claim": claim, "students": 9} | SPAN for claim in ("A1", "A2", "C1", OFF_POLICY)
        ],
        claims=[
            {"claim": "A1", "verdict": "open", "evidence": "1 of 9; no verdict on usefulness"},
            {"claim": "C1", "verdict": "confirmed", "evidence": "9 of 9 differences lie below 0"},
        ],
        curves=every().merge(
            pd.DataFrame({"epoch": [0, 1, 2], "useful": [0.1, 0.2, 0.25]}), "cross"
        ),
        second_sft=every(kind="excess", distilled=0.1, sft=0.25, n=40, **SPAN),
        handed_down=[gap | SPAN | {"n": 150}],
        forecast=[{"test": "word-level KD middle, all four"} | roc],
        removal=[{"predicted": 30, "random": 75, "n": 300} | SPAN],
        membership=pd.concat(
            [every(score=one, **auc) for one in ("loss", "likelihood_ratio")]
        ).assign(
            n_member=300, n_other=450, seeds=3, tpr_1pct=0.5, tpr_1pct_lo=0.25, tpr_1pct_hi=0.75
        ),
        membership_early=pd.concat(
            [
                every(
                    score="loss", at=at, auc=value, auc_lo=value - 0.25, auc_hi=value + 0.25
                ).assign(n_other=315)
                for at, value in ((START, 0.5), (LOWEST, 0.625), (END, 0.75))
            ]
        ),
        cause=[
            {"method": one, "value": 0.25, "lo": 0.125, "hi": 0.5}
            | {f"{end}_less": SPAN[end] for end in ("value", "lo", "hi")}
            for one in causes
        ],
        cause_paths=[
            {"method": name, "epoch": epoch, "nats": nats}
            for name in (*causes, "on-policy RKL x4")
            for epoch, nats in ((0, 4.5), (2, 5.5))
        ],
        by_recited=[{"recited": True, "n": 200}, {"recited": False, "n": 100}],
        fit_by_recited=[
            SPAN | {"method": one, "recited": same, "at_end": 0.125, "n": 100}
            for same, one in itertools.product((True, False), causes)
        ],
        least_loss=[{"method": one, "loss": 2.5, "own": 0.25, "sft": 0.125} for one in causes],
        convergence=[{"method": "on-policy RKL x4", "metric": "same_fit", "value": None}],
        cause_same_fit=[fitted | {"method": one, "value": None, "lo": None} for one in causes],
        life_deleted=[
            SPAN | {"done": done, "who": who, "measure": measure, "value": 0.25, "n": 8}
            for (done, who), measure in itertools.product(MODELS, DELETED)
        ],
        claims_cause=[
            {"claim": claim, "verdict": "open", "evidence": ""} for claim in ("A3", "A4")
        ],
        claims_defences=[{"claim": "B1", "verdict": "open", "evidence": ""}],
        life_contrasts=[
            SPAN | {"claim": "F1", "of": 0.25, "against": 0.01},
            SPAN | {"claim": "F3", "beyond": -0.1, "beyond_lo": -0.2, "beyond_hi": 0.1},
        ],
        claims_life=[
            {"claim": claim, "verdict": "confirmed", "evidence": "none"} for claim in ("F1", "F3")
        ],
        defences_at_end=[
            SPAN
            | {"records_n": 8, "method": method, "value": value, "sft_there": sft, "records": one}
            for method, value, sft, one in (
                ("before fine-tuning", 0.0, 0.0, 0.0),
                ("sft", 0.25, 0.25, 0.5),
                ("word_kd", 0.125, 0.01, 0.0),
                ("LoRA", 0.01, 0.02, 0.0),
            )
        ],
        contrasts=[
            contrast | {"method": name, "metric": metric, "own_students": 3}
            for name, metric in itertools.product(("B1", "B2"), ("memorized", "auc"))
        ],
        hypervolumes=[
            SPAN | {"measure": measure, "front": name, "value": value}
            for measure, value in (("verbatim", -0.15), ("near_verbatim", -0.2))
            for name in FRONTS
        ],
        release_steps=steps,
        life_generations=[
            SPAN | old | {"way": way, "generation": number, "value": value}
            for way in ("teacher", "trained on", "distilled anew")
            for number, value in ((0, 0.25), (3, -0.15))
        ]
        + [SPAN | old | {"way": "teacher", "generation": 3, "measure": "told by the loss"}],
        life_relearning=[
            SPAN | {"done": done, "who": who, "read": True, "deleted": gone, "epoch": epoch}
            for (done, who), gone, epoch in itertools.product(MODELS, (True, False), (0, 4))
        ],
    )


def test_every_notebook_has_its_sentences():
    stems = {file.stem for file in (ROOT / "notebooks").glob("*.ipynb")}
    assert set(sentences.OF) == stems | {"README", "README, results"}
    for part, of_part in pipeline.PARTS.items():
        assert {asked for stem in of_part for asked, _ in sentences.OF[stem]} == {part}
    for name in set(METHODS) - {"sft"}:
        assert name in {asked for asked, _ in sentences.OF[METHODS[name].notebook]}


@pytest.mark.parametrize("stem", answers.OF)
def test_an_answer_is_one_sentence_with_a_number(stem):
    text = answers.OF[stem](SMOKE)
    assert re.search(r"\d", text) and "nan" not in text and ". " not in text
    assert text.endswith(".") and len(text.split()) <= 80
    cell = findings._answered("Here", stem, SMOKE, ", commit x")
    assert cell.startswith(
        f"Here: **{findings.capital(text)}**\n\n{findings.FOLD}\n\nProfile `smoke`"
    )
    assert findings.with_intervals(stem, SMOKE) in cell and cell.endswith("\n\n</details>")


def test_sft_stopped_early_is_named_only_where_it_was_compared():
    said = ", and so are those of SFT that is stopped early, by whole intervals"
    over = lookups.table("smoke", "over_trivial")
    assert said in first_screen.below_trivial(SMOKE)
    for lines in (over.query("method != 'sft'"), over.assign(hi=0.1)):
        write(over_trivial=lines)
        assert said not in first_screen.below_trivial(SMOKE)


def test_what_more_steps_add_is_said_where_both_gained_and_not_from_scratch():
    names = ("on-policy RKL x4", "MiniLLM x4")
    line = SPAN | {"own": 0.125, "sft": 0.25, "margin": 0.05, "discordant": 3}
    lines = [
        line | {"method": name, "metric": metric, "gained": gained}
        for name, gained in zip(names, (True, False), strict=True)
        for metric in ("memorized", "useful")
    ]
    convergence = [{"metric": "same_fit", "method": name} for name in names]
    write(cause_equal_usefulness=lines, convergence=convergence)
    pretrained = load_profile("laptop").model_copy(update={"name": "smoke"})
    text = usefulness_sentences.with_more_steps(pretrained)
    assert text.endswith(
        "equally useful): on-policy RKL x4 -0.150 [-0.200, -0.100], not surely more useful, "
        "memorized 12.5% (SFT 25.0%; different responses that differ: 3)."
    )
    write(cause_equal_usefulness=[one | {"lo": 0.06} for one in lines], convergence=convergence)
    assert ", more useful, memorized" in usefulness_sentences.with_more_steps(pretrained)
    assert usefulness_sentences.with_more_steps(SMOKE) == ""  # which is from scratch


def test_answers_are_ranked_beside_those_without_a_model():
    lines = [
        {"method": method, "size": size, "value": value}
        for method, size, value in (
            ("sft", "small", 0.1), ("sft", "small", 0.3), ("echo", "all", 0.25),
            ("gkd", "small", 1), ("base", "teacher", 0.5), ("teacher", "teacher", 0.75),
            ("base", "small", 0.0),
        )
    ]  # fmt: skip
    write(metrics=[one | {"metric": "usefulness_greedy", "split": "held_out"} for one in lines])
    table = usefulness_sentences.ranked("smoke")
    assert table["answers of"].tolist() == [
        "teacher", "teacher, before fine-tuning", "echo, no model", "SFT, small",
        "small, before fine-tuning",
    ]  # fmt: skip
    assert table["usefulness"].tolist() == ["0.750", "0.500", "0.250", "0.200", "0.000"]


def test_an_answer_is_of_models_from_scratch_where_these_alone_were_asked(monkeypatch):
    def answer(settings):
        if settings.name == "smoke":
            raise lookups.NotRun
        return "it is 1."

    monkeypatch.setitem(answers.OF, "14_cause", answer)
    monkeypatch.setattr(findings, "from_scratch", lambda stem, settings: "told")
    assert findings.answer("14_cause", SMOKE) == "**Models from scratch**: it is 1."
    monkeypatch.setattr(findings, "from_scratch", lambda stem, settings: "")
    assert findings.answer("14_cause", SMOKE) == findings.answer("01_data_and_tokens", SMOKE) == ""
    assert findings.answer("12_what_stays", SMOKE) == findings.capital(answers._stays(SMOKE))


def test_answers_are_of_the_tables():
    text = answers.OF["12_what_stays"](SMOKE)
    assert (
        "removed, 30 of 300 member rows are memorized, with as many random rows removed 75: "
        in text
    )

    ends = ": SFT writes 40.0% of its training rows word for word (loss 5.00, up from 4.00); "
    ends += "word-level KD 40.0%, minus SFT -15.0 [-20.0, -10.0]"
    assert f"{ends} (loss 5.00, up from 4.00)." in answers.OF["04_word_level_kd"](SMOKE)
    gaps = lookups.table("smoke", "differences")
    write(differences=gaps.assign(hi=0.1, n=100))  # of the first seed
    paths = lookups.table("smoke", "paths")
    write(paths=paths.assign(nats_per_token=paths["nats_per_token"] + 9 * (paths["seed"] != 0)))
    text = answers.OF["04_word_level_kd"](SMOKE)
    assert "of seed 0 alone SFT writes 30.0% of its training rows word for word (loss 5.00" in text
    assert "-15.0 [-20.0, +10.0] (may be chance) (loss" in text
    write(differences=gaps.query("method != 'word_kd'"))
    with pytest.raises(lookups.NotRun):
        answers.OF["04_word_level_kd"](SMOKE)


def test_an_answer_on_defences_needs_a_usefulness_in_common():
    text = answers.OF["15_defences"](SMOKE)
    assert "SFT 35.0%: -15.0 percentage points [-20.0, -10.0]; that distilling" in text
    assert "that distilling adds something (B1) is open; beside that rule, the loss ranks" in text
    assert "nothing to save" not in text
    write(contrasts=lookups.table("smoke", "contrasts").assign(sft=0.09))
    assert ", so that there is nothing to save; " in answers.OF["15_defences"](SMOKE)
    write(contrasts=lookups.table("smoke", "contrasts").assign(gained=False))
    with pytest.raises(lookups.NotRun):
        answers.OF["15_defences"](SMOKE)


def test_points():
    line = {"value": -0.05, "lo": -0.2, "hi": -0.01}
    assert lookups.points(line, lookups.UNIT) == "-5.0 percentage points [-20.0, -1.0]"
    assert lookups.points(line | {"hi": NAN, "lo": NAN}) == "-5.0 (no interval)"
    assert lookups.points(dict.fromkeys(line, NAN)) == "too few responses to tell"


@pytest.mark.parametrize("stem", sentences.OF)
def test_a_whole_study_leaves_nothing_out(stem):
    text = findings.said(stem, SMOKE)
    assert "not run" not in text and "nan" not in text and text.endswith((".", "|"))
    assert all(sentence[0].isupper() for sentence in re.split(r"\. (?=[A-Za-z])", text))
    assert ("\n| student | memorized | SFT |" in text) == (stem in BESIDE_SFT)


@pytest.mark.parametrize(
    ("stem", "said"),
    [
        ("00_map", "memorize 20.0% of the member rows of the other half on average, SFT 35.0%: "),
        (
            "00_map",
            "verdicts on 7 claims: 3 confirmed (C1, F1, F3), 0 refuted, 4 open (A1, A3, A4, B1), "
            "no verdict by rule: A1 (the teacher does not surely beat every answer without a model",
        ),
        (
            "README",
            f"fine-tuned students (SFT) write 35.0% of their rows word for word, distilled ones "
            f"20.0%: {POINTS}. Trained to the end, distilled minus directly fine-tuned is ",
        ),
        (
            "README",
            f"is {POINTS}; without MiniLLM (whose SFT start wrote 0.0%) -15.0 [-20.0, -10.0]. What",
        ),
        (
            "README",
            "kept: word-level KD (middle size) writes 40.0% [30.0%, 50.0%] of the rows; by its "
            "losses alone a training row is told from one of 315 unseen ones with a chance of 0.75",
        ),
        (
            "README",
            "All of this is of 3 training runs of small models; trained to the end, the answers of "
            "every student are on average less useful than 'echo', which needs no model, and so "
            "are those of SFT that is stopped early, by whole intervals.",
        ),
        (
            "18_conclusion",
            "SFT that is stopped early, by whole intervals; none is on average more useful than "
            "the teacher's model before fine-tuning.",
        ),
        ("18_conclusion", "('echo'): the teacher -0.150 [-0.200, -0.100], SFT (large) -0.150 ["),
        (
            "03_supervised_fine_tuning",
            "usefulness is 0.200 of at most 0.250 (large size, epoch 1), ",
        ),
        ("01_data_and_tokens", "100 member rows and keeps 100 held-out rows apart"),
        ("01_data_and_tokens", "40 tokens in the median, and 75.0% have fewer than 50."),
        ("01_data_and_tokens", "4.50 nats per token, and the students': large 4.50, middle 4.50"),
        ("02_teacher", "The teacher memorizes 40.0% [30.0%, 50.0%] of the member rows"),
        ("02_teacher", "held-out loss is least (epoch 1), 12.5%."),
        ("02_teacher", "no model ('echo'): -0.150 [-0.200, -0.100], less useful."),
        ("03_supervised_fine_tuning", "SFT (middle size) memorizes 40.0% [30.0%, 50.0%]"),
        ("00_map", f"SFT 35.0%: {LESS}; the rule of A1 judges 9 of these students. At the "),
        ("03_supervised_fine_tuning", "12.5%. SFT (small size) memorizes 40.0% [30.0%, 50.0%]"),
        ("03_supervised_fine_tuning", "of training (by seed 30.0%, 40.0%, 50.0%); stopped where"),
        ("03_supervised_fine_tuning", "need no model: large -0.150 [-0.200, -0.100] ('echo'), "),
        (
            "04_word_level_kd",
            "At the end of training word-level KD memorizes, minus SFT of its size, in percentage "
            "points of the member rows: -15.0 [-20.0, -10.0] (large size), -15.0 [-20.0, -10.0] "
            "(middle size), -15.0 [-20.0, -10.0] (small size); stopped early, 3 of 3 students "
            "meet the conditions of a verdict (last column below): -15.0 [-20.0, -10.0] (large",
        ),
        (
            "04_word_level_kd",
            "\n| word-level KD, small | 40.0% [30.0%, 50.0%] | 40.0% [30.0%, 50.0%] | "
            "-15.0 [-20.0, -10.0] | 4.00 | 5.00 |\n",
        ),
        (
            "04_word_level_kd",
            "\n| word-level KD, small | 20.0% | 35.0% | -15.0 [-20.0, -10.0] | "
            "+0.000 [-0.010, +0.010] | yes: less |\n",
        ),
        ("04_word_level_kd", "(means of seeds 0, 1, 2, unless one is named)"),
        ("04_word_level_kd", "large 0.050, middle 0.050, small 0.050):"),
        ("08_minillm", "before the first step (of MiniLLM that of its SFT start) and at the end"),
        (
            "05_sequence_level_kd",
            "from the least memorized on is the same at every size: SFT, word-level KD, sequence-",
        ),
        (
            "08_minillm",
            "(epoch 0) memorizes 0.0% of the member rows, so that none was written word for",
        ),
        (
            "08_minillm",
            "rises on member rows from 4.00 to 5.00 and rises on held-out rows from 4.00",
        ),
        ("09_memorization_meter", "with half of the response given, 50.0% [0.0%, 90.0%]"),
        (
            "10_comparison",
            "minus SFT in percentage points: -15.0 [-20.0, -10.0] (word-level KD, large size), ",
        ),
        ("11_inheritance", "Of the 40 rows that the teacher and not an SFT student memorizes"),
        ("12_what_stays", "AUC of 0.900 [0.800, 1.000]"),
        ("12_what_stays", "30 of all 300 member rows; without as many random rows, as far as"),
        ("12_what_stays", "as far as whole groups allow, 75: "),
        (
            "13_membership_and_canaries",
            "(AUC, middle size; 0.5 is a guess) SFT 0.625 [0.375, 0.875], word-level KD",
        ),
        (
            "13_membership_and_canaries",
            "MiniLLM 0.625 [0.375, 0.875] where the held-out loss is lowest (what starts from SFT, "
            "before its first step: MiniLLM 0.500 [0.250, 0.750]); at the end of training, many "
            "epochs later, SFT 0.750 [0.500, 1.000], word-level",
        ),
        (
            "13_membership_and_canaries",
            "MiniLLM 0.750 [0.500, 1.000] (of the 315 held-out rows that were noted on the way).",
        ),
        (
            "13_membership_and_canaries",
            "Word-level KD (middle size) writes 40.0% of the rows word for word; who sees its "
            "losses, and has models that were trained on other rows, ranks a training row above "
            "another with a chance of 0.750 [",
        ),
        (
            "13_membership_and_canaries",
            "(0.5: a guess) and finds 50.0% [25.0%, 75.0%] of them at 1% false alarms",
        ),
        ("14_cause", "At the end SFT memorizes 25.0% [12.5%, 50.0%] of the rows, and of students"),
        ("14_cause", "with JSD 25.0% [12.5%, 50.0%]; SFT's objective on the teacher's"),
        ("14_cause", "repeats the first 50 tokens of 200, so that these are read either way; of "),
        (
            "15_defences",
            "Stopped early where both are as useful, distilled students (middle size) ",
        ),
        ("15_defences", "size) memorizes 25.0% [-20.0%, -10.0%] of the rows; others, and SFT on "),
        ("15_defences", "as closely: word-level KD 12.5% [-20.0%, -10.0%] and 1.0%; under 5% both"),
        (
            "15_defences",
            "no protection is seen: LoRA (a loss with goldfish counts the tokens that ",
        ),
        ("15_defences", f"and SFT memorize 20.0% and 35.0%: {LESS}. With the goldfish"),
        (
            "15_defences",
            "cheaper -0.150 [-0.200, -0.100]: difference -0.150 [-0.200, -0.100].",
        ),
        ("14_cause", "memorize there: forward KL 2.50, 25.0% and 12.5%; reverse KL 2.50, 25.0% "),
        ("14_cause", f"minus SFT: of rows that this text repeats, at equal loss on these, {LESS};"),
        ("14_cause", "all, no loss in common at which either memorizes 5%. By the rules that were"),
        (
            "14_cause",
            "end of training); A4 open; with four times the steps, too, neither method fi",
        ),
        (
            "15_defences",
            "end: SFT 50.0%, word-level KD 0.0%; one at most by word-level KD, of stude",
        ),
        ("16_life_cycle", "recites 25.0%, 25.0%, 25.0% as it was, unlearned, retrained"),
        ("16_life_cycle", "it 0.25, 0.25, 0.25 nats per token; its loss is lower on a deleted row"),
        ("16_life_cycle", "Of 8 deleted personal records are recited: teacher as it was 2; stu"),
        (
            "16_life_cycle",
            "after first runs on these seeds): F1 confirmed (none); F3",
        ),
        (
            "16_life_cycle",
            "Of the first rows are recited at first, and after 3 updates: teacher",
        ),
        ("16_life_cycle", "25.0%, then -15.0% [-20.0%, -10.0%]; distilled anew 25.0%, then -15.0%"),
        (
            "16_life_cycle",
            "relearning deleted rows are recited by: teacher as it was -15.0% [",
        ),
        ("16_life_cycle", "; of rows that were never read at most -15.0%."),
        ("17_release", "Word for word, each step minus the one before: distilled -0.150 [-0.200"),
        ("17_release", "-0.100] (seed 0 alone, its interval over groups). Near copies, each step"),
        ("17_release", "Personal data, each step minus the one before: distilled -0.150 [-0.200"),
    ],
)
def test_what_is_said(stem, said):
    assert said in findings.said(stem, SMOKE)


def released(step, near, personal, useful):
    """The changes of a step, by the upper ends of their intervals, and how many come out after."""
    ends = dict.fromkeys(part_sentences.COPIES, 0.1) | {"near copies": near}
    ends |= {"personal data": personal, "usefulness": useful}
    line = {"step": step, "n": 100, "value": -0.5, "lo": -1.0}
    changes = [line | {"kind": "change", "measure": one, "hi": hi} for one, hi in ends.items()]
    return [*changes, line | {"kind": "level", "measure": "near copies", "hi": near}]


def test_a_release_is_told_by_what_each_step_takes_away():
    end = "near copies of -50.0% [-100.0%, -10.0%] of the rows still come out."
    filtered, dear = released("filtered", 0.0, -0.1, 0.1), released("dear", -0.1, 0.1, -0.1)
    write(release_steps=[*filtered, *dear])
    said = answers.OF["17_release"](SMOKE)
    assert said == (
        "what each step takes away, by its whole interval (seed 0 alone, its interval over "
        "groups): 'filtered': personal data; 'dear': near copies; usefulness was seen to fall at "
        "dear; "
        f"{end}"
    )
    write(release_steps=released("idle", 0.1, 0.1, 0.1))
    said = answers.OF["17_release"](SMOKE)
    assert "'idle': nothing; usefulness was seen to fall at none of them; near" in said


def test_the_reference_runs_release_is_answered_in_fifty_words(monkeypatch):
    monkeypatch.setenv("KDLIB_ROOT", str(ROOT))
    first = answers.OF["17_release"](load_profile("laptop"))
    assert len(first.split()) <= 50 and first.endswith("of the rows still come out.")


@pytest.mark.parametrize(
    ("value", "lo", "hi", "size", "sure"),
    [
        (-0.15, -0.2, -0.1, "15.0 percentage points fewer", "fewer"),
        (0.15, 0.1, 0.2, "15.0 percentage points more", "more"),
        (-0.05, -0.2, 0.1, "5.0 percentage points fewer", ""),
        (0.1, 0.0, 0.2, "10.0 percentage points more", ""),
        (0.0, -0.1, 0.1, "no difference was seen", ""),
        (-0.15, None, None, "15.0 percentage points fewer", ""),
    ],
)
def test_the_interval_says_whether_a_difference_is_told_from_none(value, lo, hi, size, sure):
    line = {"students": 2, "value": value, "lo": lo, "hi": hi}
    write(primary=[{"claim": claim} | line for claim in ("A1", "C1")])
    span = "(too few different responses for an interval)"
    if lo is not None:
        span = f"[95% interval of the difference {100 * lo:+.1f} to {100 * hi:+.1f}]"
    known = sure or value == 0 or lo is None
    text = findings.said("10_comparison", SMOKE)
    tail = "." if known else f", {lookups.UNKNOWN}."
    assert f"{size} {span}{tail.replace('.', ';')}" in text
    first = findings.said("10_comparison", SMOKE)
    plain = first[first.index("At the end of training, ") :].partition(". ")[0]
    assert plain.startswith(f"At the end of training, {'' if sure else 'this run could not tell'}")
    assert f" {sure or 'fewer'} training rows" in plain
    assert f"on average {size} {span}; " in plain
    assert plain.endswith(
        "; by its own interval 9 of 9 students write fewer"
    )  # without the mean of off-policy ones


def test_a_difference_of_too_few_responses_is_not_given():
    write(primary=[{"claim": "C1", "students": 2, "value": None, "lo": None, "hi": None}])
    text = findings.said("10_comparison", SMOKE)
    assert "on average not given, of too few different responses;" in text
    write(same_fit=every(value=None, lo=None, hi=None))
    said = findings.said("10_comparison", SMOKE)
    assert "points: nobody is compared; 9 of 9 students come to no loss in common with SFT" in said


@pytest.mark.parametrize(
    ("lo", "hi", "word"), [(0.1, 0.3, "more useful"), (-0.1, 0.3, lookups.UNKNOWN)]
)
def test_usefulness_over_the_best_trivial_answer(lo, hi, word):
    line = {"method": "teacher", "against": "echo", "value": 0.2, "lo": lo, "hi": hi}
    write(over_trivial=[line])
    assert findings.said("02_teacher", SMOKE).endswith(f"{lo:+.3f}, {hi:+.3f}], {word}.")
    write(over_trivial=pd.DataFrame([line])[:0])
    assert "was not noted through training" in findings.said("02_teacher", SMOKE)


def test_little_to_save_and_nothing_in_common():
    write(equal_usefulness=stopped(gained=False, own=0.01, sft=0.05))
    text = findings.said("00_map", SMOKE)
    assert "judges 0 of these students; where SFT memorizes under 10% of the rows, there is" in text
    said = findings.said("08_minillm", SMOKE)
    row = "\n| MiniLLM, small |  |  |  |  | no: no usefulness that both surely gain |\n"
    assert row in said and "early, 0 of 3 students meet the conditions of a verdict (last" in said


@pytest.mark.parametrize(("useful", "named"), [(-0.06, True), (-0.04, False), (0.06, False)])
def test_a_student_that_is_less_useful_by_more_than_the_margin_is_named(useful, named):
    other = stopped(useful=useful)
    other = other[(other["method"] == "minillm") & (other["size"] == "small")]
    usual = stopped()
    usual = usual[(usual["method"] != "minillm") | (usual["size"] != "small")]
    write(equal_usefulness=pd.concat([usual, other]))
    said = "less useful than SFT by more than the margin, which favours distilling: MiniLLM small."
    assert (said in findings.said("10_comparison", SMOKE)) == named
    row = findings.said("08_minillm", SMOKE).partition("\n| MiniLLM, small | 20.0%")[2]
    words = "; SFT is more useful by more than the margin |"
    assert (words in row.partition("\n")[0]) == named


def test_a_method_that_starts_from_sft_says_where_from():
    paths = pd.read_csv(runs.results_dir("smoke") / "paths.csv")
    paths["exact_rate"] += 0.25
    held = paths["split"] == "held_out"
    paths.loc[held & (paths["epoch"] == 2), "nats_per_token"] = 2.0
    write(paths=paths)
    text = findings.said("08_minillm", SMOKE)
    assert "memorizes 25.0% of the member rows; from there to the end of training" in text
    assert "falls on held-out rows from 4.00 to 2.00." in text
    assert "epoch 0" not in findings.said("04_word_level_kd", SMOKE)


def test_an_order_that_differs_between_sizes_is_told():
    table = every(member=0.4, member_lo=0.3, member_hi=0.5)
    lower = table["method"].eq("word_kd") & table["size"].eq("small")
    write(table1=table.assign(member=table["member"].mask(lower, 0.1)))
    told = "differs between sizes (large: SFT, word-level KD; middle: SFT, word-level KD; "
    assert f"{told}small: word-level KD, SFT)." in findings.said("04_word_level_kd", SMOKE)


def test_too_few_rows_memorized():
    write(
        second_sft=every(
            kind="excess", distilled=None, sft=None, n=0, value=None, lo=None, hi=None
        ),
        forecast=[{"test": "word-level KD middle, all four", "roc_auc": None}],
    )
    assert findings.said("11_inheritance", SMOKE).startswith("Too few rows are memorized by")
    assert findings.said("12_what_stays", SMOKE).startswith("Too few rows are memorized for")


def test_what_an_attacker_tells_says_of_which_seeds_it_is():
    scores = lookups.table("smoke", "membership").assign(n_member=100, n_other=140, seeds=1)
    write(membership=scores)
    text = lab_sentences.recognized(SMOKE)
    assert text.endswith(" (seed 0 alone, its interval over groups).")
    early = lookups.table("smoke", "membership_early")
    write(membership_early=early.drop(columns="at"))  # of an earlier version
    assert "not run" in findings.said("13_membership_and_canaries", SMOKE)


def test_runs_of_other_machines_stand_beside_the_share_here():
    line = {"method": "sft", "size": SMOKE.probe_size, "seed": 1, "healed_in": None}
    shares = lookups.table("smoke", "metrics").assign(lo=0.3, hi=0.5)
    runs_of = {0.125: "earlier code", 0.375: "this code"}
    there = [
        line | {"value": value, "machine": "M", "code": code} for value, code in runs_of.items()
    ]
    there.append(line | {"value": 0.5, "healed_in": "bf16"})  # a step of this machine
    write(healed_elsewhere=there, metrics=shares)
    said = (
        "; on M SFT (middle size) wrote 12.5% (earlier code) and 37.5% (this code) of the rows of "
    )
    said += (
        "seed 1, here 40.0% [30.0%, 50.0%] (seed 1 alone, its interval over groups): 1 of these "
    )
    said += "2 other runs inside of it (whether machine, "
    assert said in findings.said("18_conclusion", SMOKE)
    brief = (
        "; on other machines SFT (middle size) wrote 12.5% and 37.5% of the rows of seed 1, here "
    )
    assert f"{brief}40.0% [30.0%, 50.0%]." in findings.said("README", SMOKE)


def test_in_few_words():
    line = {"value": -0.05, "lo": -0.2, "hi": 0.1}
    assert lookups.briefly(line) == "5.0 fewer [-20.0 to +10.0]"
    assert "too few different responses" in lookups.briefly(line | {"lo": NAN, "hi": NAN})
    assert lookups.briefly(dict.fromkeys(line, NAN)).startswith("not given")


def test_how_sure():
    end = f"over seeds 0, 1, 2, then groups of equal responses. {sentences.UNROUNDED}"
    assert sentences.interval_note(SMOKE).endswith(end)
    assert "alone" not in findings.said("14_cause", SMOKE)
    first = (
        "A [95% interval of the difference -2.0 to -1.0] (seed 0 alone, its interval over groups)."
    )
    assert "of seed 0; with one seed" in sentences.interval_note(SMOKE, f"{first} {first}")
    mixed = sentences.interval_note(SMOKE, f"{first} And .4 [.3, .5] of B.")
    assert "over seeds 0, 1, 2" in mixed
    assert "; where seed 0 alone is named, over groups of that seed." in mixed
    table = "\n| A, small (seed 0 alone) | 0.1 [0.0, 0.2] |"
    assert "of seed 0; with one seed" in sentences.interval_note(SMOKE, f"{first}{table}")
    assert "seeds none" not in findings.said("18_conclusion", SMOKE)
    write(lengths=lengths(3))
    assert "responses of seed 3; with one seed they say nothing" in sentences.interval_note(SMOKE)
    assert "with fewer than 3 seeds none about trained" in findings.said("18_conclusion", SMOKE)
    write(lengths=lengths(0, 1, 2, 3))
    probed = SMOKE.model_copy(update={"probe": SMOKE.probe.model_copy(update={"seeds": 3})})
    few = findings.with_intervals("14_cause", probed)
    over = "Intervals are of 95%, over seeds 0, 1, 2, then groups of equal responses."
    assert few.endswith(f"{over} {sentences.UNROUNDED}")
    assert "over seeds 0, 1, 2, 3, then" in findings.with_intervals("10_comparison", probed)


def test_what_was_not_run_names_the_command_that_makes_it():
    for file in runs.results_dir("smoke").glob("*.csv"):
        file.unlink()
    made = {
        "08_minillm": "make study PROFILE=smoke",
        "07_on_policy": 'make study PROFILE=smoke METHODS="imitkd gkd distillm distillm2"',
        "12_what_stays": "make study PROFILE=smoke PARTS=lab",
        "14_cause": "make study PROFILE=smoke PARTS=cause",
        "15_defences": "make study PROFILE=smoke PARTS=defences",
        "16_life_cycle": "make study PROFILE=smoke PARTS=life",
    }
    for stem in sentences.OF:
        assert findings.said(stem, SMOKE).startswith("This was not run: `make study PROFILE=smoke")
    for stem, command in made.items():
        assert findings.said(stem, SMOKE) == f"This was not run: `{command}` makes it."


def test_of_what_was_run_in_part_it_says_the_rest():
    further = {"seq_kd", "seq_kd_sampled"}
    table = every(member=0.4, member_lo=0.3, member_hi=0.5)
    ran = {"comparison": "to_sft", "metric": "exact_rate", "seed": "all", "n": 300} | SPAN
    for name, frame in {"table1": table, "differences": every(**ran)}.items():
        write(**{name: frame[~frame["method"].isin(further)]})
    kept = stopped()
    write(equal_usefulness=kept[kept["method"].isin(PAPER)])
    text = findings.said("05_sequence_level_kd", SMOKE)
    assert text.startswith("At the end of training sequence-level KD memorizes")
    assert "| sequence-level KD, small |" in text and "greedy" not in text
    command = 'make study PROFILE=smoke METHODS="seq_kd seq_kd_sampled"'
    assert text.endswith(f"The rest was not run: `{command}` makes it.")


def test_what_was_run_on_one_seed_is_held_against_sft_of_that_seed():
    gaps = lookups.table("smoke", "differences").assign(n=300)
    shares = lookups.table("smoke", "metrics")
    gaps.loc[gaps["method"] == "gkd", "n"] = 100
    write(
        differences=gaps,
        metrics=shares[~((shares["method"] == "gkd") & (shares["seed"] > 0))],
    )
    said = findings.said("07_on_policy", SMOKE)
    assert "(small size), each (seed 0 alone, its interval over groups); stopped early" in said
    for size in SIZES:
        own = f"\n| GKD, {size} (seed 0 alone) | 40.0% [30.0%, 50.0%] | 30.0% | -15.0 [-20.0"
        assert own in said  # SFT of that seed
        assert f"\n| ImitKD, {size} | 40.0% [30.0%, 50.0%] | 40.0% [30.0%" in said  # of all


def test_what_was_run_on_two_of_three_seeds_names_both():
    gaps = lookups.table("smoke", "differences").assign(n=300)
    gaps.loc[gaps["method"] == "gkd", "n"] = 200
    write(differences=gaps)
    said = findings.said("07_on_policy", SMOKE)
    assert "\n| GKD, small (seeds 0, 1 alone) | 40.0% [30.0%, 50.0%] | 35.0% | -15.0" in said


def test_what_the_rule_does_not_judge_is_named_where_it_is_apart():
    table = stopped(sft=0.05)
    write(equal_usefulness=table.assign(lo=table["lo"].where(table["metric"] == "useful")))
    assert "apart, though" not in findings.said("04_word_level_kd", SMOKE)  # without an interval
    few = stopped()
    few.loc[few["metric"] == "memorized", "discordant"] = 4
    write(equal_usefulness=table)
    said = findings.said("04_word_level_kd", SMOKE)
    apart = "; apart, though not judged: -15.0 [-20.0, -10.0] (large size), -15.0"
    assert f"0 of 3 students meet the conditions of a verdict (last column below){apart}" in said
    write(equal_usefulness=few)
    said = findings.said("04_word_level_kd", SMOKE)
    assert "+0.010] | yes: less |" not in said and "+0.010] | yes: not decided |" in said


def test_what_holds_0_may_be_chance():
    gaps = lookups.table("smoke", "differences")
    gaps.loc[gaps["size"] == "small", "hi"] = 0.1
    write(differences=gaps)
    said = findings.said("04_word_level_kd", SMOKE)
    assert "-15.0 [-20.0, +10.0] (small size, cannot be told from no difference); stopped" in said


@pytest.mark.parametrize(("lo", "hi", "unsure"), [(-0.2, 0.1, True), (-0.2, -0.1, False)])
def test_a_mean_without_on_policy_methods_says_whether_it_is_told_from_none(lo, hi, unsure):
    means = lookups.table("smoke", "primary")
    means.loc[means["claim"] == OFF_POLICY, ["lo", "hi"]] = lo, hi
    write(primary=means)
    first = findings.said("README", SMOKE).split(" What is not written")[0]
    assert first.endswith("(may be chance).") == unsure
