"""What came out, in words: for the terminal at the end of a run, the notebooks and the README.

Reads the tables of data/results alone. Taught in notebook 10_comparison.
"""

import textwrap
from collections.abc import Sequence

import pandas as pd

from kdlib import runs
from kdlib.analysis.rates import student_sizes
from kdlib.config.definitions import WINDOW
from kdlib.config.methods import PAPER, label, ordered
from kdlib.errors import KdlibError
from kdlib.stats import row_text

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


def read(profile: str, name: str, *, optional: bool = False) -> pd.DataFrame:
    """A table of data/results/<profile>; without it, an empty frame or a KdlibError."""
    file = runs.results_dir(profile) / f"{name}.csv"
    if file.is_file():  # hexadecimal names may look like numbers: 0123456789, 12e4567890
        return pd.read_csv(file, dtype={"commit": str, "run_id": str})
    if optional:
        return pd.DataFrame()
    what = f"no results at {file.relative_to(runs.root())}"
    raise KdlibError(f"{what}; make them with: make study PROFILE={profile}")


def claims(profile: str) -> pd.DataFrame:
    """The ledger: the paper's claims and those that the memorization lab has judged, by name."""
    files = sorted(runs.results_dir(profile).glob("claims*.csv"))
    judged = [read(profile, name) for name in [file.stem for file in files] or ["claims"]]
    return pd.concat(judged).sort_values("claim", ignore_index=True)  # C5b stands behind C5


def _by_size(table: pd.DataFrame, name: str, paper: str, digits: int) -> pd.DataFrame:
    """A value as the paper lays it out: by size and the paper's methods, the teacher under SFT."""

    def cell(row: pd.Series) -> str:
        return row_text(row, name) + ("" if pd.isna(row[paper]) else f" ({row[paper]:.{digits}f})")

    shown = table[table["method"].isin(("teacher", *PAPER))]
    cells = shown.replace({"method": {"teacher": "sft"}}).assign(cell=shown.apply(cell, axis=1))
    cells = cells.pivot(index="size", columns="method", values="cell")
    cells = cells.reindex(index=["teacher", *student_sizes(table)], columns=PAPER).fillna("")
    return cells.rename(columns=label).rename_axis(columns=None).reset_index()


def memorized(table1: pd.DataFrame) -> pd.DataFrame:
    """`paper_tables.table1` with the paper's figures in brackets; held-out rows beside it."""
    frame = _by_size(table1, "member", "paper", 3)
    shown = table1[table1["method"].isin(("teacher", *PAPER))]
    highest = shown.groupby("size")["held_out"].max()
    return frame.assign(**{"held-out, highest": frame["size"].map(highest).map("{:.3f}".format)})


def utility(table2: pd.DataFrame, split: str = "held_out", metric: str = "rougeL") -> pd.DataFrame:
    """One ROUGE of one split of `paper_tables.table2` with the paper's figures in brackets."""
    return _by_size(table2, f"{metric}_{split}", f"paper_{metric}_{split}", 2)


def more_methods(table1: pd.DataFrame) -> bool:
    """Whether methods were run that the paper has not."""
    return not set(table1["method"]) <= {"base", "teacher", *PAPER}


def _by_method(methods: Sequence[str], *columns: tuple[str, pd.DataFrame, str]) -> pd.DataFrame:
    """One line a method; each column a title, a table indexed by method, and its column."""
    frame = pd.DataFrame({"method": methods})
    for title, table, column in columns:
        frame[title] = [row_text(table.loc[method], column) for method in methods]
    return frame.assign(method=frame["method"].map(label))


def all_methods(table1: pd.DataFrame, table2: pd.DataFrame) -> pd.DataFrame:
    """Memorized and held-out ROUGE-L by size of every method that was run, of `paper_tables`."""
    measures = (("memorized", table1, "member"), ("ROUGE-L", table2, "rougeL_held_out"))
    columns = [
        (f"{size}: {name}", table[table["size"] == size].set_index("method"), column)
        for name, table, column in measures
        for size in student_sizes(table1)
    ]
    trained = [one for one in ordered(table1["method"]) if one not in ("base", "teacher")]
    return _by_method(trained, *columns)


