"""The front door: `python -m kdlib calibrate | report | audit`."""

import argparse
import json
import sys

from kdlib.config import load_profile
from kdlib.settings import FIELDS, AuditSettings, KdlibError, clearly

AUDITED = set(AuditSettings.model_fields)


def calibrate(arguments: argparse.Namespace) -> None:
    """Run the calibration and print what the rule chooses."""
    from kdlib import calibration

    cores = arguments.cores or calibration.default_cores()
    chosen = calibration.calibrate(load_profile(arguments.profile), cores)
    print(json.dumps(chosen, indent=1))


def report(arguments: argparse.Namespace) -> None:
    """Print the comparison, the claims and where the figures lie."""
    from kdlib import report as words

    words.print_report(load_profile(arguments.profile).name)


def audit(arguments: argparse.Namespace) -> None:
    """Measure what a model remembers of a file of tuples; write tables and a report."""
    from kdlib.audit import command as of

    given = {name: value for name, value in vars(arguments).items() if name in AUDITED}
    given["columns"] = _pairs(arguments.columns)
    with clearly("audit"):
        asked = AuditSettings(**given)
    print(of.run(asked))


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
    child.add_argument("--template", choices=("short", "alpaca"), default="short")
    mapped = "columns of the files: response=answer ..."
    child.add_argument("--columns", nargs="+", default=[], metavar="OURS=THEIRS", help=mapped)
    child.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")


def main() -> int:
    """Parse the command line; bad input ends with one message and exit status 2."""
    parser = argparse.ArgumentParser(prog="python -m kdlib", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (calibrate, report, audit):
        child = commands.add_parser(command.__name__, help=(command.__doc__ or "").split("\n")[0])
        child.set_defaults(run=command)
        if command is audit:
            _add_audit(child)
            continue
        child.add_argument("--profile", default="laptop", help="name, or path of a .toml file")
        if command is calibrate:
            child.add_argument("--cores", type=int, default=0, help="0: all this process may use")
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except KdlibError as error:
        print(f"kdlib: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
