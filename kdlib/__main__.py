"""The front door: `python -m kdlib calibrate | report | check`."""

import argparse
import json
import sys

from kdlib.config import KdlibError, load_profile


def check(arguments: argparse.Namespace) -> None:
    """Refuse an unknown profile, seeds that are no numbers, or an unknown notebook parameter."""
    profile = load_profile(arguments.profile)
    for word in arguments.seeds.split():
        if not word.isdecimal():
            raise KdlibError(f"seed '{word}' is no whole number; give SEEDS=\"0 1 2\"")
    if profile.calibration and str(profile.calibration.seed) in arguments.seeds.split():
        raise KdlibError(
            f"seed {profile.calibration.seed} is the calibration seed and is never reported; "
            "leave it out of SEEDS"
        )
    if arguments.notebook:
        from papermill import inspect_notebook

        known = inspect_notebook(arguments.notebook)
        for name in arguments.parameter:
            if name not in known:
                raise KdlibError(
                    f"{arguments.notebook} has no parameter '{name}'; known: {', '.join(known)}"
                )


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
    for command in (check, calibrate, report):
        child = commands.add_parser(command.__name__, help=(command.__doc__ or "").split("\n")[0])
        child.set_defaults(run=command)
        child.add_argument("--profile", default="laptop", help="name, or path of a .toml file")
        if command is check:
            child.add_argument("--seeds", default="", help='such as "0 1 2"')
            child.add_argument("--notebook", help="a source notebook whose parameters are checked")
            child.add_argument("--parameter", nargs="*", default=[], help="parameter names given")
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
