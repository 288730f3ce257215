"""The front door: `python -m kdlib calibrate | report`."""

import argparse
import json
import sys

from kdlib.config import load_profile
from kdlib.settings import KdlibError


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


def main() -> int:
    """Parse the command line; bad input ends with one message and exit status 2."""
    parser = argparse.ArgumentParser(prog="python -m kdlib", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (calibrate, report):
        child = commands.add_parser(command.__name__, help=(command.__doc__ or "").split("\n")[0])
        child.set_defaults(run=command)
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
