"""The README's generated parts: the answer on its first screen, and the numbers below.

Each stands between two marks and says what the tables of a profile say; the texts in which one sees
memorization are those of its executed copy of notebook 04. `python -m kdlib findings` writes them.
"""

import re
import textwrap
from collections.abc import Callable

import nbformat
import pandas as pd

from kdlib import runs
from kdlib.config.exact_match import WINDOW
from kdlib.config.methods import PAPER, label
from kdlib.config.profile import load_profile
from kdlib.errors import KdlibError
from kdlib.report import findings, results, site

EXAMPLE = "04_word_level_kd"  # the first that shows SFT beside a distilled student
TITLE = '<th colspan="2"'  # of an exhibit, see `notebook_display.exhibits`
ROW = re.compile(r"<tr><td[^>]*>(.*?)</td><td[^>]*>(.*?)</td></tr>")
CLAIMS = (
    "The whole evidence stands in `claims*.csv`, each rule in `kdlib/analysis/claims.py`, the way "
    "from a claim to its notebook in the [map](notebooks/00_map.ipynb)."
)
UNSEEN = ("base", "teacher")  # models whose answers are left out, so that a glance is enough


def answer(profile: str) -> str:
    """The answer in a few sentences, then one training row with what models write to its prompt."""
    said = findings.with_intervals("README", load_profile(profile))
    found = textwrap.fill(said, 118, break_on_hyphens=False)
    return "\n\n".join(filter(None, (found, before_and_after(profile))))


def before_and_after(profile: str) -> str:
    """The row that SFT memorizes, and SFT's and a distilled student's answer, in Markdown.

    Empty where notebook 04 was not executed, or SFT memorized nothing.
    """
    copy = site.copies(profile).get(EXAMPLE)
    cells = nbformat.read(copy, 4).cells if copy else []
    outputs = (one.get("data", {}) for cell in cells for one in cell.get("outputs", []))
    shown = (data.get("text/html", "") for data in outputs)
    table = next((one for one in shown if TITLE in one), "").partition(TITLE)[2]
    title, _, rest = table.partition("</th>")
    rows = ROW.findall(rest.partition(TITLE)[0])
    if not rows:
        return ""
    told, chosen, lines = title.partition(". ")[2], "", list[str]()
    for head, text in rows:
        name, _, size = head.partition("<br>")[0].partition(", ")
        if name not in UNSEEN:
            verb = "" if name in ("prompt", "response") else " writes"
            lines.append(f"| {name}{verb} | {_inline(text)} |")
            chosen = f" (size {size}, one seed; chosen by what came out)" if size else chosen
    return "\n".join([f"| {told}{chosen} | text |", "|---|---|", *lines])


def _inline(text: str) -> str:
    """HTML of a notebook as what a cell of a Markdown table can hold."""
    return re.sub(r"([|*_`\\])", r"\\\1", re.sub("</?mark>", "", text))


def numbers(profile: str) -> str:
    """The run, what the paper's methods memorized, each claim in a line, and attackers, if any."""
    judged = results.claims(profile)
    short = {
        "claim": judged["claim"] + " " + judged["statement"],
        "verdict": "**" + judged["verdict"] + "**",
        "evidence": judged["evidence"].str.replace("; .*", " ...", regex=True),
    }
    first = results.memorized(results.read(profile, "table1"))
    legend = " ".join(filter(None, (results.legend(profile), elsewhere(profile))))
    parts = [_made(profile), results.markdown(first), legend]
    parts += [results.markdown(pd.DataFrame(short)), CLAIMS]
    if len(attacked := results.attackers(profile)):
        parts += [results.attackers_legend(profile), results.markdown(attacked)]
    return "\n\n".join(parts)


def _made(profile: str) -> str:
    """Where and in what time the run was made."""
    models, stages = (
        results.read(profile, "metrics"),
        results.read(profile, "stages", optional=True),
    )
    at, devices = ", ".join(findings.commits(profile)), ", ".join(sorted(models["device"].unique()))
    timed = models[models["metric"] == "seconds"]
    made = f"Reference run: profile `{profile}`, commit {at}, on {devices}."
    made += f" Its {(timed['method'] != 'base').sum()} trained models took "
    made += f"{timed['value'].sum() / 60:.0f} minutes to train, note and measure, added up."
    if len(stages):  # they were timed
        most, machine = stages["peak_mib"].max() / 1024, stages["machine"].iloc[0]
        made += f" Stages ran side by side on {machine}; the largest held {most:.1f} GiB."
    return made


