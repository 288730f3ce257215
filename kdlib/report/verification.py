"""Do the published numbers hold? Committed tables against those of another run, cell by cell.

A number is `same` if it equals the committed one to the 6 printed digits, `within` if it lies in
the committed interval (`value` in lo..hi, `x` in x_lo..x_hi) or, without one, within 2 sqrt(n) of a
count (2 standard deviations), the width of the interval for its ends, 0.02 + 5% for others.
All else is `different`, and so is a row, column or table that one side lacks. Rows are matched by
their text and `KEYS`. Timings and memory are listed and never decide. Not compared: who made a row,
the sentences of `evidence` and `note`, whose numbers stand in the tables, and the rows chosen to be
shown.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from kdlib import runs
from kdlib.analysis.rates import student_sizes
from kdlib.errors import KdlibError

KEYS = {"seed", "k", "at", "times", "repetitions", "epoch", "step", "seeds", "generation"}
JUDGED = {"statement", "rule", "verdict"}  # text that has to be the same
IGNORED = {"run_id", "commit", "device", "dtype", "machine", "evidence", "note"}
TIMINGS = {"seconds", "peak_mib", "ms_per_token"}  # columns, and values of the column metric
COUNTS = re.compile(r"n|n_.*|.*_n|hits|.*groups|rows|before|after|new|gone")
# tables that no study makes anew, and one of chosen rows
NOT_COMPARED = {"calibration", "exhibits", "healed_elsewhere", "tuning", "tuned"}
NOT_COMPARED |= {"tuned_hypervolumes", "tuning_advice"}
# a table that each part writes
OF_PART = {"lab": "claims_inheritance", "cause": "cause", "defences": "plane"}
OF_PART |= {"life": "life_generations", "release": "release_steps"}
COLUMNS = ["table", "row", "column", "committed", "other", "lo", "hi", "state"]


def read(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables of a results folder by name, as text; KdlibError where no study has ended."""
    files = [file for file in sorted(folder.glob("*.csv")) if file.stem not in NOT_COMPARED]
    if not (folder / "metrics.csv").is_file():
        raise KdlibError(f"{folder} holds no finished study: no table metrics.csv")
    return {file.stem: pd.read_csv(file, dtype=str, keep_default_na=False) for file in files}


def studied(tables: dict[str, pd.DataFrame]) -> tuple[str, str, str]:
    """The seeds, the methods and the parts of the tables, as `study` takes them."""
    metrics = tables["metrics"]
    students = metrics[metrics["size"].isin(student_sizes(metrics))]  # not answers without a model
    methods = [method for method in students["method"].unique() if method != "base"]
    parts = [part for part, table in OF_PART.items() if table in tables]
    seeds = sorted(metrics["seed"].unique(), key=int)
    return " ".join(seeds), " ".join(methods), " ".join(parts)


