"""One seed of one profile: its settings, rows, folders and identities.

What every notebook opens first.
"""

import ast
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from IPython import get_ipython

from kdlib import data, models, runs, tokens
from kdlib.config import Profile, load_profile, read_seeds
from kdlib.settings import KdlibError
from kdlib.tokens import Example

GENERAL_DOCUMENTS = 2000  # that MiniLLM reads beside its own text
FIRST = "01_data_and_tokens"  # the notebook that makes tokenizer and base models


@dataclass(frozen=True)
class Part:
    """Some of a seed's member rows: the others are left out of training, and still measured.

    Attributes:
        name: of its folder.
        left_out: row ids.
        own_teacher: whether the teacher too was trained on this part alone.
    """

    name: str
    left_out: frozenset[str]
    own_teacher: bool


@dataclass(frozen=True)
class Lab:
    """One seed of one profile: its settings, rows and folders. Heavy parts load when asked for.

    `part` is None where all of the seed's member rows are trained on: in all of the study but the
    memorization lab.
    """

    profile: Profile
    seed: int
    part: Part | None = None

    def without(self, left_out: Iterable[str], name: str, *, own_teacher: bool = False) -> "Lab":
        """The same seed with these member rows left out: their split is then "left_out".

        Args:
            left_out: row ids.
            name: of the folder; other rows need another name.
            own_teacher: train a teacher without them too; else students learn from the seed's own.
        """
        other = replace(self, part=Part(name, frozenset(left_out), own_teacher))
        vars(other).update(pool=self.pool, tokenizer=self.tokenizer)  # the same, and loaded
        return other

    @property
    def taught(self) -> "Lab":
        """The lab whose teacher the students learn from."""
        return self if self.part is None or self.part.own_teacher else replace(self, part=None)

    @cached_property
    def device(self) -> torch.device:
        """The GPU where there is one, else the CPU."""
        return models.device()

    @cached_property
    def pool(self) -> Any:
        """The fixed pool of rows."""
        return data.load_pool(self.profile.data)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """This seed's member and held-out rows, canaries and twins, indexed by row_id."""
        drawn = data.draw(self.pool, self.profile.data, self.seed).to_pandas()
        if self.part is not None:
            out = drawn["row_id"].isin(self.part.left_out)
            drawn.loc[out, ["split", "repetitions"]] = ["left_out", 0]
        return drawn.set_index("row_id", drop=False)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer all models share."""
        paths = [model.path for model in self.profile.models.values() if model.path]
        if not paths:
            return tokens.load_tokenizer(
                need(self.tokenizer_dir, self.base_id("teacher"), self, FIRST)
            )
        teacher = tokens.load_tokenizer(paths[0])
        for path in paths[1:]:
            tokens.same_tokenizer(teacher, tokens.load_tokenizer(path), (paths[0], path))
        return teacher

    @property
    def tokenizer_dir(self) -> Path:
        """Where the tokenizer trained on the general text lies."""
        return runs.runs_dir(self.profile.name) / "base" / "tokenizer"

    @cached_property
    def examples(self) -> dict[str, Example]:
        """Every row of this seed as token ids, by row_id."""
        rows = self.rows.to_dict("records")
        encoded = tokens.encode(rows, self.tokenizer, self.profile.tokens)
        return {example.row_id: example for example in encoded}

    def split(self, split: str, kind: str = "row", limit: int | None = None) -> list[Example]:
        """Examples of a split (`member`, `held_out`, `left_out`) and kind (`row`, ...)."""
        chosen = self.rows[(self.rows["split"] == split) & (self.rows["kind"] == kind)]
        return [self.examples[row] for row in chosen["row_id"][:limit]]

    @property
    def shown(self) -> list[Example]:
        """What notebooks show in full: planted canaries, or member rows where none are planted."""
        return self.split("member", "canary") or self.split("member")

    @cached_property
    def presented(self) -> list[Example]:
        """What one epoch shows: members once, canaries as often as they are planted."""
        members = self.rows[self.rows["repetitions"] > 0]
        pairs = zip(members["row_id"], members["repetitions"], strict=True)
        return [self.examples[row] for row, times in pairs for _ in range(times)]

    def base_dir(self, size: str) -> str | Path:
        """Folder or name of the base model of that size."""
        named = self.profile.models[size].path
        return named or runs.runs_dir(self.profile.name) / "base" / size

    @cached_property
    def general(self) -> list[Example]:
        """Blocks of general text, in the order in which they were shuffled.

        Raises:
            KdlibError: the profile's data has none.
        """
        documents = data.general_text(self.profile.data)[:GENERAL_DOCUMENTS]
        if not documents:
            raise KdlibError(
                f"profile '{self.profile.name}': its data has no general text; set "
                "general_text = 0 in methods.minillm.coefficients"
            )
        length = min(128, self.profile.tokens.max_length)
        return tokens.text_blocks(documents, self.tokenizer, length)

    def run_dir(self, variant: str, size: str, **coefficients: float) -> Path:
        """Folder of one model of this seed; an ablation's names its coefficients."""
        changed = "".join(f"-{name}={value:g}" for name, value in coefficients.items())
        folder = runs.runs_dir(self.profile.name) / f"seed-{self.seed}"
        if self.part is not None:
            folder /= self.part.name
        return folder / f"{variant}-{size}{changed}"

    def base_id(self, size: str) -> str:
        """Identity of a base model: everything its weights depend on."""
        p = self.profile
        given = p.models[size].path
        files = sorted(Path(given or "no folder").glob("*.safetensors"))
        stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        model = p.models[size].model_dump(exclude={"path"} if files else None)
        rows = p.data.model_dump(exclude={"path"})  # the pool's hash stands for the file
        parts = [rows, p.tokens.model_dump(), model, stats, p.pretrain.model_dump()]
        return runs.fingerprint([self._ground, *parts])

    def run_id(self, variant: str, size: str, **coefficients: float) -> str:
        """Identity of one model and its measurements."""
        p = self.profile
        facts: list[Any] = [self.base_id(size), p.measure.model_dump(), self.seed, variant, size]
        if variant != "base":
            facts.append(p.train_settings(variant, size).model_dump())
        if variant in p.methods:
            facts.append(p.coefficients(variant, **coefficients))
            if variant != "sft":
                facts.append(self.taught.run_id("teacher", "teacher"))
        if self.part is not None:
            facts.append(sorted(self.part.left_out))
        return runs.fingerprint(facts)

    @cached_property
    def _ground(self) -> list[str]:
        found = runs.versions()
        return [
            self.device.type,
            data.data_hash(self.pool),
            *(f"{name} {found[name]}" for name in ("torch", "transformers", "tokenizers")),
        ]


