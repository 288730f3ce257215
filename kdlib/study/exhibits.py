"""Four rows that answer in every notebook, and the rule that chooses them. Taught in 02_teacher.

1. `sft`: of the member rows that SFT memorizes, at the probe's size, the one that the fewest
   distilled students of that size memorize.
2. `teacher`: of the other member rows that the teacher memorizes, the one that the fewest students
   (of the paper's methods, at any size) memorize.
3. `held_out`: the held-out row whose response has the median number of tokens (the lower of two).
4. `canary`: of the canaries shown DOSE times an epoch, the first by row id of the longest kind (by
   its mean number of tokens).

1 to 3 are rows of the data, not planted. Where several rows meet 1 or 2 equally well, the longest
response is taken, as the hardest to guess, then the lowest row id. Where none does, none is shown.
Until notebook 10 has chosen, stand-ins take the place of 1 and 2: of the member rows whose response
no other has, the two longest.
"""

from collections.abc import Iterable, Mapping
from os.path import commonprefix
from typing import Any

import pandas as pd

from kdlib import runs
from kdlib.config.exact_match import WINDOW, exact
from kdlib.config.methods import DISTILLED, PAPER, label, ordered
from kdlib.config.profile import Profile
from kdlib.model import generation
from kdlib.model.tokens import TokenizedRows
from kdlib.study.run import BASE, Run, load

KEYS = ["seed", "method", "size", "row_id"]
DOSE = 2  # showings in an epoch
EXHIBITS = {
    "sft": "A member row that SFT memorized",
    "teacher": "A member row that the teacher memorized",
    "held_out": "A held-out row",
    "canary": f"A canary, shown {DOSE} times an epoch",
}
COUNTS = {"memorized_by": "Int64", "of": "Int64"}  # columns that may be empty
# who else may memorize 1 and 2
COMPARED_MODELS = {"sft": "distilled students", "teacher": "students"}


def choose(tuples: pd.DataFrame, size: str) -> pd.DataFrame:
    """The exhibits of each seed, from what was measured of the paper's methods and the teacher.

    `tuples` are those of `rates.collect`, `size` is the probe's. Columns: seed, exhibit (of
    EXHIBITS), row_id (the hash of the row's text; "" where no row meets it), memorized_by: how many
    `of` the models that are asked (COMPARED_MODELS) memorize it, too.
    """
    records: list[dict[str, Any]] = []
    for seed, frame in tuples.groupby("seed", sort=False):
        measured = frame.assign(hit=exact(frame))
        hits = measured.pivot(index="row_id", columns=["method", "size"], values="hit")
        students = [model for model in hits if model[0] in PAPER]
        distilled = [model for model in students if model[0] in DISTILLED and model[1] == size]
        rows = frame[frame["method"] == "teacher"]
        row_ids, members = _untrained(rows), _among(rows)["sft"]
        first, second = (("sft", size), distilled), (("teacher", "teacher"), students)
        for name, (column, models) in zip(COMPARED_MODELS, (first, second), strict=True):
            counts = hits[models].sum(axis=1)
            candidates = members[members["row_id"].map(hits[column]).to_numpy(bool)]
            candidates = candidates[~candidates["row_id"].isin(row_ids.values())]
            candidates = _longest(
                candidates.assign(others=candidates["row_id"].map(counts)), "others"
            )
            row_ids[name] = next(iter(candidates["row_id"]), "")
            memorized = {"memorized_by": counts.get(row_ids[name]), "of": len(models)}
            records.append({"seed": seed, "exhibit": name, "row_id": row_ids[name]} | memorized)
        remaining = (name for name in EXHIBITS if name not in COMPARED_MODELS)
        records += [{"seed": seed, "exhibit": name, "row_id": row_ids[name]} for name in remaining]
    return pd.DataFrame(records).astype(COUNTS)


