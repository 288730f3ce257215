"""Profiles: the shipped ones are valid, others say what they are, bad ones are refused."""

import pytest

from kdlib.config.methods import METHODS, PAPER
from kdlib.config.profile import (
    PROFILES,
    RESERVED,
    SHIPPED,
    load_profile,
    read_methods,
    read_seeds,
    read_templates,
)
from kdlib.errors import KdlibError
from kdlib.model.tokens import prompt_text

SMOKE = (PROFILES / "smoke.toml").read_text("utf-8")
SIZES = SMOKE[SMOKE.index("[models.large]") : SMOKE.index("[pretrain]")]
MINE = (
    '\n[methods.mine]\ntext = "student"\nobjective = "total_variation"\nnotebook = "07_on_policy"\n'
)
COEFFICIENT = '{ value = 0.5, range = [0, 1], meaning = "a share" }'
CALIBRATION = (
    "\n[calibration]\nseed = 100\nrates = [1e-3, 2e-3]\nmax_epochs = { teacher = 1, student = 1 }\n"
)


@pytest.fixture
def smoke(tmp_path):
    """The smoke profile with (old, new) texts exchanged and a text behind it, loaded by path."""

    def changed(*pairs, more="", name="own"):
        text = SMOKE
        for old, new in pairs:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / f"{name}.toml").write_text(text + more, "utf-8")
        return load_profile(str(tmp_path / f"{name}.toml"))

    return changed


# --- what is shipped


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_profiles_are_valid(name):
    profile = load_profile(name)
    assert profile.name == name
    assert profile.from_scratch == (name in ("smoke", "tiny"))
    assert {profile.cut(size) for size in profile.sizes} == {name in ("laptop", "gpu")}
    assert set(profile.sizes) <= {"large", "middle", "small"} and profile.probe_size == "middle"


def test_rates_and_lengths_of_the_paper_go_by_size_and_method():
    profile = load_profile("paper")
    found = {(m, s): profile.train_settings(m, s) for m in PAPER for s in profile.sizes}
    rates = {(m, s): 5e-4 if s == "small" else 1e-4 for m in PAPER for s in profile.sizes}
    rates |= {("minillm", size): 5e-6 for size in profile.sizes}
    assert {key: one.lr for key, one in found.items()} == rates
    assert {s: found["sft", s].epochs for s in profile.sizes} == {
        "large": 10,
        "middle": 20,
        "small": 20,
    }
    assert {profile.train_settings("minillm", size).lr for size in profile.sizes} == {5e-6}
    assert profile.train_settings("teacher", "teacher") is profile.teacher


# --- sizes


@pytest.mark.parametrize(
    ("names", "middle"),
    [(["tiny"], "tiny"), (["a", "b"], "b"), (["XL", "base", "S_2", "xs"], "S_2")],
)
def test_any_number_of_sizes_of_any_names(smoke, names, middle):
    blocks = "".join(
        f"[models.{name}]\nlayers = 1\nheads = 1\nwidth = {8 + i}\n" for i, name in enumerate(names)
    )
    profile = smoke((SIZES, blocks))
    assert profile.sizes == tuple(names) and profile.probe_size == middle
    named = smoke((SIZES, blocks), ("[probe]", f'[probe]\nsize = "{names[0]}"'))
    assert named.probe_size == names[0]
    assert {profile.train_settings("sft", size).lr for size in names} == {2e-3}


def test_rate_and_length_by_size_and_a_methods_own_rate(smoke):
    by_size = ("width = 16", "width = 16\nlr = 1e-3\nepochs = 7")
    rates = "{ large = 1e-4, middle = 2e-4, small = 3e-4 }"
    more = f"\n[methods.sft]\nlr = 5e-3\n[methods.gkd]\nlr = {rates}"
    profile = smoke(by_size, more=more)
    found = {
        (m, s): profile.train_settings(m, s) for m in ("sft", "rkld", "gkd") for s in profile.sizes
    }
    assert [found["rkld", size].lr for size in profile.sizes] == [2e-3, 2e-3, 1e-3]
    assert [found["gkd", size].lr for size in profile.sizes] == [1e-4, 2e-4, 3e-4]
    assert [found["sft", size].lr for size in profile.sizes] == [5e-3] * 3
    assert [found["rkld", size].epochs for size in profile.sizes] == [2, 2, 7]
    assert profile.teacher.epochs == 2


# --- methods of the profile's own, coefficients


