"""A gated audit on one page for who decides, in each language, from its record and a price table.

Every number is written once and stands in a sentence of each language (brief.en.toml, ...): the
pages differ in words alone. What to do next follows from the outcome by the rule of `_steps`. No
text of any row stands there, for the record holds none.
"""

import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from kdlib import runs
from kdlib.audit import gate, prices, record, verifying
from kdlib.audit.summary import ANSWERS, HITS, OF_SECRETS
from kdlib.config.exact_match import FULL
from kdlib.report.site import translator

NAMES = {"en": "brief", "ja": "brief.ja"}  # of the files by language
FORMS = (".html", ".md")
MARKS = {gate.PASS: "✓", gate.FAIL: "✗", gate.UNDECIDED: "?"}  # told apart without colours
OF_SHARE = ("near_verbatim", "extractable", *ANSWERS)  # measures at a share of a response
EARLIER = "kdlib_earlier"
TOKENS = 10**6  # whose price is given
# What helps against a measure that fails.
LESS_REPEATED = ("stop_earlier", "duplicates", "distil")
HELPS = dict.fromkeys(HITS, LESS_REPEATED) | dict.fromkeys(OF_SECRETS, ("mask", "stop_earlier"))
TOLD_APART = ("stop_earlier", "more_rows")  # against membership
Line = Mapping[str, Any]


@dataclass(frozen=True)
class Section:
    """A heading; sentences, tables (their first line heads them), points, and small print."""

    heading: str
    text: tuple[str, ...] = ()
    tables: tuple[list[list[str]], ...] = ()
    points: tuple[str, ...] = ()
    note: tuple[str, ...] = ()


def write(folder: Path, priced: prices.Read) -> None:
    """Write brief.html and brief.md, and both in Japanese, beside the record of `folder`."""
    path = folder / record.RECORD
    body, digest = verifying.read(path), record.sha256(path)
    for language, name in NAMES.items():
        facts = page(body, digest, priced, language)
        for form in FORMS:
            runs.write_text(folder / (name + form), _filled(form, facts))


def _filled(form: str, facts: Mapping[str, Any]) -> str:
    text = Path(__file__).with_name(f"brief{form}.j2").read_text("utf-8")
    how: dict[str, Any] = {"trim_blocks": True, "keep_trailing_newline": True}
    jinja = Environment(autoescape=form == ".html", undefined=StrictUndefined, **how)
    jinja.filters["plain"] = plain
    return jinja.from_string(text).render(facts)


def plain(text: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(text.split()))


def page(
    body: Mapping[str, Any], digest: str, priced: prices.Read, language: str
) -> dict[str, Any]:
    """What the templates are filled with, of a record with its SHA-256."""
    path = Path(__file__).with_name(f"brief.{language}.toml")
    words = tomllib.loads(path.read_text("utf-8"))
    say = translator(words["phrases"]) if words["phrases"] else str
    found = body["predicate"]
    verdict, lines = found["kdlib_verdict"], found["kdlib_measures"]
    known = _numbers(body, digest, priced) | {"source": getattr(priced.prices.source, language)}
    known |= _of_verdict(verdict, lines, words)
    earlier = [f"{one['policy']}: {words['verdicts'][one['verdict']]}" for one in found[EARLIER]]
    known["earlier"] = words["comma"].join(earlier)

    def told(place: str, *keys: str) -> tuple[str, ...]:
        return tuple(words[place][key].format(**known) for key in keys)

    def headed(place: str, *keys: str, **rest: Any) -> Section:
        return Section(words[place]["heading"], told(place, *keys), **rest)

    others = found["kdlib_audit"]["rows"].get("held_out")
    limits = [words["limits"]["head"], *(_limit(line, words, say) for line in lines)]
    costs = _costs(known, words), _places(priced, known, words, language)
    untested = tuple(say(one) for one in found["kdlib_not_tested"])
    before = ("earlier",) if known["earlier"] else ()
    left_out = ("left_out",) if known["left_out"] else ()
    meeting = told("meeting", known["key"], "cost", f"then_{verdict}")
    sections = (
        headed("asked", "compared" if others else "alone", "policy", *before),
        headed("verdict", verdict, tables=(limits,), note=told("verdict", "note")),
        headed("cost", tables=costs, note=told("cost", "timed", "priced")),
        headed("remains", "standing", *left_out, "untested", points=untested),
        headed("next", points=told("next", *_steps(verdict, lines))),
        headed("meeting", points=meeting),
    )
    title = f"{MARKS[verdict]} {words['title'][verdict].format(**known)}"
    facts = {"title": title, "verdict": verdict, "sections": sections}
    facts |= {"lang": language, "other": {one: NAMES[one] for one in NAMES if one != language}}
    facts |= {name: words[name] for name in ("languages", "gap")}
    return facts | {"foot": told("foot", "record", "check")}