def _among(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows among which each exhibit is chosen."""
    natural = rows[rows["kind"] == "row"]
    members, held_out = (natural[natural["split"] == split] for split in ("member", "held_out"))
    canaries = rows[(rows["kind"] == "canary") & (rows["repetitions"] == DOSE)]
    return {"sft": members, "teacher": members, "held_out": held_out, "canary": canaries}


def _longest(rows: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The longest response first, then the lowest row id; the least of `columns` before that."""
    keys = [*columns, "length", "row_id"]
    return rows.sort_values(keys, ascending=[key != "length" for key in keys])


def _untrained(rows: pd.DataFrame) -> dict[str, str]:
    """The row ids of 3 and 4, for which the rule needs no trained model."""
    pools = _among(rows)
    held_out, canaries = pools["held_out"].sort_values(["length", "row_id"]), pools["canary"]
    mean_lengths = canaries.groupby("category")["length"].mean()
    longest = canaries[canaries["category"] == mean_lengths.idxmax()] if len(canaries) else canaries
    median = held_out["row_id"].iloc[(len(held_out) - 1) // 2]
    return {"held_out": median, "canary": min(longest["row_id"], default="")}


def titles(exhibits: pd.DataFrame) -> list[str]:
    """What each line of `choose` is, in words."""
    texts = []
    for row in exhibits.itertuples():
        title = f"{list(EXHIBITS).index(row.exhibit) + 1}. {EXHIBITS[row.exhibit]}"
        if not row.row_id:
            title += ": none"
        elif row.exhibit in COMPARED_MODELS and pd.isna(row.of):
            title += " (stand-in: a long response)"
        elif row.exhibit in COMPARED_MODELS:
            title += f", and {row.memorized_by} of the paper's {row.of} "
            title += COMPARED_MODELS[row.exhibit]
        texts.append(title)
    return texts


def measured(
    frames: Mapping[str, pd.DataFrame],
    rows: TokenizedRows,
    exhibits: pd.DataFrame,
    seed: int,
    size: str,
) -> pd.DataFrame:
    """`answers` of the teacher and the paper's methods, students of one size, from tables.

    `frames` are those of `rates.collect`. Where a row was measured and not answered, as canaries
    are, the text is the verbatim beginning and "...".
    """
    nonempty = exhibits[exhibits["row_id"] != ""]
    place = pd.Series(nonempty.index, nonempty["row_id"])
    table = frames["tuples"].query("seed == @seed and row_id in @place.index")
    is_teacher = table["method"] == "teacher"
    table = table[is_teacher | (table["size"] == size) & table["method"].isin(PAPER)]
    table = table.assign(exhibit=table["row_id"].map(place), memorized=exact(table))
    greedy = frames["answers"].query("decoding == 'greedy'")
    table = table.merge(greedy[[*KEYS, "text"]], "left", on=KEYS, validate="1:1")
    beginnings = [rows.examples[row.row_id].response[: row.prefix] for row in table.itertuples()]
    texts = pd.Series([f"{text} ..." for text in rows.tokenizer.batch_decode(beginnings)])
    table = table.assign(text=table["text"].fillna(texts), model=table["method"].map(label))
    order = {method: i for i, method in enumerate(ordered(table["method"].unique()))}
    table = table.sort_values("method", key=lambda methods: methods.map(order), kind="stable")
    return table[["exhibit", "model", "text", "prefix", "length", "memorized"]]


def of_seed(profile: Profile, seed: int, rows: TokenizedRows) -> pd.DataFrame:
    """The exhibits, indexed by EXHIBITS: row_id ("": none), title, instruction, context, response.

    Those that notebook 10 has chosen, if its table is there and names rows of these kinds; else
    stand-ins, and a printed line says so.
    """
    lengths = [len(example.response) for example in rows.examples.values()]
    frame = rows.frame.assign(length=lengths).reset_index(drop=True)
    exhibits, candidates = _chosen(profile.name, seed), _among(frame)
    valid = [
        row_id in {"", *candidates[name]["row_id"]} for name, row_id in exhibits["row_id"].items()
    ]
    if not valid or not all(valid):
        reason = "names rows of other data" if valid else "has not chosen them yet"
        print(f"Exhibits 1 and 2 are stand-ins: notebook 10 {reason}.")
        longest = _longest(candidates["sft"].query("group_size == 1"))["row_id"]
        row_ids = dict(zip(COMPARED_MODELS, longest, strict=False)) | _untrained(frame)
        exhibits = (
            pd.DataFrame({"row_id": row_ids}, index=list(EXHIBITS)).fillna("").assign(of=pd.NA)
        )
    exhibits = exhibits.assign(title=titles(exhibits.rename_axis("exhibit").reset_index()))
    texts = frame.set_index("row_id")[["instruction", "context", "response"]]
    return exhibits[["row_id", "title"]].join(texts, on="row_id").fillna("")


def _chosen(profile: str, seed: int) -> pd.DataFrame:
    """The lines of `choose` that are kept of a seed, by exhibit; none where it has not run."""
    path = runs.results_dir(profile) / "exhibits.csv"
    if not path.is_file():
        return pd.DataFrame({"row_id": []})
    table = pd.read_csv(path, dtype={"row_id": str} | COUNTS).query("seed == @seed")
    return table.fillna({"row_id": ""}).set_index("exhibit")


def answers(models: Iterable[Run], rows: TokenizedRows, exhibits: pd.DataFrame) -> pd.DataFrame:
    """What finished models write, greedily, to the exhibits of `of_seed`; others are left out.

    Columns: exhibit, model (its label), text, prefix (the tokens of the response that are written
    before the first other, 0 to length), length, memorized.
    """
    row_ids = exhibits["row_id"][exhibits["row_id"] != ""]
    examples, records = [rows.examples[row_id] for row_id in row_ids], []
    for run in models:
        if run.method != BASE and not runs.done(run.folder, run.identity):
            continue
        prompts, max_new = [example.prompt for example in examples], run.profile.tokens.max_new
        options: dict[str, Any] = {"greedy": True, "end_id": rows.pad_id, "max_new": max_new}
        outputs = generation.continue_prompts(load(run), prompts, **options)
        for name, example, ids in zip(row_ids.index, examples, outputs, strict=True):
            text = rows.tokenizer.decode(ids, skip_special_tokens=True)
            prefix, length = len(commonprefix([ids, example.response])), len(example.response)
            record = {"exhibit": name, "model": run.label, "text": text, "prefix": prefix}
            hit = prefix >= min(WINDOW, length, max_new)  # as far as is looked at, and written
            records.append(record | {"length": length, "memorized": hit})
    return pd.DataFrame(records)
