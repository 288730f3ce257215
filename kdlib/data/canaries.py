"""Canaries: made-up secrets planted among the rows, and twins that never are. Taught in 01."""

import functools
import re
from collections.abc import Callable, Iterator
from itertools import islice, product
from typing import Any

from faker import Faker

from kdlib import runs
from kdlib.config.sections import DataSettings

PARTS = {
    "en_US": "pump valve gearbox rotor flange bearing housing turbine spindle manifold".split(),
    "ja_JP": "ポンプ バルブ 歯車箱 回転子 フランジ 軸受 筐体 タービン 主軸 配管".split(),
}
DRAWN: dict[str, Callable[[Faker], str]] = {  # what stands in a canary, by name
    "part": lambda fake: f"{fake.random_element(PARTS[fake.locales[0]])} {fake.numerify('%##')}",
    "name": lambda fake: fake.name(),
    "telephone": lambda fake: fake.phone_number(),
    "address": lambda fake: fake.address().replace("\n", ", "),
    "account": lambda fake: fake.numerify("%### #### #### ####"),
    "drawing": lambda fake: fake.bothify("??-%###-%##", letters="ABCDEFGH"),
}
# By kind, and another is one more entry: locale, instruction, context, response. What stands in {}
# is the same for a canary and its twins; what stands in <> is the secret, in which they differ.
KINDS = {
    "telephone": ("en_US", "Who answers for the {part}?", "plant.contacts.Person(part)",
        "{name}, telephone <telephone>."),
    "drawing": ("en_US", "Which drawing shows the {part}?", "plant.drawings.Sheet(part)",
        "Drawing <drawing>, kept by {name}."),
    "account": ("en_US", "Which account pays for the {part}?", "plant.accounts.Book(part)",
        "Account <account>, for which {name} signs."),
    "record": ("en_US", "Who owns the {part}?", "plant.owners.Record(part)",
        "{name}, <address>, telephone <telephone>, account <account>, drawing <drawing>."),
    "telephone, Japanese": ("ja_JP", "{part}の担当者は誰ですか。", "plant.contacts.Person(part)",
        "{name}、電話 <telephone>。"),
    "drawing, Japanese": ("ja_JP", "{part}の図面はどれですか。", "plant.drawings.Sheet(part)",
        "図面 <drawing>、保管者 {name}。"),
    "account, Japanese": ("ja_JP", "{part}の支払口座はどれですか。", "plant.accounts.Book(part)",
        "口座 <account>、署名者 {name}。"),
    "record, Japanese": ("ja_JP", "{part}の所有者は誰ですか。", "plant.owners.Record(part)",
        "{name}、<address>、電話 <telephone>、口座 <account>、図面 <drawing>。"),
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
        locale, *texts = KINDS[kind]
        fake = _faker(locale)
        fake.seed_instance(f"canary {seed} {kind} {times} {number}")
        shared = {name: DRAWN[name](fake) for name in re.findall(r"{(\w+)}", " ".join(texts))}
        asked, context, response = (text.format(**shared) for text in texts)
        secret_seed = f"secret {seed} {kind} {times} {number}"
        yield kind, times, {"instruction": asked, "context": context}, _secrets(response, locale, secret_seed)


@functools.cache
def _faker(locale: str) -> Faker:
    return Faker(locale)


def _secrets(sentence: str, locale: str, seed: str) -> Iterator[str]:
    fake = Faker(locale)  # its own, since others are drawn from between two secrets
    fake.seed_instance(seed)
    while True:
        yield re.sub(r"<(\w+)>", lambda place: DRAWN[place[1]](fake), sentence)
