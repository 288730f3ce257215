"""Profiles: the committed ones are valid, and bad ones are refused with one clear message."""

import pytest

from kdlib.config.methods import COEFFICIENTS, METHODS, PAPER, require_coefficients
from kdlib.config.profile import PROFILES, load_profile, read_methods, read_seeds
from kdlib.errors import KdlibError


@pytest.mark.parametrize("name", ["smoke", "laptop", "paper"])
def test_committed_profiles_are_valid(name):
    profile = load_profile(name)
    assert profile.name == name
    assert profile.from_scratch == (name != "paper")
    assert profile.train_settings("word_kd", "small").lr == profile.methods["word_kd"].lr["small"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("members = 32", "memebrs = 32", "memebrs"),
        ("members = 32", "members = 0", "members = 0"),
        ("members = 32", "members = 500", "exceeds pool"),
        ("batch = 64", 'batch = "many"', "measure.batch"),
        ("lr = 2e-3", "lr = 2.0", "lr"),
        ("width = 64", "width = 65", "not a multiple"),
        ("seeds = [0, 1]", "seeds = [0, 1", "TOML"),
        ("seeds = [0, 1]", "seeds = []", "at least 1 item"),
        ("prompt_chars", 'columns = { contxt = "x" }\nprompt_chars', "'contxt' is none of"),
        ("small = 2e-3", "tiny = 2e-3", "tiny"),
        ("rollouts = 32", "rollouts = 0", "rollouts = 0 .answers sampled at a time. must be from"),
        ("rollouts = 32", "beta = 0.5", "MiniLLM has no coefficient 'beta'"),
        ("max_prompt = 160", "max_prompt = 320", "leaves no room for a response"),
    ],
)
def test_bad_profiles(tmp_path, old, new, said):
    text = (PROFILES / "smoke.toml").read_text("utf-8")
    assert old in text
    bad = tmp_path / "bad.toml"
    bad.write_text(text.replace(old, new))
    with pytest.raises(KdlibError, match=said) as error:
        load_profile(str(bad))
    assert len(str(error.value).splitlines()) <= 2


def test_unknown_profile_and_method():
    with pytest.raises(KdlibError, match="did you mean 'laptop'"):
        load_profile("lapto")
    with pytest.raises(KdlibError, match="'sgt' is no method; known: sft"):
        load_profile("smoke").train_settings("sgt", "small")
    with pytest.raises(KdlibError, match="smoke': GKD: beta = 2 .the teacher's weight.* 0 to 1"):
        load_profile("smoke").coefficients("gkd", beta=2)


def test_methods_of_the_paper_are_always_run():
    assert read_methods("paper") == read_methods("") == read_methods(None) == PAPER
    assert read_methods("all") == tuple(METHODS)
    assert read_methods("minillm gkd") == (*PAPER, "gkd", "minillm")
    for text in ("gdk", "all gkd"):
        with pytest.raises(KdlibError, match="METHODS: '(gdk|all)' is no method; known: sft, word"):
            read_methods(text)


def test_every_coefficient_has_a_meaning_and_its_default_lies_in_range():
    for name, method in METHODS.items():
        require_coefficients(name, method.coefficients)
    assert {c for m in METHODS.values() for c in m.coefficients} == set(COEFFICIENTS)


def test_paths_beside_the_profile_do_not_depend_on_the_caller(tmp_path, monkeypatch):
    (tmp_path / "rows.jsonl").write_text("{}")
    text = (PROFILES / "smoke.toml").read_text("utf-8")
    own = text.replace('source = "pydocs"', 'source = "file"\npath = "rows.jsonl"')
    (tmp_path / "own.toml").write_text(own)
    monkeypatch.chdir("/")
    assert load_profile(str(tmp_path / "own.toml")).data.path == str(tmp_path / "rows.jsonl")


def test_a_lone_seed_is_a_seed_and_nothing_is_the_profiles():
    profile = load_profile("smoke")
    assert [read_seeds(text, profile) for text in (0, "0", "3 1")] == [[0], [0], [3, 1]]
    assert read_seeds(None, profile) == read_seeds("", profile) == list(profile.seeds)
