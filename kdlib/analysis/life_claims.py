"""The claims F1 to F4, on a model's life: their differences, rules and judge (16_life_cycle).

`rows` and `scores` are those of `life_cycle`.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

from kdlib.analysis.life_cycle import GROUPS, gap
from kdlib.analysis.own_claims import GAIN, Judged
from kdlib.config.life import (
    AFRESH,
    DIRECTLY,
    ORDINARY,
    RETRAINED,
    STUDENT,
    TRAINED,
    UNLEARNED,
    UNREAD,
)
from kdlib.stats import ALPHA, MIN_GROUPS, UNKNOWN, Line, line, paired_difference, row_text

EXTRAS = ("unread", "beyond", "seen", "nats")  # numbers of `contrasts` beside the claims' own


def contrasts(rows: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """The differences that the claims F1 to F4 are about: claim, value, lo, hi, p, enough.

    enough: whether MIN_GROUPS different responses carry it, see `stats.judgeable`. of and against
    are the two sides; the rows relearned are those of F3 and F4. Of F3 unread: what comes back in a
    new student of the teacher as it was, and beyond: that less the unlearned one's. Of F4 seen:
    what comes back in the student that unlearned the rows itself, and nats: the same difference in
    the loss. All four with _lo and _hi.
    """
    last = rows[rows["generation"] == rows["generation"].max()]
    lines = []
    pairs = {"F1": (AFRESH, TRAINED, "old rows"), "F2": (TRAINED, ORDINARY, "old canaries")}
    for claim, (first, second, group) in pairs.items():
        a, b = (last[last["way"] == way].query(GROUPS[group]) for way in (first, second))
        facts = {"claim": claim, "of": a["hit"].mean(), "against": b["hit"].mean()}
        estimate = paired_difference(a, b, "hit") if len(a) else line(np.nan, UNKNOWN, p=np.nan)
        lines.append(facts | estimate | {"enough": estimate.get("discordant", 0) >= MIN_GROUPS})
    relearned = scores[scores["read"].astype(bool)]
    keys = ["seed", "row_id", "group", "deleted"]
    wide = relearned.pivot(index=keys, columns=["done", "who"], values=["score", "nats"])

    def back(*models: tuple[str, str], column: str = "score") -> Line:
        """What comes back in a model, or in one less another."""
        sides = [wide[(column, *model)] for model in models]
        gaps = (sides[0] - sides[1] if len(sides) > 1 else sides[0]).dropna().rename("gap")
        part = gaps.reset_index()
        return gap(part, part["gap"], part["deleted"].to_numpy(bool))

    student, retrained, direct = (UNLEARNED, STUDENT), (RETRAINED, STUDENT), (DIRECTLY, STUDENT)
    extras = {
        "F3": {
            "unread": back((UNREAD, STUDENT)),
            "beyond": back((UNREAD, STUDENT), student),
        },
        "F4": {"seen": back(direct), "nats": back(student, retrained, column="nats")},
    }
    for claim, pair in {"F3": (direct, student), "F4": (student, retrained)}.items():
        (lhs, rhs), estimate = map(back, pair), back(*pair)
        facts = {"claim": claim, "of": lhs["value"], "of_lo": lhs["lo"], "against": rhs["value"]}
        for name, row in extras[claim].items():
            facts |= {name: row["value"], f"{name}_lo": row["lo"], f"{name}_hi": row["hi"]}
        lines.append(facts | estimate | {"enough": pd.notna(estimate["lo"])})
    columns = ["claim", "of", "of_lo", "against", "value", "lo", "hi", "p", "enough"]
    columns += [f"{name}{end}" for name in EXTRAS for end in ("", "_lo", "_hi")]
    return pd.DataFrame(lines).reindex(columns=columns)


def _judged(
    claim: str, verdict: Callable[[Line], tuple[bool, bool]], contrasts: pd.DataFrame
) -> Judged:
    (row,) = contrasts[contrasts["claim"] == claim].to_dict("records")
    evidence = f"{row['of']:.3f} against {row['against']:.3f}: {row_text(row, form='+.3f')}"
    if claim in ("F1", "F2") and not row["of"] and not row["against"]:
        return False, False, "nothing is recited on either side, so that no difference can be seen"
    if not row["enough"]:
        return False, False, f"{evidence}; too few different responses"
    confirmed, refuted = verdict(row)
    if claim == "F3":
        unread = row_text(row, "unread", "+.3f")
        beyond = row_text(row, "beyond", "+.3f")
        evidence += (
            f"; in a new student of the teacher as it was, without the rows: {unread}, which "
        )
        evidence += f"is {beyond} more than with unlearning; by the rule as it was first written: "
        evidence += "confirmed" if _above(row)[0] and row["of_lo"] > 0 else "not confirmed"
    if claim == "F4":
        seen, nats = (row_text(row, name, "+.3f") for name in ("seen", "nats"))
        evidence += f"; in the student that unlearned them itself {seen}; in the loss {nats} nats"
    return bool(confirmed), bool(refuted), evidence


def _above(row: Line) -> tuple[bool, bool]:
    significant = row["p"] < ALPHA
    return significant and row["value"] > 0, significant and row["value"] < 0


def _resists(row: Line) -> tuple[bool, bool]:
    significant = row["p"] < ALPHA
    returns = row["of_lo"] > 0 and row["beyond_lo"] > 0
    return significant and row["value"] > 0 and returns, significant and row["value"] < 0


def _as_if_never_read(row: Line) -> tuple[bool, bool]:
    lo, hi = row["lo"], row["hi"]
    loss_differs = row["nats_lo"] > 0 or row["nats_hi"] < 0
    detectable = row["seen_lo"] > GAIN
    return lo > -GAIN and hi < GAIN and detectable and not loss_differs, lo > GAIN or hi < -GAIN


RULES = {  # by claim: statement, rule, verdict
    "F1": (
        "A student that is distilled anew after all updates recites more of the first rows than "
        "one that was trained on.",
        "old member rows after the last update, distilled anew (from the last teacher, on all rows "
        "so far) less trained on (on each update's rows alone): confirmed if above 0, refuted if "
        "below, by the whole interval and 10 different responses or more",
        _above,
    ),
    "F2": (
        "New personal data bring earlier personal data back (2502.15680).",
        "old canaries recited after the last update, where updates hold new records less where "
        "they hold as many ordinary rows: confirmed if above 0, refuted if below, by the whole "
        "interval and 10 different responses or more",
        _above,
    ),
    "F3": (
        "Unlearning, then distilling, resists relearning (2506.06278).",
        "what comes back while half of the deleted rows are relearned: of these the mean share of "
        "noted times at which they are recited, less that of rows never read, at equal steps. Of a "
        "student that unlearned them itself less that of one distilled from an unlearned teacher, "
        "of one size: confirmed if above 0, as is the first's own, refuted if below 0, by whole "
        # added after the first runs on models from scratch, in which leaving the rows out sufficed
        "intervals and 10 different responses or more on either side; not confirmed unless more "
        "surely comes back in a new student that is distilled, without the rows, from the teacher "
        "as it was, since else leaving the rows out does it, and not unlearning",
        _resists,
    ),
    "F4": (
        "A student of an unlearned teacher is as if the rows had never been read.",
        "what comes back, as in F3, of the unlearned teacher's student less that of the student "
        "whose teacher never read them: confirmed if a difference of 5% is excluded either way, "
        "refuted if it is surely greater, by whole intervals and 10 different responses or more on "
        # the rest was added after the first runs on models from scratch: at first next to nothing
        # came back in anybody, then the loss told apart what recitation did not
        "either side; not confirmed unless in a student that unlearned them itself surely more "
        "than 5% comes back, since else so much would hardly be seen; nor where the difference in "
        "the loss (nats per token, mean over the noted times) has its whole interval on one side "
        "of 0",
        _as_if_never_read,
    ),
}
CLAIMS = {
    name: (statement, rule, partial(_judged, name, verdict))
    for name, (statement, rule, verdict) in RULES.items()
}
