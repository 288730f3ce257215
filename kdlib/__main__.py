"""The commands of `python -m kdlib`: the study's, the site, the audit's three, the release."""

import argparse
import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from kdlib import runs
from kdlib.config.profile import TEACHER, load_profile, read_seeds, read_templates
from kdlib.config.sections import FIELDS, SECRETS, AuditSettings, Template
from kdlib.errors import KdlibError, clearly
from kdlib.study import pipeline

CRASHED = 70  # exit status; sysexits calls it EX_SOFTWARE
AGREED = "of the policy's file, as agreed on: another policy is bad input"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:  # one message, without the usage before it
        raise KdlibError(f"{message}; --help says what there is")


def verify(profile: str, cores: int, run: Path | None) -> bool:
    """Hold the committed tables against a new run of the study, or against a finished one."""
    from kdlib.report import verification

    name = load_profile(profile).name
    committed = runs.results_dir(name)
    if run is None:
        selection = verification.studied(verification.read(committed))
        run = pipeline.study_afresh(profile, *selection, cores) / "data" / "results" / name
    return verification.verify(committed, run, runs.runs_dir(name) / "verification.csv")


def calibrate(profile: str, cores: int) -> None:
    """Run the calibration and print what the rule chooses."""
    from kdlib.study import lr_search

    print(json.dumps(lr_search.calibrate(load_profile(profile), cores), indent=1))


def train(profile: str, method: str, size: str, seed: str, defence: str) -> None:
    """Train and measure one model of the study, on all processes that were started for it."""
    from kdlib.distill import sharing
    from kdlib.study import stages
    from kdlib.study.run import Run, load_rows

    with sharing.process_group():
        settings = load_profile(profile)
        first_seed, *extra = read_seeds(seed, settings)
        if method != TEACHER:
            settings.method(method)
        sizes = (TEACHER,) if method == TEACHER else settings.sizes
        if extra or size not in sizes:
            allowed = f"--size of {method} is one of {', '.join(sizes)}, --seed one whole number"
            raise KdlibError(f"--size {size} --seed {seed}: {allowed}")
        run = Run(settings, first_seed, method, size).defended(defence)
        folder = stages.make(run, load_rows(settings, first_seed))
        if sharing.is_main():
            print(folder)


def report(profile: str) -> None:
    """Print the comparison, the claims and where the figures lie."""
    from kdlib.report import results

    results.print_report(load_profile(profile).name)


def findings() -> None:
    """Write what the reference run found into README.md and the notebooks."""
    from kdlib.report import findings as found
    from kdlib.report import readme

    found.write()
    readme.write(found.REFERENCE)


def site(profile: str) -> None:
    """Lay out a profile's executed notebooks, from which `make site` builds the site."""
    from kdlib.report import site as pages

    pages.lay_out(load_profile(profile).name, runs.root() / "docs" / "notebooks")


def tune(
    profile: str, students: str, knobs: str, trials: int, seeds: str, store: Path | None
) -> None:
    """Search knobs of methods and defences for two aims; judge on fresh seeds what was chosen."""
    from kdlib.study import tuning
    from kdlib.tune import command
    from kdlib.tune.store import place

    settings = load_profile(profile)
    fresh_seeds = read_seeds(seeds, settings)
    selected = tuning.read(settings, students, knobs)
    lines = command.run(settings, fresh_seeds, selected, trials, store or place(settings))
    print("\n".join(lines))


def audit(
    columns: list[str],
    policy: str | None,
    policy_sha256: str | None,
    sign: Path | None,
    prices: Path | None,
    **options: Any,
) -> int:
    """Measure what a model remembers of a file of tuples; write tables and a report."""
    from kdlib.audit import command, gate
    from kdlib.audit import policy as policies

    mapping = _pairs("--columns", columns, (*FIELDS, SECRETS))
    if policy is None and policy_sha256 is not None:
        raise KdlibError("--policy-sha256 is of a policy's file; name it with --policy")
    policy_file = None if policy is None else policies.read(policy, policy_sha256)
    with clearly("audit"):
        settings = AuditSettings(columns=mapping, **options)
    print(command.run(settings, policy_file, sign, prices))
    if policy_file is None:
        return 0
    outcome, messages = command.verdict(settings.out)
    print("\n".join(messages))
    return gate.STATUS[outcome]


