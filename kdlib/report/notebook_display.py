"""What notebooks show of text: a verbatim part or tokens with a loss marked, all escaped."""

import html
from collections.abc import Mapping, Sequence
from os.path import commonprefix
from typing import Any

from IPython.display import HTML

STYLE = "text-align:left;vertical-align:top;white-space:pre-wrap"  # nothing is lost without it


def marked(text: str, reference: str) -> str:
    """`text` as HTML, its verbatim beginning marked, and bold where marks have no colour."""
    same = len(commonprefix([text, reference]))
    if same < len(text):  # back to the last whole word
        same = text.rfind(" ", 0, same + 1) + 1
    head = f"<mark><b>{html.escape(text[:same])}</b></mark>" if same else ""
    return head + html.escape(text[same:])


def answers(rows: Sequence[tuple[str, str]], example: Mapping[str, Any]) -> HTML:
    """(model, answer) pairs below `example`: instruction, response, category, repetitions."""
    often = example["repetitions"]
    times = f", shown {often} times an epoch" if often > 1 else ""
    title = f"{example['instruction']} ({example['category']}{times})"
    cells = [("training response", html.escape(example["response"]))]
    cells += [(name, marked(text, example["response"])) for name, text in rows]
    lines = "".join(
        f'<tr><th style="{STYLE}">{html.escape(name)}</th><td style="{STYLE}">{body}</td></tr>'
        for name, body in cells
    ).replace("\n", "<br>")
    note = f"{marked('marked', 'marked')}: word for word the training response, from its beginning."
    return HTML(f"<p>{html.escape(title)}</p><table>{lines}</table><p>{note}</p>")


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
