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
    gaps = [(size, _gap(settings, method, size)) for size in settings.sizes]
    scope = lookups.of_first(settings.name, gaps[0][1]["n"])
    at_end = ", ".join(_gap_text(size, gap) for size, gap in gaps)
    text = f"at the end of training {label(method)} memorizes, minus SFT of its size, in "
    text += f"percentage points of the member rows: {at_end}{f', each{scope}' if scope else ''}; "
    stopped = {size: _stopped(settings, method, size) for size in settings.sizes}
    judged, unjudged = [], []
    for size, line in stopped.items():
        if line["judged"]:
            judged.append(_gap_text(size, line))
        elif line["gained"] and pd.notna(line["lo"]) and not lookups.doubt(line):
            unjudged.append(_gap_text(size, line))
    text += f"stopped early, {len(judged)} of {len(stopped)} students meet the conditions of a "
    text += "verdict (last column below)"
    text += f": {', '.join(judged)}" if judged else ""
    text += f"; apart, though not judged: {', '.join(unjudged)}" if unjudged else ""
    return f"{text}."


def tables(methods: list[str], settings: Profile) -> str:
    """Two tables of these methods' students, those that were run; NotRun where none was."""
    end_rows, stop_rows = [], []
    for method in methods:
        try:
            pairs = [(_ended(settings, method, size), _as_useful(settings, method, size))
                    for size in settings.sizes]  # fmt: skip
        except lookups.NotRun:
            continue
        end_rows += [end for end, _ in pairs]
        stop_rows += [stop for _, stop in pairs]
    if not end_rows:
        raise lookups.NotRun
    first, second = (results.markdown(pd.DataFrame(rows)) for rows in (end_rows, stop_rows))
    all_seeds = any(not row["student"].endswith(" alone)") for row in end_rows)
    parts = (f"{_at_end(methods, settings, all_seeds)}:", first, f"{_stops(settings)}:", second)
    return "".join(f"\n\n{part}" for part in (*parts, ""))


def _at_end(methods: list[str], settings: Profile, all_seeds: bool) -> str:
    """What stands in the first table; all_seeds: it has students of all seeds."""
    seeds = lookups.seeds(settings.name)
    text = "Member rows memorized at the end of training"
    if all_seeds and len(seeds) > 1:
        text += f" (means of seeds {', '.join(seeds)}, unless one is named)"
    text += ", and the loss on them (nats per token) before the first step"
    warm_started = [label(name) for name in methods if "sft_epochs" in METHODS[name].coefficients]
    text += f" (of {' and '.join(warm_started)} that of its SFT start)" if warm_started else ""
    text += " and at the end: where it rose, the right tokens are less probable to the student "
    text += "than at its start. "
    return f"{text}Differences are of unrounded shares"


def _stops(settings: Profile) -> str:
    """What stands in the second table."""
    path = f"data/results/{settings.name}/equal_usefulness.csv"
    margins = lookups.table(settings.name, "equal_usefulness").groupby("size", sort=False)["margin"]
    by_size = ", ".join(f"{size} {margins.first()[size]:.3f}" for size in settings.sizes)
    text = (
        f"Stopped by the rule of {RULE} at a usefulness that both reach, so that where SFT stops "
    )
    text += "depends on the student beside it (epochs, and the usefulness of each, stand in "
    text += f"`{path}`). Usefulness goes from 0 to 1; students more than the margin apart "
    text += "are not as useful (a fifth of what SFT adds to its base model until its best epoch: "
    return f"{text}{by_size})"


def same_fit(profile: str) -> str:
    """What the paper's distilled students memorize minus SFT at the same mean loss, each."""
    fits = lookups.table(profile, "same_fit")
    fits = fits[fits["method"].isin(DISTILLED)]
    matched = fits.dropna(subset="value")
    gaps = ", ".join(
        f"{_points(row)} ({label(row['method'])}, {row['size']} size)"
        for row in matched.to_dict("records")
    )
    text = "where both fit the rows as closely, by the mean loss on them, minus SFT in percentage "
    text += f"points: {gaps or 'nobody is compared'}"
    means = results.read(profile, "primary").set_index("claim")
    if "A2" in means.index:
        text += f", on average {briefly(means.loc['A2'].to_dict())}"
    if len(matched) < len(fits):
        text += (
            f"; {len(fits) - len(matched)} of {len(fits)} students come to no loss in common with "
        )
        text += f"SFT at which either memorizes {VISIBLE:.0%}"
    return f"{text} ({MEAN_LOSS})"


