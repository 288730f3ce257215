"""What came out, in words, from the tables of data/results alone. Taught in 10_comparison."""

import textwrap
from collections.abc import Iterable, Sequence

import pandas as pd

from kdlib import runs
from kdlib.analysis.attacks import APART, EVERY, REFERENCED
from kdlib.analysis.rates import student_sizes
from kdlib.config.exact_match import WINDOW
from kdlib.config.methods import DISTILLED, PAPER, label, ordered
from kdlib.errors import KdlibError
from kdlib.stats import row_text

ATTACKERS = (
    "What an attacker can tell, by students trained on halves of the rows (memorized) and by "
    "scores of member and held-out rows (AUC: chance of ranking a member higher, 0.5 is a guess; "
    "notebooks 11 and 13), with 95% intervals, as above (none where no draw differs, as where each "
    "member ranks above every other row); those of one seed say nothing of other training runs"
)
ATTACKS = (  # a column of `attackers` each: over, held_out, score and number of `attacks.scopes`
    ("AUC, loss alone", EVERY, EVERY, "loss", "auc"),
    ("AUC, loss alone", REFERENCED, EVERY, "loss", "auc"),
    ("AUC, with references", REFERENCED, EVERY, "likelihood_ratio", "auc"),
    ("found at 1% false alarms", REFERENCED, EVERY, "likelihood_ratio", "tpr_1pct"),
    ("found without near copies", REFERENCED, APART, "likelihood_ratio", "tpr_1pct"),
)
ALL_METHODS = (
    "All methods that were run: memorized as above, and usefulness, ROUGE-L (F1 of greedy answers) "
    "on held-out rows, each with its 95% interval, as above. The claims are about the paper's "
    f"{len(PAPER)} methods alone."
)

WAYS = {  # in which distilled students are compared with SFT, by the claim about it
    "C1": "at the end of training",
    "A1": "where both are as useful",
    "A2": "where both fit\nthe rows as closely",
}


def read(profile: str, name: str, *, optional: bool = False) -> pd.DataFrame:
    """A table of data/results/<profile>; without it, an empty frame or a KdlibError."""
    file = runs.results_dir(profile) / f"{name}.csv"
    if file.is_file():  # hexadecimal names may look like numbers: 0123456789, 12e4567890
        return pd.read_csv(file, dtype={"commit": str, "run_id": str})
    if optional:
        return pd.DataFrame()
    message = f"no results at {file.relative_to(runs.root())}"
    raise KdlibError(f"{message}; make them with: make study PROFILE={profile}")


def claims(profile: str) -> pd.DataFrame:
    """The ledger: the paper's claims and those that the memorization lab has judged, by name."""
    names = [file.stem for file in runs.results_dir(profile).glob("claims*.csv")] or ["claims"]
    tables = [read(profile, name) for name in names]
    return pd.concat(tables).sort_values("claim", ignore_index=True)  # C5b stands behind C5


def compared(profile: str) -> pd.DataFrame:
    """What the paper's distilled students memorize minus SFT, and their mean, in each of WAYS.

    The lines of `study_plots.less_than_sft`; empty where runs were not compared in these ways.
    """
    means = read(profile, "primary", optional=True)
    if means.empty:
        return means
    at_end, at_stop = read(profile, "differences"), read(profile, "equal_usefulness")
    tables = {
        "C1": at_end.query("comparison == 'to_sft' and metric == 'exact_rate' and seed == 'all'"),
        "A1": at_stop[at_stop["metric"] == "memorized"],
        "A2": read(profile, "same_fit"),
    }
    frames = [t[t["method"].isin(DISTILLED)].assign(claim=way) for way, t in tables.items()]
    return pd.concat([means.assign(method="all", size="all"), *frames], ignore_index=True)


def _texts(table: pd.DataFrame, name: str, across: str = "size") -> pd.DataFrame:
    """Values with their intervals: a line for each method, a column for each of `across`."""
    texts = table.assign(text=table.apply(row_text, axis=1, name=name))
    return texts.pivot(index="method", columns=across, values="text")


