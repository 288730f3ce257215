"""What the tests of the audit share: rows, files and settings."""

import numpy as np
import pandas as pd
import toy

from kdlib.audit import command
from kdlib.config.sections import AuditSettings


def table(rows=None, **more):
    frame = pd.DataFrame(toy.rows() if rows is None else rows).drop(columns="row_id")
    return frame.assign(category="kind", **more)


def unseen(n=40):
    """Rows like the toy's that it was not trained on."""
    dice = np.random.default_rng(1)
    words = [" ".join(dice.choice(toy.WORDS, 4 + i % 5)) for i in range(n)]
    said = [
        {"instruction": f"tell {i}", "context": "", "response": f"{w} {i}"}
        for i, w in enumerate(words)
    ]
    return pd.DataFrame(said).assign(category="other")


def write(frame, path):
    if path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    return path


def audit_of(model, folder, data=None, held_out=None, **more):
    data = write(table() if data is None else data, folder / "rows.jsonl")
    if held_out is not None:
        held_out = write(held_out, folder / "others.csv")
    given = {
        "template": toy.TEMPLATE,
        "model": str(model),
        "data": data,
        "held_out": held_out,
        "out": folder / "out",
    }
    return AuditSettings(**given | more)


def written(out):
    return pd.concat([pd.read_parquet(path) for path in command.parts(out)], ignore_index=True)
