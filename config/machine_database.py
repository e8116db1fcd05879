"""The machine database: which hosts the substrate `machines` has, from machines.txt or from the stack's settings.

A line of machines.txt is a host: address, FQDN, host name, pod subnet (`-` or nothing where it takes no pods), and then
whatever else is to be said of it as `key=value`. `#` begins a comment. See config/machines.example.txt.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from config.machines import MachineSpec, Role
from config.own_machines import MachinesSettings, OwnMachine, role_of
from config.problems import Problem, described
from config.settings import LabSettings

_COLUMNS = ("address", "fqdn", "name", "pod_cidr")
_OPTIONS = ("role", "user", "port", "jumpbox", "arch", "interface")
# Which machines there are is said by the database, so that nothing else may say it.
_COUNTS = ("controllers", "etcd", "etcd_members", "workers", "load_balancers")


def read(settings: MachinesSettings, directory: Path) -> tuple[list[tuple[str, OwnMachine]], list[Problem]]:
    """All hosts, each with the place where it stands, and what is wrong with the database.

    Args:
        settings: name the file, or hold the hosts.
        directory: what a relative path starts from.
    """
    if not isinstance(settings.database, str):
        return [(f"lab.machines.database[{n}]", machine) for n, machine in enumerate(settings.database)], []
    file = directory / Path(settings.database).expanduser()
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        problem = Problem(
            ("lab.machines.database",),
            f"{settings.database} cannot be read: {reason}",
            "write the hosts into it, as config/machines.example.txt shows, or name another file",
        )
        return [], [problem]
    return parse(settings.database, text)


def parse(file: str, text: str) -> tuple[list[tuple[str, OwnMachine]], list[Problem]]:
    """The hosts of a machines.txt, each with its line, and one problem for everything that cannot be read.

    Args:
        file: its name, for the report.
        text: what stands in it.
    """
    machines: list[tuple[str, OwnMachine]] = []
    problems: list[Problem] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        place = f"{file}, line {number}"
        fields, wrong = _fields(words)
        try:
            machine = OwnMachine.model_validate(fields)
        except ValidationError as error:
            wrong += [
                (f"{'.'.join(map(str, detail['loc']))}: {what}", fix)
                for detail in error.errors()
                for what, fix in (described(detail),)
            ]
        else:
            machines.append((place, machine))
        problems += [Problem((place,), what, fix) for what, fix in wrong]
    if not machines and not problems:
        problems.append(Problem((file,), "there is no host in it", "write one line for each host"))
    return machines, problems


def _fields(words: Sequence[str]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """What a line says, as `OwnMachine` takes it, and what of it makes no sense."""
    plain = [word for word in words if "=" not in word]
    fields: dict[str, Any] = {name: word for name, word in zip(_COLUMNS, plain, strict=False) if word != "-"}
    wrong = []
    if len(plain) < 3 or len(plain) > len(_COLUMNS) or words[: len(plain)] != plain:
        wrong.append(
            (
                f"{len(plain)} columns" if words[: len(plain)] == plain else "a column after the options",
                "write address, FQDN, host name and pod subnet (or -), then options as key=value",
            )
        )
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            continue
        if name not in _OPTIONS:
            wrong.append((f"unknown option {name}", f"one of {', '.join(_OPTIONS)}"))
        elif name in fields:
            wrong.append((f"the option {name} stands there twice", "say it once"))
        else:
            fields[name] = int(value) if name == "port" and value.isdecimal() else value
    return fields, wrong


def place(
    settings: LabSettings, machines: Sequence[tuple[str, OwnMachine]]
) -> tuple[tuple[MachineSpec, ...], list[Problem]]:
    """The hosts as the rest of the program takes machines, load balancers first; and what they cannot be."""
    problems = [
        Problem(
            (f"lab.{key}", "lab.substrate"),
            "the machine database says which machines there are",
            "leave it out, and give each host its role there",
        )
        for key in _COUNTS
        if key in settings.model_fields_set
    ]
    specs: list[MachineSpec] = []
    order = (Role.LOAD_BALANCER, Role.CONTROLLER, Role.ETCD, Role.WORKER)
    for where, machine in sorted(machines, key=lambda each: order.index(role_of(each[1]))):
        role = role_of(machine)
        if role is Role.WORKER and machine.pod_cidr is None:
            problems.append(
                Problem((where,), f"{machine.name} is a worker without a pod subnet", "write one in the fourth column")
            )
        elif role is not Role.WORKER and machine.pod_cidr is not None:
            problems.append(Problem((where,), f"{machine.name} is no worker: it has no pods", "write - there"))
        else:
            specs.append(
                MachineSpec(
                    name=machine.name,
                    fqdn=machine.fqdn,
                    roles=frozenset({role}),
                    address=machine.address,
                    pod_cidr=machine.pod_cidr,
                    key=where,
                )
            )
    return tuple(specs), problems