def test_a_method_of_the_profiles_own(smoke):
    more = f"{MINE}label = 'Mine'\n[methods.mine.coefficients]\nshare = {COEFFICIENT}\n"
    profile = smoke(more=more)
    assert list(profile.all_methods) == [*METHODS, "mine"]
    mine = profile.method("mine")
    assert (mine.label, mine.text, mine.notebook) == ("Mine", "student", "07_on_policy")
    assert profile.coefficients("mine") == {"share": 0.5}
    assert profile.coefficients("mine", share=0.25) == {"share": 0.25}
    assert profile.train_settings("mine", "small").lr == 2e-3
    with pytest.raises(KdlibError, match="Mine: share = 2 .a share. must be from 0 to 1"):
        profile.coefficients("mine", share=2)
    assert smoke(more=MINE).method("mine").label == "mine"
    assert read_methods("mine", profile) == (*PAPER, "mine")
    assert read_methods("all", profile) == (*METHODS, "mine")


def test_rates_of_a_profiles_own_methods_may_be_searched(smoke):
    searched = f"{MINE}{CALIBRATION}methods = ['sft', 'mine']"
    assert smoke(more=searched).calibration.methods == ("sft", "mine")


def test_coefficients_of_a_profile_change_the_published_ones(smoke):
    profile = smoke(more="\n[methods.gkd]\ncoefficients = { beta = 0.2 }")
    assert profile.coefficients("gkd") == {"beta": 0.2, "student_share": 0.5}
    assert profile.coefficients("gkd", beta=0.3)["beta"] == 0.3
    assert load_profile("smoke").coefficients("gkd")["beta"] == 0.5
    with pytest.raises(KdlibError, match="smoke': GKD: beta = 2 .the teacher's weight.* 0 to 1"):
        load_profile("smoke").coefficients("gkd", beta=2)


