"""Which model a run is: its folder, and an identity that changes with all that it depends on."""

from dataclasses import replace

import pytest
import torch
from own_data import ALL, exchanged, make, profile_of, run_of

from kdlib import runs
from kdlib.config.profile import PROFILES, load_profile
from kdlib.data import canaries
from kdlib.errors import KdlibError
from kdlib.model import tokens
from kdlib.study import inputs, stages
from kdlib.study import run as study_run
from kdlib.study.run import Run, load_rows, require

DONE = {"base", "teacher", *ALL}
DISTILLED = set(ALL) - {"sft"}
GROUND = ["cpu", "4477ccb6e731f05f"]  # device, hash of the tiny profile's pool
PINNED = ["torch 2.13.0+cpu", "transformers 5.23.0", "tokenizers 0.23.3"]


@pytest.mark.parametrize(
    ("method", "size", "identity"),
    [
        ("base", "small", "1edc02097321eaaf"),
        ("teacher", "teacher", "c7974b376ada0525"),
        ("sft", "middle", "24a4b9718f4c7af9"),
        ("seq_kd", "middle", "e01948d2f9474274"),
        ("seq_kd_beam", "large", "3771de755a8a6922"),
        ("minillm", "small", "159be5062107dd89"),
    ],
)
def test_identities_of_the_reference_run_are_kept(monkeypatch, method, size, identity):
    """Under another identity, all that was made would be made again."""
    monkeypatch.setattr(inputs, "run_environment", lambda _: [*GROUND, *PINNED])
    assert Run(load_profile("tiny"), 0, method, size).identity == identity


@pytest.fixture
def bf16(monkeypatch):
    """The tiny profile in bf16."""
    monkeypatch.setattr(inputs, "run_environment", lambda _: [*GROUND, *PINNED])
    profile = load_profile("tiny")
    parts = {name: getattr(profile, name) for name in ("teacher", "student")}
    rounded = {k: one.model_copy(update={"precision": "bf16"}) for k, one in parts.items()}
    return profile.model_copy(update=rounded)


def test_identities_of_parts_and_ablations_are_kept(bf16):
    assert Run(bf16, 0, "base", "small").identity == "c2e07f7be078daef"
    assert Run(bf16, 0, "seq_kd_beam", "large").identity == "6b0e0aefb68af514"
    part = Run(bf16, 0, "word_kd", "middle").without(["b", "a"], "x", own_teacher=True)
    assert part.identity == "8d11075af8e09d00"
    gkd = Run(bf16, 0, "gkd", "middle")
    assert gkd.changing(student_share=0).identity == "9d745f7ff7cb42ac"


@pytest.mark.parametrize(
    ("able", "precision"), [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": False}, "fp32")]
)
def test_the_precision_that_is_used_is_part_of_the_identity(bf16, monkeypatch, able, precision):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: able)
    monkeypatch.setattr(study_run.checkpoints, "device", lambda: torch.device("cpu"))
    auto = {"precision": "auto"}
    parts = {name: getattr(bf16, name).model_copy(update=auto) for name in ("teacher", "student")}
    here = Run(bf16.model_copy(update=parts), 0, "sft", "small")
    assert here.settings.precision == precision
    same = here.identity == Run(bf16, 0, "sft", "small").identity
    assert same == (precision == "bf16")


def test_what_the_reference_run_stands_on(monkeypatch):
    """The hash of its pool is pinned in tests/data/test_pool.py."""
    monkeypatch.setattr(inputs, "load_pool", lambda _: "the pool")
    monkeypatch.setattr(study_run.pool, "data_hash", {"the pool": GROUND[1]}.get)
    found = inputs.run_environment(load_profile("tiny"))
    if found[2:] != PINNED or found[0] != "cpu":
        pytest.skip(f"identities were recorded under {PINNED} on a CPU, here are {found}")
    assert found == [*GROUND, *PINNED]