def attackers(profile: str) -> pd.DataFrame:
    """What an attacker tells of the paper's methods at the probe's size, one line a method.

    Memorized share of the same rows trained on and left out (students of halves), AUC, members
    found; empty where the memorization lab has not run.
    """
    halves, scores = (read(profile, one, optional=True) for one in ("counterfactual", "membership"))
    if not (len(halves) and len(scores)):
        return pd.DataFrame()
    size = halves.loc[halves["method"] == "sft", "size"].iloc[0]
    scores = scores[scores["size"] == size].set_index(["score", "method"])
    halves = halves.set_index(["metric", "method"])
    frame = _by_method(
        PAPER,
        ("memorized, trained on", halves.loc["hit_inside"], "value"),
        ("the same rows, left out", halves.loc["hit_outside"], "value"),
        ("AUC, loss alone", scores.loc["loss"], "auc"),
        ("AUC, with references", scores.loc["likelihood_ratio"], "auc"),
        ("found at 1% false alarms", scores.loc["likelihood_ratio"], "tpr_1pct"),
    )
    return frame.assign(method=frame["method"] + f", {size}")


def markdown(frame: pd.DataFrame) -> str:
    """A table of words in Markdown; bars in cells are escaped, which pandas does not do."""
    words = frame.astype(str).replace(r"\|", r"\\|", regex=True)
    lines = [list(frame.columns), ["---"] * frame.shape[1], *words.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def memorized_by(table: pd.DataFrame, method: str, seed: int) -> str:
    """What a method's students memorize, one sentence from `rates.summary`."""
    rates = table.loc[method]["memorized"]
    member, held_out = (rates.xs(split, level="split") for split in ("member", "held_out"))
    shares = ", ".join(f"{size} {rate:.1%}" for size, rate in member.items())
    most = f"of held-out rows at most {held_out.max():.1%}. (From `tuples.parquet` of each run.)"
    return f"Memorized member rows with {label(method)}, seed {seed}: {shares}; {most}"


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

    def wrap(text: str, indent: str = "") -> None:
        print(textwrap.fill(text, 100, initial_indent=indent, subsequent_indent=indent))

    print(f"\nMEMORIZATION, profile {profile}")
    wrap(legend(profile))
    print(f"\n{memorized(first).to_string(index=False)}")
    print("\nUTILITY: ROUGE-L (F1, greedy) on held-out rows; in brackets the paper's\n")
    print(utility(second).to_string(index=False))
    if more_methods(first):
        words = all_methods(first, second).set_index("method")
        for what in ("memorized", "ROUGE-L"):
            print(f"\nALL METHODS: {what}\n\n{words.filter(like=what).to_string()}")
    print("\nTHE CLAIMS, of the paper (C) and its companions (D, E)")
    for row in claims(profile).itertuples():
        wrap(f"{row.claim} {str(row.verdict).upper()}: {row.statement}")
        wrap(f"{row.evidence}.", indent="   ")
    print(f"\nTables   {runs.results_dir(profile).relative_to(runs.root())}")
    print(f"Figures  {runs.figures_dir(profile).relative_to(runs.root())}")
    print(f"Read     notebooks/executed/{profile}/10_comparison.ipynb")


def ledger(profile: str) -> str:
    """The claims with verdict and evidence, in Markdown."""
    judged = claims(profile)
    claim = judged["claim"] + " " + judged["statement"]
    words = judged.assign(claim=claim, verdict="**" + judged["verdict"] + "**")
    return markdown(words[["claim", "verdict", "evidence"]])


def spent(profile: str) -> str:
    """What the stages took, one sentence; nothing where they were not timed."""
    stages = read(profile, "stages", optional=True)
    if not len(stages):
        return ""
    minutes, most = stages["seconds"].sum() / 60, stages["peak_mib"].max() / 1024
    took = f"Its {len(stages)} stages took {minutes:.0f} minutes in all"
    return f"{took}, side by side on {stages['machine'].iloc[0]}; the largest held {most:.1f} GiB."


def readme_block(profile: str) -> str:
    """The results part of the README, from the tables alone."""
    models, first, second = (read(profile, name) for name in ("metrics", "table1", "table2"))
    commits, devices = (", ".join(sorted(models[one].unique())) for one in ("commit", "device"))
    made = f"Reference run: commit {commits}, on {devices}."
    parts = [f"{legend(profile)} {made} {spent(profile)}".strip()]
    parts += [markdown(memorized(first)), ledger(profile)]
    if len(attacked := attackers(profile)):
        parts += [ATTACKERS, markdown(attacked)]
    if more_methods(first):
        parts += [ALL_METHODS, markdown(all_methods(first, second))]
    return "\n\n".join(parts)


def update_readme(profile: str) -> None:
    """Replace the README's results block, if it has one (KdlibError), by what the tables say."""
    file = runs.root() / "README.md"
    before, begin, rest = file.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise KdlibError(f"README.md has no {BEGIN} ... {END}; put both lines back")
    runs.write_text(file, f"{before}{BEGIN}\n{readme_block(profile)}\n{END}{after}")
