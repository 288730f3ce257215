"""What came out, in words: for the terminal at the end of a run, and for the README."""

import pandas as pd

from kdlib import runs
from kdlib.config import KdlibError

BEGIN, END = "<!-- results -->", "<!-- /results -->"


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
    return pd.read_csv(file)


def print_report(profile: str) -> None:
    """Print the comparison table, the claims and where the figures lie."""
    table = read(profile, "table1").drop(columns="paper_size")
    print(f"\nMemorized share of member rows (k = 50), mean over seeds, profile {profile}\n")
    print(table.to_string(index=False, float_format="{:.3f}".format))
    print("\nClaims of the paper\n")
    for row in read(profile, "claims").itertuples():
        print(f"{row.claim} {row.verdict}: {row.statement}\n   {row.evidence}")
    print(f"\nTables   {runs.results_dir(profile).relative_to(runs.root())}")
    print(f"Figures  {runs.figures_dir(profile).relative_to(runs.root())}")
    print(f"Read     notebooks/executed/{profile}/10_comparison.ipynb")


def readme_block(profile: str) -> str:
    """The results part of the README, from the tables alone."""
    table = read(profile, "table1").set_index(["variant", "student"])
    sizes = ["large", "middle", "small"]
    names = {
        "sft": "SFT",
        "word_kd": "word-level KD",
        "seq_kd": "sequence-level KD",
        "rkld": "RKLD",
    }
    teacher = table.loc[("teacher", "teacher")]
    lines = [
        f"Share of member rows memorized (k = 50), mean over {teacher['seeds']:.0f} seeds; in "
        "brackets the paper's figure for its own, far larger models. "
        f"Teacher: {teacher['member']:.3f} ({teacher['paper']:.3f}).",
        "",
        "| method | " + " | ".join(sizes) + " |",
        "|---|" + "---|" * len(sizes),
    ]
    for variant, name in names.items():
        cells = [table.loc[(variant, size)] for size in sizes]
        words = [f"{cell['member']:.3f} ({cell['paper']:.3f})" for cell in cells]
        lines.append(f"| {name} | " + " | ".join(words) + " |")
    lines += ["", "| claim | verdict | evidence |", "|---|---|---|"]
    for row in read(profile, "claims").itertuples():
        lines.append(f"| {row.claim} {row.statement} | **{row.verdict}** | {row.evidence} |")
    return "\n".join(lines)


def update_readme(profile: str) -> None:
    """Replace the README's results block by what the tables say."""
    file = runs.root() / "README.md"
    text = file.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    runs.write_text(file, f"{before}{BEGIN}\n{readme_block(profile)}\n{END}{after}")
