"""Changes to a running lab, chosen by a seed: each with the one line by which `drift` must name it."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote

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
        claims: what no other mutation may change at the same time.
        restarts: the units that a repair restarts.
    """

    action: str
    machine: str
    script: str
    named: tuple[str, str, str]
    claims: frozenset[str]
    restarts: frozenset[str] = frozenset()


def choose(machines: Mapping[str, Recorded], seed: int, number: int) -> list[Mutation]:
    """So many mutations that do not touch each other, of as many kinds as there are."""
    chance = random.Random(seed)
    every = [mutation for machine in machines.values() for mutation in _mutations(machine)]
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
    # A kubelet that starts by another host name makes another Node.
    return sorted(chosen, key=lambda mutation: mutation.action == "host name")


def _mutations(machine: Recorded) -> Iterator[Mutation]:
    for path, file in machine.files.items():
        for action, script in _FILE_ACTIONS.items() if file.content is not None else ():
            restarts = frozenset() if action in ("chmod", "group", "user") else _readers(machine, path)
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
    if unit.watches:
        path = unit.watches[0]
        script = f"cp -a {path} /tmp/kept && echo >>{path} && systemctl restart {name} && cp -a /tmp/kept {path}"
        yield _mutation(machine, "edited and put back", script, "unit", name, claims, frozenset({name}))


def _api_mutations(machine: Recorded) -> Iterator[Mutation]:
    def mutation(action: str, script: str, kind: str, name: str) -> Mutation:
        return Mutation(
            action=action,
            machine=machine.name,
            script=f"{_KUBECTL} {script} >/dev/null",
            named=("API", kind, name),
            # It is asked by this file.
            claims=frozenset({name, "/etc/kubernetes/admin.conf", "/usr/local/bin/kubectl"}),
        )

    if "/etc/kubernetes/manifests/dns.yaml" not in machine.objects:
        return
    kube_system = "-n kube-system"
    yield mutation(
        "scaled",
        f"{kube_system} scale deployment coredns --replicas=1",
        "object",
        "apps.v1.Deployment.kube-system.coredns",
    )
    yield mutation(
        "object gone",
        "delete clusterrolebinding system:coredns",
        "object",
        "rbac.authorization.k8s.io.v1.ClusterRoleBinding..system:coredns",
    )
    yield from (mutation("label", f"label node {node} hardway/worker-", "node", node) for node in machine.nodes)


def scripts(chosen: Sequence[Mutation]) -> dict[str, str]:
    """Machine -> what makes all of its mutations; what asks the API comes first."""
    found: dict[str, list[str]] = {}
    for mutation in sorted(chosen, key=lambda each: each.named[0] != "API"):
        found.setdefault(mutation.machine, []).append(mutation.script)
    return {machine: "\n".join(["set -e", *lines]) for machine, lines in found.items()}
