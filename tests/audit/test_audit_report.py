"""The page: its verdict, what it shows and what it leaves out."""

import html.parser
import shutil

import pandas as pd
import pytest
import toy
from audits import audit_of, table, unseen, written

from kdlib import stats
from kdlib.audit import command, report, summary
from kdlib.model import tokens

EVIL = '<script>alert("1")</script> & <mark>'


class Page(html.parser.HTMLParser):
    """What a browser would load, run or follow."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.loads, self.policy = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href", "srcset")]
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]


def test_report_escapes_the_data_and_asks_for_nothing(model, tmp_path):
    rows = table(toy.rows()[:20])
    rows["instruction"] += EVIL
    rows["category"] = EVIL
    rows["response"] = "red " + EVIL
    settings = audit_of(model, tmp_path, rows, show_rows=True)
    text = command.run(settings).read_text("utf-8")
    page = Page(text)
    assert "script" not in page.tags and "link" not in page.tags
    assert "&lt;script&gt;" in text
    assert all(uri.startswith("data:image/png;base64,") for uri in page.loads)
    assert "http://" not in text and "https://" not in text
    assert page.policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_report_of_a_model_that_remembers(model, tmp_path):
    settings = audit_of(model, tmp_path, held_out=unseen(), show_rows=True)
    text = command.run(settings).read_text("utf-8")
    page = Page(text)
    ours = written(settings.out).query("split == 'member'")
    hits = int((ours["prefix"] >= ours["length"].clip(upper=50)).sum())
    assert "<h1>The model memorizes its training rows.</h1>" in text
    assert f"{hits} of 48 rows" in text and "of 40 rows" in text
    assert len(page.loads) == 3 and page.tags.count("mark") > 10
    best = ours.sort_values(["prefix", "nats_per_token"], ascending=[False, True])
    places = [text.index(f"<td>{row}<") for row in best["row_id"][:5]]
    assert places == sorted(places)
    row = best.iloc[0]  # whole: marked to its end
    assert row["prefix"] == row["length"] and f"<mark><b>{row['response']}</b></mark>" in text
    assert "needs 1,000 held-out rows" in text and "needs 100 held-out rows" in text


def test_report_shows_no_text_of_rows_unasked(model, tmp_path):
    settings = audit_of(model, tmp_path, held_out=unseen())
    text = command.run(settings).read_text("utf-8")
    shown = [row[key] for row in toy.rows() for key in ("instruction", "response")]
    assert not [words for words in [*shown, "kind"] if f">{words}<" in text]
    assert "--show-rows" in text and "<td>member-" in text
    command.run(settings.model_copy(update={"show_rows": True}))  # the same audit
    assert (settings.out / "report.html").read_text("utf-8").count("<mark>") > 10


def test_report_says_what_is_left_out_and_why(model, tmp_path):
    settings = audit_of(model, tmp_path, table(toy.rows()[:12]))
    text = command.run(settings).read_text("utf-8")
    assert "Memory cannot be told from guessing" in text
    assert text.count("left out: fewer than 30 training rows") == 2
    assert "left out: no held-out rows were given" in text
    assert "Only 12 training rows were measured" in text
    assert Page(text).loads == []
    assert "auc" not in (settings.out / "summary.csv").read_text()


def rated(member, other=None):
    found = {"member": member, "held_out": other}
    rows = [
        ("exact_rate", split, 50, hits / n, *stats.wilson(hits, n), n)
        for split, (hits, n) in ((s, v) for s, v in found.items() if v)
    ]
    return pd.DataFrame(rows, columns=summary.COLUMNS)


@pytest.mark.parametrize(
    ("member", "other", "said"),
    [
        ((50, 100), (1, 100), "The model memorizes"),
        ((6, 100), (1, 100), "No word-for-word memorization"),  # intervals overlap
        ((1, 100), (50, 100), "No word-for-word memorization"),
        ((3, 3), (0, 3), "No word-for-word memorization"),  # too few to tell
        ((50, 100), None, "cannot be told from guessing"),
    ],
)
def test_verdict_keeps_its_rule(member, other, said):
    headline, sentences = report.verdict(rated(member, other))
    assert said in headline
    assert f"{member[0]} of {member[1]} rows" in " ".join(sentences)


@pytest.mark.parametrize(("lo", "said"), [(0.51, " can tell"), (0.49, "cannot be shown to tell")])
def test_verdict_tells_of_membership_too(lo, said):
    line = ("auc", "both", "loss", 0.6, lo, 0.7, 200)
    area = pd.DataFrame([line], columns=summary.COLUMNS)
    found = pd.concat([rated((0, 100), (0, 100)), area], ignore_index=True)
    headline, sentences = report.verdict(found)
    assert "No word-for-word" in headline and said in sentences[-1]


def test_verdict_without_any_row():
    assert "Nothing" in report.verdict(rated(None))[0]


def test_report_doubts_a_tokenizer_of_another_model(model, tmp_path):
    """Of the same size and with the same end token, so that only the losses betray it."""
    words = ["say", "tell", "list", *toy.WORDS]
    other = tokens.train_tokenizer([" ".join(words) + " Instruction Input Response #"] * 9, 300)
    ids, size = other.get_vocab(), len(toy.tokenizer())
    assert len(other) <= size and ids != toy.tokenizer().get_vocab()
    mixed = shutil.copytree(model, tmp_path / "mixed")
    other.save_pretrained(mixed)
    doubt = "its tokenizer may be another model"
    assert doubt in command.run(audit_of(mixed, tmp_path)).read_text("utf-8")
    own = audit_of(model, tmp_path, out=tmp_path / "own")
    assert doubt not in command.run(own).read_text("utf-8")
