"""The sentences of which findings are made, each computed from the tables of a profile.

Words such as "less" are chosen by the interval of a difference, so that no sentence presumes what
came out. `OF` names those of each notebook and of the README's first screen.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd

from kdlib.analysis.own_claims import GAIN
from kdlib.analysis.rates import student_sizes
from kdlib.config.exact_match import WINDOW
from kdlib.config.methods import DISTILLED, METHODS, PAPER, label
from kdlib.config.profile import Profile
from kdlib.report import results
from kdlib.stats import MIN_SEEDS, row_text

Sentence = Callable[[Profile], str]
TEXTS = {"teacher": "the teacher's", "student": "the student's own"}
OBJECTIVES = {
    "forward_kl": "forward KL",
    "reverse_kl": "reverse KL",
    "generalized_jsd": "generalized JSD",
}
UNKNOWN = "no difference that this run could tell"


class NotRun(Exception):
    """A table, or the line of it that a sentence needs, is not there."""


def _table(profile: str, name: str) -> pd.DataFrame:
    table = results.read(profile, name, optional=True)
    if not len(table.columns):
        raise NotRun
    return table


def _lines(profile: str, name: str, **wanted: str) -> pd.DataFrame:
    """The lines of a table whose columns have these values; NotRun where there is none."""
    table = _table(profile, name)
    if not set(wanted) <= set(table):
        raise NotRun
    for column, value in wanted.items():
        table = table[table[column].map(str) == value]
    if table.empty:
        raise NotRun
    return table


def _line(profile: str, name: str, **wanted: str) -> dict[str, Any]:
    return _lines(profile, name, **wanted).iloc[0].to_dict()


def _seeds(profile: str) -> list[str]:
    return sorted(_lines(profile, "lengths")["seed"].astype(str).unique(), key=int)


def how_sure(profile: str) -> str:
    """What the intervals of sentences are over, and what they say nothing of."""
    seeds, groups = _seeds(profile), "groups of equal responses"
    if len(seeds) > 1:
        return f"Intervals are of 95%, over seeds {', '.join(seeds)}, then {groups}."
    alone = "with one seed they say nothing of another training run"
    return f"Intervals are of 95%, over {groups} of seed {seeds[0]}; {alone}."


def _of_first(profile: str, n: int) -> str:
    """Of which seeds a table is that is of the first ones alone, by its n rows."""
    seeds = _seeds(profile)
    count = round(n / _lines(profile, "lengths", split="member")["rows"].min())
    return f" (seeds {', '.join(seeds[:count])} alone)" if count < len(seeds) else ""


def difference(line: dict[str, Any]) -> str:
    """A difference of shares in percentage points, with a word that its interval chooses."""
    value, lo, hi = (100 * float(line[name]) + 0.0 for name in ("value", "lo", "hi"))  # no -0.0
    if pd.isna(value):
        return "not given, of too few different responses"
    if pd.isna(lo):
        return f"{value:+.1f} percentage points (too few different responses for an interval)"
    word = "less" if hi < 0 else "more" if lo > 0 else UNKNOWN
    return f"{value:+.1f} percentage points [{lo:+.1f}, {hi:+.1f}], {word}"


def _share(line: dict[str, Any], name: str = "value") -> str:
    return row_text(line, name, ".1%")


def _at_end(profile: str, method: str, size: str) -> str:
    return _share(_line(profile, "table1", method=method, size=size), "member")


def _rows(settings: Profile) -> str:
    lengths = _lines(settings.name, "lengths", split="member")
    others = _lines(settings.name, "lengths", split="held_out")["rows"].min()
    tokens, shorter = lengths["median_tokens"].median(), lengths["shorter"].mean()
    text = f"every seed trains on {lengths['rows'].min()} member rows and keeps {others} held-out "
    text += f"rows apart; a response has {tokens:.0f} tokens in the median, and {shorter:.1%} have "
    return f"{text}fewer than {WINDOW}."


def _bases(settings: Profile) -> str:
    found = _lines(
        settings.name, "metrics", method="base", split="held_out", metric="nats_per_token"
    )
    loss = found.groupby("size", sort=False)["value"].mean()
    students = ", ".join(f"{size} {loss[size]:.2f}" for size in student_sizes(found))
    whole = "Before fine-tuning, a held-out response costs the teacher's base model "
    return f"{whole}{loss['teacher']:.2f} nats per token, and the students': {students}."


def _memorizes(method: str, settings: Profile) -> str:
    """At the end of training, and stopped where the held-out loss is least (mean over seeds)."""
    size = "teacher" if method == "teacher" else settings.probe_size
    end, early = _at_end(settings.name, method, size), []
    path = _lines(settings.name, "paths", method=method, size=size, split="held_out")
    member = _lines(settings.name, "paths", method=method, size=size, split="member")
    for seed, part in path.groupby("seed"):
        best = part.loc[part["nats_per_token"].idxmin(), "epoch"]
        at = (member["seed"] == seed) & (member["epoch"] == best)
        early.append((best, member.loc[at, "exact_rate"].item()))
    epochs, shares = zip(*early, strict=True)
    when = " to ".join(dict.fromkeys(f"{one:g}" for one in (min(epochs), max(epochs))))
    name = "the teacher" if method == "teacher" else f"{label(method)} ({size} size)"
    text = f"{name} memorizes {end} of the member rows at the end of training; stopped where its "
    return f"{text}held-out loss is least (epoch {when}), {sum(shares) / len(shares):.1%}."


def _useful(settings: Profile) -> str:
    against = _table(settings.name, "over_trivial").query("method == 'teacher'")
    if against.empty:
        return "how useful answers are was not noted through training."
    least = against.loc[against["value"].idxmin()].to_dict()
    word = "more useful" if least["lo"] > 0 else "less useful" if least["hi"] < 0 else UNKNOWN
    text = "in usefulness, the teacher's held-out answers after its best epoch less the best ones "
    text += f"that need no model ('{least['against']}'): {row_text(least, form='+.3f')}, {word}."
    return text


def _against_sft(method: str, settings: Profile) -> str:
    size = settings.probe_size
    wanted = {"comparison": "to_sft", "metric": "exact_rate", "seed": "all"}
    gap = _line(settings.name, "differences", method=method, size=size, **wanted)
    own, sft = (_at_end(settings.name, one, size) for one in (method, "sft"))
    text = f"{label(method)} ({size} size) memorizes {own} of the member rows at the end of "
    return f"{text}training, SFT {sft}: difference {difference(gap)}."


def _as_useful(method: str, settings: Profile) -> str:
    wanted = {"method": method, "size": settings.probe_size, "metric": "memorized"}
    gap = _line(settings.name, "equal_usefulness", **wanted)
    if not gap["gained"]:
        return f"In usefulness {label(method)} and SFT gain too little in common to be compared."
    text = f"Each stopped where both are as useful, {label(method)} memorizes {gap['own']:.1%}, "
    return f"{text}SFT {gap['sft']:.1%}: difference {difference(gap)}."


def _extracted(settings: Profile) -> str:
    size = settings.probe_size
    asked = {"method": "sft", "size": size, "attack": "given"}
    member, held_out = (
        [_line(settings.name, "extraction", split=split, at=at, **asked) for at in ("0.0", "0.5")]
        for split in ("member", "held_out")
    )
    text = f"SFT ({size} size) writes {_share(member[0])} of the member rows word for word, and "
    text += f"{_share(held_out[0])} of the held-out rows; with half of the response given, "
    return f"{text}{_share(member[1])} and {_share(held_out[1])}."


def _mean(claim: str, when: str, settings: Profile) -> str:
    table = _table(settings.name, "primary").set_index("claim")
    if claim not in table.index:
        return f"{when}, no student can be compared with SFT."
    line = table.loc[claim].to_dict()
    mean = f"the mean difference to SFT over {int(line['students'])} students is {difference(line)}"
    return f"{when} {mean}."


def _plainly(claim: str, when: str, settings: Profile) -> str:
    gap = difference(_line(settings.name, "primary", claim=claim))
    number, interval, word = gap.partition("], ")
    known = {"less": "distilled students write fewer", "more": "distilled students write more"}
    who = known.get(word, "this run could not tell whether distilled students write fewer")
    text = f"{when}, {who} training rows word for word than students that were fine-tuned on them "
    return f"{text}(SFT): on average {number}{interval[:1]}."


def _main(settings: Profile) -> str:
    line = _line(settings.name, "primary", claim="A1")
    rows = _lines(settings.name, "equal_usefulness", metric="memorized")
    own, sft = rows.loc[rows["method"].isin(DISTILLED), ["own", "sft"]].mean()
    text = f"each stopped where both are as useful, the paper's {int(line['students'])} distilled "
    text += f"students memorize {own:.1%} of the member rows on average, SFT {sft:.1%}: difference "
    few = f"; where SFT leaves under {2 * GAIN:.0%} of the rows, there is little to save"
    return f"{text}{difference(line)}{few if sft < 2 * GAIN else ''}."


def _ledger(settings: Profile) -> str:
    _table(settings.name, "claims")
    judged, words = results.claims(settings.name), []
    for verdict in ("confirmed", "refuted", "open"):
        names = list(judged.loc[judged["verdict"] == verdict, "claim"])
        words.append(f"{len(names)} {verdict}" + (f" ({', '.join(names)})" if names else ""))
    text = f"the verdicts on {len(judged)} claims: {', '.join(words)}"
    if len(_seeds(settings.name)) < MIN_SEEDS:
        text += f"; with fewer than {MIN_SEEDS} seeds none about trained models is judged"
    return f"{text}."


def _excess(settings: Profile) -> str:
    size = settings.probe_size
    line = _line(settings.name, "second_sft", kind="excess", method="word_kd", size=size)
    if pd.isna(line["distilled"]):
        return "Too few rows are memorized by the teacher alone to say what it passes on."
    text = f"of the {int(line['n'])} rows that the teacher and not an SFT student memorizes, "
    text += f"{label('word_kd')} ({size} size) memorizes {line['distilled']:.1%}, another SFT "
    return f"{text}student {line['sft']:.1%}: difference {difference(line)}."


def _unread(settings: Profile) -> str:
    wanted = {"kind": "gap", "method": "word_kd", "rows": "left_out", "metric": "memorized"}
    gap = difference(_line(settings.name, "handed_down", **wanted))
    text = "What a student memorizes of rows that it never read differs, by having a teacher that "
    return f"{text}read them, by {gap}."


def _forecast(settings: Profile) -> str:
    size = settings.probe_size
    line = _line(settings.name, "forecast", test=f"{label('word_kd')} {size}, all four")
    if pd.isna(line["roc_auc"]):
        return "Too few rows are memorized for a forecast of them to be judged."
    text = f"which rows {label('word_kd')} ({size} size) will memorize is forecast with an AUC of "
    return f"{text}{row_text(line, 'roc_auc')} (0.5 is a guess)."


def _removal(settings: Profile) -> str:
    line = _line(settings.name, "removal")
    text = f"With the rows removed that were predicted to be memorized, {line['predicted']:.1%} of "
    text += f"all member rows are, with as many random rows removed {line['random']:.1%}: "
    return f"{text}difference {difference(line)}{_of_first(settings.name, line['n'])}."


def _membership(settings: Profile) -> str:
    size = settings.probe_size
    scores = _lines(settings.name, "membership", score="loss", size=size).set_index("method")
    known = [one for one in PAPER if one in scores.index]
    told = ", ".join(f"{label(one)} {row_text(scores.loc[one], 'auc')}" for one in known)
    text = "who sees only the loss ranks a member above a held-out row with a chance of (AUC, "
    return f"{text}{size} size, end of training; 0.5 is a guess): {told}."


def _effects(settings: Profile) -> str:
    texts = {one: _line(settings.name, "effects", text=one, objective="nan") for one in TEXTS}
    text = "; ".join(f"{TEXTS[one]} by {difference(line)}" for one, line in texts.items())
    alone = _of_first(settings.name, texts["teacher"]["n"])
    return f"in place of the rows, reading other text changes what is memorized{alone}: {text}."


def _objectives(settings: Profile) -> str:
    lines = {one: _line(settings.name, "effects", text="nan", objective=one) for one in OBJECTIVES}
    text = "; ".join(f"{OBJECTIVES[one]} by {difference(line)}" for one, line in lines.items())
    return f"In place of cross-entropy, minimizing a divergence changes it: {text}."


OF: dict[str, list[tuple[str, Sentence]]] = {  # what makes its tables ("": any run), and sentence
    "README": [
        ("", partial(_plainly, "C1", "at the end of training")),
        ("", partial(_plainly, "A1", "stopped early, where both are as useful")),
        ("", _useful),
        ("", _ledger),
    ],
    "00_map": [("", _main), ("", _ledger)],
    "01_data_and_tokens": [("", _rows), ("", _bases)],
    "02_teacher": [("", partial(_memorizes, "teacher")), ("", _useful)],
    "03_supervised_fine_tuning": [("", partial(_memorizes, "sft"))],
    "09_memorization_meter": [("", _extracted), ("", _useful)],
    "10_comparison": [
        ("", _main),
        ("", partial(_mean, "C1", "at the end of training")),
        ("", partial(_mean, "A2", "where both fit the rows as closely")),
    ],
    "11_inheritance": [("lab", _excess), ("lab", _unread)],
    "12_what_stays": [("lab", _forecast), ("lab", _removal)],
    "13_membership_and_canaries": [("lab", _membership)],
    "14_cause": [("cause", _effects), ("cause", _objectives)],
    "15_conclusion": [("", _main), ("", _useful), ("", _ledger)],
}
for _name, _method in METHODS.items():
    if _name != "sft":
        _asked = [(_name, partial(one, _name)) for one in (_against_sft, _as_useful)]
        OF.setdefault(_method.notebook, []).extend(_asked)
