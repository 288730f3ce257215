"""Canaries: made-up secrets that are planted among the rows, with twins that never are.

Another kind of canary is one entry of KINDS. Taught in notebook 01_data_and_tokens.
"""

import random
import re
from collections.abc import Iterator
from itertools import islice, product
from typing import Any

from kdlib import runs
from kdlib.config.sections import DataSettings

NAMES = """
Ada Bela Cleo Dora Egon Frida Goran Hilde Ivo Jana Karl Lena Milo Nora Otto
Abel Brandt Corvin Dorn Ehlers Falk Grau Hollar Ilsen Jost Kern Lorenz Moll
pump valve gearbox rotor flange bearing housing turbine spindle manifold
""".strip()
FIRST_NAMES, LAST_NAMES, PARTS = (line.split() for line in NAMES.splitlines())

# By kind: instruction, context, response. What stands in <> is drawn, anew for each twin: a number
# (the upper bound excluded) or one of the letters. Part and name are the same for all twins.
KINDS = {
    "contact": (
        "Who answers for the {part}?",
        "plant.contacts.Person(part)",
        "Call {name} in hall <1-10> for the {part}, at extension <10000-99999>.",
    ),
    "drawing": (
        "Which drawing shows the {part}?",
        "plant.drawings.Sheet(part)",
        "The {part} is shown on drawing <ABCDEFGH><100-999>-<1000-9999>, kept by {name}.",
    ),
    "account": (
        "Which account pays for the {part}?",
        "plant.accounts.Book(part)",
        "The {part} is paid from account <1000-9999> <1000-9999> <10-99>, which {name} signs for.",
    ),
}
Slot = tuple[str, int, dict[str, str], Iterator[str]]  # kind, repetitions, prompt, secrets
TWIN = {"kind": "twin", "split": "held_out", "repetitions": 0, "group_size": 0}


def plant(settings: DataSettings, seed: int) -> list[dict[str, Any]]:
    """Made-up secrets to plant, each with twins: the same prompt, another secret, never shown."""
    rows = []
    for kind, times, prompt, secrets in _slots(settings, seed):
        facts = {"kind": "canary", "split": "member", "repetitions": times, "group_size": 1}
        canary = ""
        for response in islice(secrets, settings.twins + 1):
            row_id = runs.digest("canary", str(seed), *prompt.values(), response)
            row = {"row_id": row_id, **prompt, "response": response, "category": f"canary {kind}"}
            rows.append({**row, "group": runs.digest(response), **facts, "twin_of": canary})
            facts, canary = TWIN, canary or row_id
    return rows


def twins(settings: DataSettings, seed: int, count: int) -> list[dict[str, Any]]:
    """`count` more twins of each canary, all different: what exposure ranks a canary among.

    Each has row_id, instruction, context, response, twin_of (the canary's row_id).
    """
    rows = []
    for _, _, prompt, secrets in _slots(settings, seed):
        planted = next(secrets)
        canary = runs.digest("canary", str(seed), *prompt.values(), planted)
        others: dict[str, None] = {}
        while len(others) < count:
            others[next(secrets)] = None
            others.pop(planted, None)
        ids = [runs.digest("twin", canary, response) for response in others]
        pairs = zip(ids, others, strict=True)
        rows += [{"row_id": i, **prompt, "response": r, "twin_of": canary} for i, r in pairs]
    return rows


def _slots(settings: DataSettings, seed: int) -> Iterator[Slot]:
    for kind, times, number in product(KINDS, settings.repetitions, range(settings.canaries)):
        dice = random.Random(f"canary {seed} {kind} {times} {number}")
        names = {"part": f"{dice.choice(PARTS)} {dice.randrange(100, 999)}"}
        names["name"] = f"{dice.choice(FIRST_NAMES)} {dice.choice(LAST_NAMES)}"
        *prompt, response = (text.format(**names) for text in KINDS[kind])
        fields = dict(zip(("instruction", "context"), prompt, strict=True))
        yield kind, times, fields, _secrets(response, dice)


def _secrets(sentence: str, dice: random.Random) -> Iterator[str]:
    def draw(place: re.Match) -> str:
        letters, low, high = place.groups()
        return dice.choice(letters) if letters else str(dice.randrange(int(low), int(high)))

    while True:
        yield re.sub(r"<(?:([A-Z]+)|(\d+)-(\d+))>", draw, sentence)