@pytest.mark.parametrize(
    ("changed", "redone"),
    [
        (("small = 2e-3", "small = 3e-3"), {"sft", "minillm"}),  # which starts from SFT
        (("large = 1e-3", "large = 3e-3"), set()),
        (("sft_epochs = 1", "sft_epochs = 2"), {"minillm"}),
        (("sft_epochs = 1", "sft_epochs = 0"), {"minillm"}),
        (("epochs = 3", "epochs = 4"), {"teacher", *DISTILLED}),
        (("epochs = 2", "epochs = 1"), set(ALL)),
        (("rollouts = 12", "rollouts = 8"), {"minillm"}),
        (("rouge_rows = 3", "rouge_rows = 4"), DONE),
        (("members = 12", "members = 13"), DONE),
        (("temperature = 1.0", "temperature = 0.7"), {"seq_kd_sampled"}),
        (("beams = 4", "beams = 2"), {"seq_kd_beam"}),
        (("[decoding]\ntemperature = 1.0\nbeams = 4", ""), set()),
        (('{ path = "small" }', '{ path = "small", epochs = 4 }'), set(ALL)),
        (('{ path = "large" }', '{ path = "large", lr = 5e-3 }'), set()),
        (('"total_variation"', '"symmetric_kl"'), {"mine"}),
        (('label = "Mine"', 'label = "Ours"'), set()),
        (("max_length = 96", 'max_length = 96\ntemplate = "alpaca"'), DONE),
    ],
)
def test_changed_settings_redo_what_depends_on_them(folder, changed, redone):
    models = [run_of(folder, method, changed) for method in DONE]
    done = {run.method for run in models if runs.done(run.folder, run.identity)}
    assert done == DONE - redone


def test_a_start_is_sft_at_its_rate_for_so_many_epochs(folder):
    run, sft = run_of(folder, "minillm"), run_of(folder, "sft")
    assert run.start == sft.settings.model_copy(update={"epochs": 1})
    assert run.longer(4).start == run.changing(clip=0.1).start == run.start
    assert run.changing(sft_epochs=5).start.epochs == 5
    assert [one.start for one in map(run_of, [folder] * len(DONE), DONE)].count(None) == (
        len(DONE) - 1
    )
    faster = ("small = 2e-3", "small = 3e-3")
    assert run_of(folder, "minillm", faster).start.lr == 3e-3
    without = [run_of(folder, "minillm", *c).changing(sft_epochs=0) for c in ((), (faster,))]
    assert [one.start for one in without] == [None, None]
    assert without[0].identity == without[1].identity != run.identity


@pytest.mark.parametrize("size", ["teacher", "small"])
def test_a_base_model_does_not_depend_on_which_rows_a_seed_draws(monkeypatch, size):
    monkeypatch.setattr(inputs, "run_environment", lambda _: [*GROUND, *PINNED])
    profile = load_profile("smoke")
    identity, run = inputs.base_identity(profile, size), Run(profile, 0, "base", size)
    given = {"members": 33, "held_out": 17, "canaries": 2, "repetitions": (1, 2), "twins": 3}
    given["canary_kinds"] = ("telephone",)
    assert given.keys() == inputs.ROW_DRAW_SETTINGS
    for name, value in given.items():
        data = profile.data.model_copy(update={name: value})
        other = profile.model_copy(update={"data": data})
        assert inputs.base_identity(other, size) == identity, name
        assert Run(other, 0, "base", size).identity != run.identity, name  # other rows are measured
    for name, value in {"pool": 201, "prompt_chars": 150, "packages": ("seaborn",)}.items():
        data = profile.data.model_copy(update={name: value})
        other = profile.model_copy(update={"data": data})
        assert inputs.base_identity(other, size) != identity, name


def test_a_template_of_the_profiles_own_is_part_of_the_identity(folder):
    texts = ("Q: {instruction}{context}\nA: ", "Q: {instruction}{context} A: ")
    block = 'max_length = 96\ntemplate = "plain"\n[templates.plain]\ntext = """{}"""'
    one, two = (run_of(folder, "base", ("max_length = 96", block.replace("{}", t))) for t in texts)
    assert len({one.identity, two.identity, run_of(folder, "base").identity}) == 3
    rows = load_rows(one.profile, 0)
    prompt = rows.tokenizer.decode(rows.split("member")[0].prompt)
    assert prompt.startswith("Q: say ") and prompt.endswith("\nA: ")


def test_changed_data_and_seed_redo_everything(copy):
    before = {method: run_of(copy, method).identity for method in DONE}
    assert all(run_of(copy, name, seed=1).identity != before[name] for name in DONE)
    with (copy / "rows.csv").open("a") as lines:
        lines.write("one more,,red rotor\n")
    more = {name: run_of(copy, name, ("pool = 24", "pool = 25")).identity for name in DONE}
    assert all(more[name] != before[name] for name in DONE)


