"""A user's own data: rows in a CSV file, tiny GPT-2 directories by path, and a profile for them."""

import pandas as pd
import toy
from transformers import CohereConfig, CohereForCausalLM

from kdlib import runs
from kdlib.config.methods import METHODS
from kdlib.config.profile import load_profile
from kdlib.config.sections import ModelSettings
from kdlib.model import checkpoints
from kdlib.study.run import Run

WIDTHS = {"teacher": 32, "large": 16, "small": 8}
POSITIONS = 260
ALL = (*METHODS, "mine")
PROFILE = """
seeds = [0]
[data]
source = "file"
path = "rows.csv"
columns = { instruction = "question", response = "answer" }
pool = 24
members = 12
held_out = 8
[tokens]
max_prompt = 64
max_length = 96
[models]
teacher = { path = "teacher" }
large = { path = "large" }
small = { path = "small" }
[teacher]
epochs = 3
lr = 1e-2
batch = 4
warmup = 0
precision = "fp32"
[student]
epochs = 2
lr = 1e-3
batch = 4
warmup = 0
precision = "fp32"
[methods]
sft = { lr = { large = 1e-3, small = 2e-3 } }
minillm = { coefficients = { rollouts = 12, sft_epochs = 1, general_text = 0 } }
[methods.mine]
label = "Mine"
text = "student"
objective = "total_variation"
notebook = "07_on_policy"
[decoding]
temperature = 1.0
beams = 4
[measure]
rouge_rows = 3
sampled_rows = 2
sample_seeds = [1, 2]
"""
# Canaries need longer prompts; teachers of halves must come to write different texts.
WITH_CANARIES = (
    ("epochs = 3", "epochs = 20"),
    ("held_out = 8", "held_out = 8\ncanaries = 1\nrepetitions = [1, 2]\ntwins = 1"),
    ("max_prompt = 64", "max_prompt = 150"),
    ("max_length = 96", f"max_length = {POSITIONS}"),
    ("[measure]", '[probe]\nsize = "small"\nsplits = 2\ntwins = 6\n[measure]'),
)


def make(folder, changed=()):
    """Rows, one GPT-2 directory per size, and the profile `own.toml` that names them."""
    rows = [
        {"question": r["instruction"], "context": r["context"], "answer": f"{r['response']} {i}"}
        for i, r in enumerate(toy.rows()[:24])
    ]
    pd.DataFrame(rows).to_csv(folder / "rows.csv", index=False)
    for size, width in WIDTHS.items():
        save_base(folder / size, width)
    (folder / "own.toml").write_text(exchanged(PROFILE, changed), "utf-8")
    return folder


def save_base(folder, width, tokenizer=None, positions=POSITIONS):
    """What `save_pretrained` writes of a GPT-2 that was never heard of here."""
    shape = ModelSettings(layers=1, heads=1, width=width)
    tokenizer = tokenizer or toy.tokenizer()
    made = checkpoints.make_model(shape, tokenizer, positions, 0)
    checkpoints.save_model(made, tokenizer, folder)


def save_scaled(folder, tokenizer, layers=1):
    """What `save_pretrained` writes of a model with a scale behind its LM head."""
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": layers}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0}
    config = CohereConfig(vocab_size=len(tokenizer), logit_scale=0.25, **shape)
    config.eos_token_id = tokenizer.eos_token_id
    checkpoints.save_model(CohereForCausalLM(config), tokenizer, folder)


def exchanged(text, changed):
    """The text with (old, new) parts exchanged in it."""
    for old, new in changed:
        assert old in text
        text = text.replace(old, new)
    return text


def profile_of(folder, *changed):
    """The folder's profile, with (old, new) texts exchanged in its file."""
    text = (folder / "own.toml").read_text("utf-8")
    runs.write_text(folder / "changed.toml", exchanged(text, changed))  # others may read it now
    return load_profile(str(folder / "changed.toml")).model_copy(update={"name": "own"})


def run_of(folder, method, *changed, seed=0):
    """The run of a method (of the smallest students), under the folder's profile so changed."""
    return Run(profile_of(folder, *changed), seed, method, size_of(method))


def size_of(method):
    """The size at which a method is run here."""
    return "teacher" if method == "teacher" else "small"
