"""What a method's notebook found beside SFT: a sentence a method, and two tables; see `sentences`.

A method that was trained on the first seeds alone stands beside SFT of these seeds.
"""

from typing import Any

import pandas as pd

from kdlib.analysis.own_claims import at_equal_usefulness
from kdlib.config.methods import label
from kdlib.config.profile import Profile
from kdlib.report import lookups, results
from kdlib.report.lookups import briefly, share
from kdlib.stats import row_text

RULE = "[10](10_comparison.ipynb)"
AT_END = "Member rows memorized at the end of training (of students that then fit these rows less "
AT_END += "than before training, their loss, in nats per token)"
AS_USEFUL = f"Stopped by the rule of {RULE}, where both are about as useful (epochs and the "
AS_USEFUL += "usefulness of each stand in `equal_usefulness.csv`)"
POINTS = "{:+.1f} [{:+.1f}, {:+.1f}]"


def compared(method: str, settings: Profile) -> str:
    """What a method memorizes minus SFT, at the end, and where both are judged as as useful."""
    ended = [(size, _gap(settings, method, size)) for size in settings.sizes]
    alone = lookups.of_first(settings.name, ended[0][1]["n"])
    told = ", ".join(_told(size, gap) for size, gap in ended)
    text = f"at the end of training {label(method)} memorizes, in percentage points of the member "
    text += f"rows and compared with SFT of its size, {told}{alone}; where both are as useful, "
    stopped = [(size, _stopped(settings, method, size)) for size in settings.sizes]
    judged = [_told(size, line) for size, line in stopped if line["judged"]]
    return f"{text}{', '.join(judged) or 'no student is judged'}."


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
    return f"\n\n{AT_END}:\n\n{first}\n\n{AS_USEFUL}:\n\n{second}\n\n"


def _gap(settings: Profile, method: str, size: str) -> dict[str, Any]:
    wanted = {"comparison": "to_sft", "metric": "exact_rate", "seed": "all"}
    return lookups.line(settings.name, "differences", method=method, size=size, **wanted)


def _stopped(settings: Profile, method: str, size: str) -> dict[str, Any]:
    """The line of equal usefulness, with what the rule of A1 says of it."""
    lines = lookups.lines(settings.name, "equal_usefulness", method=method, size=size)
    return at_equal_usefulness(lines).iloc[0].to_dict()


def _told(size: str, line: dict[str, Any]) -> str:
    unsure = ", not told from none" if lookups.doubt(line) else ""
    return f"{briefly(line)} ({size} size{unsure})"


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
    return found | {"loss before, after": f"{first:.2f}, {last:.2f}" if last > first else ""}


def _as_useful(settings: Profile, method: str, size: str) -> dict[str, str]:
    gap = _stopped(settings, method, size)
    useful = lookups.line(
        settings.name, "equal_usefulness", method=method, size=size, metric="useful"
    )
    name = _student(settings, method, size, gap["n"])
    found = {"student": name, "memorized": "", "SFT": ""}
    found |= {"minus SFT, points": "", "in usefulness": "", "judged": str(gap["note"])}
    if gap["gained"]:
        found |= {"memorized": f"{gap['own']:.1%}", "SFT": f"{gap['sft']:.1%}"}
        found["minus SFT, points"] = _points(gap)
        found["in usefulness"] = row_text(useful, form="+.3f")
    return found