def _numbers(body: Mapping[str, Any], digest: str, priced: prices.Read) -> dict[str, Any]:
    """Numbers and names that stand in sentences, as they are written in every language."""
    found, cost = body["predicate"], body["predicate"]["kdlib_cost"]
    files = dict(one["name"].split("/") for one in body["subject"])
    rows, lines = found["kdlib_audit"]["rows"], found["kdlib_measures"]
    places = priced.prices.places
    told = {split: f"{counts['measured']:,}" for split, counts in rows.items()}
    return {
        "model": found["kdlib_models"]["model"],
        "data": files["data"],
        "others": files.get("held-out"),
        "n": told["member"],
        "m": told.get("held_out"),
        "policy": found["configuration"][0]["name"],
        "level": share(found["kdlib_policy"]["level"]),
        "limits": len(lines),
        "left_out": len(found.get("kdlib_left_out", ())),  # records of older versions have none
        **{one: sum(line["outcome"] == one for line in lines) for one in gate.STATUS},
        "untested": len(found["kdlib_not_tested"]),
        "parameters": f"{cost['parameters']:,}",
        "weights": gigabytes(cost["weight_bytes"]),
        "memory": gigabytes(cost["peak_bytes"]),
        "ms": f"{cost['ms_per_token']:,.3g}",
        "answers": cost["rows"],
        **{name: cost[name] for name in ("tokens", "dtype", "machine", "threads")},
        "cost": cost,
        "fits": sum(fits(cost, one) for one in places),
        "places": len(places),
        "prices": priced.name,
        "as_of": priced.prices.as_of.isoformat(),
        "million": f"{TOKENS:,}",
        "digest": digest,
        "time": found["kdlib_time"],
        "commit": found["kdlib_versions"]["commit"],
    }


def _of_verdict(verdict: str, lines: list[Line], words: Mapping[str, Any]) -> dict[str, Any]:
    """The limit that decides, with its bounds; how many rows would; why there is no number.

    Of limits with the outcome that the verdict has, the one that its bound breaks most, or where
    all hold comes nearest to.
    """
    end = "lo" if verdict == gate.FAIL else "hi"
    own = [line for line in lines if line["outcome"] == verdict]
    line = max(own, key=lambda one: -1 if one[end] is None else one[end] / one["below"])
    return {
        "key": verdict if line["value"] is not None else f"{verdict}_unmeasured",
        "limit": named(line, words),
        "below": share(line["below"]),
        **{one: "" if line[one] is None else share(line[one]) for one in ("lo", "hi")},
        "rows": _needed(lines, "rows", "n"),
        "others_needed": _needed(lines, "rows", "n_held_out"),
        **{kind: _needed(lines, kind, "n") for kind in ("strings", "prompts")},
    }


def _kind(line: Line) -> str:
    """What its cases are."""
    if line["measure"] in OF_SECRETS:
        return "strings"
    return "prompts" if line["measure"] == "prompt_run" else "rows"


def _needed(lines: list[Line], kind: str, n: str) -> str:
    """How many cases of a kind would decide every limit that more of them can."""
    open_ones = (one for one in lines if one["outcome"] == gate.UNDECIDED and one["needed"])
    own = (one for one in open_ones if _kind(one) == kind)
    return f"{max((math.ceil(one[n] * one['needed']) for one in own), default=0):,}"


def share(value: float) -> str:
    """In percent, with three digits that count."""
    return f"{100 * value:.3g}%"


