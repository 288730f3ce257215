"""Rows before they are trained on: personal data and duplicates, out and counted. Taught in 17."""

import pandas as pd

from kdlib.config.sections import ReleaseSettings
from kdlib.data import duplicates, scrubbing, sources
from kdlib.data.pool import TEXTS

PERSONAL, EXACT, NEAR = "personal data", "exact duplicate", "near duplicate"


def filter_rows(rows: pd.DataFrame, settings: ReleaseSettings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that may be trained on, and how many were changed or dropped, by reason.

    Rows have instruction, context and response; those that are kept keep their index and order.
    First personal data are looked for by their form (`scrubbing`), and as `settings.personal` says
    their kind is put in their place, or the row is dropped. Then a response that is another one's
    but for blanks is dropped, then one that shares `settings.similarity` of its runs of characters
    with one that was kept before (`duplicates.firsts`; Lee et al. 2022): after the first, since
    rows that differ in a telephone number alone are equal then. The counts: reason, rows (how many
    it was found in), done ("replaced" or "dropped").
    """
    clean = rows[TEXTS].map(scrubbing.scrub)
    personal = clean.ne(rows[TEXTS]).any(axis=1)
    filtered = rows[~personal] if settings.personal == "drop" else rows.assign(**clean)
    action = {"drop": "dropped", "replace": "replaced"}[settings.personal]
    counts = [(PERSONAL, int(personal.sum()), action)]
    repeated = filtered["response"].map(sources.normalised).duplicated()
    filtered = filtered[~repeated]
    first = pd.Series(
        duplicates.firsts(list(filtered["response"]), settings.similarity), filtered.index, bool
    )
    counts += [(EXACT, int(repeated.sum()), "dropped"), (NEAR, int((~first).sum()), "dropped")]
    return filtered[first], pd.DataFrame(counts, columns=["reason", "rows", "done"])
