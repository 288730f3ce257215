"""What a method's notebook found beside SFT: a sentence a method, and two tables; see `sentences`.

A method that was trained on the first seeds alone stands beside SFT of these seeds.
"""

from typing import Any

import pandas as pd

from kdlib.analysis.own_claims import at_equal_usefulness
from kdlib.config.methods import METHODS, label
from kdlib.config.profile import Profile
from kdlib.report import lookups, results
from kdlib.report.lookups import share
from kdlib.stats import row_text

RULE = "[10](10_comparison.ipynb)"
NOTES = {  # of `own_claims.at_equal_usefulness`, for who has not read notebook 10
    "no: no common gain": "no: no usefulness that both surely gain",
    "no: SFT memorizes under 10%": "no: SFT, stopped there, memorizes under 10%",
}
POINTS = "{:+.1f} [{:+.1f}, {:+.1f}]"


def compared(method: str, settings: Profile) -> str:
    """What a method memorizes minus SFT, at the end, and where both are judged as as useful."""
    ended = [(size, _gap(settings, method, size)) for size in settings.sizes]
    alone = lookups.of_first(settings.name, ended[0][1]["n"])
    told = ", ".join(_told(size, gap) for size, gap in ended)
    text = f"at the end of training {label(method)} memorizes, minus SFT of its size, in "
    text += f"percentage points of the member rows: {told}{alone}; stopped early where both are "
    stopped = [(size, _stopped(settings, method, size)) for size in settings.sizes]
    judged = [_told(size, line) for size, line in stopped if line["judged"]]
    none = "no student meets the conditions of a verdict (last column below)"
    return f"{text}about as useful, {', '.join(judged) or none}."


def tables(methods: list[str], settings: Profile) -> str:
    """Two tables of these methods' students, those that were run; NotRun where none was."""
    ended, stopped = [], []
    for method in methods:
        try:
            both = [(_ended(settings, method, one), _as_useful(settings, method, one))
                    for one in settings.sizes]  # fmt: skip
        except lookups.NotRun:
            continue
        ended += [one for one, _ in both]
        stopped += [one for _, one in both]
    if not ended:
        raise lookups.NotRun
    first, second = (results.markdown(pd.DataFrame(one)) for one in (ended, stopped))
    return f"\n\n{_at_end(methods, settings)}:\n\n{first}\n\n{_stops(settings)}:\n\n{second}\n\n"


def _at_end(methods: list[str], settings: Profile) -> str:
    """What stands in the first table."""
    many = lookups.seeds(settings.name)
    text = "Member rows memorized at the end of training"
    text += f" (means of seeds {', '.join(many)}, unless one is named)" if len(many) > 1 else ""
    text += ", and the loss on them (nats per token) before the first step"
    starts = [label(one) for one in methods if "sft_epochs" in METHODS[one].coefficients]
    text += f" (of {' and '.join(starts)} that of its SFT start)" if starts else ""
    text += " and at the end: where it rose, a student fits these rows less than at its start. "
    return f"{text}Differences are of unrounded shares"


def _stops(settings: Profile) -> str:
    """What stands in the second table."""
    table = f"data/results/{settings.name}/equal_usefulness.csv"
    margins = lookups.table(settings.name, "equal_usefulness").groupby("size", sort=False)["margin"]
    told = ", ".join(f"{size} {margins.first()[size]:.3f}" for size in settings.sizes)
    text = (
        f"Stopped by the rule of {RULE} at a usefulness that both reach, so that where SFT stops "
    )
    text += "depends on the student beside it (epochs, and the usefulness of each, stand in "
    text += f"`{table}`). Usefulness goes from 0 to 1; who lies more than the margin apart "
    return f"{text}({told}) is not as useful"


def _gap(settings: Profile, method: str, size: str) -> dict[str, Any]:
    wanted = {"comparison": "to_sft", "metric": "exact_rate", "seed": "all"}
    return lookups.line(settings.name, "differences", method=method, size=size, **wanted)


def _stopped(settings: Profile, method: str, size: str) -> dict[str, Any]:
    """The line of equal usefulness, with what the rule of A1 says of it."""
    lines = lookups.lines(settings.name, "equal_usefulness", method=method, size=size)
    return at_equal_usefulness(lines).iloc[0].to_dict()


def _told(size: str, line: dict[str, Any]) -> str:
    unsure = ", cannot be told from no difference" if lookups.doubt(line) else ""
    return f"{_points(line)} ({size} size{unsure})"


def _points(line: dict[str, Any]) -> str:
    found = [100 * float(line[name]) + 0.0 for name in ("value", "lo", "hi")]  # no -0.0
    if pd.isna(found[0]):
        return "too few responses"
    return POINTS.format(*found) if not pd.isna(found[1]) else f"{found[0]:+.1f}"


def _student(settings: Profile, method: str, size: str, n: int) -> str:
    """Its name, and of which seeds it is where not of all."""
    of = lookups.of_first(settings.name, n).partition(",")[0].removesuffix(")")
    return f"{label(method)}, {size}{of and f'{of})'}"


def _ended(settings: Profile, method: str, size: str) -> dict[str, str]:
    gap, profile = _gap(settings, method, size), settings.name
    own, sft = (
        share(lookups.line(profile, "table1", method=one, size=size), "member")
        for one in (method, "sft")
    )
    if lookups.of_first(profile, gap["n"]):  # beside SFT of the same seeds
        rows = lookups.lines(profile, "lengths", split="member")["rows"].min()
        (rate,) = results.sft_of_first(profile, round(gap["n"] / rows), [size])
        sft = f"{rate:.1%}"
    found = {"student": _student(settings, method, size, gap["n"]), "memorized": own, "SFT": sft}
    found["minus SFT, points"] = _points(gap)
    path = lookups.lines(profile, "paths", method=method, size=size, split="member")
    first, last = path.groupby("epoch")["nats_per_token"].mean().iloc[[0, -1]]
    return found | {"loss, first": f"{first:.2f}", "loss, at the end": f"{last:.2f}"}


def _as_useful(settings: Profile, method: str, size: str) -> dict[str, str]:
    gap = _stopped(settings, method, size)
    useful = lookups.line(
        settings.name, "equal_usefulness", method=method, size=size, metric="useful"
    )
    name = _student(settings, method, size, gap["n"])
    found = {"student": name, "memorized": "", "SFT": "", "minus SFT, points": ""}
    found |= {"usefulness minus SFT": "", "judged": NOTES.get(gap["note"], gap["note"])}
    if gap["judged"]:
        word = lookups.word(gap["lo"], gap["hi"])
        found["judged"] = f"yes: {'not told from none' if word == lookups.UNKNOWN else word}"
    if gap["gained"]:
        found |= {"memorized": f"{gap['own']:.1%}", "SFT": f"{gap['sft']:.1%}"}
        found["minus SFT, points"] = _points(gap)
        found["usefulness minus SFT"] = row_text(useful, form="+.3f")
    if gap["more_useful"]:
        who = {"SFT": "SFT", "student": "the student"}[gap["more_useful"]]
        found["judged"] += f"; {who} is more useful by more than the margin"
    return found