# --- what is refused


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("members = 32", "memebrs = 32", "memebrs"),
        ("members = 32", "members = 0", "members = 0"),
        ("members = 32", "members = true", "data.members = True"),
        ("members = 32", 'members = "32"', "data.members = '32'"),
        ("members = 32", "members = 500", "exceeds pool"),
        ("canaries = 1", "canaries = 1.0", "data.canaries = 1.0"),
        ("repetitions = [1, 4]", "repetitions = [1, 4, 4]", "data.repetitions.*name each once"),
        ("repetitions = [1, 4]", "repetitions = []", "repetitions is empty"),
        ("repetitions = [1, 4]", "repetitions = [0]", "data.repetitions.0 = 0"),
        ("[40, 200]", "[200, 40]", "response_chars.*minimum above maximum"),
        ('"seaborn"', '".."', "data.packages.0 = '..'"),
        ('"seaborn"', '"a/b"', "data.packages.0 = 'a/b'"),
        ('"seaborn"', '"huggingface_hub"', "data.packages.*name each once"),
        ('["seaborn", "huggingface_hub"]', "[]", "packages is empty"),
        ('source = "pydocs"', 'source = "file"', "path is missing"),
        ('source = "pydocs"', 'source = "csv"', "data.source = 'csv'"),
        ('source = "pydocs"', 'source = "dolly"\ndetails_chars = 9', "details_chars is for source"),
        ('source = "pydocs"', 'source = "file"\ndetails_chars = 9', "details_chars is for source"),
        ("members = 32", "members = 32\ndetails_chars = -1", "data.details_chars = -1"),
        ("prompt_chars", 'columns = { contxt = "x" }\nprompt_chars', "'contxt' is none of"),
        ("vocabulary = 512", "vocabulary = 1", "tokens.vocabulary = 1:"),
        ("vocabulary = 512", "vocabulary = 10", "tokens.vocabulary = 10:"),
        ("vocabulary = 512", "vocabulary = true", "tokens.vocabulary = True"),
        ("max_prompt = 160", "max_prompt = 320", "leaves no room for a response"),
        ("batch = 64", 'batch = "many"', "measure.batch"),
        ("sample_seeds = [10, 20]", "sample_seeds = [10, 10]", "sample_seeds.*name each once"),
        ("\n[measure]", "\n[decoding]\nbeams = 1\n[measure]", "decoding.beams = 1"),
        ("\n[measure]", "\n[decoding]\ntemperature = 0\n[measure]", "decoding.temperature = 0"),
        ("lr = 2e-3", "lr = 2.0", "lr = 2.0"),
        ("lr = 2e-3", "lr = true", "lr = True"),
        ("lr = 2e-3", "lr = nan", "lr = nan"),
        ("epochs = 2", "epochs = 1.5", "epochs = 1.5"),
        ("width = 64", "width = 65", "not a multiple"),
        ("width = 64", "width = 64.0", "models.teacher.width = 64.0"),
        ("[models.large]", "[models.all]", "models: 'all' is no name for a size"),
        ("[models.large]", "[models.layers]", "models: 'layers' is no name for a size: it is"),
        ("[models.large]", "[models.tokenizer]", "models: 'tokenizer' is no name for a size"),
        ("[models.large]", '[models."a b"]', "models: 'a b' is no name for a size"),
        ("[models.teacher]", "[models.master]", "models: a block 'teacher' and at least one size"),
        (SIZES, "", "models: a block 'teacher' and at least one size"),
        ("layers = 2\nheads = 2\nwidth = 48", 'path = "x"', "models: all or none are made from sc"),
        (
            "width = 48",
            "",
            "models.large: .*give path, or layers, heads and width, or layers",
        ),
        ("width = 48", 'width = 48\npath = "x"', "path and layers/heads/width exclude each other"),
        ("seeds = [0, 1]", "seeds = [0, 1", "TOML"),
        ("seeds = [0, 1]", "seeds = []", "seeds = .*at least 1 item"),
        ("seeds = [0, 1]", "seeds = [0, 0]", "seeds = .*name each once"),
        ("seeds = [0, 1]", f"seeds = [{2**70}]", f"seeds.0 = {2**70}"),
        ("seeds = [0, 1]", "seeds = [-1]", "seeds.0 = -1"),
        ("seeds = [0, 1]", "seeds = [true]", "seeds.0 = True"),
        ("seeds = [0, 1]", "seeds = 3", "seeds = 3"),
        ("[probe]", '[probe]\nsize = "tiny"', "probe.size = 'tiny': known: large, middle, small"),
        (
            "[probe]",
            '[release]\nsize = "tiny"\n[probe]',
            "release.size = 'tiny': known: large, mid",
        ),
        ("[probe]", '[release]\nmethod = "sgt"\n[probe]', "release.method: 'sgt' is no method; kn"),
        (
            "[probe]",
            "[release]\nngram = 1\n[probe]",
            "release.ngram = 1: .*greater than or equal to 2",
        ),
        ("splits = 2", "splits = 1", "probe.splits = 1"),
        ("rollouts = 32", "rollouts = 0", "rollouts = 0 .answers sampled at a time. must be from"),
        ("rollouts = 32", "rollouts = 1.5", "rollouts = 1.5 .* must be a whole number"),
        ("rollouts = 32", "rollouts = true", "methods.minillm.coefficients.rollouts"),
        ("rollouts = 32", "beta = 0.5", "MiniLLM has no coefficient 'beta'"),
    ],
)
def test_bad_settings(smoke, old, new, message):
    with pytest.raises(KdlibError, match=f"own.*{message}") as error:
        smoke((old, new))
    assert len(str(error.value).splitlines()) <= 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("\n[methods.sgt]\nlr = 1e-3", "'sgt' is no method; known: sft,.* needs notebook, obj"),
        (MINE.replace('notebook = "07_on_policy"', ""), "'mine' is no method.* a new one needs n"),
        (MINE.replace("mine", "gkd"), "methods.gkd is known already; give 'text' a new name"),
        (MINE.replace('"student"', "3"), "methods.mine.text = 3"),
        (f"{MINE}tex = 1", "methods.mine.tex = 1"),
        (f"{MINE}coefficients = {{ share = 0.5 }}", "mine has no coefficient 'share'"),
        (
            f"{MINE}coefficients = {{ share = {{ value = 0.5 }} }}",
            "methods.mine.coefficients.share.Coefficient.range: Field required",
        ),
        (
            f"{MINE}coefficients = {{ share = {COEFFICIENT.replace('0.5', '7')} }}",
            "mine: share = 7 .a share. must be from 0 to 1",
        ),
        (
            f"{MINE}coefficients = {{ share = {COEFFICIENT.replace('[0, 1]', '[1, 0]')} }}",
            "share = 0.5 .* from 1 to 0",
        ),
        ("\n[methods.sft]\nlr = { large = 1e-3 }", "methods.sft.lr needs exactly: large, middle"),
        ("\n[methods.sft]\nlr = { large = 1e-3, middle = 1e-3, tiny = 1e-3 }", "sft.lr needs exac"),
        ("\n[methods.sft]\nlr = 3", "methods.sft.lr"),
        ("\n[methods]\nsft = 3", "methods.sft = 3"),
        ("\n[templates.short]\ntext = '{instruction}'", "templates.short is known already"),
        ("\n[templates.x]\ntext = 'say it'", "templates.x.*text holds no {instruction}"),
        (
            "\n[templates.x]\ntext = '{instruction}'\nwithout_context = ''",
            "without_context holds n",
        ),
        (CALIBRATION.replace("100", "1"), "calibration.seed = 1 is among the reported seeds"),
        (CALIBRATION.replace("[1e-3, 2e-3]", "[]"), "calibration.rates"),
        (CALIBRATION.replace("[1e-3, 2e-3]", "[1e-3, 1e-3]"), "calibration.rates.*each once"),
        (CALIBRATION.replace("teacher = 1, ", ""), "calibration.*max_epochs lacks teacher"),
        (CALIBRATION.replace("teacher = 1, ", "teacher = 0, "), "calibration.max_epochs.teacher"),
        (
            f"{CALIBRATION}methods = ['sft', 'sgt']",
            "calibration.methods: 'sgt' is no method; known: sft, word",
        ),
        (f"{CALIBRATION}methods = ['sft', 'base']", "calibration.methods: 'base' is no method"),
        (f"{CALIBRATION}methods = ['sft', 'sft']", "calibration.methods.*name each once"),
        (f"{CALIBRATION}methods = ['gkd']", "calibration.*methods lacks sft"),
        (f"{CALIBRATION}band = [0.6, 0.3]", "band = .0.6, 0.3.: the first must be"),
        (f"{CALIBRATION}target = {{ teacher = 0.6 }}", "calibration.*target lacks student"),
        ("\n[unknown]\nx = 1", "unknown: Extra inputs"),
    ],
)
def test_bad_blocks(smoke, more, message):
    with pytest.raises(KdlibError, match=f"own.*{message}") as error:
        smoke(more=more)
    assert len(str(error.value).splitlines()) <= 2


