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
    length = len(commonprefix([text, reference]))
    if any(s[length : length + 1] not in ("", " ") for s in (text, reference)):
        length = text.rfind(" ", 0, length) + 1  # back to the last whole word
    head = f"<mark><b>{html.escape(text[:length])}</b></mark>" if length else ""
    return head + html.escape(text[length:])


def exhibits(rows: pd.DataFrame, answers: pd.DataFrame) -> HTML:
    """The rows of `study.exhibits.of_seed`, and below each its response and the models' `answers`.

    An answer's verbatim beginning is marked, its tokens are counted, and the last line counts what
    each model has memorized.
    """
    lines = []
    for name, row in rows.iterrows():
        lines.append(f'<tr><th colspan="2" style="{STYLE}">{html.escape(row["title"])}</th></tr>')
        if not row["row_id"]:
            continue
        prompt = "\n".join(filter(None, (row["instruction"], shortened(row["context"]))))
        cells = [("prompt", html.escape(prompt)), ("response", html.escape(row["response"]))]
        for answer in answers[answers["exhibit"] == name].itertuples():
            count = f"{answer.prefix} of {answer.length} tokens{', memorized' * answer.memorized}"
            text = marked(answer.text, row["response"]).replace("\n", "\u21b5")
            cells.append((f"{answer.model}\n{count}", text))
        lines += [
            f'<tr><td style="{STYLE}">{html.escape(head)}</td><td style="{STYLE}">{body}</td></tr>'
            for head, body in cells
        ]
    table = "".join(lines).replace("\n", "<br>")
    totals = answers.groupby("model", sort=False)["memorized"].agg(["sum", "size"]).itertuples()
    counts = "; ".join(f"{total.Index}: {total.sum} of {total.size}" for total in totals)
    note = f"{marked('Marked', 'Marked')}: word for word the response, from its beginning, in "
    note += "whole words; beside it, how many of the response's tokens. "
    note += f"Memorized, up to token {WINDOW}: {html.escape(counts)}."
    return HTML(f"<table>{table}</table><p>{note}</p>")


def folded(title: str, text: str) -> str:
    """Markdown that shows its title, and the text once that is opened."""
    return f"<details><summary>{html.escape(title)}</summary>\n\n{text}\n\n</details>"


def shortened(text: str, limit: int = 200) -> str:
    """At most so many characters of a text, and where it is longer "..." for its middle."""
    half = (limit - 5) // 2
    return text if len(text) <= limit else f"{text[:half]} ... {text[-half:]}"


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