def test_base_models_by_path_are_known_by_their_files(copy):
    before = {method: run_of(copy, method).identity for method in ("sft", "teacher")}
    (copy / "small").rename(copy / "tiny")
    renamed = ('{ path = "small" }', '{ path = "tiny" }')
    assert run_of(copy, "sft", renamed).identity == before["sft"]
    (copy / "tiny" / "model.safetensors").touch()
    assert run_of(copy, "sft", renamed).identity != before["sft"]
    assert run_of(copy, "teacher", renamed).identity == before["teacher"]


def test_identity_says_who_was_left_out_and_who_taught(folder):
    run = run_of(folder, "word_kd")
    rows = sorted(one.row_id for one in load_rows(run.profile, 0).split("member"))
    parts = [run.without(rows[:3], "a"), run.without(rows[1:4], "a")]
    parts += [run.without(rows[:3], "a", own_teacher=True), run]
    assert len({part.identity for part in parts}) == 4
    sft = run_of(folder, "sft")
    whole, own = (sft.without(rows[:3], "a", own_teacher=own).identity for own in (False, True))
    assert whole == own
    assert parts[0].teacher == run.teacher and not parts[0].teacher.left_out
    assert parts[2].teacher.left_out == set(rows[:3]) and parts[2].teacher.part == "a"
    assert parts[0].folder == runs.seed_dir("own", 0) / "a" / "word_kd-small"


@pytest.mark.parametrize(
    ("method", "size", "label", "notebook"),
    [
        ("base", "teacher", "base, teacher", "03_supervised_fine_tuning"),
        ("teacher", "teacher", "teacher", "02_teacher"),
        ("sft", "middle", "SFT, middle", "03_supervised_fine_tuning"),
        ("gkd", "small", "GKD, small", "07_on_policy"),
    ],
)
def test_names_of_a_run(method, size, label, notebook):
    run = Run(load_profile("smoke"), 1, method, size)
    assert (run.label, run.notebook) == (label, notebook)
    assert run.folder == runs.seed_dir("smoke", 1) / f"{method}-{size}"
    whole = method == "base"
    assert run.checkpoint == (runs.runs_dir("smoke") / "base" / size if whole else
                              run.folder / "checkpoint")  # fmt: skip


def test_a_missing_run_says_what_makes_it(folder):
    with pytest.raises(KdlibError, match="seed-1/mine-small is not there.*notebook 07_on_policy"):
        require(run_of(folder, "mine", seed=1))
    with pytest.raises(KdlibError, match="made with other settings; run notebook 03_superv"):
        study_run.load(run_of(folder, "sft", ("small = 2e-3", "small = 3e-3")))
    assert require(run_of(folder, "mine")) == run_of(folder, "mine").folder


