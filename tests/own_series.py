"""A user's own study: rows in a file, small Llamas by path, a size, a method and a template."""

import json

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kdlib.model import tokens

WORDS = ["red", "green", "blue", "old", "new", "pump", "valve", "rotor", "seal", "shaft"]
PROFILE = """
seeds = [0]

[data]
source = "file"
path = "rows.jsonl"
columns = { instruction = "question", response = "answer" }
pool = 60
members = 32
held_out = 16

[tokens]
template = "plain"
max_prompt = 48
max_length = 96

[templates.plain]
text = "Q: {instruction} ({context})\\nA: "
without_context = "Q: {instruction}\\nA: "

[models.teacher]
path = "teacher"

[models.tiny]
path = "tiny"

[teacher]
epochs = 3
lr = 5e-3
batch = 8

[student]
epochs = 2
lr = 5e-3
batch = 8

[methods.toy]
label = "Toy"
text = "student"
objective = "total_variation"
notebook = "07_on_policy"

[methods.minillm]
coefficients = { rollouts = 12, sft_epochs = 1, general_text = 0 }

[measure]
rouge_rows = 6
sampled_rows = 3
sample_seeds = [1, 2]

[probe]
splits = 2
twins = 3
"""


def make(folder):
    """The rows, the models and the profile `own.toml` in a folder."""
    dice = torch.Generator().manual_seed(0)
    picks = [torch.randint(len(WORDS), (4 + i % 7,), generator=dice).tolist() for i in range(64)]
    rows = [
        {
            "question": f"say {i}",
            "answer": " ".join([*(WORDS[j] for j in pick), str(i)]),
            "context": "" if i % 3 else "aloud",
        }
        for i, pick in enumerate(picks)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    texts = [f"Q: {row['question']} ({row['context']})\nA: {row['answer']}" for row in rows]
    tokenizer = tokens.train_tokenizer(texts, 300)
    for name, width in {"teacher": 32, "tiny": 16}.items():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        LlamaForCausalLM(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    (folder / "own.toml").write_text(PROFILE, "utf-8")
    return folder / "own.toml"
