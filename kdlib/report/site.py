"""What the site shows of a profile: its notebooks, and plain numbers in more than one language."""

import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from kdlib import runs
from kdlib.analysis.rates import distilled, student_sizes
from kdlib.config.methods import DISTILLED, PAPER, label
from kdlib.config.profile import TEACHER, load_profile
from kdlib.report import executed, first_screen, from_scratch, lookups, results
from kdlib.report.usefulness_sentences import gaps_to_trivial, students_below_trivial
from kdlib.stats import row_text

Translate = Callable[[str], str]  # from English words to those of a page's language
HEADING = re.compile(r"\]\(#[^)\s]+")  # within a page; Sphinx knows no capitals there
COSTS = {
    "parameters": "parameters",
    "file_bytes": "bytes on disk",
    "ms_per_token": "time per token",
}


def lay_out(profile: str, folder: Path) -> None:
    """Write one notebook of each name to an empty `folder`: its executed copy, else its source.

    Where a notebook ran once for each seed, it is the copy of the first. Links lead from one to
    the other. Of a notebook that the profile did not run stands the copy of models from scratch,
    if there is one, and it says so. KdlibError where the profile has no tables.
    """
    results.read(profile, "table1")
    profile_copies, scratch_copies = copies(profile), copies(from_scratch.PROFILE)
    sources = {file.stem: file for file in (runs.root() / "notebooks").glob("*.ipynb")}
    pages = sources | scratch_copies | profile_copies
    shutil.rmtree(folder, ignore_errors=True)
    for stem, file in pages.items():
        notebook = nbformat.read(file, 4)
        if stem not in profile_copies:
            status = "this is the source, without outputs"
            if stem in scratch_copies:
                status = f"what is shown is of models from scratch (`{from_scratch.PROFILE}`)"
            notice = f"*Not run on the profile `{profile}`: {status}.*"
            notebook.cells.insert(1, nbformat.v4.new_markdown_cell(notice))
        _relink(notebook, pages)
        runs.write_text(folder / f"{stem}.ipynb", nbformat.writes(notebook))


def copies(profile: str) -> dict[str, Path]:
    """The executed notebooks of a profile by their name; where there are seeds, of the first."""
    files: dict[str, Path] = {}
    folder = runs.root() / "notebooks" / "executed" / profile
    for file in sorted(folder.glob("*.ipynb"), key=_stem_and_seed):
        files.setdefault(_stem_and_seed(file)[0], file)
    return files


def _stem_and_seed(file: Path) -> tuple[str, int]:
    stem, _, seed = file.stem.partition("-seed")
    return stem, int(seed or 0)


def _relink(notebook: Any, pages: dict[str, Path]) -> None:
    """Make links lead to `pages`, and give figures their descriptions."""
    relinked = partial(executed.LINK.sub, partial(_link, pages))
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = HEADING.sub(lambda link: link[0].lower(), relinked(cell.source))
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            for kind in {"text/markdown", "text/html"} & data.keys():
                data[kind] = relinked(data[kind])
            if alt := output.get("metadata", {}).get("image/png", {}).get("alt"):
                cell.metadata["mystnb"] = {"image": {"alt": alt}}


def _link(pages: dict[str, Path], link: re.Match[str]) -> str:
    """A link to a notebook, source or copy of whatever seed, or to the data card, to its page."""
    if link[2].endswith("data/README.md"):
        return f"{link[1]}../data.md"
    stem = _stem_and_seed(Path(link[2]))[0] if link[2].endswith(".ipynb") else ""
    return f"{link[1]}{stem}.ipynb" if stem in pages else link[0]


def translator(words: Mapping[str, str]) -> Translate:
    """What puts the phrases of `words` in place of English ones in a text, the longest first."""
    longest = sorted(words, key=len, reverse=True)
    patterns = (r"(?<![A-Za-z])" * word[0].isalpha() + re.escape(word) for word in longest)
    pattern = re.compile(f"(?:{'|'.join(patterns)})(?![a-z])")
    return lambda text: pattern.sub(lambda match: words[match[0]], text)