def release(
    profile: str, out: Path, policy: str, policy_sha256: str | None, sign: Path | None
) -> int:
    """Filter a profile's rows, distil its student, audit and gate it: one folder, if it may go."""
    import pandas as pd

    from kdlib import release as releases
    from kdlib.audit import command, gate
    from kdlib.audit import policy as policies

    settings, policy_file = load_profile(profile), policies.read(policy, policy_sha256)
    releases.make(settings, settings.seeds[0], out, policy_file, sign)
    outcome, messages = command.verdict(out / releases.AUDIT)
    print(pd.read_csv(out / releases.FILTERED).to_string(index=False))
    print("\n".join([*messages, str(out)]))
    return gate.STATUS[outcome]


def verify_record(record: Path, key: Path | None, at: list[str]) -> bool:
    """Check the signature of an audit's record, and the files that it names."""
    from kdlib.audit import verifying

    paths = {role: Path(path) for role, path in _pairs("--at", at, verifying.ROLES).items()}
    flaws = verifying.faults(record, key, paths)
    print("\n".join(flaws or verifying.held(record, key)), file=sys.stderr if flaws else sys.stdout)
    return not flaws


def card(record: Path, license: str, license_link: str | None) -> None:
    """Write a model card and an ML-BOM (CycloneDX) of an audit's record, beside it."""
    from kdlib.audit import card as cards

    print(*cards.write(record, cards.licence(license, license_link)), sep="\n")


def _pairs(option: str, pairs: list[str], allowed: Sequence[str]) -> dict[str, str]:
    """The pairs ours=theirs of an option, by ours."""
    mapping = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    if len(mapping) < len(pairs) or not set(mapping) <= set(allowed):
        usage = f"give ours=theirs, where ours is one of {', '.join(allowed)}, each once"
        raise KdlibError(f"{option} {' '.join(pairs)}: {usage}")
    return mapping


def _template(arg: str) -> Template:
    """A shipped template by its name, or the one that a file holds."""
    templates, path = read_templates(), Path(arg)
    if arg not in templates and not path.is_file():
        raise KdlibError(f"--template {arg}: no such file, and none of {', '.join(templates)}")
    if path.suffix == ".toml":
        templates = read_templates(path)
        if len(templates) != 1:
            raise KdlibError(f"--template {arg} holds {len(templates)} templates; keep one of them")
        arg = next(iter(templates))
    with clearly(f"--template {arg}"):
        return templates[arg] if arg in templates else Template(text=path.read_text("utf-8"))


def _positive(arg: str) -> int:
    if not arg.isdecimal() or int(arg) < 1:
        raise argparse.ArgumentTypeError(f"'{arg}' is not a whole number above 0")
    return int(arg)


