"""The commands behind `make`: `python -m toolchain <command> [--stack NAME]`."""

import argparse
import os
import shlex
import sys
import time

from live import answers, cluster
from toolchain import access, free, operations, owner, pins, prepare, stack, trust
from toolchain.errors import ToolchainError, needs_sudo
from toolchain.prepare import Workshop
from toolchain.progress import Report
from toolchain.stack import Stack


def main(arguments: list[str]) -> int:
    """Run one command and return its exit status; what goes wrong is said in one message on stderr."""
    options = _parser().parse_args(arguments)
    with owner.keeps_files():
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    try:
        if options.command == "pins":
            return _pins(options.product or ["kubernetes"], options.version)
        chosen = stack.read(options.stack)
        match options.command:
            case "setup":
                return _setup(chosen)
            case "up":
                return _up(chosen)
            case "preview":
                return _preview(chosen)
            case "destroy":
                return _destroy(chosen)
            case "env":
                return _env(chosen)
            case "trust":
                trust.pin(chosen)
            case "free":
                free.free(chosen, options.machine, options.key)
            case "kubectl":
                access.kubectl(chosen, options.words)
            case "ssh":
                access.ssh(chosen, options.machine, options.remote)
    except ToolchainError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    except PermissionError as error:
        print(f"\nerror: {needs_sudo(error, options.command, options.stack)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. What is done is kept; the same command goes on from here.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m toolchain", description=__doc__)
    parser.add_argument("--stack", default=os.environ.get("STACK") or "dev", help="default: STACK, else dev")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("setup", help="prepare this machine: nothing is left for `pulumi up` to miss")
    commands.add_parser("up", help="set-up, then `pulumi up`; shows how to reach the lab")
    commands.add_parser("preview", help="what `up` would change")
    commands.add_parser("destroy", help="take the lab away")
    commands.add_parser("env", help="print what plain `pulumi` needs in its environment, for a shell's eval")
    commands.add_parser("trust", help="show and pin the host keys of machines that exist already")
    freed = commands.add_parser("free", help="take a lab off a machine that exists already, where destroy cannot")
    versions = commands.add_parser("pins", help="write a version and its checksums into config/versions.yaml")
    kubectl = commands.add_parser("kubectl", help="the lab's kubectl, as its administrator")
    ssh = commands.add_parser("ssh", help="a shell on a machine of the lab, or one command there")
    versions.add_argument(
        "product", nargs="*", help="kubernetes (the default), etcd, pulumi, plugin/tls, image/coredns, ..."
    )
    versions.add_argument("version", help="such as 1.36.5")
    kubectl.add_argument("words", type=shlex.split, help="its arguments in one string, quoted in it as for a shell")
    freed.add_argument("machine", help="its name in the lab")
    freed.add_argument("key", nargs="?", help="the fingerprint of the lab's key; without it the host is only looked at")
    ssh.add_argument("machine", help="its name in the lab")
    ssh.add_argument("remote", nargs="?", help="the command, for the machine's shell")
    return parser


def _pins(products: list[str], version: str) -> int:
    with Report() as report:
        file = pins.write(report, products, version)
    print(f"{file} has the checksums of {', '.join(products)} {version}: read `git diff` before you use them.")
    return 0


def _prepared(chosen: Stack) -> Workshop:
    with Report() as report:
        return prepare.everything(report, chosen)


def _preview(chosen: Stack) -> int:
    with Report() as report:
        workshop = prepare.for_preview(report, chosen)
    return operations.preview(workshop, chosen)


def _setup(chosen: Stack) -> int:
    with Report() as report:
        prepare.everything(report, chosen, retry=True)
    print(f"All is set up for the stack {chosen.name}: `make up STACK={chosen.name}`.")
    return 0


def _up(chosen: Stack) -> int:
    started = time.monotonic()
    with operations.alone(chosen, "make up"):
        operations.check_settings(chosen)
        workshop = _prepared(chosen)
        ready = time.monotonic()
        status = operations.up(workshop, chosen)
        if status != 0:
            return status
        made = time.monotonic()
        outputs = operations.outputs(workshop, chosen)
        access.write(chosen, outputs)
        answers.check(cluster.find(chosen))
        access.show(chosen, outputs)
    ended = time.monotonic()
    print(
        f"time taken  {ended - started:.1f} s: set-up {ready - started:.1f} s, "
        f"pulumi up {made - ready:.1f} s, kubeconfig and nodes {ended - made:.1f} s"
    )
    return 0


def _destroy(chosen: Stack) -> int:
    with operations.alone(chosen, "make destroy"):
        status = operations.destroy(_prepared(chosen), chosen)
        if status == 0:
            access.remove(chosen)
    return status


def _env(chosen: Stack) -> int:
    # The variables alone go to stdout: a shell evaluates it.
    with Report(sys.stderr) as report:
        workshop = prepare.for_plain_pulumi(report, chosen)
    for name, value in workshop.environment.items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
