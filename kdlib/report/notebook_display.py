"""What notebooks show: figures with their caption, and model text with its verbatim part marked."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from IPython.display import HTML

STYLE = "text-align:left;vertical-align:top;padding:4px 8px;white-space:pre-wrap"


def verbatim_length(text: str, reference: str) -> int:
    """How many leading characters of `text` equal those of `reference`."""
    same = 0
    for a, b in zip(text, reference, strict=False):
        if a != b:
            break
        same += 1
    return same


def marked(text: str, reference: str) -> str:
    """`text` as HTML, everything escaped, its verbatim beginning inside <mark>."""
    same = verbatim_length(text, reference)
    if same < len(text):  # back to the last whole word
        same = text.rfind(" ", 0, same + 1) + 1
    head = f"<mark>{html.escape(text[:same])}</mark>" if same else ""
    return head + html.escape(text[same:])


def answers(rows: Sequence[tuple[str, str]], asked: Mapping[str, Any]) -> HTML:
    """A table of (model, answer) pairs below the training response they are held against.

    Args:
        rows: pairs of a label and the text that this model wrote.
        asked: the tuple: instruction, response, category, and repetitions (showings an epoch).
    """
    times = f", shown {asked['repetitions']} times an epoch" if asked["repetitions"] > 1 else ""
    title = f"{asked['instruction']} ({asked['category']}{times})"
    cells = [("training response", html.escape(asked["response"]))]
    cells += [(label, marked(text, asked["response"])) for label, text in rows]
    lines = "".join(
        f'<tr><th style="{STYLE}">{html.escape(label)}</th><td style="{STYLE}">{body}</td></tr>'
        for label, body in cells
    )
    note = "<mark>marked</mark>: word for word the training response, from its beginning on."
    return HTML(f"<p>{html.escape(title)}</p><table>{lines}</table><p>{note}</p>")