def _add_arguments_of_audit(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", required=True, help="causal model: folder, hub name or package:NAME")
    add("--data", required=True, help="its training rows: .jsonl, .csv, .parquet")
    add("--held-out", help="like rows that it was not trained on")
    add("--reference", help="the model before that training")
    add("--out", required=True, help="new folder for what is found; its rows/ hold the rows' text")
    add("--batch", type=_positive, default=64, help="rows per forward pass")
    add("--max-length", type=_positive, help="tokens; default: what the model reads")
    template = "the prompt's in training: short (default), alpaca, compact, chat, or a file: text "
    template += "with {instruction} and {context}, or a .toml block"
    add("--template", type=_template, default="short", help=template)
    columns = f"such as response=answer; ours: {', '.join((*FIELDS, SECRETS))}"
    add("--columns", nargs="+", default=[], metavar="OURS=THEIRS", help=columns)
    add("--precision", choices=("fp32", "bf16"), default="fp32")
    rows = "rows of each file to answer, too, for edit distances: a forward pass per token"
    add("--decode", type=_positive, default=0, metavar="N", help=rows)
    add("--show-rows", action="store_true", help="let the report show text of rows")
    statuses = "exit status 0 pass, 1 fail, 3 undecided"
    add("--policy", help=f"limits, a .toml file, or default; {statuses}")
    add("--policy-sha256", metavar="HEX", help=AGREED)
    add("--sign", type=Path, help="private key (Ed25519, PEM) that signs the record")
    add("--prices", type=Path, help="places and their prices for the brief, a .toml file")


def _add_arguments_of_record(parser: argparse.ArgumentParser, command: Any) -> None:
    add = parser.add_argument
    add("record", type=Path, help="record.json of an audit")
    if command is verify_record:
        add("--key", type=Path, help="public key (Ed25519, PEM) that must have signed it")
        locations = "where the model, data, ... lie now: model=FOLDER data=FILE ..."
        add("--at", nargs="+", default=[], metavar="ROLE=PATH", help=locations)
        return
    spdx = "the model's licence: identifier of the SPDX list, or another's name"
    add("--license", required=True, help=spdx)
    add("--license-link", help="address of the text of a licence that is not in that list")


def _add_arguments(parser: argparse.ArgumentParser, command: Any) -> None:
    add, cores = parser.add_argument, len(os.sched_getaffinity(0))
    if command is audit:
        _add_arguments_of_audit(parser)
        return
    if command in (verify_record, card):
        _add_arguments_of_record(parser, command)
        return
    if command is findings:
        return
    add("--profile", default="laptop", help="name, or path of a .toml file")
    if command is release:
        add("--out", type=Path, required=True, help="folder of the release")
        add("--policy", default="default", help="limits, a .toml file, or default")
        add("--policy-sha256", metavar="HEX", help=AGREED)
        add("--sign", type=Path, help="private key (Ed25519, PEM) that signs the record")
        return
    if command is train:
        add("--method", required=True, help="teacher, or a method of the profile")
        add("--size", default=TEACHER, help="of a student; default: the teacher's")
        add("--defence", default="", help="one of config/defences.toml; default: none")
        add("--seed", default="0", help="default: 0")
        return
    if command is tune:
        methods = "methods, each alone or with a defence behind a +; their knobs: config/knobs.toml"
        add("--students", default="sft word_kd sft+goldfish sft+lora", help=methods)
        add("--knobs", default="", help="of these alone, by name; default: all of each")
        add("--trials", type=_positive, default=20, help="of each student; default: 20")
        add("--seeds", default="", help="fresh ones, to judge on; default: as notebook 15 has them")
        add("--store", type=Path, help="SQLite file of the search; default: among the runs")
        return
    if command not in (report, site):
        add("--cores", type=_positive, default=cores, help="default: all there are")
    if command is pipeline.study:
        add("--seeds", default="", help='such as "0 1 2"; default: the profile\'s')
        add("--methods", default="paper", help="paper, all, or names of further ones")
        parts = ", ".join((*pipeline.PARTS, "all"))
        add("--parts", default="study", help=f"beside the study itself: {parts}")
        add("--gpu-jobs", type=_positive, help="notebooks that may share one GPU")
    if command is verify:
        add("--run", type=Path, help="results folder of a finished run")


def main() -> int:
    """Run a command; bad input ends with one message and exit status 2."""
    parser = _Parser(prog="python -m kdlib", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    study_commands = (pipeline.study, train, verify, calibrate, tune, report, findings, site)
    for command in (*study_commands, audit, verify_record, card, release):
        name, about = command.__name__.replace("_", "-"), (command.__doc__ or "").split("\n")[0]
        subparser = commands.add_parser(name, help=about)
        subparser.set_defaults(command=command)
        _add_arguments(subparser, command)
    try:
        arguments = vars(parser.parse_args())
        result = arguments.pop("command")(**arguments)
        return int(not result) if isinstance(result, bool) else result or 0
    except (KdlibError, OSError) as error:  # OSError: a file that may not be read
        print(f"kdlib: {error}", file=sys.stderr)
        return 2
    except Exception:  # not 1, by which an audit says that a model fails
        traceback.print_exc()
        return CRASHED


if __name__ == "__main__":
    sys.exit(main())
