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
ASKED = {"sft": "distilled students", "teacher": "students"}  # who else may memorize 1 and 2


def choose(tuples: pd.DataFrame, size: str) -> pd.DataFrame:
    """The exhibits of each seed, from what was measured of the paper's methods and the teacher.

    `tuples` are those of `rates.collect`, `size` is the probe's. Columns: seed, exhibit (of
    EXHIBITS), row_id (the hash of the row's text; "" where no row meets it), memorized_by: how many
    `of` the models that are asked (ASKED) memorize it, too.
    """
    lines: list[dict[str, Any]] = []
    for seed, part in tuples.groupby("seed", sort=False):
        measured = part.assign(hit=exact(part))
        hits = measured.pivot(index="row_id", columns=["method", "size"], values="hit")
        students = [model for model in hits if model[0] in PAPER]
        distilled = [model for model in students if model[0] in DISTILLED and model[1] == size]
        rows = part[part["method"] == "teacher"]
        found, members = _untrained(rows), _among(rows)["sft"]
        first, second = (("sft", size), distilled), (("teacher", "teacher"), students)
        for name, (own, asked) in zip(ASKED, (first, second), strict=True):
            others = hits[asked].sum(axis=1)
            known = members[members["row_id"].map(hits[own]).to_numpy(bool)]
            known = known[~known["row_id"].isin(found.values())]
            known = _longest(known.assign(others=known["row_id"].map(others)), "others")
            found[name] = next(iter(known["row_id"]), "")
            facts = {"memorized_by": others.get(found[name]), "of": len(asked)}
            lines.append({"seed": seed, "exhibit": name, "row_id": found[name]} | facts)
        others_than = (name for name in EXHIBITS if name not in ASKED)
        lines += [{"seed": seed, "exhibit": one, "row_id": found[one]} for one in others_than]
    return pd.DataFrame(lines).astype(COUNTS)


