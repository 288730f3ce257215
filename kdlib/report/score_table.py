"""The score so far: what the models of one seed memorize, and what they are good for."""

from pathlib import Path

import numpy as np
import pandas as pd

from kdlib import runs
from kdlib.analysis.rates import ASKED, natural
from kdlib.config.methods import label
from kdlib.config.profile import Profile
from kdlib.report import results
from kdlib.stats import Line, bootstrap, line, ratio, row_text

COLUMNS = ("memorized", "held-out memorized", "held-out loss", "usefulness")


def so_far(settings: Profile, seed: int, notebook: str) -> str:
    """A line for each model of the probe's size up to a notebook, in Markdown; its own in bold.

    Shown are base and teacher, the paper's methods that were taught until then, and all methods of
    the notebook, where they were run. Columns: COLUMNS, shares of rows at the end of training,
    nats per token, and the mean usefulness of greedy answers to held-out rows, with 95% intervals
    over groups of equal responses, all of this seed alone.
    """
    recipes, rows = settings.all_methods, []
    new = {name for name, one in recipes.items() if one.notebook == notebook}
    before = {name for name, one in recipes.items() if one.paper and one.notebook < notebook}
    for method in ("base", "teacher", *(name for name in recipes if name in new | before)):
        size = "teacher" if method == "teacher" else settings.probe_size
        folder = runs.seed_dir(settings.name, seed) / f"{method}-{size}"
        if runs.read_manifest(folder):  # it was run
            cells = [method if method == size else f"{label(method)} ({size})", *_scores(folder)]
            rows.append([f"**{one}**" for one in cells] if method in new else cells)
    return results.markdown(pd.DataFrame(rows, columns=["model", *COLUMNS]))


def _scores(folder: Path) -> list[str]:
    """The cells of one model."""
    tuples = natural(pd.read_parquet(folder / "tuples.parquet"))
    member, held_out = (tuples[tuples["split"] == split] for split in ("member", "held_out"))
    answers = pd.read_parquet(folder / "answers.parquet").query(ASKED)
    answers = answers.join(tuples.set_index("row_id")["group"], on="row_id")
    shares = [_share(one, "hit") for one in (member, held_out)]
    nats, groups = held_out["nats_per_token"], held_out["group"]
    loss = line(nats.mean(), bootstrap(nats, groups))
    texts = [row_text(one, form=".1%") for one in shares]
    return [*texts, row_text(loss), row_text(_share(answers, "usefulness"))]


def _share(frame: pd.DataFrame, column: str) -> Line:
    return ratio(frame["group"], frame[column], np.ones(len(frame)))
