"""Canaries: made-up secrets planted among the rows, and twins that never are. Taught in 01."""

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

# By kind, and another is one more entry: instruction, context, response. What stands in <> differs
# between twins: a number (the upper bound excluded) or one of the letters.
KINDS = {
    "contact": ("Who answers for the {part}?", "plant.contacts.Person(part)",
        "Call {name} in hall <1-10> for the {part}, at extension <10000-99999>."),
    "drawing": ("Which drawing shows the {part}?", "plant.drawings.Sheet(part)",
        "The {part} is shown on drawing <ABCDEFGH><100-999>-<1000-9999>, kept by {name}."),
    "account": ("Which account pays for the {part}?", "plant.accounts.Book(part)",
        "The {part} is paid from account <1000-9999> <1000-9999> <10-99>, which {name} signs for."),
}  # fmt: skip
Slot = tuple[str, int, dict[str, str], Iterator[str]]  # kind, repetitions, prompt, secrets
TWIN = {"kind": "twin", "split": "held_out", "repetitions": 0, "group_size": 0}


def plant(settings: DataSettings, seed: int) -> list[dict[str, Any]]:
    """Rows of secrets to plant, each with its twins: the same prompt, another secret."""
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
    """`count` different twins of each canary, among which it is ranked; twin_of is its row_id."""
    rows = []
    for _, _, prompt, secrets in _slots(settings, seed):
        drawn: dict[str, None] = {}
        while len(drawn) <= count:
            drawn[next(secrets)] = None
        planted, *others = drawn
        canary = runs.digest("canary", str(seed), *prompt.values(), planted)
        for response in others:
            row = {"row_id": runs.digest("twin", canary, response), **prompt, "response": response}
            rows.append({**row, "twin_of": canary})
    return rows


def _slots(settings: DataSettings, seed: int) -> Iterator[Slot]:
    for kind, times, number in product(KINDS, settings.repetitions, range(settings.canaries)):
        dice = random.Random(f"canary {seed} {kind} {times} {number}")
        part = f"{dice.choice(PARTS)} {dice.randrange(100, 999)}"
        name = f"{dice.choice(FIRST_NAMES)} {dice.choice(LAST_NAMES)}"
        asked, context, response = (text.format(part=part, name=name) for text in KINDS[kind])
        yield kind, times, {"instruction": asked, "context": context}, _secrets(response, dice)


def _secrets(sentence: str, dice: random.Random) -> Iterator[str]:
    def draw(place: re.Match) -> str:
        letters, low, high = place.groups()
        return dice.choice(letters) if letters else str(dice.randrange(int(low), int(high)))

    while True:
        yield re.sub(r"<(?:([A-Z]+)|(\d+)-(\d+))>", draw, sentence)