def _among(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows among which each exhibit is chosen."""
    natural = rows[rows["kind"] == "row"]
    members, held_out = (natural[natural["split"] == split] for split in ("member", "held_out"))
    shown = rows[(rows["kind"] == "canary") & (rows["repetitions"] == DOSE)]
    return {"sft": members, "teacher": members, "held_out": held_out, "canary": shown}


def _longest(rows: pd.DataFrame, *before: str) -> pd.DataFrame:
    """The longest response first, then the lowest row id; the least of `before` before that."""
    keys = [*before, "length", "row_id"]
    return rows.sort_values(keys, ascending=[one != "length" for one in keys])


def _untrained(rows: pd.DataFrame) -> dict[str, str]:
    """The row ids of 3 and 4, for which the rule needs no trained model."""
    among = _among(rows)
    held_out, planted = among["held_out"].sort_values(["length", "row_id"]), among["canary"]
    kinds = planted.groupby("category")["length"].mean()
    longest = planted[planted["category"] == kinds.idxmax()] if len(planted) else planted
    median = held_out["row_id"].iloc[(len(held_out) - 1) // 2]
    return {"held_out": median, "canary": min(longest["row_id"], default="")}


def titles(chosen: pd.DataFrame) -> list[str]:
    """What each line of `choose` is, in words."""
    found = []
    for line in chosen.itertuples():
        title = f"{list(EXHIBITS).index(line.exhibit) + 1}. {EXHIBITS[line.exhibit]}"
        if not line.row_id:
            title += ": none"
        elif line.exhibit in ASKED and pd.isna(line.of):
            title += " (stand-in: a long response)"
        elif line.exhibit in ASKED:
            title += f", and {line.memorized_by} of {line.of} {ASKED[line.exhibit]}"
        found.append(title)
    return found


def measured(
    frames: Mapping[str, pd.DataFrame],
    rows: TokenizedRows,
    shown: pd.DataFrame,
    seed: int,
    size: str,
) -> pd.DataFrame:
    """`answers` of the teacher and the paper's methods, students of one size, from tables.

    `frames` are those of `rates.collect`. Where a row was measured and not answered, as canaries
    are, the text is the verbatim beginning and "...".
    """
    there = shown[shown["row_id"] != ""]
    place = pd.Series(there.index, there["row_id"])
    own = frames["tuples"].query("seed == @seed and row_id in @place.index")
    teacher = own["method"] == "teacher"
    own = own[teacher | (own["size"] == size) & own["method"].isin(PAPER)]
    own = own.assign(exhibit=own["row_id"].map(place), memorized=exact(own))
    said = frames["answers"].query("decoding == 'greedy'")
    own = own.merge(said[[*KEYS, "text"]], "left", on=KEYS, validate="1:1")
    begun = [rows.examples[one.row_id].response[: one.prefix] for one in own.itertuples()]
    texts = pd.Series([f"{text} ..." for text in rows.tokenizer.batch_decode(begun)])
    own = own.assign(text=own["text"].fillna(texts), model=own["method"].map(label))
    order = {method: i for i, method in enumerate(ordered(own["method"].unique()))}
    own = own.sort_values("method", key=lambda one: one.map(order), kind="stable")
    return own[["exhibit", "model", "text", "prefix", "length", "memorized"]]


def of_seed(profile: Profile, seed: int, rows: TokenizedRows) -> pd.DataFrame:
    """The exhibits, indexed by EXHIBITS: row_id ("": none), title, instruction, context, response.

    Those that notebook 10 has chosen, if its table is there and names rows of these kinds; else
    stand-ins, and a printed line says so.
    """
    lengths = [len(one.response) for one in rows.examples.values()]
    own = rows.frame.assign(length=lengths).reset_index(drop=True)
    chosen, among = _chosen(profile.name, seed), _among(own)
    there = [row in {"", *among[name]["row_id"]} for name, row in chosen["row_id"].items()]
    if not there or not all(there):
        why = "names rows of other data" if there else "has not chosen them yet"
        print(f"Exhibits 1 and 2 are stand-ins: notebook 10 {why}.")
        longest = _longest(among["sft"].query("group_size == 1"))["row_id"]
        found = dict(zip(ASKED, longest, strict=False)) | _untrained(own)
        chosen = pd.DataFrame({"row_id": found}, index=list(EXHIBITS)).fillna("").assign(of=pd.NA)
    chosen = chosen.assign(title=titles(chosen.rename_axis("exhibit").reset_index()))
    texts = own.set_index("row_id")[["instruction", "context", "response"]]
    return chosen[["row_id", "title"]].join(texts, on="row_id").fillna("")


def _chosen(profile: str, seed: int) -> pd.DataFrame:
    """The lines of `choose` that are kept of a seed, by exhibit; none where it has not run."""
    file = runs.results_dir(profile) / "exhibits.csv"
    if not file.is_file():
        return pd.DataFrame({"row_id": []})
    kept = pd.read_csv(file, dtype={"row_id": str} | COUNTS).query("seed == @seed")
    return kept.fillna({"row_id": ""}).set_index("exhibit")


def answers(asked: Iterable[Run], rows: TokenizedRows, shown: pd.DataFrame) -> pd.DataFrame:
    """What finished models write, greedily, to the exhibits of `of_seed`; others are left out.

    Columns: exhibit, model (its label), text, prefix (the tokens of the response that are written
    before the first other, 0 to length), length, memorized.
    """
    there = shown["row_id"][shown["row_id"] != ""]
    examples, lines = [rows.examples[row_id] for row_id in there], []
    for run in asked:
        if run.method != BASE and not runs.done(run.folder, run.identity):
            continue
        prompts, longest = [one.prompt for one in examples], run.profile.tokens.max_new
        how: dict[str, Any] = {"greedy": True, "end_id": rows.pad_id, "max_new": longest}
        written = generation.continue_prompts(load(run), prompts, **how)
        for name, example, ids in zip(there.index, examples, written, strict=True):
            text = rows.tokenizer.decode(ids, skip_special_tokens=True)
            prefix, length = len(commonprefix([ids, example.response])), len(example.response)
            facts = {"exhibit": name, "model": run.label, "text": text, "prefix": prefix}
            known = prefix >= min(WINDOW, length, longest)  # as far as is looked at, and written
            lines.append(facts | {"length": length, "memorized": known})
    return pd.DataFrame(lines)
