"""Changes to a running lab, chosen by a seed: each with the one line by which `drift` must name it."""

import json
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from shlex import quote
from typing import Any

import yaml

from config.machine_paths import HOSTS_UNIT, POD_NETWORK_UNIT, POD_ROUTES
from live.drift.look import text_of
from live.drift.recorded import Recorded, Unit

_KUBECTL = "kubectl --kubeconfig /etc/kubernetes/admin.conf"
_CARRIES_OTHERS = (
    "etcd.service",
    "kube-apiserver.service",
    "containerd.service",
    "haproxy.service",
    HOSTS_UNIT,
    POD_NETWORK_UNIT,
)
"""Units whose stop has further effects, which `drift` names, too."""
_FILE_ACTIONS = {
    "append": "echo '#' >>{0}",
    "chmod": "chmod 0751 {0}",
    "group": "chgrp daemon {0}",
    "user": "chown daemon {0}",
    "remove": "rm {0}",
    "link": "cp -p {0} {0}.aside && ln -sfn {0}.aside {0}",
}
_DIRECTORY_ACTIONS = {"chmod a directory": "chmod 0751 {0}", "group of a directory": "chgrp daemon {0}"}
_CHANGES_METADATA = ("chmod", "group", "user")
_PROGRAM_ACTIONS = {
    "other program": "ln -sfn /bin/false {0}",
    "copied program": "cp --remove-destination $(readlink -f {0}) {0}",
    "no program": "rm {0}",
}


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """One change.

    Args:
        action: what kind it is.
        machine: where its script runs.
        script: shell lines.
        named: machine, kind and name in the report.
        also_named: what differs with it.
        claims: what no other mutation may change at the same time.
        restarts: the units that a repair restarts.
        restarts_on: on which machine; the same one if empty.
    """

    action: str
    machine: str
    script: str
    named: tuple[str, str, str]
    claims: frozenset[str]
    restarts: frozenset[str] = frozenset()
    restarts_on: str = ""
    also_named: frozenset[tuple[str, str, str]] = frozenset()


_LAST = ("touched unit file", "touched file of what it triggers", "host name")
"""A kubelet that starts by another host name makes another Node; `systemctl disable` has systemd read its units again,
and a unit whose file is gone by then is missing, too."""


def choose(
    machines: Mapping[str, Recorded], seed: int, number: int, *, without: Collection[str] = ()
) -> list[Mutation]:
    """So many mutations that do not touch each other, of as many kinds as there are, but for some."""
    chance = random.Random(seed)
    found = (mutation for machine in machines.values() for mutation in _mutations(machine))
    every = [mutation for mutation in found if mutation.action not in without]
    by_action: dict[str, list[Mutation]] = {}
    for mutation in every:
        by_action.setdefault(mutation.action, []).append(mutation)
    for group in by_action.values():
        chance.shuffle(group)
    actions = sorted(by_action)
    chance.shuffle(actions)
    chosen: list[Mutation] = []
    claimed: set[str] = set()
    while len(chosen) < number and any(by_action.values()):
        for action in actions:
            while by_action[action] and len(chosen) < number:
                mutation = by_action[action].pop()
                claims = {f"{mutation.machine}:{each}" for each in mutation.claims}
                if not claims & claimed:
                    claimed |= claims
                    chosen.append(mutation)
                    break
    return sorted(chosen, key=_comes_last)


def _comes_last(mutation: Mutation) -> bool:
    _, kind, name = mutation.named
    unit_file = kind == "file" and name.startswith("/etc/systemd/system/") and mutation.action in _FILE_ACTIONS
    return mutation.action in _LAST or unit_file


