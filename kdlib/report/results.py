"""What came out, in words: for the terminal at the end of a run, the notebooks and the README.

Reads the tables of data/results alone. Taught in notebook 10_comparison.
"""

import textwrap
from collections.abc import Callable

import pandas as pd

from kdlib import runs
from kdlib.config.definitions import WINDOW
from kdlib.config.methods import METHODS, PAPER, label
from kdlib.config.profile import SIZES, STUDENTS
from kdlib.errors import KdlibError

LAB = ("inheritance", "stays", "membership")  # topics of the memorization lab: notebooks 11 to 13
BEGIN, END = "<!-- results -->", "<!-- /results -->"
ATTACKERS = (
    "What an attacker can tell, by students trained on halves of the rows (memorized) and by "
    "scores of member and held-out rows (AUC: chance of ranking a member higher, 0.5 is a guess; "
    "notebooks 09 and 13), with 95% intervals:"
)
ALL_METHODS = (
    "All methods that were run: memorized as above, and usefulness, ROUGE-L (F1 of greedy answers) "
    "on held-out rows, each with its 95% interval over all seeds. The claims are about the paper's "
    f"{len(PAPER)} methods alone."
)


def read(profile: str, name: str) -> pd.DataFrame:
    """A table of data/results/<profile>.

    Raises:
        KdlibError: it is not there; says what makes it.
    """
    file = runs.results_dir(profile) / f"{name}.csv"
    if not file.is_file():
        raise KdlibError(
            f"no results at {file.relative_to(runs.root())}; make them with: "
            f"make study PROFILE={profile}"
        )
    # hexadecimal names may look like numbers: 0123456789, 12e4567890
    return pd.read_csv(file, dtype={"commit": str, "run_id": str})


def claims(profile: str) -> pd.DataFrame:
    """The ledger: the paper's claims and those that the memorization lab has judged, by name."""
    names = ["claims", *(f"claims_{topic}" for topic in LAB)]
    there = [one for one in names if (runs.results_dir(profile) / f"{one}.csv").is_file()]
    found = pd.concat([read(profile, one) for one in there or names[:1]])
    return found.sort_values("claim", ignore_index=True)  # C5b stands behind C5


def by_size(table: pd.DataFrame, cell: Callable[[pd.Series], str]) -> pd.DataFrame:
    """One line per size and one column per method, as the paper lays it out; teacher under SFT.

    Methods that the paper has not are left out: see `all_methods`.
    """
    lines = {size: dict.fromkeys(PAPER, "") for size in SIZES}
    for _, row in table.iterrows():
        method = "sft" if row["method"] == "teacher" else row["method"]
        if method in PAPER:
            lines[row["size"]][method] = cell(row)
    frame = pd.DataFrame(lines).T.rename(columns=LABELS)
    return frame.rename_axis("size").reset_index()


def interval(row: pd.Series, name: str, paper: float = float("nan"), digits: int = 2) -> str:
    """A value with its interval, and the paper's figure where it gives one."""
    value, lo, hi = row[name], row[f"{name}_lo"], row[f"{name}_hi"]
    said = f"{value:.3f} [{lo:.3f}, {hi:.3f}]"
    return said if pd.isna(paper) else f"{said} ({paper:.{digits}f})"


def memorized(table1: pd.DataFrame) -> pd.DataFrame:
    """Table 1 as words: mean, interval, the paper's figure in brackets; held-out rows beside it."""
    frame = by_size(table1, lambda row: interval(row, "member", row["paper"], 3))
    shown = table1[table1["method"].isin(("teacher", *PAPER))]
    highest = shown.groupby("size")["held_out"].max()
    return frame.assign(**{"held-out, highest": frame["size"].map(highest).map("{:.3f}".format)})


def utility(table2: pd.DataFrame, split: str = "held_out", metric: str = "rougeL") -> pd.DataFrame:
    """One ROUGE of one split as words, the paper's figure in brackets where it gives one."""
    name = f"{metric}_{split}"
    return by_size(table2, lambda row: interval(row, name, row[f"paper_{name}"], 2))


