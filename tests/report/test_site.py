"""What the site is built from: one notebook of each name, links between them, plain numbers."""

import re
import tomllib

import nbformat
import pandas as pd
import pytest
from jinja2 import StrictUndefined, Template
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from project import ROOT

from kdlib.errors import KdlibError
from kdlib.report import findings, from_scratch, results, site


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Sources 00, 02 and 14; of 02 the copies of two seeds, of 14 none."""
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    sources = tmp_path / "notebooks"
    copies = sources / "executed" / "made"
    copies.mkdir(parents=True)
    text = "# Title\n[a](02_teacher-seed10.ipynb) [b](../../14_cause.ipynb) [c](#A-part) [d](x.md)"
    text += " [g](../data/README.md)"
    shown = {"text/markdown": "[e](./00_map.ipynb)", "text/html": '<a href="00_map.ipynb">f</a>'}
    figure = {"image/png": {"alt": "A figure."}}
    for file in ("00_map", "02_teacher", "14_cause", "executed/made/00_map"):
        nbformat.write(new_notebook(cells=[new_markdown_cell(text)]), sources / f"{file}.ipynb")
    for seed in (2, 10):
        output = new_output("display_data", shown, metadata=figure)
        cells = [new_markdown_cell(f"seed {seed}"), new_code_cell("1", outputs=[output])]
        nbformat.write(new_notebook(cells=cells), copies / f"02_teacher-seed{seed}.ipynb")
    tables = tmp_path / "data" / "results"
    for profile in ("made", "other"):
        (tables / profile).mkdir(parents=True)
        (tables / profile / "table1.csv").write_text("method,size\n")
    return tmp_path


def test_one_of_each_name_with_links_between_them(project):
    folder = project / "pages"
    folder.mkdir()
    (folder / "old.ipynb").touch()
    site.lay_out("made", folder)
    pages = {file.stem: nbformat.read(file, 4).cells for file in folder.iterdir()}
    assert set(pages) == {"00_map", "02_teacher", "14_cause"}
    said = "[a](02_teacher.ipynb) [b](14_cause.ipynb) [c](#a-part) [d](x.md) [g](../data.md)"
    assert pages["00_map"][0].source.endswith(said) and len(pages["00_map"]) == 1
    assert "Not run on the profile `made`" in pages["14_cause"][1].source
    first, code = pages["02_teacher"]
    assert first.source == "seed 2" and code.metadata["mystnb"]["image"]["alt"] == "A figure."
    assert code.outputs[0].data["text/markdown"] == "[e](00_map.ipynb)"
    assert code.outputs[0].data["text/html"] == '<a href="00_map.ipynb">f</a>'


def test_what_was_not_executed_says_so(project):
    site.lay_out("other", project / "pages")
    assert site.copies("other") == {}
    for file in (project / "pages").iterdir():
        assert "Not run on the profile `other`" in nbformat.read(file, 4).cells[1].source


def test_models_from_scratch_stand_in_and_the_page_says_so(project):
    copy = project / "notebooks" / "executed" / from_scratch.PROFILE / "14_cause.ipynb"
    copy.parent.mkdir()
    nbformat.write(new_notebook(cells=[new_markdown_cell("made there")]), copy)
    site.lay_out("made", project / "pages")
    first, second = nbformat.read(project / "pages" / "14_cause.ipynb", 4).cells
    assert first.source == "made there"
    said = "*Not run on the profile `made`: what is shown is of models from scratch (`tiny`).*"
    assert second.source == said


def test_without_tables_the_command_is_named(project):
    with pytest.raises(KdlibError, match="make them with: make study PROFILE=absent"):
        site.lay_out("absent", project / "pages")
    assert not (project / "pages").exists()


def test_the_published_site_is_the_reference_run_s():
    for file in (".ci/run", ".github/workflows/site.yml"):
        profiles = re.findall(r"make site PROFILE=(\w+)", (ROOT / file).read_text("utf-8"))
        assert profiles == [findings.REFERENCE], file


@pytest.mark.parametrize(
    ("share", "said"), [(0, "0"), (0.001, "below 1"), (0.126, "13"), (0.999, "over 99"), (1, "100")]
)
def test_shares_in_a_hundred(share, said):
    assert site.of_hundred(share) == said


def test_the_page_for_who_decides_says_what_the_tables_say():
    said = site.decision(findings.REFERENCE)
    assert sum(said["verdicts"].values()) == said["claims"]
    assert said["of_hundred"].count("\n") == 4  # heading, teacher, two sizes
    assert said["cost"] and said["canaries"] and len(said["attack"]) == 2
    assert [chance for _, chance in said["attack"]] == ["over 99 [99–100]", "92 [88–96]"]


def test_each_number_of_texts_has_its_interval():
    said = site.decision(findings.REFERENCE)
    assert "| middle | 86 [80–93] | 0 [0–2] to 77 [65–90] | below 1 [0–2] |" in said["of_hundred"]
    assert said["most"] == ("word-level KD, middle", "77 [65–90]")
    line = pd.DataFrame({"member": [0.4], "member_lo": [None], "member_hi": [None]})
    assert site._extreme(line, "max") == ([0], "40")  # of too few different responses


STUDENTS = {("sft", "large"): 0.9, ("sft", "small"): 0.5}
STUDENTS |= {(one, size): 0.0 for one in ("word_kd", "minillm") for size in ("large", "small")}


def decided(project, metrics, shares=STUDENTS):
    """What the page says of students with these shares, and of these lines of metrics."""
    tables = project / "data" / "results" / "made"
    shares = {("teacher", "teacher"): 0.8} | shares
    lines = [f"{m},{s},{v},{v - 0.1},{v + 0.1},0,0,0.004,3" for (m, s), v in shares.items()]
    ends = [f"{split}{end}" for split in ("member", "held_out") for end in ("", "_lo", "_hi")]
    (tables / "table1.csv").write_text(
        "\n".join([f"method,size,{','.join(ends)},member_seeds", *lines])
    )
    sizes = ["parameters,teacher,,,4", "parameters,small,,,2"]
    lines = ["metric,size,method,split,value", *sizes, *metrics]
    (tables / "metrics.csv").write_text("\n".join(lines))
    (tables / "lengths.csv").write_text("seed,split,rows\n3,member,9\n")
    (tables / "claims.csv").write_text("claim,verdict\n")
    return lambda say=str: site.decision("made", say)


def test_of_several_at_an_end_all_are_named(project):
    shares = STUDENTS | {("word_kd", "large"): 0.2, ("word_kd", "small"): 0.2}
    page = decided(project, [], shares)
    assert page()["least"][0] == "MiniLLM, large and MiniLLM, small"
    assert page()["most"][0] == "word-level KD, large and word-level KD, small"
    say = site.translator({" and ": "、", ", large": "（大）", ", small": "（小）"})
    assert page(say)["least"][0] == "MiniLLM（大）、MiniLLM（小）"


def test_methods_beside_the_papers_may_be_of_fewer_seeds_and_are_left_out(project):
    page = decided(project, [], STUDENTS | {("gkd", "large"): 0.0, ("gkd", "small"): 0.9})()
    path = project / "data" / "results" / "made" / "table1.csv"
    text = path.read_text()
    path.write_text(
        text.replace("gkd,large,0.0,-0.1,0.1,0,0,0.004", "gkd,large,0.0,-0.1,0.7,0,0,0.9")
    )
    assert site.decision("made") == page and "GKD" not in str(page)
    path.write_text(text.replace("minillm,large,0.0,-0.1,0.1", "minillm,large,0.0,-0.1,0.7"))
    assert site.decision("made")["of_hundred"] != page["of_hundred"]


def test_students_that_an_answer_without_a_model_outdoes(project):
    assert decided(project, [])()["outdone"] == {}
    useful = {"echo": ("all", 0.3, 0.4), "constant": ("all", 0.5, 0.1), "sft": ("large", 0.1, 0.8)}
    useful |= {"minillm": ("large", 0.3, 0.3), "word_kd": ("small", 0.1, 0.2)}
    useful |= {"base": ("small", 0.0, 0.0), "teacher": ("teacher", 0.1, 0.1)}
    lines = [
        f"usefulness_greedy,{size},{method},held_out,{value}"
        for method, (size, *seeds) in useful.items()
        for value in seeds
    ]
    others = ["usefulness_greedy,all,echo,member,9", "usefulness_sampled,all,echo,held_out,9"]
    page = decided(project, lines + others)
    # of the mean of two seeds, 0.35: 0.45, 0.3 and 0.15; the teacher's base model was not measured
    said = {"answer": "echo", "students": 3, "less": 2, "more": 0}
    assert {name: page()["outdone"][name] for name in said} == said
    assert page(str.upper)["outdone"]["answer"] == "ECHO"


@pytest.mark.parametrize("profile", ["tiny", findings.REFERENCE])
def test_both_pages_for_who_decides_say_the_same_numbers(profile):
    words = tomllib.loads((ROOT / "docs" / "ja" / "words.toml").read_text("utf-8"))
    found, text = [], ""
    for name, say in (("decide.md", str), ("ja/decide.md", site.translator(words))):
        known = {"profile": profile, "results": results}
        known |= site.decision(profile, say) | site.conclusion(profile, say)
        page = Template((ROOT / "docs" / name).read_text("utf-8"), undefined=StrictUndefined)
        text = re.sub(r"\]\([^)]*\)", "]", page.render(known))
        found.append(set(re.findall(r"(?<![A-Za-z0-9_.])[+-]?\d+(?:\.\d+)?", text)))
    assert found[0] == found[1] and len(found[0]) > 10
    assert not re.search(r" (to|and) |below|echo", text)


def test_another_language_has_the_same_numbers():
    say = site.translator({"large": "GROSS", ", large": " (GROSS)", " to ": "-", "below 1": "<1"})
    assert say("SFT, large: enlarged, larger large") == "SFT (GROSS): enlarged, larger GROSS"
    for page in (site.decision, site.conclusion):
        ours, theirs = page("tiny"), page("tiny", say)
        assert list(ours) == list(theirs)
        numbers = [re.findall(r"\d+", str(list(one.values()))) for one in (ours, theirs)]
        assert numbers[0] == numbers[1]
    assert "GROSS" in site.decision("tiny", say)["of_hundred"]


@pytest.mark.parametrize(
    ("lo", "hi", "advice"), [(-0.2, -0.1, "less"), (0.1, 0.2, "more"), (-0.1, 0.1, "open")]
)
def test_the_advice_follows_the_interval(project, lo, hi, advice):
    tables = project / "data" / "results" / "made"
    (tables / "lengths.csv").write_text("seed,split,rows\n3,member,9\n")
    (tables / "claims.csv").write_text("claim,verdict\nA1,open\nC1,refuted\n")
    assert site.conclusion("made") == {
        "seeds": "3",
        "gaps": {},
        "advice": "open",
        "planted": [],
        "open": ["A1"],
        "useful": {},
        "elsewhere": {},
    }
    (tables / "primary.csv").write_text(f"claim,value,lo,hi\nA1,0.0,{lo},{hi}\n")
    said = site.conclusion("made")
    assert said["advice"] == advice
    (gap,) = said["gaps"].values()
    assert f"{100 * lo:+.1f} to {100 * hi:+.1f}]" in gap


def test_canaries_of_the_fewest_and_the_most_showings(project):
    tables = project / "data" / "results" / "made"
    (tables / "lengths.csv").write_text("seed,split,rows\n3,member,9\n")
    (tables / "claims.csv").write_text("claim,verdict\n")
    lines = [
        f"{method},canary,{times},{times / 10}"
        for method in ("sft", "teacher")
        for times in (1, 4, 8)
    ]
    lines += ["minillm,canary,8,0.25", "minillm,row,1,0.9"]
    (tables / "repetitions.csv").write_text("\n".join(["method,kind,times,value", *lines]))
    assert site.conclusion("made")["planted"] == [(1, "10%", "10%"), (8, "25%", "80%")]