def decision(profile: str, translate: Translate = str) -> dict[str, Any]:
    """What the page for deciders is filled with, from the tables alone; words through `translate`.

    of_hundred (a table in Markdown), rows; least and most, each the names of the distilled students
    at that end and their texts in a hundred; cost by what is counted (percent of the teacher);
    outdone (see `usefulness_sentences.students_below_trivial`), canaries (times, least, most) and
    attack (pairs of method and chance), empty where not measured; verdicts (number of claims by
    verdict), claims (how many) and confirmed (which). Texts in a hundred, and chances, have their
    95% intervals; students are the paper's methods'.
    """
    table1, metrics = results.read(profile, "table1"), results.read(profile, "metrics")
    sizes, ran = student_sizes(table1), set(table1["method"])
    methods = [method for method in DISTILLED if method in ran]  # the others may be of fewer seeds
    rates = table1.set_index(["method", "size"])
    students = rates[rates.index.isin(methods, level="method")]
    of_hundred = pd.DataFrame(
        [_line(table1, size, students, translate) for size in ("teacher", *sizes)]
    )
    mean = metrics.groupby(["metric", "size"])["value"].mean()
    claims = results.claims(profile)
    verdicts, beaten = claims["verdict"].value_counts(), students_below_trivial(profile)
    return {
        "of_hundred": results.markdown(of_hundred.rename(columns=translate).map(translate)),
        "rows": int(results.read(profile, "lengths").query("split == 'member'")["rows"].min()),
        "least": _named(students, "min", translate),
        "most": _named(students, "max", translate),
        "cost": {
            translate(phrase): f"{mean[metric, sizes[-1]] / mean[metric, 'teacher']:.0%}"
            for metric, phrase in COSTS.items()
            if metric in mean.index.get_level_values("metric")
        },
        "outdone": beaten and beaten | {"answer": translate(beaten["answer"])},
        "canaries": _canaries(profile, methods, translate),
        "attack": [
            (translate(name), translate(chance))
            for name, chance in _attack(profile, rates["member"])
        ],
        "claims": len(claims),
        "verdicts": {
            verdict: verdicts.get(verdict, 0) for verdict in ("confirmed", "refuted", "open")
        },
        "confirmed": list(claims.loc[claims["verdict"] == "confirmed", "claim"]),
    }


def conclusion(profile: str, translate: Translate = str) -> dict[str, Any]:
    """What pages of conclusions are filled with, from the tables alone; words through `translate`.

    seeds; gaps: by each of `results.WAYS` the mean difference to SFT over distilled students, with
    its interval and a word, empty where nothing was compared; advice: what A1's interval says of
    distilling ("less", "more" or "open"); planted: (times, least, most) of canaries that come out
    of students, for the fewest and the most showings an epoch; open: the claims that are. useful:
    the best answers without a model, and pairs of model and what it, stopped early, adds to them;
    elsewhere: as `first_screen.elsewhere`, with the model; both empty where not measured.
    """
    lengths, claims = results.read(profile, "lengths"), results.claims(profile)
    means = results.read(profile, "primary", optional=True)
    means = means.set_index("claim") if len(means) else means
    shares, advice = _repeated(profile, PAPER), "open"
    if "A1" in means.index:
        advice = "less" if means["hi"]["A1"] < 0 else "more" if means["lo"]["A1"] > 0 else "open"
    return {
        "seeds": ", ".join(map(str, sorted(lengths["seed"].unique()))),
        "gaps": {
            translate(title): translate(lookups.difference(means.loc[claim].to_dict()))
            for claim, title in results.WAYS.items()
            if claim in means.index
        },
        "advice": advice,
        "planted": [
            (times, f"{row.least:.0%}", f"{row.most:.0%}")
            for times, row in [*shares.iterrows()][:: max(len(shares) - 1, 1)]
        ],
        "open": list(claims.loc[claims["verdict"] == "open", "claim"]),
        "useful": _useful(profile, translate),
        "elsewhere": _elsewhere(profile, translate),
    }


def _useful(profile: str, translate: Translate) -> dict[str, Any]:
    try:
        lines = gaps_to_trivial(profile)
    except lookups.NotRun:
        return {}
    if lines.empty:
        return {}
    sizes = zip(lines["size"], lines.to_dict("records"), strict=True)
    gaps = [
        (translate(size if size == "teacher" else f"SFT, {size}"), row_text(line, form="+.3f"))
        for size, line in sizes
    ]
    return {
        "answers": translate(" and ").join(map(translate, lines["against"].unique())),
        "gaps": gaps,
    }