def _mutations(machine: Recorded) -> Iterator[Mutation]:
    for path, file in machine.files.items():
        for action, script in (_DIRECTORY_ACTIONS if file.content is None else _FILE_ACTIONS).items():
            changes_content = file.content is not None and action not in _CHANGES_METADATA
            restarts = _readers(machine, path) if changes_content else frozenset()
            yield _mutation(machine, action, script.format(quote(path)), "file", path, {path}, restarts)
    for path in machine.programs:
        for action, script in _PROGRAM_ACTIONS.items():
            yield _mutation(machine, action, script.format(path), "program", path, {path}, _readers(machine, path))
        if (program := machine.programs[path]).is_packed:
            # Beside it first: it may be running.
            script = "cp -p {0} {0}.other && echo >>{0}.other && mv -f {0}.other {0}".format(quote(program.target))
            yield _mutation(machine, "changed member", script, "program", path, {path}, _readers(machine, path))
    for name, unit in machine.units.items():
        yield from _unit_mutations(machine, name, unit)
    for path in machine.links:
        yield _mutation(machine, "target", f"ln -sfn /dev/null {path}", "link", path, {path})
        yield _mutation(machine, "no link", f"rm {path}", "link", path, {path})
    if "curl" in machine.packages:
        # As dpkg leaves it when it is killed. Nothing has to be downloaded, and the package has no script of its own.
        script = "sed -i '/^Package: curl$/,/^$/s/^Status: .*/Status: install ok unpacked/' /var/lib/dpkg/status"
        yield _mutation(machine, "unconfigured package", script, "package", "curl", {"curl"})
    for name in machine.sysctls:
        yield _mutation(machine, "sysctl", f"sysctl -qw {name}=0", "sysctl", name, {name})
    for line in text_of(machine, POD_ROUTES).splitlines():
        if line:
            pods = line.split()[2]
            yield _mutation(machine, "route", f"ip route del {pods}", "route", pods, {pods, POD_ROUTES})
            extra = f"ip route add 192.0.2.0/24 {' '.join(line.split()[3:])}"
            yield _mutation(machine, "extra route", extra, "route", "192.0.2.0/24", {"192.0.2.0/24", POD_ROUTES})
    hosts = "sed '/^# BEGIN hardway$/a 192.0.2.1 other' /etc/hosts >/tmp/hosts; cat /tmp/hosts >/etc/hosts"
    yield _mutation(machine, "host table", hosts, "host table", "/etc/hosts", {"/etc/hosts", HOSTS_UNIT})
    if "/etc/hardway/masquerade.nft" in machine.files:
        rule = "nft add rule ip hardway forward ip saddr 192.0.2.1 drop"
        claims = {"/etc/hardway/masquerade.nft", POD_NETWORK_UNIT}
        yield _mutation(machine, "rules", rule, "rules", "table ip hardway", claims)
    for name in machine.users:
        # Its files have no other owner meanwhile: the group of its name stays.
        kept = f"/etc/passwd.{name}"
        script = f"cp -p /etc/passwd {kept}; grep -v '^{name}:' {kept} >/etc/passwd"
        owned = {path for path, file in machine.files.items() if file.owner == name}
        claims = {*owned, *(unit for path in owned for unit in _readers(machine, path))}
        mutation = _mutation(machine, "no user", script, "user", name, {name, *claims})
        yield replace(mutation, also_named=frozenset((machine.name, "file", path) for path in owned))
    yield _mutation(machine, "host name", "hostname other", "host name", machine.name, {"host name"})
    yield from _api_mutations(machine)


def _mutation(
    machine: Recorded,
    action: str,
    script: str,
    kind: str,
    name: str,
    claims: set[str],
    restarts: frozenset[str] = frozenset(),
) -> Mutation:
    return Mutation(
        action=action,
        machine=machine.name,
        script=script,
        named=(machine.name, kind, name),
        claims=frozenset(claims),
        restarts=restarts,
    )


def _readers(machine: Recorded, path: str) -> frozenset[str]:
    return frozenset(name for name, unit in machine.units.items() if path in (*unit.own, *unit.watches))


