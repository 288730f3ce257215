"""The claims F1 to F4, on a model's life: their differences, rules and judge (16_life_cycle).

`rows` and `scores` are those of `life_cycle`.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

from kdlib.analysis.companion_claims import Judged
from kdlib.analysis.life_cycle import GROUPS, gap
from kdlib.analysis.own_claims import GAIN
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
from kdlib.stats import ALPHA, MIN_GROUPS, NOTHING, Line, line, paired_difference, row_text

BESIDE = ("unread", "beyond", "seen", "nats")  # numbers of `contrasts` beside the claims' own


def contrasts(rows: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """The differences that the claims F1 to F4 are about: claim, value, lo, hi, p, enough.

    enough: whether MIN_GROUPS different responses carry it, see `stats.judgeable`. of and against
    are the two sides; the rows relearned are those of F3 and F4. Of F3 unread: what comes back in a
    new student of the teacher as it was, and beyond: that less the unlearned one's. Of F4 seen:
    what comes back in the student that unlearned the rows itself, and nats: the same difference in
    the loss. All four with _lo and _hi.
    """
    last = rows[rows["generation"] == rows["generation"].max()]
    found = []
    pairs = {"F1": (AFRESH, TRAINED, "old rows"), "F2": (TRAINED, ORDINARY, "old canaries")}
    for claim, (one, other, which) in pairs.items():
        a, b = (last[last["way"] == way].query(GROUPS[which]) for way in (one, other))
        facts = {"claim": claim, "of": a["hit"].mean(), "against": b["hit"].mean()}
        both = paired_difference(a, b, "hit") if len(a) else line(np.nan, NOTHING, p=np.nan)
        found.append(facts | both | {"enough": both.get("discordant", 0) >= MIN_GROUPS})
    again = scores[scores["read"].astype(bool)]
    keys = ["seed", "row_id", "group", "deleted"]
    wide = again.pivot(index=keys, columns=["done", "who"], values=["score", "nats"])

    def back(*models: tuple[str, str], what: str = "score") -> Line:
        """What comes back in a model, or in one less another."""
        sides = [wide[(what, *model)] for model in models]
        gaps = (sides[0] - sides[1] if len(sides) > 1 else sides[0]).dropna().rename("gap")
        part = gaps.reset_index()
        return gap(part, part["gap"], part["deleted"].to_numpy(bool))

    student, retrained, own = (UNLEARNED, STUDENT), (RETRAINED, STUDENT), (DIRECTLY, STUDENT)
    beside = {
        "F3": {
            "unread": back((UNREAD, STUDENT)),
            "beyond": back((UNREAD, STUDENT), student),
        },
        "F4": {"seen": back(own), "nats": back(student, retrained, what="nats")},
    }
    for claim, pair in {"F3": (own, student), "F4": (student, retrained)}.items():
        (of, against), both = map(back, pair), back(*pair)
        facts = {"claim": claim, "of": of["value"], "of_lo": of["lo"], "against": against["value"]}
        for name, known in beside[claim].items():
            facts |= {name: known["value"], f"{name}_lo": known["lo"], f"{name}_hi": known["hi"]}
        found.append(facts | both | {"enough": pd.notna(both["lo"])})
    columns = ["claim", "of", "of_lo", "against", "value", "lo", "hi", "p", "enough"]
    columns += [f"{name}{end}" for name in BESIDE for end in ("", "_lo", "_hi")]
    return pd.DataFrame(found).reindex(columns=columns)


def _judged(
    claim: str, verdict: Callable[[Line], tuple[bool, bool]], contrasts: pd.DataFrame
) -> Judged:
    (found,) = contrasts[contrasts["claim"] == claim].to_dict("records")
    said = f"{found['of']:.3f} against {found['against']:.3f}: {row_text(found, form='+.3f')}"
    if claim in ("F1", "F2") and not found["of"] and not found["against"]:
        return False, False, "nothing is recited on either side, so that no difference can be seen"
    if not found["enough"]:
        return False, False, f"{said}; too few different responses"
    confirmed, refuted = verdict(found)
    if claim == "F3":
        unread = row_text(found, "unread", "+.3f")
        beyond = row_text(found, "beyond", "+.3f")
        said += f"; in a new student of the teacher as it was, without the rows: {unread}, which "
        said += f"is {beyond} more than with unlearning; by the rule as it was first written: "
        said += "confirmed" if _above(found)[0] and found["of_lo"] > 0 else "not confirmed"
    if claim == "F4":
        seen, nats = (row_text(found, name, "+.3f") for name in ("seen", "nats"))
        said += f"; in the student that unlearned them itself {seen}; in the loss {nats} nats"
    return bool(confirmed), bool(refuted), said


def _above(found: Line) -> tuple[bool, bool]:
    sure = found["p"] < ALPHA
    return sure and found["value"] > 0, sure and found["value"] < 0


def _resists(found: Line) -> tuple[bool, bool]:
    sure = found["p"] < ALPHA
    seen = found["of_lo"] > 0 and found["beyond_lo"] > 0
    return sure and found["value"] > 0 and seen, sure and found["value"] < 0


def _as_if_never_read(found: Line) -> tuple[bool, bool]:
    lo, hi = found["lo"], found["hi"]
    told = found["nats_lo"] > 0 or found["nats_hi"] < 0
    seen = found["seen_lo"] > GAIN
    return lo > -GAIN and hi < GAIN and seen and not told, lo > GAIN or hi < -GAIN


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