def _elsewhere(profile: str, translate: Translate) -> dict[str, Any]:
    if results.read(profile, "healed_elsewhere", optional=True).empty:
        return {}
    settings = load_profile(profile)
    if not (facts := first_screen.elsewhere(settings)):
        return {}
    machines = [
        (translate(run["machine"]), f"{run['value']:.1%}", translate(run["code"]))
        for run in facts["runs"]
    ]
    return facts | {"model": translate(f"SFT, {settings.probe_size}"), "runs": machines}


def of_hundred(share: float) -> str:
    """A share in whole hundredths; "below 1" where not quite nothing, "over 99" where not all."""
    return (
        "below 1" if 0 < share < 0.01 else "over 99" if 0.99 < share < 1 else f"{100 * share:.0f}"
    )


def _extreme(lines: pd.DataFrame, statistic: str, name: str = "member") -> tuple[list[Any], str]:
    """Whose share is the least or the most ("min", "max"), and that in a hundred, "40 [0–97]".

    Of several that are, the interval reaches from the lowest to the highest end. An end that is
    below 1 or over 99 is rounded outwards.
    """
    tied = lines[lines[name] == lines[name].agg(statistic)]
    lo, hi = tied[f"{name}_lo"].min(), tied[f"{name}_hi"].max()
    low = of_hundred(lo).replace("below 1", "0").replace("over 99", "99")
    high = of_hundred(hi).replace("below 1", "1").replace("over 99", "100")
    span = "" if pd.isna(lo) else f" [{low}–{high}]"
    return [*tied.index], of_hundred(tied[name].iloc[0]) + span


def _named(students: pd.DataFrame, statistic: str, translate: Translate) -> tuple[str, str]:
    models, text = _extreme(students, statistic)
    names = [translate(f"{label(method)}, {size}") for method, size in models]
    return translate(" and ").join(names), translate(text)


def _line(
    table1: pd.DataFrame, size: str, students: pd.DataFrame, translate: Translate
) -> dict[str, str]:
    rows = table1[(table1["size"] == size) & table1["method"].isin([TEACHER, *PAPER])]
    direct = rows[rows["method"] == ("teacher" if size == "teacher" else "sft")]
    part = students[students.index.get_level_values("size") == size]
    texts = dict.fromkeys(_extreme(part, statistic)[1] for statistic in ("min", "max") if len(part))
    return {
        "model": size,
        "trained on the texts": _extreme(direct, "max")[1] if len(direct) else "",
        "taught by the teacher": translate(" to ").join(texts),
        "texts it never saw": _extreme(rows, "max", "held_out")[1],
    }


def _canaries(profile: str, methods: list[str], translate: Translate) -> dict[str, Any]:
    shares = _repeated(profile, methods).tail(1)
    if shares.empty:
        return {}
    texts = {column: translate(of_hundred(shares[column].item())) for column in ("least", "most")}
    return {"times": shares.index.item()} | texts


def _repeated(profile: str, methods: Iterable[str]) -> pd.DataFrame:
    """Of canaries, the least and the most share that comes out of models, by times shown."""
    table = results.read(profile, "repetitions", optional=True)
    if table.empty:
        return table
    canaries = table[(table["kind"] == "canary") & table["method"].isin(methods)]
    return canaries.groupby("times")["value"].agg(least="min", most="max")


def _attack(profile: str, rates: "pd.Series[float]") -> list[tuple[str, str]]:
    """Chances of SFT, and of the distilled method that memorizes least at the size looked at."""
    table = results.read(profile, "membership", optional=True)
    if table.empty:
        return []
    table = table[(table["score"] == "loss") & (table["size"] != "teacher")]
    table = table[table["method"] != "base"].drop_duplicates("method")
    size = table["size"].iloc[0]
    lowest = min(distilled(table), key=lambda method: rates[method, size])
    chances = {
        method: _extreme(table[table["method"] == method], "max", "auc")[1]
        for method in ("sft", lowest)
    }
    return [(f"{label(method)}, {size}", chance) for method, chance in chances.items()]
