"""The brief: the same numbers in both languages, the rule of what to do next, prices, safety."""

import html
import json
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import toy
from audits import audit_of, table, write
from benchmarks import gate as simulated
from briefs import COST, CUT, STRINGS, UNLIMITED, asked, body_of, strings

from kdlib import __main__
from kdlib.audit import brief, command, gate, policy, prices, record
from kdlib.model import checkpoints
from kdlib.report.site import translator

LIMIT = {"measure": "exact_rate", "at": 50, "below": 0.2}
ALONE = LIMIT | {"of": "rate"}
BASE = {"measure": "auc", "at": "reference_base", "below": 0.6}
PROMPTS = {"measure": "prompt_run", "at": 25, "below": 0.2}
FREE = {"measure": "edit_similarity", "at": 0.9, "below": 0.2}
MIXED = {"said": asked(STRINGS, BASE), "secrets": strings(0, 60), "counts": CUT}
CASES = {
    "pass": {},
    "fail": {},
    "undecided": {},
    "fail alone": {"held_out": False},
    "undecided mixed": MIXED,
    "pass half": {
        "said": policy.PolicyFile(policy.Policy(level=0.05, limits=(LIMIT,)), "a.toml", "0" * 64)
    },
}
NUMBER = re.compile(r"\d+(?:[.,:-]\d+)*")


def only(*limits):
    return policy.PolicyFile(policy.Policy(level=0.05, limits=limits), "limits.toml", "0" * 64)