def gigabytes(count: float) -> str:
    """Bytes in units of 10^9."""
    return f"{count / 1e9:,.3g} GB"


def money(value: float) -> str:
    """A price, in cents where it is not less than one."""
    return f"{value:,.2f}" if value >= 0.01 or not value else f"{value:.1g}"


def fits(cost: Mapping[str, Any], place: prices.Place) -> bool:
    """Whether what was held while answering is no more than a place has."""
    return bool(cost["peak_bytes"] <= place.memory_gb * 1e9)


def named(line: Line, words: Mapping[str, Any]) -> str:
    """What a limit is about, in words."""
    measure, at = line["measure"], line["at"]  # a whole number may have become 50.0
    key = f"{measure}_full" if measure == "exact_rate" and at == FULL else measure
    told = words["scores"].get(at) or (share(at) if measure in OF_SHARE else f"{at:g}")
    said = words["measures"][key].format(at=told)
    compares = measure in HELPS and line["of"] == "excess"
    return said + (words["measures"]["excess"] if compares else "")


def _limit(line: Line, words: Mapping[str, Any], say: Callable[[str], str]) -> list[str]:
    """A line of the table of limits."""
    there = line["value"] is not None
    number = f"{share(line['value'])} [{share(line['lo'])}, {share(line['hi'])}]" if there else "–"
    said = f"{MARKS[line['outcome']]}\N{NO-BREAK SPACE}{words['outcomes'][line['outcome']]}"
    if not there or (line["outcome"] == gate.UNDECIDED and not line["needed"]):
        said = words["limits"]["why"].format(outcome=said, why=say(line["why"]))
    missed = share(line["seen"]) if line["seen"] else "–"
    return [named(line, words), number, share(line["below"]), said, missed]


def _costs(known: Mapping[str, Any], words: Mapping[str, Any]) -> list[list[str]]:
    row = [known["parameters"], known["weights"], known["memory"], f"{known['ms']} ms"]
    return [words["cost"]["head"], row]


def _places(
    priced: prices.Read, known: Mapping[str, Any], words: Mapping[str, Any], language: str
) -> list[list[str]]:
    """By place: whether the model fits, and prices; per token at the place's speed, if it is given.

    Else as if it were the timed machine.
    """
    unit, cost = priced.prices.currency, known["cost"]
    rows = [[one.format(**known) for one in words["places"]["head"]]]
    for one in priced.prices.places:
        here, ms = fits(cost, one), one.ms_per_token or cost["ms_per_token"]
        answered = f"{unit} {money(one.price_per_hour * TOKENS * ms / 3_600_000)}" if here else "–"
        if one.ms_per_token:
            answered = words["places"]["given"].format(price=answered, ms=f"{ms:,.3g}")
        rows.append(
            [
                getattr(one.name, language),
                f"{one.memory_gb:g} GB",
                words["places"]["fits" if here else "too_small"],
                f"{unit} {money(one.price_per_hour)}",
                answered,
            ]
        )
    return rows


def _steps(verdict: str, lines: list[Line]) -> list[str]:
    """What to do next, as keys of the words.

    Pass: sign, release, audit again after any change. Fail: hold back; give what is missing; do
    what helps against each measure that fails, and audit what comes of it by the same limits.
    Undecided: hold back; give as many rows as would decide, or, where no number of them would,
    look at the files; audit again.
    """
    if verdict == gate.PASS:
        return ["sign", "release", "repeat"]
    steps = ["hold"]
    for line in (one for one in lines if one["outcome"] == verdict):
        if verdict == gate.FAIL:
            unmeasured = line["value"] is None
            steps += ["missing"] if unmeasured else HELPS.get(line["measure"], TOLD_APART)
        else:
            steps.append(_more(line))
    return [*dict.fromkeys(steps), "again"]


def _more(line: Line) -> str:
    """Which rows would decide."""
    kind = _kind(line)
    if not line["needed"]:  # no prompt is long enough, or see `gate._doubt`
        return "short" if kind == "prompts" and line["value"] is None else "unlike"
    if kind != "rows":
        return kind
    return "rows" if line["n_held_out"] else "rows_alone"
