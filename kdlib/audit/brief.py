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


def write(folder: Path, price_table: prices.PriceTable) -> None:
    """Write brief.html and brief.md, and both in Japanese, beside the record of `folder`."""
    path = folder / record.RECORD
    body, digest = verifying.read(path), record.sha256(path)
    for language, name in NAMES.items():
        context = page(body, digest, price_table, language)
        for form in FORMS:
            runs.write_text(folder / (name + form), _filled(form, context))


def _filled(form: str, context: Mapping[str, Any]) -> str:
    template = Path(__file__).with_name(f"brief{form}.j2").read_text("utf-8")
    options: dict[str, Any] = {"trim_blocks": True, "keep_trailing_newline": True}
    jinja = Environment(autoescape=form == ".html", undefined=StrictUndefined, **options)
    jinja.filters["plain"] = plain
    return jinja.from_string(template).render(context)


def plain(text: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(text.split()))


def page(
    body: Mapping[str, Any], digest: str, price_table: prices.PriceTable, language: str
) -> dict[str, Any]:
    """What the templates are filled with, of a record with its SHA-256."""
    path = Path(__file__).with_name(f"brief.{language}.toml")
    words = tomllib.loads(path.read_text("utf-8"))
    translate = translator(words["phrases"]) if words["phrases"] else str
    predicate = body["predicate"]
    verdict, lines = predicate["kdlib_verdict"], predicate["kdlib_measures"]
    values = _numbers(body, digest, price_table) | {
        "source": getattr(price_table.prices.source, language)
    }
    values |= _of_verdict(verdict, lines, words)
    earlier = [
        f"{entry['policy']}: {words['verdicts'][entry['verdict']]}" for entry in predicate[EARLIER]
    ]
    values["earlier"] = words["comma"].join(earlier)

    def sentences(section: str, *keys: str) -> tuple[str, ...]:
        return tuple(words[section][key].format(**values) for key in keys)

    def headed(section: str, *keys: str, **fields: Any) -> Section:
        return Section(words[section]["heading"], sentences(section, *keys), **fields)

    held_out = predicate["kdlib_audit"]["rows"].get("held_out")
    limits = [words["limits"]["head"], *(_limit(line, words, translate) for line in lines)]
    costs = _costs(values, words), _places(price_table, values, words, language)
    untested = tuple(translate(sentence) for sentence in predicate["kdlib_not_tested"])
    earlier_keys = ("earlier",) if values["earlier"] else ()
    left_out_keys = ("left_out",) if values["left_out"] else ()
    meeting = sentences("meeting", values["key"], "cost", f"then_{verdict}")
    sections = (
        headed("asked", "compared" if held_out else "alone", "policy", *earlier_keys),
        headed("verdict", verdict, tables=(limits,), note=sentences("verdict", "note")),
        headed("cost", tables=costs, note=sentences("cost", "timed", "priced")),
        headed("remains", "standing", *left_out_keys, "untested", points=untested),
        headed("next", points=sentences("next", *_steps(verdict, lines))),
        headed("meeting", points=meeting),
    )
    title = f"{MARKS[verdict]} {words['title'][verdict].format(**values)}"
    context = {"title": title, "verdict": verdict, "sections": sections}
    context |= {
        "lang": language,
        "other": {other: NAMES[other] for other in NAMES if other != language},
    }
    context |= {name: words[name] for name in ("languages", "gap")}
    return context | {"foot": sentences("foot", "record", "check")}


def _numbers(
    body: Mapping[str, Any], digest: str, price_table: prices.PriceTable
) -> dict[str, Any]:
    """Numbers and names that stand in sentences, as they are written in every language."""
    predicate, cost = body["predicate"], body["predicate"]["kdlib_cost"]
    files = dict(entry["name"].split("/") for entry in body["subject"])
    rows, lines = predicate["kdlib_audit"]["rows"], predicate["kdlib_measures"]
    places = price_table.prices.places
    measured = {split: f"{counts['measured']:,}" for split, counts in rows.items()}
    return {
        "model": predicate["kdlib_models"]["model"],
        "data": files["data"],
        "others": files.get("held-out"),
        "n": measured["member"],
        "m": measured.get("held_out"),
        "policy": predicate["configuration"][0]["name"],
        "level": share(predicate["kdlib_policy"]["level"]),
        "limits": len(lines),
        "left_out": len(predicate.get("kdlib_left_out", ())),  # records of older versions have none
        **{outcome: sum(line["outcome"] == outcome for line in lines) for outcome in gate.STATUS},
        "untested": len(predicate["kdlib_not_tested"]),
        "parameters": f"{cost['parameters']:,}",
        "weights": gigabytes(cost["weight_bytes"]),
        "memory": gigabytes(cost["peak_bytes"]),
        "ms": f"{cost['ms_per_token']:,.3g}",
        "answers": cost["rows"],
        **{name: cost[name] for name in ("tokens", "dtype", "machine", "threads")},
        "cost": cost,
        "fits": sum(fits(cost, place) for place in places),
        "places": len(places),
        "prices": price_table.name,
        "as_of": price_table.prices.as_of.isoformat(),
        "million": f"{TOKENS:,}",
        "digest": digest,
        "time": predicate["kdlib_time"],
        "commit": predicate["kdlib_versions"]["commit"],
    }