def test_models_that_are_no_table(tmp_path):
    for text in ("models = 3\nseeds = [0]", "models = { teacher = 3 }\ndata = 4", "models = []"):
        (tmp_path / "own.toml").write_text(text)
        with pytest.raises(KdlibError, match="profile 'own': ") as error:
            load_profile(str(tmp_path / "own.toml"))
        assert len(str(error.value).splitlines()) <= 2


def test_unknown_profile_and_method():
    with pytest.raises(KdlibError, match="did you mean 'laptop'"):
        load_profile("lapto")
    for name in ("", "nothing/here.toml", "None"):
        with pytest.raises(KdlibError, match=f"no profile '{name}'.*; known: gpu, laptop"):
            load_profile(name)
    with pytest.raises(KdlibError, match="'sgt' is no method; known: sft"):
        load_profile("smoke").method("sgt")


@pytest.mark.parametrize("name", [*SHIPPED, *RESERVED, "Laptop", "SMOKE"])
def test_a_profile_named_like_a_shipped_one_is_refused(smoke, tmp_path, name):
    with pytest.raises(KdlibError, match="its results would overwrite those of the shipped"):
        smoke(name=name)
    (tmp_path / f"{name}.toml").unlink()
    (tmp_path / "mine.toml").write_text(SMOKE)
    (tmp_path / f"{name}.toml").symlink_to(tmp_path / "mine.toml")
    with pytest.raises(KdlibError, match="its results would overwrite"):
        load_profile(str(tmp_path / f"{name}.toml"))


def test_links_to_shipped_profiles(tmp_path):
    for name in ("laptop", "mine"):
        (tmp_path / f"{name}.toml").symlink_to(PROFILES / "smoke.toml")
    with pytest.raises(KdlibError, match="its results would overwrite those of the shipped 'lapt"):
        load_profile(str(tmp_path / "laptop.toml"))
    assert load_profile(str(tmp_path / "mine.toml")).name == "mine"
    assert load_profile(str(PROFILES / "smoke.toml")) == load_profile("smoke")


@pytest.mark.parametrize("name", ["-x", ".x", "a b"])
def test_names_that_are_no_folders(smoke, name):
    with pytest.raises(KdlibError, match=f"'{name}': name = '{name}'"):
        smoke(name=name)


def test_names_with_other_letters(smoke):
    assert smoke(name="größe-2.1").name == "größe-2.1"