def open_lab(profile: str, seed: int | str) -> Lab:
    """The lab of one profile and seed.

    Raises:
        KdlibError: unknown profile or notebook parameter, or a key or value is wrong.
    """
    refuse_unknown_parameters()
    settings = load_profile(profile)
    seeds = read_seeds(str(seed), settings)
    if len(seeds) != 1:
        raise KdlibError(f"seed '{seed}' is not one whole number; try 0")
    return Lab(settings, seeds[0])


def refuse_unknown_parameters() -> None:
    """Stop where papermill was given a name that the notebook's parameters cell does not have.

    Papermill only warns, and then runs with the default. What it was given stands in a cell that
    begins with "# Parameters", right behind the notebook's own parameters cell.

    Raises:
        KdlibError: names the parameter and those that there are.
    """
    shell = get_ipython()
    cells = shell.user_ns.get("In", []) if shell else []
    for own, given in pairwise(cells):
        if given.startswith("# Parameters\n"):
            known = assigned(own)
            if unknown := [name for name in assigned(given) if name not in known]:
                raise KdlibError(f"no parameter '{unknown[0]}'; known: {', '.join(known)}")


def assigned(source: str) -> list[str]:
    """The names that the statements of a cell assign to."""
    return [
        target.id
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    ]


def need(folder: Path, identity: str, lab: Lab, notebook: str) -> Path:
    """The folder, if its stage is done under that identity; else say which command makes it."""
    if not runs.done(folder, identity):
        raise KdlibError(
            f"{folder.relative_to(runs.root())} is not there, or was made with other settings; run "
            f"notebook {notebook} first, or all with: make study PROFILE={lab.profile.name}"
        )
    return folder


def describe(lab: Lab) -> None:
    """Print what a reader needs to repeat the run: versions, device, threads, commit, folder."""
    found = ", ".join(f"{name} {version}" for name, version in runs.versions().items())
    gpu = torch.cuda.get_device_name() if lab.device.type == "cuda" else "CPU"
    print(f"profile {lab.profile.name}, seed {lab.seed}, commit {runs.commit()}")
    print(f"{gpu}, {torch.get_num_threads()} thread(s); {found}")
    print(f"runs in {runs.runs_dir(lab.profile.name).relative_to(runs.root())}")