def elsewhere(profile: str) -> str:
    """What one seed memorized with students that were pruned and healed on another machine.

    `healed_elsewhere.csv` has beside them (columns healed_in, tuned_in, else empty; nats per token
    of general text after healing) SFT students of this machine of which a step was made in float32:
    by a copy of the profile in which `precision` of teacher, student or both is "fp32".
    """
    there = results.read(profile, "healed_elsewhere", optional=True)
    if there.empty:
        return ""
    there = there.reindex(columns=[*there.columns.union(["healed_in", "tuned_in", "nats"])])
    steps, there = (there[there["healed_in"].notna() == one] for one in (True, False))
    known = ["method", "size", "seed"]
    here = results.read(profile, "metrics").query(
        f"metric == 'exact_rate' and split == 'member' and k == {WINDOW}"
    )
    both = there[there["method"].isin(PAPER)].merge(here, on=known, suffixes=("", "_here"))
    told = [
        f"{label(row['method'])} {row['size']} {row['value']:.3f} and {row['value_here']:.3f}"
        for row in both.to_dict("records")
    ]
    seed, machine = there["seed"].iloc[0], there["machine"].iloc[0]
    return (
        f"All seeds share one set of pruned and healed students. Seed {seed} was run before, at "
        f"earlier commits, from students made on another machine ({machine}). Shares there and "
        f"here: {'; '.join(told)}. No interval above allows for what moved them. "
        f"{_other_order(profile)}{_other_bases(profile, there)}{_in_float32(steps, there)}"
    )


def _in_float32(steps: pd.DataFrame, there: pd.DataFrame) -> str:
    """What float32 moves, in healing and in fine-tuning, where a step was made so here."""
    if steps.empty:
        return ""
    told = [
        f"healed in {row['healed_in']} ({row['nats']:.2f} nats per token of general text after it) "
        f"and fine-tuned in {row['tuned_in']} {row['value']:.3f}"
        for row in steps.to_dict("records")
    ]
    size, method = steps[["size", "method"]].iloc[0]
    known = there.query("size == @size and method == @method")["nats"]
    beside = f" (there {known.iloc[0]:.2f} nats)" if known.notna().any() else ""
    return (
        " Nor are these intervals over the precision: where the processor multiplies bf16, the "
        f"study trains in it, elsewhere in float32. {label(method)}, {size}, here, "
        f"{'; '.join(told)}{beside}."
    )


def _other_order(profile: str) -> str:
    """How far another order of the rows alone moves what SFT memorizes, where notebook 11 ran."""
    orders = results.read(profile, "second_sft", optional=True)
    if orders.empty:
        return ""
    orders = orders[orders["kind"] == "order"]
    told = [
        f"{size} {_listed(part['first'])} and {_listed(part['second'])}"
        for size, part in orders.groupby("size", sort=False)
    ]
    text = "What the order of the rows alone moves (notebook 11): SFT by seed in one order and "
    return f"{text}another, {'; '.join(told)}. " if told else ""


def _other_bases(profile: str, there: pd.DataFrame) -> str:
    """What base models that were made anew move, and whether that spans the run elsewhere."""
    bases = results.read(profile, "other_bases", optional=True)
    if bases.empty or not (bases["pretraining"] > 0).any():
        return "Whether students, processor or code made the difference was not tried apart."
    seed, size = bases[["seed", "size"]].iloc[0]
    shares = bases.query("seed == @seed and size == @size and metric == 'exact_rate'")
    told = [
        f"{label(method)} {_listed(part.sort_values('pretraining')['value'])}"
        for method, part in shares.groupby("method", sort=False)
    ]
    sft = shares[shares["method"] == "sft"]["value"]
    found = there.query("seed == @seed and size == @size and method == 'sft'")["value"].iloc[0]
    spanned = sft.min() <= found <= sft.max()
    text = "the earlier run's share of SFT lies between them: the base model alone can make so much"
    if not spanned:
        text = "the earlier run's share of SFT lies outside: neither order explains it"
    return (
        "What the base model alone moves (healed anew, in other orders of the general text; all "
        f"else the same; {size}, seed {seed}; the study's first): {'; '.join(told)}; {text}."
    )


def _listed(shares: pd.Series) -> str:
    return ", ".join(shares.map("{:.3f}".format))


BLOCKS: dict[str, Callable[[str], str]] = {"answer": answer, "results": numbers}


def write(profile: str) -> None:
    """Put what the tables say between the README's marks; KdlibError where one is missing."""
    file = runs.root() / "README.md"
    text = file.read_text("utf-8")
    for name, block in BLOCKS.items():
        before, begin, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        if not (begin and end):
            marks = f"<!-- {name} --> and <!-- /{name} -->, each in a line of its own"
            raise KdlibError(f"README.md lacks the marks {marks}; put them back")
        text = f"{before}{begin}{block(profile)}\n{end}{after}"
    runs.write_text(file, text)
