"""The commands behind `make` for a lab that is up: `python -m live <command> [--stack NAME]`."""

import argparse
import os
import sys
from pathlib import Path

from live import cluster, replace, status, status_table
from toolchain import owner, stack
from toolchain.errors import ToolchainError, needs_sudo
from toolchain.stack import Stack


def main(arguments: list[str]) -> int:
    """Run one command and return its exit status; what goes wrong is said in one message on stderr."""
    options = _parser().parse_args(arguments)
    with owner.keeps_files():
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    try:
        chosen = stack.read(options.stack)
        match options.command:
            case "status":
                return _status(chosen, as_json=options.json)
            case "snapshot":
                # Here and below not imported above: no other command needs the program's components.
                from live import snapshot

                snapshot.take(cluster.find(chosen), options.file)
            case "restore":
                from live import restore

                file = _snapshot(options.file)
                restore.restore(cluster.find(chosen), file)
            case "replace":
                return replace.replace(cluster.find(chosen), options.machines, insist=_insist())
            case "cis":
                # Not imported above: no other command needs what builds programs.
                from live import cis

                return 0 if cis.check(cluster.find(chosen), options.checkout) else 1
            case "drill":
                # Not imported above: no other command needs what drills are made with.
                from live import drills, search

                if _is_seeded(options):
                    return search.main(
                        chosen, options.seed, count=options.faults, only=options.only, json_file=options.json
                    )

                names = [name for name in options.names.split(",") if name]
                return drills.main(chosen, names, options.json)
    except ToolchainError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    except PermissionError as error:
        print(f"\nerror: {needs_sudo(error, options.command, options.stack)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; the same command may be run again.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m live", description=__doc__)
    parser.add_argument("--stack", default=os.environ.get("STACK") or "dev", help="default: STACK, else dev")
    commands = parser.add_subparsers(dest="command", required=True)
    shown = commands.add_parser("status", help="how the lab is; the exit status is 1 where something is not well")
    shown.add_argument("--json", action="store_true", help="for programs; live/status.py says what each field means")
    taken = commands.add_parser("snapshot", help="save etcd, the cluster's whole content, to a file on this host")
    taken.add_argument("file", nargs="?", type=Path, help="default: a new one in .state/<stack>/snapshots")
    restored = commands.add_parser("restore", help="make the cluster what a snapshot says")
    restored.add_argument("file", help="what `snapshot` wrote, or a file of a member's /var/lib/etcd-snapshots")
    replaced = commands.add_parser(
        "replace", help="make machines anew; INSIST=yes: also if etcd's quorum is lost by it"
    )
    replaced.add_argument("machines", nargs="*", help="their names in the lab")
    checked = commands.add_parser("cis", help="run kube-bench; the exit status is 1 where a check fails")
    checked.add_argument("checkout", nargs="?", default="", help="of kube-bench, with the benchmark's data")
    drilled = commands.add_parser("drill", help="hurt the lab on purpose, and measure what that costs")
    drilled.add_argument("names", nargs="?", default="", help="which, by comma; all if not given")
    drilled.add_argument("--json", type=Path, metavar="FILE", help="takes all figures, too")
    drilled.add_argument("--seed", type=int, help="faults by chance, against clients whose history is checked")
    drilled.add_argument("--faults", type=int, metavar="COUNT", help="with --seed: how many; default 20")
    drilled.add_argument("--only", type=int, metavar="NUMBER", help="with --seed: only this one of them")
    return parser


def _status(chosen: Stack, *, as_json: bool) -> int:
    found = status.gather(cluster.find(chosen))
    if as_json:
        print(found.json())
    else:
        status_table.show(found)
    return 0 if found.well else 1


def _is_seeded(options: argparse.Namespace) -> bool:
    """Whether the faults are to be chosen by a seed.

    Raises:
        ToolchainError: the words contradict each other.
    """
    if options.seed is None and (options.faults is not None or options.only is not None):
        raise ToolchainError("--faults and --only are for a seeded drill: set SEED to a number.")
    if options.seed is not None and options.names:
        raise ToolchainError(f"DRILL={options.names!r} and SEED={options.seed}: set one of them.")
    return options.seed is not None


def _snapshot(file: str) -> Path:
    if not file:
        raise ToolchainError("SNAPSHOT is not set: name the file that `make snapshot` wrote.")
    return Path(file)


def _insist() -> bool:
    said = os.environ.get("INSIST", "")
    if said not in ("", "yes"):
        raise ToolchainError(f"INSIST={said!r}: must be 'yes', or not set.")
    return said == "yes"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
