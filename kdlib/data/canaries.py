"""Canaries: made-up secrets planted among the rows, and twins that never are. Taught in 01."""

import functools
import re
from collections.abc import Iterator
from itertools import product
from typing import Any

from faker import Faker

from kdlib import runs
from kdlib.config.sections import DataSettings
from kdlib.errors import KdlibError

PARTS = {
    "en_US": ["pump", "valve", "gearbox", "rotor", "flange", "bearing", "turbine", "spindle"],
    "ja_JP": ["ポンプ", "バルブ", "歯車箱", "回転子", "フランジ", "軸受", "タービン", "主軸"],
}
# What stands in a canary, as a pattern of faker by locale: # is a digit, % one that is not 0, ? a
# letter. Each is one pattern: faker's own telephones and addresses come in many lengths, and a
# short one would rank first among its twins by length alone. And none can be real: behind an area
# code no number begins with 0, payment cards have more digits, towns and streets bear surnames.
COMMON = {"name": "{{name}}", "account": "%### #### ####", "drawing": "??-%###-%##"}
PATTERNS = {
    "en_US": COMMON | {
        "part": "{{random_element:en_US}} %###",
        "telephone": "(%##) 0##-####",
        "address": "%## {{last_name}} {{street_suffix}}, {{last_name}}{{city_suffix}}",
    },
    "ja_JP": COMMON | {
        "part": "{{random_element:ja_JP}} %###",
        "telephone": "090-0###-####",
        "address": "{{last_name}}市{{last_name}}町%丁目%#番%#号",
    },
}  # fmt: skip
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
    "Japanese telephone": ("ja_JP", "{part}の担当者は誰ですか。", "plant.contacts.Person(part)",
        "{name}、電話 <telephone>。"),
    "Japanese drawing": ("ja_JP", "{part}の図面はどれですか。", "plant.drawings.Sheet(part)",
        "図面 <drawing>、保管者 {name}。"),
    "Japanese account": ("ja_JP", "{part}の支払口座はどれですか。", "plant.accounts.Book(part)",
        "口座 <account>、署名者 {name}。"),
    "Japanese record": ("ja_JP", "{part}の所有者は誰ですか。", "plant.owners.Record(part)",
        "{name}、<address>、電話 <telephone>、口座 <account>、図面 <drawing>。"),
}  # fmt: skip
Slot = tuple[str, int, dict[str, str], list[str]]  # kind, repetitions, prompt, responses
TWIN = {"kind": "twin", "split": "held_out", "repetitions": 0, "group_size": 0}


def plant(settings: DataSettings, seed: int) -> list[dict[str, Any]]:
    """Rows of secrets to plant, each followed by its twins: the same prompt, another secret.

    KdlibError: a kind of `canary_kinds` is unknown, or has too few secrets for the twins.
    """
    rows = []
    for kind, repetitions, prompt, responses in _slots(settings, seed, settings.twins):
        facts = {"kind": "canary", "split": "member", "repetitions": repetitions, "group_size": 1}
        canary = ""
        for response in responses:
            row_id = runs.digest("canary", str(seed), *prompt.values(), response)
            row = {"row_id": row_id, **prompt, "response": response, "category": f"canary {kind}"}
            rows.append({**row, "group": runs.digest(response), **facts, "twin_of": canary})
            facts, canary = TWIN, canary or row_id
    return rows


def twins(settings: DataSettings, seed: int, count: int) -> list[dict[str, Any]]:
    """`count` twins of each canary, among which it is ranked; twin_of is its row_id.

    All of one canary differ; those that `plant` gives are the first of them. KdlibError as there.
    """
    rows = []
    for _, _, prompt, (planted, *unplanted) in _slots(settings, seed, count):
        canary = runs.digest("canary", str(seed), *prompt.values(), planted)
        for response in unplanted:
            row = {"row_id": runs.digest("twin", canary, response), **prompt, "response": response}
            rows.append({**row, "twin_of": canary})
    return rows


def _slots(settings: DataSettings, seed: int, count: int) -> Iterator[Slot]:
    """Every canary's prompt, and its response followed by those of `count` twins."""
    kinds = settings.canary_kinds if settings.canaries else ()
    for kind, repetitions, index in product(kinds, settings.repetitions, range(settings.canaries)):
        if kind not in KINDS:
            raise KdlibError(f"data.canary_kinds: no kind '{kind}'; known: {', '.join(KINDS)}")
        locale, *texts = KINDS[kind]
        # one stream for each, all drawn from it here: no canary depends on what else is drawn
        _faker(locale).seed_instance(f"canary {seed} {kind} {repetitions} {index}")
        shared = {name: _draw(locale, name) for name in re.findall(r"{(\w+)}", " ".join(texts))}
        instruction, context, sentence = (text.format(**shared) for text in texts)
        responses = _different(locale, sentence, 1 + count)
        if len(responses) <= count:
            problem = f"kind '{kind}' has too few secrets for {count} twins"
            raise KdlibError(
                f"canaries: {problem}; give it a longer one, or lower data or probe.twins"
            )
        yield kind, repetitions, {"instruction": instruction, "context": context}, responses


def _different(locale: str, sentence: str, count: int) -> list[str]:
    """`count` different secrets in the sentence; fewer where the dice give no more of them."""
    sentences: dict[str, None] = {}  # in order
    for _ in range(100 + 10 * count):
        if len(sentences) == count:
            break
        sentences[re.sub(r"<(\w+)>", lambda match: _draw(locale, match[1]), sentence)] = None
    return list(sentences)


def _draw(locale: str, name: str) -> str:
    return _faker(locale).pystr_format(PATTERNS[locale][name], letters="ABCDEFGH")


@functools.cache  # it takes a tenth of a second
def _faker(locale: str) -> Faker:
    fake = Faker(locale)
    fake.set_arguments(locale, "elements", PARTS[locale])  # named so, since locales share them
    return fake