def test_models_from_scratch_are_asked_for_by_the_first_notebook(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    profile = load_profile("smoke")
    for asked in (lambda: load_rows(profile, 0), lambda: study_run.load(
        Run(profile, 0, "base", "small")
    )):  # fmt: skip
        with pytest.raises(KdlibError, match="notebook 01_data_and_tokens first.*PROFILE=smoke"):
            asked()


def test_rows_whose_response_holds_the_end_token_are_refused(copy):
    with (copy / "rows.csv").open("a") as lines:
        lines.write(f"one more,,red {tokens.END} rotor\n")
    more = [("pool = 24", "pool = 25"), ("members = 12", "members = 17")]
    with pytest.raises(KdlibError, match="endoftext"):
        load_rows(profile_of(copy, *more), 0)


def test_the_pool_is_read_once_for_as_long_as_its_file_stays(copy, monkeypatch):
    settings, read = profile_of(copy).data, []
    whole = study_run.pool.load_pool
    monkeypatch.setattr(study_run.pool, "load_pool", lambda s: read.append(1) or whole(s))
    first = inputs.load_pool(settings)
    assert inputs.load_pool(settings) is first
    text = (copy / "rows.csv").read_text("utf-8")
    (copy / "rows.csv").write_text(exchanged(text, [("rotor", "stator")]), "utf-8")
    assert not inputs.load_pool(settings).equals(first) and len(read) == 2


@pytest.fixture
def rows_alone(tmp_path, monkeypatch):
    """The rows and base models, of which no study was made."""
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    return make(tmp_path)


def test_rows_that_do_not_fit_are_dropped_before_a_seed_draws(rows_alone):
    whole = [load_rows(profile_of(rows_alone), seed).frame for seed in range(3)]
    with (rows_alone / "rows.csv").open("a") as lines:
        lines.write("say more," + "word " * 60 + ",red rotor\n")
        lines.write("say much,," + "rotor word " * 60 + "\n")
    longer = profile_of(rows_alone, ("pool = 24", "pool = 26"))
    fit, dropped = study_run.fitting(longer)
    assert (len(fit), dropped) == (24, 2)
    for seed, before in enumerate(whole):
        rows = load_rows(longer, seed)
        assert rows.frame.equals(before) and set(rows.examples) == set(before.index)
        ends = {one.response[-1] for one in rows.examples.values()}
        assert ends == {rows.tokenizer.eos_token_id}


@pytest.mark.parametrize(
    ("key", "count"), [("max_prompt", lambda one: len(one.prompt)), ("max_length", len)]
)
def test_a_row_of_just_the_limits_fits(rows_alone, key, count):
    everything = profile_of(rows_alone, ("members = 12", "members = 16"))
    counts = [count(one) for one in load_rows(everything, 0).examples.values()]
    assert len(counts) == 24
    for most in (max(counts), max(counts) - 1):
        few = {"data": everything.data.model_copy(update={"members": 1, "held_out": 1})}
        few["tokens"] = everything.tokens.model_copy(update={"max_prompt": 30, key: most})
        fit, dropped = study_run.fitting(everything.model_copy(update=few))
        assert dropped == sum(one > most for one in counts) == 24 - len(fit)


def test_the_pool_is_tokenized_once(rows_alone, monkeypatch):
    profile, read = profile_of(rows_alone), []
    whole = tokens.encode
    monkeypatch.setattr(tokens, "encode", lambda *how: read.append(len(how[0])) or whole(*how))
    assert study_run.fitting(profile)[0] is study_run.fitting(profile)[0]
    load_rows(profile, 0), load_rows(profile, 1)
    assert read == [24, 20, 20]


def test_too_few_rows_that_fit_say_how_many_and_the_limits(rows_alone):
    short = ("max_length = 96", "max_length = 40"), ("max_prompt = 64", "max_prompt = 20")
    said = (
        r"members \+ held_out = 20, but only 12 of the pool's 24 rows fit "
        r"tokens.max_prompt = 20 and tokens.max_length = 40; raise these"
    )
    with pytest.raises(KdlibError, match=said):
        load_rows(profile_of(rows_alone, *short), 0)


@pytest.mark.parametrize(
    ("prompt", "length", "kinds", "said"),
    [
        (64, 260, '"drawing"', r"canary drawing: one has a prompt of \d+ tokens"),
        (150, 160, '"telephone", "record"', "canary record: .*max_length = 160; raise these"),
        (150, 160, '"Japanese record"', "leave the kind out of data.canary_kinds"),
    ],
)
def test_canaries_that_do_not_fit_are_refused_by_kind(rows_alone, prompt, length, kinds, said):
    """Dropped, they would be missing from every count."""
    planted = f"held_out = 8\ncanaries = 1\nrepetitions = [2]\ncanary_kinds = [{kinds}]"
    changed = [("held_out = 8", planted), ("max_length = 96", f"max_length = {length}")]
    changed.append(("max_prompt = 64", f"max_prompt = {prompt}"))
    with pytest.raises(KdlibError, match=said):
        load_rows(profile_of(rows_alone, *changed), 0)
    short = (changed[0][0], planted.replace(kinds, '"telephone"'))
    wide = [short, ("max_prompt = 64", "max_prompt = 150"), ("max_length = 96", "max_length = 160")]
    assert load_rows(profile_of(rows_alone, *wide), 0).split("member", "canary")


def test_a_twin_that_does_not_fit_is_refused_before_anything_is_trained(rows_alone, monkeypatch):
    """Cut or left out, it would not be the canary's like, and notebook 13 comes last."""
    planted = "held_out = 8\ncanaries = 1\nrepetitions = [2]\ncanary_kinds = ['telephone']"
    changed = [("held_out = 8", planted), ("max_prompt = 64", "max_prompt = 150")]
    profile = profile_of(rows_alone, *changed, ("max_length = 96", "max_length = 160"))
    whole, limit = canaries.twins, profile.tokens.max_length
    length = max(map(len, load_rows(profile, 0).examples.values()))

    def longer(*given):
        *others, last = whole(*given)
        return [*others, {**last, "response": last["response"] + " 7" * (limit - length)}]

    monkeypatch.setattr(canaries, "twins", longer)
    with pytest.raises(
        KdlibError, match=r"canary telephone: one has .*, tokens.max_length = 160; raise"
    ):
        load_rows(profile, 0)


def test_shipped_profiles_have_no_decoding_of_their_own():
    """They show the defaults; a decoding of one's own is part of an identity."""
    for file in PROFILES.glob("*.toml"):
        assert not load_profile(file.stem).decoding.model_dump(exclude_defaults=True)


def test_varied_runs_have_folders_and_identities_of_their_own(folder):
    sft = run_of(folder, "sft")
    varied = [sft.varied("teacher"), sft.varied(objective="reverse_kl"), sft.longer(2)]
    varied += [sft.varied("teacher", "reverse_kl"), sft.varied("teacher", "reverse_kl").longer(2)]
    assert [one.folder.name.removeprefix("sft-small-") for one in varied] == [
        "text=teacher",
        "objective=reverse_kl",
        "times=2",
        "text=teacher-objective=reverse_kl",
        "text=teacher-objective=reverse_kl-times=2",
    ]
    assert len({one.identity for one in (sft, *varied)}) == 6
    assert varied[3].label == "SFT, small, text = teacher, objective = reverse_kl"
    assert {one.notebook for one in varied} == {"14_cause"}
    assert varied[2].settings.epochs == 2 * sft.settings.epochs
    assert {one.teacher.identity for one in varied} == {run_of(folder, "teacher").identity}
    assert sft.varied("rows", "cross_entropy") == sft.longer(1) == sft
    assert varied[3].varied() == sft


def test_another_order_is_another_run_of_the_same_teacher(folder):
    run = run_of(folder, "word_kd")
    others = [replace(run, order=order) for order in (1, 2)]
    assert [one.folder.name for one in others] == ["word_kd-small-order=1", "word_kd-small-order=2"]
    assert len({one.identity for one in (run, *others)}) == 3 and replace(run, order=0) == run
    assert others[0].teacher == run.teacher and others[0].base == run.base
    assert (others[0].label, others[0].notebook) == (f"{run.label}, order = 1", "11_inheritance")
    assert {one.seed for one in others} == {run.seed}  # of the rows
    given = {stages.training_seed(one) for one in (run, *others, replace(run, seed=1))}
    assert len(given) == 4 and stages.training_seed(run) == run.seed


def test_a_varied_run_depends_on_its_teacher_and_how_it_decodes(folder):
    taught, alone = (run_of(folder, "sft", ("epochs = 3", f"epochs = {n}")) for n in (3, 4))
    assert taught.identity == alone.identity and taught.longer(2).identity == (
        alone.longer(2).identity
    )
    for varied in ({"text": "teacher"}, {"objective": "forward_kl"}):
        assert taught.varied(**varied).identity != alone.varied(**varied).identity
    hot = run_of(folder, "sft", ("temperature = 1.0", "temperature = 0.7"))
    same = {text: hot.varied(text).identity == taught.varied(text).identity
            for text in ("teacher", "teacher_sampled")}  # fmt: skip
    assert same == {"teacher": True, "teacher_sampled": False}


def test_an_objective_brings_the_published_coefficients_that_the_method_lacks(folder):
    sft, word_kd = run_of(folder, "sft"), run_of(folder, "word_kd")
    assert sft.varied(objective="generalized_jsd").coefficients == {"beta": 0.5}
    assert sft.varied(objective="skew_reverse_kl").coefficients == {"alpha": 0.1}
    assert sft.varied(objective="generalized_jsd").changing(beta=0.2).coefficients["beta"] == 0.2
    own = word_kd.changing(mix=0.3).varied("teacher", "forward_kl")
    assert own.coefficients == {"mix": 0.3, "temperature": 1}
    with pytest.raises(KdlibError, match="SFT has no coefficient 'beta'"):
        sft.changing(beta=0.2).identity  # noqa: B018


def test_coefficients_that_a_run_has_anyway_change_nothing(folder):
    gkd = run_of(folder, "gkd")
    assert gkd.changing(beta=0.5, student_share=0.5) == gkd
    assert gkd.changing(beta=0.5, student_share=0) == gkd.changing(student_share=0)


def test_word_level_kd_at_temperature_one_is_the_plain_one(monkeypatch):
    monkeypatch.setattr(inputs, "run_environment", lambda _: [*GROUND, *PINNED])
    word_kd = Run(load_profile("tiny"), 0, "word_kd", "middle")
    assert word_kd.coefficients == {"mix": 0.5, "temperature": 1}
    assert word_kd.changing(temperature=1) == word_kd
    warm = word_kd.changing(temperature=2)
    assert warm.identity != word_kd.identity and warm.folder.name == "word_kd-middle-temperature=2"