def test_a_profile_that_cannot_be_read(tmp_path):
    (tmp_path / "own.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(KdlibError, match="profile .*own.toml is not valid TOML"):
        load_profile(str(tmp_path / "own.toml"))


def test_paths_beside_the_profile_do_not_depend_on_the_caller(smoke, tmp_path, monkeypatch):
    (tmp_path / "rows.jsonl").write_text("{}")
    monkeypatch.chdir("/")
    beside = ('source = "pydocs"', 'source = "file"\npath = "rows.jsonl"')
    assert smoke(beside).data.path == str(tmp_path / "rows.jsonl")
    monkeypatch.chdir(tmp_path)
    assert load_profile("own.toml").data.path == str(tmp_path / "rows.jsonl")


# --- templates


def test_templates_put_the_rows_texts_in_their_places():
    short = read_templates()["short"]
    assert prompt_text("a", "b", short) == (
        "### Instruction:\na\n\n### Input:\nb\n\n### Response:\n"
    )
    assert prompt_text("a", "", short) == "### Instruction:\na\n\n### Response:\n"
    alpaca = prompt_text("a", "", read_templates()["alpaca"])
    assert alpaca.startswith("Below is an instruction") and "Input" not in alpaca


def test_a_template_of_the_profiles_own(smoke):
    chosen = ('template = "short"', 'template = "plain"')
    profile = smoke(chosen, more="\n[templates.plain]\ntext = '<{context}> {instruction}{x}:'")
    assert prompt_text("{context} {0}", "{instruction}", profile.template) == (
        "<{instruction}> {context} {0}{x}:"
    )
    assert prompt_text("a", "", profile.template) == "<> a{x}:"
    with pytest.raises(KdlibError, match="tokens.template = 'plain': known: short, alpaca"):
        smoke(chosen)


def test_templates_of_a_file(tmp_path):
    file = tmp_path / "own.toml"
    file.write_text("[a]\ntext = '{instruction}'\n[b]\ntext = '{instruction}:'\n")
    assert list(read_templates(file)) == ["a", "b"]
    for text, message in (
        ("[a]\ntext = 'x'", "own.toml: .*text holds no {instruction}"),
        ("[a]\ntext = '{instruction}'\ntxt = 1", "own.toml: a.txt = 1"),
        ("[a", "own.toml is not valid TOML"),
        ("a = 3", "own.toml: a = 3: Input should be"),
    ):
        file.write_text(text)
        with pytest.raises(KdlibError, match=message):
            read_templates(file)
    with pytest.raises(KdlibError, match="nothing.toml cannot be read: No such file"):
        read_templates(tmp_path / "nothing.toml")


# --- seeds and methods of a command


def test_methods_of_the_paper_are_always_run():
    profile = load_profile("smoke")
    for text in ("paper", "", " ", None):
        assert read_methods(text, profile) == PAPER
    assert read_methods("all", profile) == read_methods("all gkd", profile) == tuple(METHODS)
    assert read_methods("imitkd gkd", profile) == (*PAPER, "imitkd", "gkd")
    assert read_methods("gkd,imitkd", profile) == (*PAPER, "imitkd", "gkd")
    with pytest.raises(KdlibError, match="METHODS: 'gdk' is no method; known: sft, word"):
        read_methods("gkd gdk", profile)


def test_a_lone_seed_is_a_seed_and_nothing_is_the_profiles():
    profile = load_profile("smoke")
    assert [read_seeds(text, profile) for text in (0, "0", "3 1")] == [[0], [0], [3, 1]]
    assert read_seeds(None, profile) == read_seeds("", profile) == list(profile.seeds)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "'x' is no whole number"),
        ("-1", "'-1' is no whole number from 0 to 2..31 - 1"),
        ("1.5", "'1.5' is no whole"),
        (str(2**31), f"'{2**31}' is no whole"),
        ("²", "'²' is no whole number"),
        ("0 1 0", "'0 1 0' names one twice"),
        ("1 01", "'1 01' names one twice"),
        ("100", "100 set the learning rates; take another"),
    ],
)
def test_bad_seeds(text, message):
    with pytest.raises(KdlibError, match=f"SEEDS: {message}"):
        read_seeds(text, load_profile("laptop"))


def test_the_files_name_is_the_profiles(smoke):
    with pytest.raises(KdlibError, match="leave out 'name'"):
        smoke(("seeds = ", 'name = "other"\nseeds = '))
