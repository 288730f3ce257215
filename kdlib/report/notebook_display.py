"""What notebooks show of text: a verbatim part or tokens with a loss marked, all escaped."""

import html
from collections.abc import Sequence
from os.path import commonprefix

import pandas as pd
from IPython.display import HTML

from kdlib.config.exact_match import WINDOW

STYLE = "text-align:left;vertical-align:top;white-space:pre-wrap"  # nothing is lost without it


def marked(text: str, reference: str) -> str:
    """`text` as HTML, its verbatim beginning marked, and bold where marks have no colour."""
    same = len(commonprefix([text, reference]))
    if any(one[same : same + 1] not in ("", " ") for one in (text, reference)):
        same = text.rfind(" ", 0, same) + 1  # back to the last whole word
    head = f"<mark><b>{html.escape(text[:same])}</b></mark>" if same else ""
    return head + html.escape(text[same:])


def exhibits(shown: pd.DataFrame, answers: pd.DataFrame) -> HTML:
    """The rows of `study.exhibits.of_seed`, and below each its response and the models' `answers`.

    An answer's verbatim beginning is marked, its tokens are counted, and the last line counts what
    each model has memorized.
    """
    lines = []
    for name, row in shown.iterrows():
        lines.append(f'<tr><th colspan="2" style="{STYLE}">{html.escape(row["title"])}</th></tr>')
        if not row["row_id"]:
            continue
        prompt = "\n".join(filter(None, (row["instruction"], shortened(row["context"]))))
        cells = [("prompt", html.escape(prompt)), ("response", html.escape(row["response"]))]
        for one in answers[answers["exhibit"] == name].itertuples():
            counted = f"{one.prefix} of {one.length} tokens{', memorized' * one.memorized}"
            text = marked(one.text, row["response"]).replace("\n", "\u21b5")
            cells.append((f"{one.model}\n{counted}", text))
        lines += [
            f'<tr><td style="{STYLE}">{html.escape(head)}</td><td style="{STYLE}">{body}</td></tr>'
            for head, body in cells
        ]
    table = "".join(lines).replace("\n", "<br>")
    known = answers.groupby("model", sort=False)["memorized"].agg(["sum", "size"]).itertuples()
    counts = "; ".join(f"{one.Index}: {one.sum} of {one.size}" for one in known)
    note = f"{marked('Marked', 'Marked')}: word for word the response, from its beginning, in "
    note += "whole words; beside it, how many of the response's tokens. "
    note += f"Memorized, up to token {WINDOW}: {html.escape(counts)}."
    return HTML(f"<table>{table}</table><p>{note}</p>")


def folded(title: str, text: str) -> str:
    """Markdown that shows its title, and the text once that is opened."""
    return f"<details><summary>{html.escape(title)}</summary>\n\n{text}\n\n</details>"


def shortened(text: str, most: int = 200) -> str:
    """At most so many characters of a text, and where it is longer "..." for its middle."""
    half = (most - 5) // 2
    return text if len(text) <= most else f"{text[:half]} ... {text[-half:]}"


def tokens(rows: Sequence[Sequence[tuple[str, bool]]]) -> HTML:
    """Rows of (token, does it carry a loss): with a loss in bold brackets, else "|" behind it."""
    lines = []
    for row in rows:
        pieces = []
        for text, with_loss in row:
            token, after = html.escape(text).replace("\n", "\u21b5"), "<br>" * ("\n" in text)
            pieces.append((f"<mark><b>[{token}]</b></mark>" if with_loss else f"{token}|") + after)
        lines.append(f'<tr><td style="{STYLE}">{"".join(pieces)}</td></tr>')
    return HTML(f"<table>{''.join(lines)}</table>")
