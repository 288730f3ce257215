"""The front door: `python -m kdlib study | verify | calibrate | report | audit`."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from kdlib import runs
from kdlib.config.profile import load_profile, read_templates
from kdlib.config.sections import FIELDS, AuditSettings, Template
from kdlib.errors import KdlibError, clearly

AUDITED = set(AuditSettings.model_fields)


class Parser(argparse.ArgumentParser):
    """Bad arguments are bad input: one message, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        raise KdlibError(f"{message}; --help says what there is")


def study(arguments: argparse.Namespace) -> int:
    """Run the study, or what is left of it."""
    from kdlib.study import pipeline

    names = ("profile", "seeds", "methods", "cores", "gpu_jobs")
    return int(not pipeline.study(*(getattr(arguments, name) for name in names)))


def verify(arguments: argparse.Namespace) -> int:
    """Hold the committed tables against a new run of the study, or against a finished one."""
    from kdlib.report import verification

    name = load_profile(arguments.profile).name
    committed, other = runs.results_dir(name), arguments.run
    if other is None:
        from kdlib.study import pipeline

        seeds, methods = verification.studied(verification.read(committed))
        copy = pipeline.study_afresh(arguments.profile, seeds, methods, arguments.cores)
        other = copy / "data" / "results" / name
    listing = runs.runs_dir(name) / "verification.csv"
    return int(not verification.verify(committed, other, listing))


def calibrate(arguments: argparse.Namespace) -> None:
    """Run the calibration and print what the rule chooses."""
    profile = load_profile(arguments.profile)
    from kdlib.study import lr_search

    print(json.dumps(lr_search.calibrate(profile, arguments.cores), indent=1))


def report(arguments: argparse.Namespace) -> None:
    """Print the comparison, the claims and where the figures lie."""
    from kdlib.report import results

    results.print_report(load_profile(arguments.profile).name)


def audit(arguments: argparse.Namespace) -> None:
    """Measure what a model remembers of a file of tuples; write tables and a report."""
    from kdlib.audit import command as of

    given = {name: value for name, value in vars(arguments).items() if name in AUDITED}
    given |= {"columns": _pairs(arguments.columns), "template": _template(arguments.template)}
    with clearly("audit"):
        settings = AuditSettings(**given)
    print(of.run(settings))


def _template(word: str) -> Template:
    """A shipped template by its name, or the one that a file holds."""
    shipped, path = read_templates(), Path(word)
    if word not in shipped and not path.is_file():
        raise KdlibError(f"--template {word}: no such file, and none of {', '.join(shipped)}")
    if path.suffix == ".toml":
        shipped = read_templates(path)
        if len(shipped) != 1:
            raise KdlibError(f"--template {word} holds {len(shipped)} templates; keep one of them")
        word = next(iter(shipped))
    with clearly(f"--template {word}"):
        return shipped[word] if word in shipped else Template(text=path.read_text("utf-8"))


def _pairs(words: list[str]) -> dict[str, str]:
    """Words like response=answer, as a mapping."""
    pairs = dict(word.split("=", 1) for word in words if "=" in word)
    if len(pairs) < len(words) or not set(pairs) <= set(FIELDS):
        raise KdlibError(
            f"--columns {' '.join(words)}: give ours=theirs, where ours is one of "
            f"{', '.join(FIELDS)}, each once"
        )
    return pairs


def _positive(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"'{word}' is not a whole number above 0")
    return int(word)


def _add_audit(child: argparse.ArgumentParser) -> None:
    child.add_argument("--model", required=True, help="folder, or hub name, of a causal model")
    child.add_argument("--data", required=True, help="its training rows: .jsonl, .csv, .parquet")
    child.add_argument("--held-out", help="like rows that it was not trained on")
    child.add_argument("--reference", help="the model before that training")
    child.add_argument("--out", required=True, help="folder for what is found")
    child.add_argument("--batch", type=_positive, default=64, help="rows per forward pass")
    child.add_argument("--max-length", type=_positive, help="tokens; default: what the model reads")
    known = "short, alpaca, or a file: text with {instruction} and {context}, or .toml with a block"
    child.add_argument("--template", default="short", help=known)
    mapped = "columns of the files: response=answer ..."
    child.add_argument("--columns", nargs="+", default=[], metavar="OURS=THEIRS", help=mapped)
    child.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")


def _add_study(child: argparse.ArgumentParser, command: Callable[..., object]) -> None:
    child.add_argument("--profile", default="laptop", help="name, or path of a .toml file")
    if command is not report:
        every = len(os.sched_getaffinity(0))
        child.add_argument("--cores", type=_positive, default=every, help="default: all there are")
    if command is study:
        child.add_argument("--seeds", default="", help='such as "0 1 2"; default: the profile\'s')
        child.add_argument(
            "--methods", default="paper", help="paper, all, or names of further ones"
        )
        child.add_argument("--gpu-jobs", type=_positive, help="notebooks that may share one GPU")
    if command is verify:
        child.add_argument("--run", type=Path, help="results folder of a finished run")


def main() -> int:
    """Run a command; bad input ends with one message and exit status 2."""
    parser = Parser(prog="python -m kdlib", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (study, verify, calibrate, report, audit):
        child = commands.add_parser(command.__name__, help=(command.__doc__ or "").split("\n")[0])
        child.set_defaults(run_command=command)
        if command is audit:
            _add_audit(child)
        else:
            _add_study(child, command)
    try:
        arguments = parser.parse_args()
        return arguments.run_command(arguments) or 0
    except (KdlibError, OSError) as error:  # OSError: a file that may not be read
        print(f"kdlib: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