def all_methods(table1: pd.DataFrame, table2: pd.DataFrame) -> pd.DataFrame:
    """Every method that was run, one line each: memorized and held-out ROUGE-L by size, as words.

    Args:
        table1: as written by `claims.table1`.
        table2: as written by `claims.table2`.
    """
    first, second = (table.set_index(["method", "size"]) for table in (table1, table2))
    lines = []
    for method in (name for name in METHODS if name in set(table1["method"])):
        line = {"method": label(method)}
        for size in STUDENTS:
            line[f"{size}: memorized"] = interval(first.loc[(method, size)], "member")
        for size in STUDENTS:
            line[f"{size}: ROUGE-L"] = interval(second.loc[(method, size)], "rougeL_held_out")
        lines.append(line)
    return pd.DataFrame(lines)


def attackers(profile: str) -> pd.DataFrame:
    """What an attacker tells of the paper's methods at the probe's size, as words.

    Returns:
        one line a method: memorized share of the same rows trained on and left out (students of
        halves), AUC from the loss alone and with reference models, members found at 1% false
        alarms with references; empty where the memorization lab has not run.
    """
    names = ("counterfactual", "membership")
    if not all((runs.results_dir(profile) / f"{name}.csv").is_file() for name in names):
        return pd.DataFrame()
    halves, attacks = (read(profile, name) for name in names)
    halves = halves.set_index(["method", "metric"])
    size = halves.loc[("sft", "hit_inside"), "size"]
    found = attacks[attacks["size"] == size].set_index(["method", "score"])

    def said(line: pd.Series, name: str = "") -> str:
        value, lo, hi = (
            line[one]
            for one in ((name, f"{name}_lo", f"{name}_hi") if name else ("value", "lo", "hi"))
        )
        return "too few rows" if pd.isna(value) else f"{value:.3f} [{lo:.3f}, {hi:.3f}]"

    lines = [
        {
            "method": f"{label(method)}, {size}",
            "memorized, trained on": said(halves.loc[(method, "hit_inside")]),
            "the same rows, left out": said(halves.loc[(method, "hit_outside")]),
            "AUC, loss alone": said(found.loc[(method, "loss")], "auc"),
            "AUC, with references": said(found.loc[(method, "likelihood_ratio")], "auc"),
            "found at 1% false alarms": said(found.loc[(method, "likelihood_ratio")], "tpr_1pct"),
        }
        for method in PAPER
    ]
    return pd.DataFrame(lines)


def more_methods(table1: pd.DataFrame) -> bool:
    """Whether methods were run that the paper has not."""
    return bool(set(table1["method"]) & set(METHODS) - set(PAPER))


