"""Model text for notebooks: escaped, with what is word for word the training response marked."""

import html
from collections.abc import Sequence

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
    head = f"<mark>{html.escape(text[:same])}</mark>" if same else ""
    return head + html.escape(text[same:])


def answers(rows: Sequence[tuple[str, str]], reference: str) -> HTML:
    """A table of (model, answer) pairs below the training response they are held against.

    Args:
        rows: pairs of a label and the text that this model wrote.
        reference: the training response.
    """
    cells = [("training response", html.escape(reference))]
    cells += [(label, marked(text, reference)) for label, text in rows]
    lines = "".join(
        f'<tr><th style="{STYLE}">{html.escape(label)}</th><td style="{STYLE}">{body}</td></tr>'
        for label, body in cells
    )
    return HTML(f"<table>{lines}</table><p><mark>marked</mark>: word for word the response.</p>")