def _gap(settings: Profile, method: str, size: str) -> dict[str, Any]:
    filters = {"comparison": "to_sft", "metric": "exact_rate", "seed": "all"}
    return lookups.line(settings.name, "differences", method=method, size=size, **filters)


def _stopped(settings: Profile, method: str, size: str) -> dict[str, Any]:
    """The line of equal usefulness, with what the rule of A1 says of it."""
    lines = lookups.lines(settings.name, "equal_usefulness", method=method, size=size)
    return at_equal_usefulness(lines).iloc[0].to_dict()


def _gap_text(size: str, line: dict[str, Any]) -> str:
    caveat = ", cannot be told from no difference" if lookups.doubt(line) else ""
    return f"{_points(line)} ({size} size{caveat}{MORE_USEFUL[line.get('more_useful', '')]})"


def _points(line: dict[str, Any]) -> str:
    values = [100 * float(line[name]) + 0.0 for name in ("value", "lo", "hi")]  # no -0.0
    if pd.isna(values[0]):
        return "too few responses"
    return POINTS.format(*values) if not pd.isna(values[1]) else f"{values[0]:+.1f}"


def _student(settings: Profile, method: str, size: str, n: int) -> str:
    """Its name, and of which seeds it is where not of all."""
    seeds, count = lookups.seeds(settings.name), _seeds(settings, n)
    suffix = f" ({results.first_seeds(seeds, count)} alone)" if count < len(seeds) else ""
    return f"{label(method)}, {size}{suffix}"


def _seeds(settings: Profile, n: int) -> int:
    """Of how many seeds n member rows are."""
    return round(n / lookups.lines(settings.name, "lengths", split="member")["rows"].min())


def _ended(settings: Profile, method: str, size: str) -> dict[str, str]:
    gap, profile = _gap(settings, method, size), settings.name
    memorized, sft = (
        share(lookups.line(profile, "table1", method=name, size=size), "member")
        for name in (method, "sft")
    )
    if (count := _seeds(settings, gap["n"])) < len(lookups.seeds(profile)):
        (rate,) = results.sft_of_first(profile, count, [size])  # beside SFT of the same seeds
        sft = f"{rate:.1%}"
    row = {
        "student": _student(settings, method, size, gap["n"]),
        "memorized": memorized,
        "SFT": sft,
    }
    row["minus SFT, points"] = _points(gap)
    losses = lookups.lines(profile, "paths", method=method, size=size, split="member")
    first, last = losses.groupby("epoch")["nats_per_token"].mean().iloc[[0, -1]]
    return row | {"loss, first": f"{first:.2f}", "loss, at the end": f"{last:.2f}"}


def _as_useful(settings: Profile, method: str, size: str) -> dict[str, str]:
    gap = _stopped(settings, method, size)
    usefulness = lookups.line(
        settings.name, "equal_usefulness", method=method, size=size, metric="useful"
    )
    name = _student(settings, method, size, gap["n"])
    row = {"student": name, "memorized": "", "SFT": "", "minus SFT, points": ""}
    row |= {"usefulness minus SFT": "", "judged": NOTES.get(gap["note"], gap["note"])}
    if gap["judged"]:
        excluded = f"a gain of {GAIN:.0%} of the rows is excluded"
        verdict = "less" if gap["less"] else excluded if gap["none"] else "not decided"
        row["judged"] = f"yes: {verdict}"
    if gap["gained"]:
        row |= {"memorized": f"{gap['own']:.1%}", "SFT": f"{gap['sft']:.1%}"}
        row["minus SFT, points"] = _points(gap)
        row["usefulness minus SFT"] = row_text(usefulness, form="+.3f")
    row["judged"] += MORE_USEFUL[gap["more_useful"]]
    return row
