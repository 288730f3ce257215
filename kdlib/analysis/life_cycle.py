"""A model's life in tables: what later generations recite of the first rows, what comes back.

`rows` of a model (`read`) are joined of several, with columns way and generation, or done and who,
of `config.life`. `notes` are what was noted while deleted rows were relearned
(`study.life.relearned`), with done and who. hit: memorized word for word. Taught in 16_life_cycle.

How much comes back of deleted rows: a row's *score* is the share of noted times, after the first,
at which it is recited while relearning goes on, so that who is faster has more. What is learned
anew comes back in nobody: so the mean score of deleted rows counts less that of rows that the model
never read, at the same steps (`excess`).
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from kdlib import runs
from kdlib.analysis import roc
from kdlib.analysis.companion_claims import Judged
from kdlib.analysis.own_claims import GAIN
from kdlib.config.exact_match import exact
from kdlib.config.life import AFRESH, DIRECTLY, ORDINARY, RETRAINED, STUDENT, TRAINED, UNLEARNED
from kdlib.stats import (
    ALPHA,
    MIN_GROUPS,
    NOTHING,
    Line,
    bootstrap,
    difference,
    each,
    line,
    paired_difference,
    ratio,
    row_text,
)

GROUPS = {  # of rows, by what is asked of `read`
    "old rows": "came == 0 and kind == 'row' and split == 'member'",
    "old canaries": "came == 0 and kind == 'canary'",
    "newest rows": "came == generation and came > 0 and kind == 'row' and arm == ''",
}
MEMBERSHIP = "told by the loss"  # the AUC of old rows against held-out rows
SHOWN = ["value", "lo", "hi", "n", "groups"]


def read(folder: Path, facts: pd.DataFrame) -> pd.DataFrame:
    """A model's scores of rows: row_id, nats_per_token, hit, seed, and the columns of `facts`.

    `facts` are by row id, such as split, kind, group, came and arm.
    """
    columns = ["row_id", "prefix", "length", "nats_per_token"]
    tuples = pd.read_parquet(folder / "tuples.parquet", columns=columns)
    seed = (runs.read_manifest(folder) or {})["seed"]
    hit = exact(tuples).astype(float)
    rows = tuples[["row_id", "nats_per_token"]].assign(hit=hit, seed=seed)
    return rows.join(facts, on="row_id", how="inner")


def generations(rows: pd.DataFrame) -> pd.DataFrame:
    """What each generation recites, by way, generation and measure.

    Measures: the share of each of GROUPS, and MEMBERSHIP. kind "level", or "change" (of old rows
    and canaries, less generation 0 of that way). Columns: value, lo, hi, n, groups.
    """
    lines = []
    for (way, number), part in rows.groupby(["way", "generation"], sort=False):
        facts = {"way": way, "generation": number, "kind": "level"}
        before = rows[(rows["way"] == way) & (rows["generation"] == 0)]
        for name, which in GROUPS.items():
            own = part.query(which)
            if len(own):
                lines.append(facts | {"measure": name} | _share(own))
            if len(own) and number and name != "newest rows":
                change = _less(own, before.query(which))
                lines.append(facts | {"measure": name, "kind": "change"} | change)
        lines.append(facts | {"measure": MEMBERSHIP} | _told(part, GROUPS["old rows"]))
    return pd.DataFrame(lines)[["way", "generation", "measure", "kind", *SHOWN]]


def returned(rows: pd.DataFrame) -> pd.DataFrame:
    """What the last update brings back: old rows and canaries that were not recited at first.

    Lines: rows (of GROUPS), measure, update ("with" new personal data, "without", and their paired
    "difference"), value, lo, hi, n, groups. Measures: "brought back" (of what generation 0 does not
    recite, the share that is recited after the last update), "recited" (of all), "new" (of what is
    recited after the last update, the share that generation 0 does not recite; no difference, since
    these are other rows).
    """
    last = rows["generation"].max()
    sides = [rows[rows["way"] == way] for way in (TRAINED, ORDINARY)]
    lines = []
    for name in ("old rows", "old canaries"):
        ends = [side[side["generation"] == last].query(GROUPS[name]) for side in sides]
        start = sides[0][sides[0]["generation"] == 0].query(f"{GROUPS[name]} and hit == 0")
        unknown = pd.MultiIndex.from_frame(start[["seed", "row_id"]])
        first = [pd.MultiIndex.from_frame(one[["seed", "row_id"]]).isin(unknown) for one in ends]
        back = [one[new] for one, new in zip(ends, first, strict=True)]
        said = [one.assign(hit=new)[one["hit"] > 0] for one, new in zip(ends, first, strict=True)]
        for measure, pair in (("brought back", back), ("recited", ends), ("new", said)):
            shares = dict(zip(("with", "without"), map(_share, pair), strict=True))
            if measure != "new" and len(pair[0]):
                shares["difference"] = _less(*pair)
            facts = {"rows": name, "measure": measure}
            lines += [facts | {"update": one} | found for one, found in shares.items()]
    return pd.DataFrame(lines)[["rows", "measure", "update", *SHOWN]]


def deleted(rows: pd.DataFrame) -> pd.DataFrame:
    """What is known of deleted rows, by done and who.

    `rows` have deleted (bool). Measures: the share recited of "deleted rows" and of "kept rows"
    (both without canaries), MEMBERSHIP (the AUC of deleted against held-out rows: 0.5 where nothing
    is left), "held-out nats" (what the deletion costs: nats per token).
    """
    first = rows[(rows["came"] == 0) & (rows["kind"] == "row")]
    lines = []
    for (done, who), part in first.groupby(["done", "who"], sort=False):
        facts = {"done": done, "who": who}
        member, gone = part["split"] != "held_out", part["deleted"]
        for name, which in (("deleted rows", gone), ("kept rows", member & ~gone)):
            lines.append(facts | {"measure": name} | _share(part[which]))
        lines.append(facts | {"measure": MEMBERSHIP} | _told(part, "deleted"))
        others = part[~member]
        nats, groups = others["nats_per_token"], others["group"]
        cost = line(nats.mean(), bootstrap(nats, groups, others["seed"]), n=len(others))
        lines.append(facts | {"measure": "held-out nats", "groups": groups.nunique()} | cost)
    return pd.DataFrame(lines)[["done", "who", "measure", *SHOWN]]


def relearning(notes: pd.DataFrame) -> pd.DataFrame:
    """The share recited at each noted time: done, who, epoch, deleted, read, and its interval.

    nats beside it: the mean loss, nats per token. Of rows, without canaries.
    """

    def numbers(part: pd.DataFrame) -> Line:
        return {"nats": part["nats_per_token"].mean()} | _share(part)

    keys = ["done", "who", "epoch", "deleted", "read"]
    return each(_natural(notes), keys, numbers)[[*keys, "nats", *SHOWN]]


def scores(notes: pd.DataFrame) -> pd.DataFrame:
    """Of each row its score (see above): done, who, seed, row_id, group, deleted, read, score."""
    keys = ["done", "who", "seed", "row_id", "group", "deleted", "read"]
    after = _natural(notes)[lambda rows: rows["epoch"] > 0]
    return after.groupby(keys, sort=False)["hit"].mean().rename("score").reset_index()


def excess(scores: pd.DataFrame) -> pd.DataFrame:
    """What comes back: the mean score of deleted rows less that of rows never read.

    By done, who and read. Columns: deleted, never (mean scores), value, lo, hi, p, groups (of
    different responses, of the side that has fewer); no interval with fewer than MIN_GROUPS.
    """

    def numbers(part: pd.DataFrame) -> Line:
        gone = part["deleted"].to_numpy(bool)
        means = {"deleted": part["score"][gone].mean(), "never": part["score"][~gone].mean()}
        return means | _gap(part, part["score"], gone)

    return each(scores, ["done", "who", "read"], numbers)


def contrasts(rows: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """The differences that the claims F1 to F4 are about: claim, value, lo, hi, p, enough.

    enough: whether MIN_GROUPS different responses carry it, see `stats.judgeable`. of and against
    are the two sides; the rows relearned are those of F3 and F4. seen, seen_lo: what comes back in
    the student that unlearned them itself, and the lower end of its interval, of F4 alone.
    """
    last = rows[rows["generation"] == rows["generation"].max()]
    found = []
    pairs = {"F1": (AFRESH, TRAINED, "old rows"), "F2": (TRAINED, ORDINARY, "old canaries")}
    for claim, (one, other, which) in pairs.items():
        a, b = (last[last["way"] == way].query(GROUPS[which]) for way in (one, other))
        facts = {"claim": claim, "of": a["hit"].mean(), "against": b["hit"].mean()}
        gap = paired_difference(a, b, "hit") if len(a) else line(np.nan, NOTHING, p=np.nan)
        found.append(facts | gap | {"enough": gap.get("discordant", 0) >= MIN_GROUPS})
    again = scores[scores["read"].astype(bool)]
    keys = ["seed", "row_id", "group", "deleted"]
    wide = again.pivot(index=keys, columns=["done", "who"], values="score").reset_index()
    gone, student = wide["deleted"].to_numpy(bool), (UNLEARNED, STUDENT)
    sides = {"F3": ((DIRECTLY, STUDENT), student), "F4": (student, (RETRAINED, STUDENT))}
    for claim, pair in sides.items():
        gaps = [_gap(wide, wide[side], gone) for side in pair]
        both = _gap(wide, wide[pair[0]] - wide[pair[1]], gone)
        facts = {"claim": claim, "of": gaps[0]["value"], "against": gaps[1]["value"]}
        found.append(facts | {"of_lo": gaps[0]["lo"]} | both | {"enough": pd.notna(both["lo"])})
    control = _gap(wide, wide[DIRECTLY, STUDENT], gone)
    found[-1] |= {"seen": control["value"], "seen_lo": control["lo"]}
    columns = ["claim", "of", "of_lo", "against", "value", "lo", "hi", "p", "enough"]
    columns += ["seen", "seen_lo"]
    return pd.DataFrame(found).reindex(columns=columns)


def _natural(notes: pd.DataFrame) -> pd.DataFrame:
    return notes[notes["kind"] == "row"].assign(hit=lambda rows: exact(rows).astype(float))


def _share(rows: pd.DataFrame) -> Line:
    return ratio(rows["group"], rows["hit"], np.ones(len(rows)), rows["seed"])


def _told(rows: pd.DataFrame, members: str) -> Line:
    """How well the loss tells these rows from held-out ones: AUC."""
    inside = rows.eval(members).to_numpy(bool)
    others = ((rows["split"] == "held_out") & (rows["kind"] == "row")).to_numpy()
    asked = rows.assign(member=inside, loss=-rows["nats_per_token"])[inside | others]
    (found,) = roc.evaluate(asked, ["loss"]).to_dict("records")
    ends = found["auc_lo"], found["auc_hi"]
    return line(found["auc"], ends, n=len(asked), groups=found["groups"])


def _less(rows: pd.DataFrame, before: pd.DataFrame) -> Line:
    found = paired_difference(rows, before, "hit")
    return found | ({"lo": np.nan, "hi": np.nan} if found["groups"] < MIN_GROUPS else {})


def _gap(rows: pd.DataFrame, values: pd.Series, side: np.ndarray) -> Line:
    found = difference(rows["group"], values.to_numpy(float), side, rows["seed"])
    groups = min(rows["group"][part].nunique() for part in (side, ~side))
    unsure = {"lo": np.nan, "hi": np.nan, "p": np.nan}
    return found | {"groups": groups} | (unsure if groups < MIN_GROUPS else {})


def _judged(
    claim: str, verdict: Callable[[Line], tuple[bool, bool]], contrasts: pd.DataFrame
) -> Judged:
    (found,) = contrasts[contrasts["claim"] == claim].to_dict("records")
    said = f"{found['of']:.3f} against {found['against']:.3f}: {row_text(found, form='+.3f')}"
    if not found["enough"]:
        return False, False, f"{said}; too few different responses"
    confirmed, refuted = verdict(found)
    if confirmed and not found["seen_lo"] > GAIN and claim == "F4":
        said += "; not confirmed: in a student that unlearned them itself what comes back is "
        return False, False, f"{said}{found['seen']:.3f}, not surely more than {GAIN:.0%}"
    return bool(confirmed), bool(refuted), said


def _above(found: Line) -> tuple[bool, bool]:
    sure = found["p"] < ALPHA
    return sure and found["value"] > 0, sure and found["value"] < 0


def _resists(found: Line) -> tuple[bool, bool]:
    sure = found["p"] < ALPHA
    return sure and found["value"] > 0 and found["of_lo"] > 0, sure and found["value"] < 0


def _as_if_never_read(found: Line) -> tuple[bool, bool]:
    lo, hi = found["lo"], found["hi"]
    return lo > -GAIN and hi < GAIN, lo > GAIN or hi < -GAIN


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
        "intervals and 10 different responses or more on either side",
        _resists,
    ),
    "F4": (
        "A student of an unlearned teacher is as if the rows had never been read.",
        "what comes back, as in F3, of the unlearned teacher's student less that of the student "
        "whose teacher never read them: confirmed if a difference of 5% is excluded either way, "
        "refuted if it is surely greater, by whole intervals and 10 different responses or more on "
        # the rest was added after the first run on models from scratch, which confirmed the claim
        # because next to nothing came back in anybody
        "either side; not confirmed unless in a student that unlearned them itself surely more "
        "than 5% comes back, since else so much would hardly be seen",
        _as_if_never_read,
    ),
}
CLAIMS = {
    name: (statement, rule, partial(_judged, name, verdict))
    for name, (statement, rule, verdict) in RULES.items()
}
