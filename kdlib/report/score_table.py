"""The score so far: what the models of one seed memorize, what they are good for, how they came."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from kdlib import runs
from kdlib.analysis.rates import GREEDY_HELD_OUT, model_of, natural
from kdlib.config.methods import label
from kdlib.config.profile import Profile
from kdlib.report import results
from kdlib.stats import Line, bootstrap, line, ratio, row_text

COLUMNS = ("memorized", "held-out memorized", "member loss", "held-out loss", "usefulness")


def so_far(settings: Profile, seed: int, notebook: str) -> str:
    """The models up to a notebook, in Markdown: a table for each size, its own models in bold.

    Shown are the base model of the size and the teacher, the paper's methods that were taught until
    then, and all methods of the notebook, where they were run. Columns: COLUMNS, shares of rows at
    the end of training, nats per token, and the mean usefulness of greedy answers to held-out rows,
    with 95% intervals over groups of equal responses, all of this seed alone.
    """
    recipes, tables = settings.all_methods, []
    new = {name for name, recipe in recipes.items() if recipe.notebook == notebook}
    before = {
        name for name, recipe in recipes.items() if recipe.paper and recipe.notebook < notebook
    }
    for size in settings.sizes:
        rows = []
        for method in ("base", "teacher", *(name for name in recipes if name in new | before)):
            model_size = "teacher" if method == "teacher" else size
            folder = runs.seed_dir(settings.name, seed) / f"{method}-{model_size}"
            if runs.read_manifest(folder):  # it was run
                cells = [label(method), *_scores(folder)]
                rows.append([f"**{cell}**" for cell in cells] if method in new else cells)
        table = results.markdown(pd.DataFrame(rows, columns=["model", *COLUMNS]))
        tables.append(f"Size {size}:\n\n{table}")
    return "\n\n".join(tables)


def training(settings: Profile, folders: Iterable[Path]) -> pd.DataFrame:
    """How the models of these folders were trained: learning rate, epochs, rows of a step, steps.

    Steps are those of the path that was noted: where a method starts from SFT, those behind it.
    """
    lines = {}
    for folder in folders:
        method, size = model_of(folder).values()
        config = settings.train_settings(method, size)
        path = pd.read_parquet(folder / "path.parquet", columns=["step"])
        lines[label(method) if method == size else f"{label(method)}, {size}"] = {
            "learning rate": f"{config.lr:g}",
            "epochs": config.epochs,
            "rows of a step": config.batch * config.accumulate,
            "steps": path["step"].max(),
        }
    return pd.DataFrame.from_dict(lines, orient="index")


def on_calibration_seed(settings: Profile) -> str:
    """What SFT memorized there with the rate and length that were set, by size; "" if not known."""
    trials, parts = results.read(settings.name, "calibration", optional=True), []
    for size in settings.sizes if len(trials) else ():
        config = settings.train_settings("sft", size)
        rows = trials.query("method == 'sft' and split == 'member' and size == @size")
        rows = rows[np.isclose(rows["lr"], config.lr) & (rows["epoch"] == config.epochs)]
        parts += [f"{size} {share:.1%}" for share in rows["exact_rate"]]
    return ", ".join(parts)


def _scores(folder: Path) -> list[str]:
    """The cells of one model."""
    tuples = natural(pd.read_parquet(folder / "tuples.parquet"))
    splits = [tuples[tuples["split"] == split] for split in ("member", "held_out")]
    answers = pd.read_parquet(folder / "answers.parquet").query(GREEDY_HELD_OUT)
    answers = answers.join(tuples.set_index("row_id")["group"], on="row_id")
    shares = [row_text(_share(part, "hit"), form=".1%") for part in splits]
    losses = [row_text(_loss(part)) for part in splits]
    return [*shares, *losses, row_text(_share(answers, "usefulness"))]


def _share(frame: pd.DataFrame, column: str) -> Line:
    return ratio(frame["group"], frame[column], np.ones(len(frame)))


def _loss(frame: pd.DataFrame) -> Line:
    nats = frame["nats_per_token"]
    return line(nats.mean(), bootstrap(nats, frame["group"]))
