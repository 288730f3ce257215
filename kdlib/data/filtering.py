"""Rows before they are trained on: personal data and duplicates, out and counted. Taught in 17."""

import pandas as pd

from kdlib.config.sections import ReleaseSettings
from kdlib.data import duplicates, scrubbing, sources
from kdlib.data.pool import TEXTS

PERSONAL, EXACT, NEAR = "personal data", "exact duplicate", "near duplicate"


def filter_rows(rows: pd.DataFrame, how: ReleaseSettings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that may be trained on, and how many were changed or dropped, by reason.

    Rows have instruction, context and response; those that are kept keep their index and order.
    First personal data are looked for by their form (`scrubbing`), and as `how.personal` says their
    kind is put in their place, or the row is dropped. Then a response that is another one's but
    for blanks is dropped, then one that shares `how.similarity` of its runs of characters with one
    that was kept before (`duplicates.firsts`; Lee et al. 2022): after the first, since rows that
    differ in a telephone number alone are equal then. The counts: reason, rows (how many it was
    found in), done ("replaced" or "dropped").
    """
    clean = rows[TEXTS].map(scrubbing.scrub)
    found = clean.ne(rows[TEXTS]).any(axis=1)
    kept = rows[~found] if how.personal == "drop" else rows.assign(**clean)
    done = {"drop": "dropped", "replace": "replaced"}[how.personal]
    counts = [(PERSONAL, int(found.sum()), done)]
    again = kept["response"].map(sources.normalised).duplicated()
    kept = kept[~again]
    first = pd.Series(duplicates.firsts(list(kept["response"]), how.similarity), kept.index, bool)
    counts += [(EXACT, int(again.sum()), "dropped"), (NEAR, int((~first).sum()), "dropped")]
    return kept[first], pd.DataFrame(counts, columns=["reason", "rows", "done"])