def markdown(frame: pd.DataFrame) -> str:
    """A table of words in Markdown; a bar inside a cell is escaped."""
    words = frame.astype(str).replace(r"\|", r"\\|", regex=True)
    lines = [list(frame.columns), ["---"] * frame.shape[1], *words.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def memorized_by(table: pd.DataFrame, method: str, seed: int) -> str:
    """What a method's students memorize, one sentence from `tables.summary`."""
    own = table.loc[method]["memorized"]
    member, held_out = (own.xs(split, level="split") for split in ("member", "held_out"))
    said = ", ".join(f"{size} {rate:.1%}" for size, rate in member.items())
    return (
        f"Memorized member rows with {label(method)}, seed {seed}: {said}; of held-out rows at "
        f"most {held_out.max():.1%}. (From `tuples.parquet` of each run.)"
    )


def legend(profile: str) -> str:
    """What the numbers of `memorized` are, in two sentences."""
    lengths = read(profile, "lengths").query("split == 'member'")
    seeds = ", ".join(map(str, sorted(lengths["seed"].unique())))
    median, shorter = lengths["median_tokens"].median(), lengths["shorter"].mean()
    return (
        f"Share of the {lengths['rows'].min()} member rows whose response greedy decoding writes "
        f"word for word, up to its {WINDOW}th token (median {median:.0f} tokens; {shorter:.1%} are "
        f"shorter than {WINDOW} and count only with their end token): all of seeds {seeds} "
        "together, 95% interval (bootstrap over groups of equal responses). In brackets the "
        "paper's figure, for its far larger models and another data set; the teacher stands "
        "under SFT."
    )


def print_report(profile: str) -> None:
    """Print the comparison, the claims and where the figures lie."""
    first, second = (read(profile, name) for name in ("table1", "table2"))

    def said(text: str, indent: str = "") -> None:
        print(textwrap.fill(text, 100, initial_indent=indent, subsequent_indent=indent))

    print(f"\nMEMORIZATION, profile {profile}")
    said(legend(profile))
    print(f"\n{memorized(first).to_string(index=False)}")
    print("\nUTILITY: ROUGE-L (F1, greedy) on held-out rows; in brackets the paper's")
    print(f"\n{utility(second).to_string(index=False)}")
    if more_methods(first):
        words = all_methods(first, second).set_index("method")
        for what in ("memorized", "ROUGE-L"):
            print(f"\nALL METHODS: {what}\n\n{words.filter(like=what).to_string()}")
    print("\nTHE CLAIMS, of the paper (C) and its companions (D, E)")
    for row in claims(profile).itertuples():
        said(f"{row.claim} {str(row.verdict).upper()}: {row.statement}")
        said(f"{row.evidence}.", indent="   ")
    print(f"\nTables   {runs.results_dir(profile).relative_to(runs.root())}")
    print(f"Figures  {runs.figures_dir(profile).relative_to(runs.root())}")
    print(f"Read     notebooks/executed/{profile}/10_comparison.ipynb")


def ledger(profile: str) -> str:
    """The claims with verdict and evidence, in Markdown."""
    judged = claims(profile)
    claim = judged["claim"] + " " + judged["statement"]
    verdict = "**" + judged["verdict"] + "**"
    words = {"claim": claim, "verdict": verdict, "evidence": judged["evidence"]}
    return markdown(pd.DataFrame(words))


def spent(profile: str) -> str:
    """What the stages took, one sentence; nothing where they were not timed."""
    if not (runs.results_dir(profile) / "stages.csv").is_file():
        return ""
    stages = read(profile, "stages")
    return (
        f"Its {len(stages)} stages took {stages['seconds'].sum() / 60:.0f} minutes in all, side by "
        f"side on {stages['machine'].iloc[0]}; the largest held "
        f"{stages['peak_mib'].max() / 1024:.1f} GiB."
    )


def readme_block(profile: str) -> str:
    """The results part of the README, from the tables alone."""
    models = read(profile, "metrics")
    made = f"commit {', '.join(sorted(models['commit'].unique()))}"
    where = f"{', '.join(sorted(models['device'].unique()))}"
    first, second = read(profile, "table1"), read(profile, "table2")
    parts = [
        f"{legend(profile)} Reference run: {made}, on {where}. {spent(profile)}".strip(),
        markdown(memorized(first)),
        ledger(profile),
    ]
    if len(told := attackers(profile)):
        parts += [ATTACKERS, markdown(told)]
    if more_methods(first):
        parts += [ALL_METHODS, markdown(all_methods(first, second))]
    return "\n\n".join(parts)


def update_readme(profile: str) -> None:
    """Replace the README's results block by what the tables say.

    Raises:
        KdlibError: there are no tables, or the README has no such block.
    """
    file = runs.root() / "README.md"
    text = file.read_text("utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise KdlibError(f"README.md has no {BEGIN} ... {END}; put both lines back")
    runs.write_text(file, f"{before}{BEGIN}\n{readme_block(profile)}\n{END}{after}")
