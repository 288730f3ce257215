"""Canaries: made-up secrets that are planted among the rows, with twins that never are.

Another kind of canary is one entry of KINDS. Taught in notebook 01_data_and_tokens.
"""

import random
import re
from collections.abc import Callable, Iterator
from functools import partial
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
TWIN = {"kind": "twin", "split": "held_out", "repetitions": 0, "group_size": 0}


def plant(settings: DataSettings, seed: int) -> list[dict[str, Any]]:
    """Made-up secrets to plant, each with twins: the same prompt, another secret, never shown."""
    rows = []
    for kind, times, prompt, secret in _slots(settings, seed):
        facts = {"kind": "canary", "split": "member", "repetitions": times, "group_size": 1}
        canary = ""
        for _ in range(settings.twins + 1):
            response = secret()
            row_id = runs.digest("canary", str(seed), *prompt.values(), response)
            row = {"row_id": row_id, **prompt, "response": response, "category": f"canary {kind}"}
            rows.append({**row, "group": runs.digest(response), **facts, "twin_of": canary})
            facts, canary = TWIN, canary or row_id
    return rows


def twins(settings: DataSettings, seed: int, count: int) -> list[dict[str, Any]]:
    """Many more twins, all different: what exposure ranks a canary among.

    Returns:
        `count` rows for each canary that `plant` plants: row_id, instruction, context, response,
        twin_of (the canary's row_id).
    """
    rows = []
    for _, _, prompt, secret in _slots(settings, seed):
        planted = secret()
        canary = runs.digest("canary", str(seed), *prompt.values(), planted)
        others: dict[str, None] = {}
        while len(others) < count:
            if (response := secret()) != planted:
                others[response] = None
        for response in others:
            row_id = runs.digest("twin", canary, response)
            rows.append({"row_id": row_id, **prompt, "response": response, "twin_of": canary})
    return rows


def _slots(
    settings: DataSettings, seed: int
) -> Iterator[tuple[str, int, dict[str, str], Callable[[], str]]]:
    """Of every canary: kind, repetitions, prompt, and a function that draws one more secret."""
    for kind, (instruction, context, response) in KINDS.items():
        for times in settings.repetitions:
            for number in range(settings.canaries):
                dice = random.Random(f"canary {seed} {kind} {times} {number}")
                part = f"{dice.choice(PARTS)} {dice.randrange(100, 999)}"
                name = f"{dice.choice(FIRST_NAMES)} {dice.choice(LAST_NAMES)}"
                prompt = {"instruction": instruction.format(part=part), "context": context}
                sentence = response.format(part=part, name=name)
                yield kind, times, prompt, partial(_fill, sentence, dice)


def _fill(sentence: str, dice: random.Random) -> str:
    def draw(place: re.Match) -> str:
        letters, low, high = place.groups()
        return dice.choice(letters) if letters else str(dice.randrange(int(low), int(high)))

    return re.sub(r"<(?:([A-Z]+)|(\d+)-(\d+))>", draw, sentence)