def compare(committed: dict[str, pd.DataFrame], other: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Every cell of all tables: a frame with COLUMNS."""
    parts = []
    for name in sorted(committed | other):
        frames = [_lacking(["(table)"], name in committed)]
        if name in committed and name in other:
            frames = [*_cells(committed[name], other[name])]
        parts += [part.assign(table=name) for part in frames]
    return pd.concat(parts, ignore_index=True).reindex(columns=COLUMNS)


def _lacking(rows: Iterable[str], committed: bool, column: str = "") -> pd.DataFrame:
    """What one side lacks."""
    sides = {"committed": "there" * committed, "other": "there" * (not committed)}
    return pd.DataFrame({"row": list(rows), "column": column, "state": "different"} | sides)


def _cells(committed: pd.DataFrame, other: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The cells of one table, column by column."""
    shared = [c for c in committed if c in other and c not in IGNORED]
    for column in sorted((set(committed) ^ set(other)) - IGNORED):
        yield _lacking(["(column)"], column in committed, column)
    cells = pd.concat([committed, other])[shared]
    is_text = cells.apply(pd.to_numeric, errors="coerce").isna() & ~cells.isin(
        ["", "True", "False"]
    )
    text_columns = set(is_text.columns[is_text.any()]) - JUDGED - TIMINGS  # these name a row
    keys = [c for c in shared if c in KEYS | text_columns or c.endswith("_seeds")]
    a, b = _by_row(committed, keys), _by_row(other, keys)
    yield _lacking(a.index.difference(b.index).get_level_values(0), True)
    yield _lacking(b.index.difference(a.index).get_level_values(0), False)
    rows = a.index.intersection(b.index)
    for column in (name for name in shared if name not in keys):
        yield _column(a.loc[rows], b.loc[rows], column)


def _by_row(frame: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The frame by its rows' keys; rows with the same one are told apart by their order."""
    parts = [key + " " + frame[key] for key in keys]
    row = pd.concat(parts, axis=1).agg(", ".join, axis=1) if parts else frame.iloc[:, 0] * 0
    return frame.set_index(pd.MultiIndex.from_arrays([row, row.groupby(row).cumcount()]))


def _column(a: pd.DataFrame, b: pd.DataFrame, column: str) -> pd.DataFrame:
    """One column's cells, on the rows that both sides have."""
    cells = pd.DataFrame({"row": a.index.get_level_values(0), "column": column})
    cells["committed"], cells["other"] = a[column].to_numpy(), b[column].to_numpy()
    compared = "value" if a[column].isin(["True", "False"]).any() and "value" in a else column
    old, new = (pd.to_numeric(side[compared], errors="coerce").to_numpy() for side in (a, b))
    cells["lo"], cells["hi"] = _bounds(a, compared, old)
    same = (cells["committed"] == cells["other"]) | ((old == new) & (compared == column))
    within = (cells["lo"] <= new) & (new <= cells["hi"])
    is_timing = a["metric"].isin(TIMINGS).to_numpy() if "metric" in a else np.zeros(len(a), bool)
    states = {"timing": is_timing | (column in TIMINGS), "same": same, "within": within}
    return cells.assign(state=np.select([*states.values()], [*states], "different"))


def _bounds(a: pd.DataFrame, column: str, old: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From where to where each cell of a column may lie."""
    stem = re.sub(r"(^|_)(lo|hi)$", "", column)
    ends = [f"{stem}_{end}" if stem not in ("", "value") else end for end in ("lo", "hi")]
    lo, hi = a.reindex(columns=ends).apply(pd.to_numeric, errors="coerce").to_numpy(float).T
    counts = COUNTS.fullmatch(column)
    spread = 2 * np.sqrt(np.maximum(old, 1)) if counts else 0.02 + 0.05 * abs(old)
    if stem != column:  # an end of the interval
        spread = np.fmax(spread, hi - lo)
        lo = hi = np.full(len(old), np.nan)
    return np.where(np.isnan(lo), old - spread, lo), np.where(np.isnan(hi), old + spread, hi)


def summary(cells: pd.DataFrame) -> str:
    """How many cells of each table are in which state, the verdicts, and what differs."""
    states = ["same", "within", "different", "timing"]
    counts = pd.crosstab(cells["table"], cells["state"]).reindex(columns=states, fill_value=0)
    counts.loc["all"] = counts.sum()
    verdicts = cells[cells["column"] == "verdict"].itertuples()
    lines = [counts.to_string(), "", *(f"{v.row}: {v.committed}, {v.state}" for v in verdicts)]
    for cell in cells[cells["state"] == "different"].itertuples():
        location = f"{cell.table}: {cell.row} {cell.column}".rstrip()
        bounds = "" if pd.isna(cell.lo) else f" (from {cell.lo:.6g} to {cell.hi:.6g})"
        expected = f"{cell.committed or 'none'}{bounds}"
        lines.append(f"different: {location}: {expected}, now {cell.other or 'none'}")
    return "\n".join(lines)


def verify(committed: Path, other: Path, listing: Path) -> bool:
    """Whether two results folders agree; prints the summary, writes every cell to `listing`."""
    cells = compare(read(committed), read(other))
    runs.write_table(listing, cells)
    print(summary(cells))
    count = int((cells["state"] == "different").sum())
    print(f"\n{'the tables hold' if not count else f'{count} differ'}; every cell: {listing}")
    return not count