def _of_verdict(verdict: str, lines: list[Line], words: Mapping[str, Any]) -> dict[str, Any]:
    """The limit that decides, with its bounds; how many rows would; why there is no number.

    Of limits with the outcome that the verdict has, the one that its bound breaks most, or where
    all hold comes nearest to.
    """
    bound = "lo" if verdict == gate.FAIL else "hi"
    candidates = [line for line in lines if line["outcome"] == verdict]
    line = max(candidates, key=lambda row: -1 if row[bound] is None else row[bound] / row["below"])
    return {
        "key": verdict if line["value"] is not None else f"{verdict}_unmeasured",
        "limit": named(line, words),
        "below": share(line["below"]),
        **{name: "" if line[name] is None else share(line[name]) for name in ("lo", "hi")},
        "rows": _needed(lines, "rows", "n"),
        "others_needed": _needed(lines, "rows", "n_held_out"),
        **{kind: _needed(lines, kind, "n") for kind in ("strings", "prompts")},
    }


def _kind(line: Line) -> str:
    """What its cases are."""
    if line["measure"] in OF_SECRETS:
        return "strings"
    return "prompts" if line["measure"] == "prompt_run" else "rows"


def _needed(lines: list[Line], kind: str, column: str) -> str:
    """How many cases of a kind would decide every limit that more of them can."""
    undecided = (line for line in lines if line["outcome"] == gate.UNDECIDED and line["needed"])
    matching = (line for line in undecided if _kind(line) == kind)
    return f"{max((math.ceil(line[column] * line['needed']) for line in matching), default=0):,}"


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
    setting = words["scores"].get(at) or (share(at) if measure in OF_SHARE else f"{at:g}")
    text = words["measures"][key].format(at=setting)
    compares = measure in HELPS and line["of"] == "excess"
    return text + (words["measures"]["excess"] if compares else "")


def _limit(line: Line, words: Mapping[str, Any], translate: Callable[[str], str]) -> list[str]:
    """A line of the table of limits."""
    has_value = line["value"] is not None
    number = (
        f"{share(line['value'])} [{share(line['lo'])}, {share(line['hi'])}]" if has_value else "–"
    )
    outcome = f"{MARKS[line['outcome']]}\N{NO-BREAK SPACE}{words['outcomes'][line['outcome']]}"
    if not has_value or (line["outcome"] == gate.UNDECIDED and not line["needed"]):
        outcome = words["limits"]["why"].format(outcome=outcome, why=translate(line["why"]))
    unseen = share(line["seen"]) if line["seen"] else "–"
    return [named(line, words), number, share(line["below"]), outcome, unseen]


def _costs(values: Mapping[str, Any], words: Mapping[str, Any]) -> list[list[str]]:
    row = [values["parameters"], values["weights"], values["memory"], f"{values['ms']} ms"]
    return [words["cost"]["head"], row]


def _places(
    price_table: prices.PriceTable,
    values: Mapping[str, Any],
    words: Mapping[str, Any],
    language: str,
) -> list[list[str]]:
    """By place: whether the model fits, and prices; per token at the place's speed, if it is given.

    Else as if it were the timed machine.
    """
    unit, cost = price_table.prices.currency, values["cost"]
    rows = [[heading.format(**values) for heading in words["places"]["head"]]]
    for place in price_table.prices.places:
        fitting, ms = fits(cost, place), place.ms_per_token or cost["ms_per_token"]
        price = (
            f"{unit} {money(place.price_per_hour * TOKENS * ms / 3_600_000)}" if fitting else "–"
        )
        if place.ms_per_token:
            price = words["places"]["given"].format(price=price, ms=f"{ms:,.3g}")
        rows.append(
            [
                getattr(place.name, language),
                f"{place.memory_gb:g} GB",
                words["places"]["fits" if fitting else "too_small"],
                f"{unit} {money(place.price_per_hour)}",
                price,
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
    for line in (x for x in lines if x["outcome"] == verdict):
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