def _unit_mutations(machine: Recorded, name: str, unit: Unit) -> Iterator[Mutation]:
    claims = {name, *unit.own, *unit.watches, *unit.reloads_on}
    if unit.enabled:
        yield _mutation(machine, "disable", f"systemctl -q disable {name}", "unit", name, claims)
    if name in _CARRIES_OTHERS or not unit.by_step:
        return
    yield _mutation(machine, "stop", f"systemctl stop {name}", "unit", name, claims, frozenset({name}))
    if (file := f"/etc/systemd/system/{name}") in machine.files:
        yield _mutation(machine, "touched unit file", f"touch {file}", "unit", name, claims, frozenset({name}))
    else:
        # It runs on: a repair unmasks it, and restarts nothing.
        yield _mutation(machine, "mask", f"systemctl -q mask {name}", "unit", name, claims)
    for path in (f"/etc/systemd/system/{each}" for each in unit.triggers):
        touched = "touched file of what it triggers"
        yield _mutation(machine, touched, f"touch {path}", "unit", name, claims, frozenset({name}))
        # systemd refuses to start the timer then.
        gone = f"rm {path} && systemctl daemon-reload"
        yield _mutation(machine, "no unit to trigger", gone, "file", path, claims, frozenset({name}))
    if unit.watches:
        path = unit.watches[0]
        script = f"cp -a {path} /tmp/kept && echo >>{path} && systemctl restart {name} && cp -a /tmp/kept {path}"
        yield _mutation(machine, "edited and put back", script, "unit", name, claims, frozenset({name}))


def _api_mutations(machine: Recorded) -> Iterator[Mutation]:
    def mutation(action: str, script: str, kind: str, name: str, *claims: str) -> Mutation:
        return Mutation(
            action=action,
            machine=machine.name,
            script=f"{_KUBECTL} {script} >/dev/null",
            named=("API", kind, name),
            # It is asked by this file.
            claims=frozenset({name, "/etc/kubernetes/admin.conf", "/usr/local/bin/kubectl", *claims}),
        )

    for path, applied in machine.objects.items():
        for document in yaml.safe_load_all(applied.value):
            for action, script in _object_changes(document):
                namespace = document["metadata"].get("namespace", "")
                words = f"-n {namespace} {script}" if namespace else script
                # The step that applies the objects reads this file.
                yield mutation(action, words, "object", _name_of(document), path)
    for node in machine.nodes:
        yield mutation("label", f"label node {node} hardway/worker-", "node", node)
        gone = mutation("no node", f"delete node {node}", "node", node)
        yield replace(gone, restarts=frozenset({"kubelet.service"}), restarts_on=node)


def _name_of(document: Mapping[str, Any]) -> str:
    """As `kubectl diff` names it."""
    group, _, version = document["apiVersion"].rpartition("/")
    metadata = document["metadata"]
    start = f"{group}.{version}" if group else version
    return f"{start}.{document['kind']}.{metadata.get('namespace', '')}.{metadata['name']}"


def _object_changes(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Action and the words of kubectl, for objects that the lab can do without until they are repaired."""
    kind, name = document["kind"], document["metadata"]["name"]
    match kind:
        case "Deployment":
            yield "scaled", f"scale deployment {name} --replicas=1"
        case "ClusterRoleBinding" | "RoleBinding":
            yield "object gone", f"delete {kind} {name}"
        case "ClusterRole" | "Role":
            yield (
                "no rules",
                f"""patch {kind} {name} --type=json -p '[{{"op":"replace","path":"/rules","value":[]}}]'""",
            )
        case "ConfigMap":
            data = {key: f"{text}# changed\n" for key, text in document["data"].items()}
            yield "other data", f"patch {kind} {name} --type=merge -p {quote(json.dumps({'data': data}))}"


def scripts(chosen: Sequence[Mutation]) -> dict[str, str]:
    """Machine -> what makes all of its mutations; what asks the API comes first."""
    found: dict[str, list[str]] = {}
    for mutation in sorted(chosen, key=lambda each: each.named[0] != "API"):
        found.setdefault(mutation.machine, []).append(mutation.script)
    return {machine: "\n".join(["set -e", *lines]) for machine, lines in found.items()}
