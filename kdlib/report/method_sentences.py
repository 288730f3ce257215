"""What a method's notebook found beside SFT: a sentence a method, and two tables; see `sentences`.

A method that was trained on the first seeds alone stands beside SFT of these seeds.
"""

from typing import Any

import pandas as pd

from kdlib.analysis.equal_usefulness import VISIBLE
from kdlib.analysis.own_claims import GAIN, at_equal_usefulness
from kdlib.config.methods import DISTILLED, METHODS, label
from kdlib.config.profile import Profile
from kdlib.report import lookups, results
from kdlib.report.lookups import briefly, share
from kdlib.stats import row_text

RULE = "[10](10_comparison.ipynb)"
NOTES = {  # of `own_claims.at_equal_usefulness`, for who has not read notebook 10
    "no: no common gain": "no: no usefulness that both surely gain",
    "no: SFT memorizes under 10%": "no: SFT, stopped there, memorizes under 10%",
}
MORE_USEFUL = {  # by more than the margin
    "": "",
    "SFT": "; SFT is more useful by more than the margin",
    "student": "; the student is more useful by more than the margin",
}
MEAN_LOSS = (
    "a mean hides how rows differ: who fits some perfectly and others badly, as a student may that "
    "is taught the teacher's text, can write more of them whole than who fits all evenly"
)
POINTS = "{:+.1f} [{:+.1f}, {:+.1f}]"


def compared(method: str, settings: Profile) -> str:
    """What a method memorizes minus SFT, at the end and stopped early; what is judged there."""
    ended = [(size, _gap(settings, method, size)) for size in settings.sizes]
    alone = lookups.of_first(settings.name, ended[0][1]["n"])
    told = ", ".join(_told(size, gap) for size, gap in ended)
    text = f"at the end of training {label(method)} memorizes, minus SFT of its size, in "
    text += f"percentage points of the member rows: {told}{f', each{alone}' if alone else ''}; "
    stopped = {size: _stopped(settings, method, size) for size in settings.sizes}
    judged, apart = [], []
    for size, one in stopped.items():
        if one["judged"]:
            judged.append(_told(size, one))
        elif one["gained"] and pd.notna(one["lo"]) and not lookups.doubt(one):
            apart.append(_told(size, one))
    text += f"stopped early, {len(judged)} of {len(stopped)} students meet the conditions of a "
    text += "verdict (last column below)"
    text += f": {', '.join(judged)}" if judged else ""
    text += f"; apart, though not judged: {', '.join(apart)}" if apart else ""
    return f"{text}."


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
    several = any(not one["student"].endswith(" alone)") for one in ended)
    parts = (f"{_at_end(methods, settings, several)}:", first, f"{_stops(settings)}:", second)
    return "".join(f"\n\n{part}" for part in (*parts, ""))


def _at_end(methods: list[str], settings: Profile, several: bool) -> str:
    """What stands in the first table; several: it has students of all seeds."""
    many = lookups.seeds(settings.name)
    text = "Member rows memorized at the end of training"
    if several and len(many) > 1:
        text += f" (means of seeds {', '.join(many)}, unless one is named)"
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


def same_fit(profile: str) -> str:
    """What the paper's distilled students memorize minus SFT at the same mean loss, each."""
    found = lookups.table(profile, "same_fit")
    found = found[found["method"].isin(DISTILLED)]
    met = found.dropna(subset="value")
    told = ", ".join(
        f"{_points(one)} ({label(one['method'])}, {one['size']} size)"
        for one in met.to_dict("records")
    )
    text = "where both fit the rows as closely, by the mean loss on them, minus SFT in percentage "
    text += f"points: {told or 'nobody is compared'}"
    means = results.read(profile, "primary").set_index("claim")
    if "A2" in means.index:
        text += f", on average {briefly(means.loc['A2'].to_dict())}"
    if len(met) < len(found):
        text += (
            f"; {len(found) - len(met)} of {len(found)} students come to no loss in common with "
        )
        text += f"SFT at which either memorizes {VISIBLE:.0%}"
    return f"{text} ({MEAN_LOSS})"


def _gap(settings: Profile, method: str, size: str) -> dict[str, Any]:
    wanted = {"comparison": "to_sft", "metric": "exact_rate", "seed": "all"}
    return lookups.line(settings.name, "differences", method=method, size=size, **wanted)


def _stopped(settings: Profile, method: str, size: str) -> dict[str, Any]:
    """The line of equal usefulness, with what the rule of A1 says of it."""
    lines = lookups.lines(settings.name, "equal_usefulness", method=method, size=size)
    return at_equal_usefulness(lines).iloc[0].to_dict()


def _told(size: str, line: dict[str, Any]) -> str:
    unsure = ", cannot be told from no difference" if lookups.doubt(line) else ""
    return f"{_points(line)} ({size} size{unsure}{MORE_USEFUL[line.get('more_useful', '')]})"


def _points(line: dict[str, Any]) -> str:
    found = [100 * float(line[name]) + 0.0 for name in ("value", "lo", "hi")]  # no -0.0
    if pd.isna(found[0]):
        return "too few responses"
    return POINTS.format(*found) if not pd.isna(found[1]) else f"{found[0]:+.1f}"


def _student(settings: Profile, method: str, size: str, n: int) -> str:
    """Its name, and of which seeds it is where not of all."""
    known, count = lookups.seeds(settings.name), _seeds(settings, n)
    alone = f" ({results.first_seeds(known, count)} alone)" if count < len(known) else ""
    return f"{label(method)}, {size}{alone}"


def _seeds(settings: Profile, n: int) -> int:
    """Of how many seeds n member rows are."""
    return round(n / lookups.lines(settings.name, "lengths", split="member")["rows"].min())


def _ended(settings: Profile, method: str, size: str) -> dict[str, str]:
    gap, profile = _gap(settings, method, size), settings.name
    own, sft = (
        share(lookups.line(profile, "table1", method=one, size=size), "member")
        for one in (method, "sft")
    )
    if (count := _seeds(settings, gap["n"])) < len(lookups.seeds(profile)):
        (rate,) = results.sft_of_first(profile, count, [size])  # beside SFT of the same seeds
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
        excluded = f"a gain of {GAIN:.0%} of the rows is excluded"
        word = "less" if gap["less"] else excluded if gap["none"] else "not decided"
        found["judged"] = f"yes: {word}"
    if gap["gained"]:
        found |= {"memorized": f"{gap['own']:.1%}", "SFT": f"{gap['sft']:.1%}"}
        found["minus SFT, points"] = _points(gap)
        found["usefulness minus SFT"] = row_text(useful, form="+.3f")
    found["judged"] += MORE_USEFUL[gap["more_useful"]]
    return found