def _by_size(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """A value as the paper lays it out: by size and the paper's methods, the teacher under SFT."""
    cells = _texts(table, name).T
    cells.loc["teacher", "sft"] = cells.loc["teacher", "teacher"]
    cells = cells.reindex(index=["teacher", *student_sizes(table)], columns=PAPER)
    cells = cells.astype(object).fillna("")  # a method may not have been run
    return cells.rename(columns=label).rename_axis(columns=None).reset_index()


def memorized(table1: pd.DataFrame) -> pd.DataFrame:
    """`paper_tables.table1` as the paper lays it out; held-out rows beside it."""
    frame = _by_size(table1, "member")
    shown = table1[table1["method"].isin(("teacher", *PAPER))]
    highest = frame["size"].map(shown.groupby("size")["held_out"].max())
    return frame.assign(**{"held-out, highest": highest.map("{:.3f}".format)})


def utility(table2: pd.DataFrame) -> pd.DataFrame:
    """Students' ROUGE-L of held-out rows, of `paper_tables.table2`, as the paper lays it out.

    Beside it that of the models before fine-tuning. It means nothing without `references`.
    """
    name = "rougeL_held_out"
    frame = _by_size(table2, name).iloc[1:]
    before = _texts(table2[table2["method"] == "base"], name).loc["base"]
    frame.insert(1, "before fine-tuning", frame["size"].map(before))
    return frame


def references(table2: pd.DataFrame) -> pd.DataFrame:
    """ROUGE-L of held-out rows that students are held against, the highest first.

    The teacher, before and after fine-tuning, and answers that need no model.
    """
    name = "rougeL_held_out"
    baselines = table2[table2["size"].isin(("teacher", "all"))].sort_values(name, ascending=False)
    names = {"teacher": "the teacher", "base": "the teacher before fine-tuning"}
    rows = [
        {"answers": names.get(row["method"], f"no model: {row['method']}")}
        | {"ROUGE-L": row_text(row, name)}
        for row in baselines.to_dict("records")
    ]
    return pd.DataFrame(rows)


def fewer_seeds(table1: pd.DataFrame) -> str:
    """A sentence on methods that were trained on fewer seeds than others; "" where none was."""
    count = table1.groupby("method")["member_seeds"].max()
    names = ordered(count.index[count < count.max()])
    if not names:
        return ""
    text = f"{'; '.join(map(label, names))}. Their intervals say nothing of other training runs."
    return f"On {min(count[names]):.0f} of {count.max():.0f} seeds alone: {text}"


def sft_of_first(profile: str, count: int, sizes: Iterable[str]) -> list[float]:
    """By size what SFT memorized, on average over the first seeds, up to the window."""
    rates = read(profile, "metrics").query("method == 'sft' and metric == 'exact_rate'")
    rates = rates[(rates["split"] == "member") & (rates["k"] == WINDOW) & (rates["seed"] != "all")]
    rates = rates[rates["seed"].isin(sorted(rates["seed"].unique(), key=int)[:count])]
    return [rates.loc[rates["size"] == size, "value"].mean() for size in sizes]


def more_methods(table1: pd.DataFrame) -> bool:
    """Whether methods were run that the paper has not."""
    return not set(table1["method"]) <= {"base", "teacher", *PAPER}


def all_methods(table1: pd.DataFrame, table2: pd.DataFrame) -> pd.DataFrame:
    """Memorized and held-out ROUGE-L by size of every method that was run, of `paper_tables`."""
    tables = {"memorized": _texts(table1, "member"), "ROUGE-L": _texts(table2, "rougeL_held_out")}
    sizes = student_sizes(table1)
    columns = {f"{size}: {name}": table[size] for name, table in tables.items() for size in sizes}
    trained = [name for name in ordered(table1["method"]) if name not in ("base", "teacher")]
    return pd.DataFrame(columns).loc[trained].rename(index=label).reset_index()


def first_seeds(seeds: Sequence[int | str], count: int) -> str:
    """Of which seeds a number is that is of the first `count`: "seed 0" or "seeds 0, 1"."""
    return f"{'seeds' if count > 1 else 'seed'} {', '.join(map(str, seeds[:count]))}"


def attackers(profile: str) -> pd.DataFrame:
    """What an attacker tells of the paper's methods at the probe's size, one line a method.

    Each column says of which seeds it is. Empty where the memorization lab has not run.
    """
    names = ("counterfactual", "membership_scopes")
    halves, scores = (read(profile, name, optional=True) for name in names)
    if halves.empty or scores.empty:
        return pd.DataFrame()
    seeds = sorted(read(profile, "lengths")["seed"].unique())
    sft = halves[halves["method"] == "sft"].iloc[0]
    shares, which = _texts(halves, "value", "metric"), first_seeds(seeds, sft["seeds"])
    columns = {f"memorized, trained on ({which})": shares["hit_inside"]}
    columns[f"the same rows, left out ({which})"] = shares["hit_outside"]
    scores = scores[(scores["size"] == sft["size"]) & scores["method"].isin(PAPER)]
    for heading, *scope, name in ATTACKS:
        lines = scores[(scores[["over", "held_out", "score"]] == scope).all(axis=1)]
        which = first_seeds(seeds, lines["seeds"].max())
        columns[f"{heading} ({which})"] = _texts(lines, name, "score")[scope[-1]]
    frame = pd.DataFrame(columns)
    frame = frame.loc[[name for name in PAPER if name in frame.index]]
    return frame.rename(index=lambda method: f"{label(method)}, {sft['size']}").reset_index()


def attackers_legend(profile: str) -> str:
    """What the numbers of `attackers` are, and of how many rows those with references."""
    scores = read(profile, "membership_scopes").query("score == 'likelihood_ratio'")
    scores = scores[scores["over"] == REFERENCED].set_index("held_out")
    full, clean = (scores.loc[[scope]].iloc[0] for scope in (EVERY, APART))
    n_members, n_others = (full[name] // full["seeds"] for name in ("n_member", "n_other"))
    text = f"{ATTACKERS}. With references {n_members} member rows of a seed are held against "
    text += f"{n_others} others, of which {int(0.01 * n_others + 1e-6)} may be accused at 1%; "
    text += f"{full['n_other'] - clean['n_other']} of all others nearly copy a member row, and the "
    return f"{text}last column leaves them out (`membership_scopes.csv`):"


def planted(shares: pd.DataFrame) -> pd.DataFrame:
    """Shares of planted records that measures find, by how often they were read; see `make bench`.

    Beside n, how many; never planted ones with their upper end; text at its best `at` in the end.
    """
    rates = shares.assign(at=shares["at"].astype(str))
    last = rates[rates["epochs"] == rates["epochs"].max()].sort_values("value", kind="stable")
    best = last.drop_duplicates("measure", keep="last")[["measure", "at"]]
    scores = last.loc[last["measure"].isin(["auc", "tpr_1pct"]), ["measure", "at"]]
    rates = rates.merge(pd.concat([best, scores]).drop_duplicates(), on=["measure", "at"])
    columns = {"n": rates.groupby(["measure", "at"], sort=False)["n"].max()}
    for epochs, part in rates.groupby("epochs"):
        part = part.set_index(["measure", "at"])
        times = "once" if epochs == 1 else f"{epochs} times"
        columns[f"planted, read {times}"] = part.apply(row_text, axis=1)
        never = part["never"].map("{:.3f}".format) + part["never_hi"].map(" (≤ {:.3f})".format)
        columns[f"never planted ({times})"] = never.str.replace(r" ?\(?≤? ?nan\)?", "", regex=True)
    return pd.DataFrame(columns).reset_index()


def markdown(frame: pd.DataFrame) -> str:
    """A table of words in Markdown, bars in cells escaped (pandas does not)."""
    cells = frame.astype(str).replace(r"\|", r"\\|", regex=True)
    lines = [list(frame.columns), ["---"] * frame.shape[1], *cells.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def legend(profile: str) -> str:
    """What the numbers of `memorized` are, in two sentences."""
    lengths = read(profile, "lengths").query("split == 'member'")
    seeds = ", ".join(map(str, sorted(lengths["seed"].unique())))
    unit = "groups of equal responses"
    single = lengths["seed"].nunique() == 1
    unit = f"{unit}; it says nothing of another training run" if single else f"seeds, then {unit}"
    median, shorter = lengths["median_tokens"].median(), lengths["shorter"].mean()
    return (
        f"Share of the member rows ({lengths['rows'].min()} a seed) whose response greedy decoding "
        f"writes word for word, up to its {WINDOW}th token (median {median:.0f} tokens; "
        f"{shorter:.1%} are shorter than {WINDOW} and count only with their end token): all of "
        f"seeds {seeds} together, 95% interval (over {unit}; where no row came out, over groups "
        "alone). The teacher stands under SFT. The paper's own figures, "
        "of its far larger models and another data set, stand in `table1.csv`."
    )


def print_report(profile: str) -> None:
    """Print the comparison, the claims and where the figures lie."""
    table1, table2 = (read(profile, name) for name in ("table1", "table2"))

    def wrap(text: str, indent: str = "") -> None:
        print(textwrap.fill(text, 100, initial_indent=indent, subsequent_indent=indent))

    print(f"\nMEMORIZATION, profile {profile}")
    wrap(legend(profile))
    print(f"\n{memorized(table1).to_string(index=False)}")
    print("\nUTILITY: ROUGE-L (F1, greedy) on held-out rows")
    print(f"\n{utility(table2).to_string(index=False)}")
    print(f"\n{references(table2).to_string(index=False)}")
    if more_methods(table1):
        frame = all_methods(table1, table2).set_index("method")
        for measure in ("memorized", "ROUGE-L"):
            print(f"\nALL METHODS: {measure}\n\n{frame.filter(like=measure).to_string()}")
    print("\nTHE CLAIMS, of the paper (C) and its companions (D, E)")
    for row in claims(profile).itertuples():
        wrap(f"{row.claim} {str(row.verdict).upper()}: {row.statement}")
        wrap(f"{row.evidence}.", indent="   ")
    print(f"\nTables   {runs.results_dir(profile).relative_to(runs.root())}")
    print(f"Figures  {runs.figures_dir(profile).relative_to(runs.root())}")
    print(f"Read     notebooks/executed/{profile}/10_comparison.ipynb")


def ledger(profile: str, letters: str = "") -> str:
    """Claims (whose names begin so), verdict and evidence, in Markdown; "" without any."""
    table = claims(profile)[lambda df: df["claim"].str[0].isin([*letters]) | (not letters)]
    return markdown(in_lines(table).drop(columns="rule")) if len(table) else ""


def in_lines(table: pd.DataFrame) -> pd.DataFrame:
    """Lines of `claims.ledger` as tables show them: claim, rule, verdict, evidence.

    A rule and its evidence are parts between semicolons. Folded, each in a numbered line, are those
    of a rule, and of evidence all but the first two and those that say why there is no verdict.
    """
    frame = table[["claim", "rule", "verdict", "evidence"]].copy()
    frame["claim"] += " " + table["statement"]
    frame["verdict"] = "**" + frame["verdict"] + "**"
    frame["rule"] = [_folded(text, 0, "the rule") for text in frame["rule"]]
    frame["evidence"] = [_folded(text, 2, "more") for text in frame["evidence"]]
    return frame


def _folded(text: str, n: int, summary: str) -> str:
    """All but the first `n` parts in lines that unfold, where that is more than one part."""
    parts = list(enumerate(text.split("; "), 1))
    shown = [part for part in parts if part[0] <= n or n and part[1].startswith("no verdict")]
    rest = "<br>".join(f"{part[0]}. {part[1]}" for part in parts if part not in shown)
    rest = f"<details><summary>{summary}</summary>{rest}</details>"
    return "; ".join(part for _, part in shown) + rest if len(parts) > n + 1 else text
