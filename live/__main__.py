"""What is done with a lab that is up: `python -m live --stack NAME drill ...`."""

import argparse
import os
import sys
from pathlib import Path

from toolchain import stack
from toolchain.errors import ToolchainError


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m live", description=__doc__)
    parser.add_argument("--stack", default=os.environ.get("STACK") or "dev", help="default: STACK, else dev")
    commands = parser.add_subparsers(dest="command", required=True)
    drill = commands.add_parser("drill", help="hurt the lab on purpose and measure")
    drill.add_argument("names", nargs="?", default="", help="which, by comma; all if not given")
    drill.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    try:
        from live import drills

        return drills.main(stack.read(options.stack), [n for n in options.names.split(",") if n], options.json)
    except ToolchainError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
