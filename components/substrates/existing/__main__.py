"""`python -m components.substrates.existing <command>`: one command on hosts that exist already.

The hosts are JSON in an argument, the lab's private key comes on standard input.
"""

import argparse
import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path

from components.substrates.existing import entry, plan, preflight, upload
from components.substrates.existing.reach import Credentials, HostError


def main(arguments: list[str]) -> int:
    """Run one command; what goes wrong is said in one message on stderr."""
    parser = argparse.ArgumentParser(prog="python -m components.substrates.existing", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("preflight", "enter", "leave", "open-way", "close-way", "upload", "withdraw"):
        command = commands.add_parser(name)
        command.add_argument("plan", type=plan.from_json)
        if name in ("upload", "withdraw"):
            command.add_argument("directory")
        if name == "upload":
            command.add_argument("mirror", type=Path)
            command.add_argument("files", type=json.loads)
    try:
        return asyncio.run(_run(parser.parse_args(arguments)))
    except HostError as reason:
        print(reason, file=sys.stderr)
        return 1


async def _run(options: argparse.Namespace) -> int:
    lab_key = sys.stdin.read()
    hosts: plan.Plan = options.plan
    credentials = Credentials(lab_key=lab_key, key=hosts.key, timeout_factor=hosts.timeout_factor)
    if options.command == "preflight":
        marks = {host.name: entry.mark(hosts.stack, lab_key, host.name) for host in hosts.hosts}
        return await preflight.main(hosts, credentials, marks)
    (host,) = hosts.hosts
    alone = replace(credentials, lab_key_only=True)
    match options.command:
        case "enter":
            await entry.enter(host, hosts.stack, credentials)
        case "leave":
            try:
                await entry.leave(host, hosts.stack, alone)
            except HostError:
                # A run that was killed may have taken the lab's key out already.
                await entry.leave(host, hosts.stack, credentials)
        case "open-way":
            await entry.open_way(host.login, hosts.stack, credentials)
        case "close-way":
            await entry.close_way(host.login, hosts.stack, credentials)
        case "upload":
            await upload.upload(host, options.mirror, options.directory, options.files, alone)
        case "withdraw":
            await upload.withdraw(host, options.directory, alone)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
