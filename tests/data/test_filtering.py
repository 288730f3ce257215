"""Which rows are kept, in what words, and what is counted."""

import pandas as pd
import pytest

from kdlib.config.sections import ReleaseSettings
from kdlib.data.filtering import filter_rows

TEXTS = [
    "Return the sum of all values.",
    "Ann Lee, telephone (555) 012-3456.",
    "Ann Lee,  telephone (555) 012-7890.",  # another number, and a blank more
    "Return the  sum of all values.",
    "Return the sum of all the values.",
    "Close the file.",
]


def rows(texts=TEXTS, context=""):
    facts = {"instruction": "say", "context": context, "response": texts}
    return pd.DataFrame(facts, index=[f"r{i}" for i in range(len(texts))])


def counted(counts):
    return {line.reason: (line.rows, line.done) for line in counts.itertuples()}


def test_personal_data_are_replaced_first_so_that_rows_may_be_equal_then():
    kept, counts = filter_rows(rows(), ReleaseSettings(similarity=0.7))
    assert list(kept.index) == ["r0", "r1", "r5"]
    assert kept.loc["r1", "response"] == "Ann Lee, telephone <telephone>."
    assert counted(counts) == {
        "personal data": (2, "replaced"),
        "exact duplicate": (2, "dropped"),
        "near duplicate": (1, "dropped"),
    }


def test_personal_data_may_be_dropped_wherever_they_stand():
    kept, counts = filter_rows(rows(), ReleaseSettings(personal="drop", similarity=1.0))
    assert list(kept.index) == ["r0", "r4", "r5"]
    assert counted(counts)["personal data"] == (2, "dropped")
    asked = rows(["Yes.", "No."], context=["mail a.b@example.org", ""])
    kept, counts = filter_rows(asked, ReleaseSettings(personal="drop"))
    assert list(kept["response"]) == ["No."] and counted(counts)["personal data"][0] == 1
    kept, _ = filter_rows(asked, ReleaseSettings())
    assert list(kept["context"]) == ["mail <e-mail>", ""]


@pytest.mark.parametrize("personal", ["drop", "replace"])
def test_what_is_kept_is_found_clean_again(personal):
    how = ReleaseSettings(personal=personal, similarity=0.7)
    kept, _ = filter_rows(rows(), how)
    again, counts = filter_rows(kept, how)
    assert again.equals(kept) and (counts["rows"] == 0).all()


def test_no_rows():
    kept, counts = filter_rows(rows([]), ReleaseSettings())
    assert kept.empty and (counts["rows"] == 0).all()