def pages(folder, model, name, priced=None, **how):
    """The four files by name."""
    record.write(folder, body_of(folder, model, name, **how))
    brief.write(folder, priced or prices.read())
    return {one.name: one.read_text("utf-8") for one in folder.glob("brief*")}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that learned nothing: what it knows is asked elsewhere."""
    folder = tmp_path_factory.mktemp("model") / "toy"
    checkpoints.save_model(toy.new_model(), toy.tokenizer(), folder)
    return folder


@pytest.fixture(params=CASES)
def written(request, model, tmp_path):
    name, how = request.param.split()[0], CASES[request.param]
    return pages(tmp_path, model, name, **how), tmp_path / record.RECORD


def body_text(page):
    """What a browser shows of a page."""
    return html.unescape(re.sub(r"<[^>]*>", " ", page.split("</nav>")[1]))


def test_both_languages_hold_the_same_numbers(written):
    found, _ = written
    assert set(found) == {"brief.html", "brief.md", "brief.ja.html", "brief.ja.md"}
    for one, other, part in (
        ("brief.md", "brief.ja.md", lambda page: page),
        ("brief.html", "brief.ja.html", body_text),
    ):
        numbers = [sorted(NUMBER.findall(part(found[name]))) for name in (one, other)]
        assert numbers[0] == numbers[1] and len(numbers[0]) > 40


def test_the_japanese_page_is_japanese(written):
    found, path = written
    facts = json.loads(path.read_text())["predicate"]
    names = [COST["machine"], facts["kdlib_models"]["model"], "rows.jsonl", "others.csv"]
    names += [
        facts["configuration"][0]["name"],
        prices.DEFAULT.name,
        facts["kdlib_versions"]["commit"],
    ]
    names += [record.sha256(path), "python -m kdlib verify-record record.json"]
    text = found["brief.ja.md"].split("\n", 4)[4]
    for name in names:
        text = text.replace(name, "")
    known = {"record", "json", "kdlib", "SHA", "float", "CPU", "USD", "GB", "ms", "secrets", "sign"}
    known |= {"decode", "IP"}
    assert set(re.findall("[A-Za-z]{2,}", text)) <= known
    assert not re.search("[ぁ-んァ-ヶ一-龥], ", text)


def words(language):
    path = Path(brief.__file__).with_name(f"brief.{language}.toml")
    return tomllib.loads(path.read_text("utf-8"))


def braces(found):
    """By place, what comes into a sentence."""
    for key, value in found.items():
        if isinstance(value, dict) and key != "phrases":
            yield from ((f"{key}.{below}", names) for below, names in braces(value))
        elif key != "phrases":
            text = " ".join(value) if isinstance(value, list) else str(value)
            yield key, sorted(re.findall(r"\{\w+\}", text))


def test_every_measure_is_named_where_it_is_limited():
    named = words("en")["measures"].keys() - {"exact_rate_full", "excess"}
    assert named == set(policy.AT_VALUES)
    for measure, ats in policy.AT_VALUES.items():
        for at in ats:
            line = {"measure": measure, "at": at, "of": "rate"}
            assert brief.named(line, words("en")) != brief.named(line, words("ja"))


def test_every_sentence_stands_in_both_languages():
    assert dict(braces(words("en"))) == dict(braces(words("ja")))


def ends(limit, rows):
    """Of two sides the one, then the other, without what the limit is about."""
    none, there = (rows.assign(**{limit["measure"]: one}) for one in (np.nan, 100.0))
    return (none, there), (there, none)


def reasons():
    """Why there is no number, or more rows would not decide, from the gate itself."""
    dice = np.random.default_rng(0)
    few, some, many = (simulated.rows(dice, n) for n in (5, 150, 4000))
    known = simulated.rows(dice, 4000, 1, (0.5,) * 7)
    half = simulated.rows(dice, 4000, 1, (0.2,) * 7)
    common = simulated.rows(dice, 4000, 1, (1.0,) * 7)
    auc, half_of = BASE | {"at": "loss"}, half["prefix"].eq(simulated.LENGTH).mean()
    for member, others, named, limit in (
        (few.head(0), few, simulated.NONE, LIMIT),
        (few, few.head(0), simulated.NONE, LIMIT),
        (some, some, simulated.NONE, BASE),
        (some, some, simulated.NONE, STRINGS),
        (some, some, strings(1, 60).query("member"), STRINGS),
        (few, some, simulated.NONE, auc),
        (some, few, simulated.NONE, auc),
        (many, known, simulated.NONE, LIMIT),
        (common, common, simulated.NONE, LIMIT),
        (half, many, simulated.NONE, ALONE | {"below": float(half_of)}),
        *((*sides, simulated.NONE, PROMPTS) for sides in ends(PROMPTS, some)),
        *((*sides, simulated.NONE, FREE) for sides in ends(FREE, some)),
    ):
        both = simulated.both(member, others)
        (line,) = gate.judged(both, named, only(limit).policy).to_dict("records")
        assert np.isnan(line["value"]) or line["needed"] == np.inf, line
        yield line["why"]
    both, half_measured = simulated.both(many, many), {"rows": 8000, "measured": 4000}
    for split in ("member", "held_out"):
        said = only(LIMIT).policy
        yield gate.judged(both, simulated.NONE, said, {split: half_measured})["why"].item()


def untested(model, folder):
    """Every sentence on what was not tested, from the record itself."""
    counts = dict.fromkeys(
        ("rows", "empty", "measured", "too_long", "cut", "lost", "unfound"), 30_000
    )
    about = {"detected": True, "decode": 0, "secret_parts": [], "short": [25], "unlimited": []}
    about |= {"rows": {"member": counts, "held_out": counts}, "unlimited": [UNLIMITED]}
    alone = audit_of(model, folder)
    for prompts in (0, 9):
        yield from record.untested(alone, about | {"prompts": prompts})


def test_every_reason_of_the_gate_and_all_that_is_never_tested_has_japanese_words(model, tmp_path):
    say, found = translator(words("ja")["phrases"]), list(reasons())
    assert len(set(found)) == 16
    for one in [*found, *untested(model, tmp_path)]:
        assert not re.search("[a-z]{2,}", re.sub("secrets|decode", "", say(one))), one


def test_numbers_are_the_records(written):
    found, path = written
    text, facts = found["brief.md"], json.loads(path.read_text())["predicate"]
    assert record.sha256(path) in text and "134,515,008 | 0.538 GB | 1.23 GB | 45.7 ms" in text
    lines = [line for line in text.splitlines() if re.search(r"\| [✓✗?]\s", line)]
    for line, one in zip(lines, facts["kdlib_measures"], strict=True):
        bounds = [one[name] for name in ("value", "lo", "hi") if one[name] is not None]
        assert all(f"{100 * bound:.3g}%" in line for bound in bounds)
        assert f"| {100 * one['below']:.3g}% |" in line
        assert {"pass": "✓", "fail": "✗", "undecided": "?"}[one["outcome"]] in line


LOSS = {"said": only(BASE | {"at": "loss"})}
NAMED = {"said": only(STRINGS)}
RUN = {"said": only(PROMPTS | {"below": 0.01})}
SHORT = {"prompt_length": 9}


@pytest.mark.parametrize(
    ("name", "how", "steps"),
    [
        ("pass", {}, "Sign, Release, Audit again"),
        ("fail", {}, "Do not, Stop, Remove, Distil, Train on more, Audit"),
        ("fail", LOSS, "Do not, Stop, Train on more, Audit"),
        ("fail", {"said": only(BASE)}, "Do not, Give what is missing, Audit"),
        ("pass", NAMED | {"secrets": strings(30, 60)}, "Do not, Replace, Stop, Audit"),
        ("pass", NAMED | {"secrets": strings(0, 60)}, "Do not, Name more, Audit"),
        ("undecided", {}, "Do not, Give more rows, Audit"),
        ("undecided", RUN, "Do not, Give more rows with other prompts, Audit"),
        ("undecided", RUN | SHORT, "Do not, For the next, Audit"),
        ("undecided", {"said": only(ALONE | {"below": 0.001})}, "Do not, Give more rows, Audit"),
    ],
)
def test_what_to_do_next_follows_from_the_outcome(model, tmp_path, name, how, steps):
    text = pages(tmp_path, model, name, **how)["brief.md"]
    part = text.split("## What to do next")[1].split("##")[0]
    found = re.findall(r"^\d+\. (.*)$", part, re.M)
    for one, step in zip(found, steps.split(", "), strict=True):
        assert one.startswith(step)


def test_rows_that_would_decide_are_those_of_the_gate(model, tmp_path):
    body = body_of(tmp_path, model, "undecided", said=only({**LIMIT, "below": 0.01}))
    (line,) = body["predicate"]["kdlib_measures"]
    record.write(tmp_path, body)
    brief.write(tmp_path, prices.read())
    text = (tmp_path / "brief.md").read_text("utf-8")
    need = re.search(r"about ([\d,]+) different training responses and ([\d,]+) held-out", text)
    assert int(need[1].replace(",", "")) == pytest.approx(line["n"] * line["needed"], abs=1)


def test_other_policies_that_were_tried_before_are_named(model, tmp_path):
    body = body_of(tmp_path, model, "pass")
    laxer = {"policy": "strict.toml", "sha256": "1" * 64, "verdict": "fail", "time": "2026-01-01"}
    body["predicate"]["kdlib_earlier"] = [laxer]
    record.write(tmp_path, body)
    brief.write(tmp_path, prices.read())
    said = "judged before under another policy (strict.toml: failed)"
    assert said in (tmp_path / "brief.md").read_text("utf-8")
    assert "（strict.toml: 不合格）" in (tmp_path / "brief.ja.md").read_text("utf-8")


def test_limits_that_were_left_out_are_counted_in_both_languages(model, tmp_path):
    body = body_of(tmp_path, model, "pass")
    told = "Of the policy's limits 2 more were left out", "ほかに 2 件の上限は"
    for left_out in ([], ["prompt_run at 25, excess", "secret_rate at prompt, excess"]):
        body["predicate"]["kdlib_left_out"] = left_out
        record.write(tmp_path, body)
        brief.write(tmp_path, prices.read())
        for name, said in zip(("brief", "brief.ja"), told, strict=True):
            for form in brief.FORMS:
                text = html.unescape((tmp_path / (name + form)).read_text("utf-8"))
                assert (said in text) == bool(left_out)


def test_swapped_files_are_not_told_to_need_more_rows(model, tmp_path):
    body = body_of(tmp_path, model, "fail")
    why = "held-out rows are known better than training rows: not like them, or files swapped"
    for line in body["predicate"]["kdlib_measures"]:
        line |= {"outcome": "undecided", "needed": None, "why": why}
    body["predicate"]["kdlib_verdict"] = "undecided"
    record.write(tmp_path, body)
    brief.write(tmp_path, prices.read())
    assert "more rows would not decide" in (tmp_path / "brief.md").read_text("utf-8")
    assert "入れ替わっている" in (tmp_path / "brief.ja.md").read_text("utf-8")


# --- places and prices ------------------------------------------------------------------------

TABLE = """
currency = "EUR"
as_of = 2026-01-31
source = { en = "our <b>contract</b>", ja = "契約" }
[[places]]
name = { en = "rack | 1", ja = "ラック" }
memory_gb = 1.5
price_per_hour = 3.6
[[places]]
name = { en = "watch", ja = "時計" }
memory_gb = 1
price_per_hour = 0
"""


def test_places_say_whether_it_fits_and_what_it_costs(model, tmp_path):
    (tmp_path / "mine.toml").write_text(TABLE)
    found = pages(tmp_path, model, "pass", prices.read(tmp_path / "mine.toml"))
    cost = 3.6 * COST["ms_per_token"] * 1e6 / 1000 / 3600
    assert f"| rack \\| 1 | 1.5 GB | yes | EUR 3.60 | EUR {cost:.2f} |" in found["brief.md"]
    assert "| watch | 1 GB | no | EUR 0.00 | – |" in found["brief.md"]
    assert "fits into 1 of 2 places" in found["brief.md"]
    assert "mine.toml, 2026-01-31: our &lt;b&gt;contract" in found["brief.html"]
    assert "<td>時計</td><td>1 GB</td><td>いいえ</td>" in found["brief.ja.html"]


def test_a_speed_that_is_given_for_a_place_counts_there_and_is_marked(model, tmp_path):
    (tmp_path / "mine.toml").write_text(TABLE.replace("= 3.6", "= 3.6\nms_per_token = 12"))
    found = pages(tmp_path, model, "pass", prices.read(tmp_path / "mine.toml"))
    said = "EUR 12.00 (12 ms per token: given, not measured) |"
    assert (
        f"| EUR 3.60 | {said}" in found["brief.md"] and found["brief.md"].count("given, not") == 1
    )
    assert "EUR 12.00（トークンあたり 12 ms、測定値ではなく申告値）" in found["brief.ja.md"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no such file"),
        ("currency = ", "is not valid TOML"),
        (TABLE.replace("currency", "curency"), "curency = 'EUR': Extra inputs"),
        (TABLE.replace("= 3.6", "= -1"), "places.0.price_per_hour = -1: .* greater than or equal"),
        (TABLE.replace("= 3.6", '= "3.6"'), "places.0.price_per_hour = '3.6': .* number"),
        (TABLE.replace("= 1.5", "= nan"), "places.0.memory_gb = nan: "),
        (TABLE.replace("= 3.6", "= 3.6\nms_per_token = 0"), "ms_per_token = 0: .* greater than 0"),
        (TABLE.replace(', ja = "時計"', ""), "places.1.name.ja"),
        (TABLE.split("[[places]]")[0], "places: Field required"),
    ],
)  # fmt: skip
def test_bad_prices(model, tmp_path, monkeypatch, capsys, text, said):
    path = tmp_path / "bad.toml"
    if text is not None:
        path.write_text(text)
    status, err = ended(
        model, tmp_path, monkeypatch, capsys, "--policy", "default", "--prices", path
    )
    assert status == 2 and not (tmp_path / "out").exists()
    (line,) = err.splitlines()
    assert re.search(said, line), line


def test_prices_without_a_policy(model, tmp_path, monkeypatch, capsys):
    words = ["--prices", prices.DEFAULT]
    status, err = ended(model, tmp_path, monkeypatch, capsys, *words)
    assert status == 2 and "name a policy" in err and not (tmp_path / "out").exists()


def ended(model, folder, monkeypatch, capsys, *more):
    rows = ["--data", write(table(), folder / "rows.jsonl"), "--out", folder / "out"]
    monkeypatch.setattr(
        sys, "argv", list(map(str, ["kdlib", "audit", "--model", model, *rows, *more]))
    )
    return __main__.main(), capsys.readouterr().err


def test_the_table_that_ships_is_explained_and_says_that_it_is_an_example():
    lines = prices.DEFAULT.read_text("utf-8").splitlines()
    keys = {line.split(" = ")[0] for line in lines if " = " in line and line[0] != "#"}
    told = "\n".join(line for line in lines if "#" in line)
    assert all(re.search(rf"^(# )?{key}\b", told, re.M) for key in keys - {"currency", "source"})
    assert "example" in prices.read().prices.source.en


# --- safety -----------------------------------------------------------------------------------


def test_the_page_asks_for_nothing_and_names_are_text(model, tmp_path):
    body = body_of(tmp_path, model, "fail")
    body["predicate"]["kdlib_models"]["model"] = "<script>alert(1)</script> {n} *a*"
    record.write(tmp_path, body)
    brief.write(tmp_path, prices.read())
    for name, other in (("brief", "brief.ja"), ("brief.ja", "brief")):
        text = (tmp_path / f"{name}.html").read_text("utf-8")
        assert re.findall(r'(?:src|href)="([^"]*)"', text) == [f"{other}.html"]
        assert "default-src 'none'" in text and "http://" not in text and "https://" not in text
        assert "<script" not in text and "&lt;script&gt;alert(1)&lt;/script&gt; {n}" in text
        assert r"\<script\>" in (tmp_path / f"{name}.md").read_text("utf-8")


def test_an_audit_writes_it_times_once_and_shows_no_row(model, tmp_path):
    asked_of = only(ALONE)
    settings = audit_of(model, tmp_path, show_rows=True)
    command.run(settings)
    assert not list(settings.out.glob("brief*")) and not (settings.out / command.COST).exists()
    command.run(settings, asked_of)
    found = {one.name: one.read_text("utf-8") for one in settings.out.glob("brief*")}
    assert len(found) == 4
    texts = [value for row in toy.rows() for value in row.values()]
    assert not [text for page in found.values() for text in texts if " " in text and text in page]
    cost = json.loads((settings.out / "record.json").read_text())["predicate"]["kdlib_cost"]
    known = sum(one.numel() for one in toy.new_model().parameters())
    assert cost["parameters"] == known and cost["weight_bytes"] == 4 * known
    assert cost["rows"] == 4 and 0 < cost["tokens"] <= 4 * 48 and cost["ms_per_token"] > 0
    before = (settings.out / command.COST).stat().st_mtime_ns
    command.run(settings, asked_of)
    assert (settings.out / command.COST).stat().st_mtime_ns == before
