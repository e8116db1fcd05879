"""Which faults a seed stands for: chosen by chance, and the same for the same seed on a lab of the same machines."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from config.machines import Role
from live.cluster import Cluster, LiveMachine
from live.drills.catalogue import containers_lack, nothing


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One fault of a run.

    Args:
        seed: of the run.
        number: its place in the run, from 1.
        kind: one of KINDS.
        machine: the name of the machine that it hits.
        program: what is killed or frozen there; empty where the kind concerns none.
        way: `in` or `out` of a one-way partition; whose program is killed at a promotion; `pulumi` alone, or `all`.
        percent: of packets that are lost.
        delay: seconds for which everything is delayed on its way.
        seconds: how long it lasts, or the delay before the kill.
    """

    seed: int
    number: int
    kind: str
    machine: str
    program: str = ""
    way: str = ""
    percent: int = 0
    delay: float = 0
    seconds: float = 0

    @property
    def runs_pulumi(self) -> bool:
        """Whether it runs `pulumi` on the lab's stack: this run must not hold the stack's locks meanwhile."""
        return self.kind == "killed-up"

    @property
    def lasts(self) -> bool:
        """Whether `seconds` is how long it lasts."""
        return self.kind not in ("promotion", "killed-up")

    def chance(self, who: object) -> random.Random:
        """A generator for a part of this fault; it is the same when only this fault is repeated."""
        return random.Random(f"{self.seed}/{self.number}/{who}")

    def __str__(self) -> str:
        return KINDS[self.kind].says(self)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of fault.

    Args:
        weight: how often it is chosen, compared with the others.
        lacks: why a lab cannot have it; empty where it can.
        choose: the parameters, by chance.
        seconds: the least and the most for `Planned.seconds`, chosen after the others; None where `choose` has it.
        says: what it does, for people.
    """

    weight: int
    choose: Callable[[Cluster, random.Random], dict[str, object]]
    says: Callable[[Planned], str]
    seconds: tuple[float, float] | None = None
    lacks: Callable[[Cluster], str] = nothing


def _units(cluster: Cluster) -> str:
    return "etcd as a systemd unit" if cluster.by_kubeadm else ""


def _replaceable(cluster: Cluster) -> str:
    return "machines that Pulumi makes" if cluster.stack.traits.existing_hosts else _units(cluster)


def _data_path(cluster: Cluster) -> list[tuple[LiveMachine, str]]:
    """What a write passes through."""
    return [
        *((machine, "etcd") for machine in cluster.etcd_members),
        *((machine, "kube-apiserver") for machine in cluster.with_role(Role.CONTROLLER)),
        *((machine, "haproxy") for machine in cluster.with_role(Role.LOAD_BALANCER)),
    ]


def _program(cluster: Cluster, chance: random.Random) -> dict[str, object]:
    # By program first: a balancer is hit as often as three members of etcd together.
    program = chance.choice(["etcd", "etcd", "kube-apiserver", "haproxy"])
    candidates = [machine for machine, name in _data_path(cluster) if name == program]
    if not candidates:
        return _program(cluster, chance)
    return {"machine": chance.choice(candidates).name, "program": program}


def _servers(cluster: Cluster) -> list[LiveMachine]:
    return [each for each in cluster.machines if each in cluster.etcd_members or Role.CONTROLLER in each.roles]


def _server(cluster: Cluster, chance: random.Random) -> dict[str, object]:
    return {"machine": chance.choice(_servers(cluster)).name}


def _delay(cluster: Cluster, chance: random.Random) -> dict[str, object]:
    # Requests and answers: from an unnoticeable delay to one that no client waits for.
    balancers = cluster.with_role(Role.LOAD_BALANCER) or cluster.with_role(Role.CONTROLLER)
    return {"machine": balancers[0].name, "delay": _span(chance, 0.1, 1.5)}


def _restart(cluster: Cluster, chance: random.Random) -> dict[str, object]:
    return {"machine": chance.choice([*_servers(cluster), *cluster.with_role(Role.LOAD_BALANCER)]).name}


def _member(cluster: Cluster, chance: random.Random) -> dict[str, object]:
    return {"machine": chance.choice(cluster.etcd_members).name}


def _promotion(cluster: Cluster, chance: random.Random) -> dict[str, object]:
    return {
        **_member(cluster, chance),
        "way": chance.choice(["learner", "leader"]),
        "seconds": round(chance.uniform(0, 0.3), 3),
    }


def _span(chance: random.Random, low: float, high: float) -> float:
    return round(chance.uniform(low, high), 1)


KINDS: dict[str, Kind] = {
    "kill": Kind(
        weight=20,
        choose=_program,
        says=lambda each: f"SIGKILL of {each.program} on {each.machine}",
    ),
    "freeze": Kind(
        weight=17,
        choose=_program,
        seconds=(1, 6),
        says=lambda each: f"SIGSTOP of {each.program} on {each.machine} for {each.seconds} s",
    ),
    "loss": Kind(
        weight=13,
        choose=lambda cluster, chance: {**_server(cluster, chance), "percent": chance.randrange(10, 71, 5)},
        seconds=(2, 6),
        says=lambda each: f"{each.machine} loses {each.percent}% of the packets it gets for {each.seconds} s",
    ),
    "delay": Kind(
        weight=7,
        choose=_delay,
        seconds=(3, 6),
        says=lambda each: f"what clients send and get is delayed by {each.delay} s, for {each.seconds} s",
    ),
    "one-way": Kind(
        weight=13,
        choose=lambda cluster, chance: {**_server(cluster, chance), "way": chance.choice(["in", "out"])},
        seconds=(2, 6),
        says=lambda each: (
            f"{each.machine} {'gets' if each.way == 'in' else 'sends'} no packets for {each.seconds} s, "
            f"and still {'sends' if each.way == 'in' else 'gets'}"
        ),
    ),
    "restart": Kind(
        weight=10,
        lacks=containers_lack,
        choose=_restart,
        seconds=(0, 3),
        says=lambda each: f"power cut of {each.machine}, started again after {each.seconds} s",
    ),
    "full-disk": Kind(
        weight=8,
        lacks=_units,
        choose=_member,
        seconds=(2, 5),
        says=lambda each: f"the disk with etcd's data on {each.machine} is full for {each.seconds} s",
    ),
    "promotion": Kind(
        weight=7,
        lacks=_units,
        choose=_promotion,
        says=lambda each: (
            f"{each.machine} joins etcd again as a learner; SIGKILL of the {each.way} {each.seconds} s after its "
            "promotion was asked for"
        ),
    ),
    "killed-up": Kind(
        weight=5,
        lacks=_replaceable,
        choose=lambda cluster, chance: {**_member(cluster, chance), "way": chance.choice(["pulumi", "all"])},
        seconds=(1, 15),
        says=lambda each: (
            f"SIGKILL of {'`pulumi up`' if each.way == 'pulumi' else '`pulumi up` and all its processes'} "
            f"{each.seconds} s after `./hardway replace {each.machine}` started it, then `./hardway up`"
        ),
    ),
}


def plan(cluster: Cluster, seed: int, count: int) -> list[Planned]:
    """The faults of a seed: the first `count` of them. Fault 17 is the same in a run of 20 and in one of 100."""
    possible = {name: kind for name, kind in KINDS.items() if not kind.lacks(cluster)}
    names, weights = list(possible), [kind.weight for kind in possible.values()]
    planned = []
    for number in range(1, count + 1):
        chance = random.Random(f"{seed}/{number}")
        name = chance.choices(names, weights)[0]
        chosen = possible[name].choose(cluster, chance)
        if span := possible[name].seconds:
            chosen["seconds"] = _span(chance, *span)
        planned.append(Planned(seed=seed, number=number, kind=name, **chosen))  # type: ignore[arg-type]
    return planned


def lacking(cluster: Cluster) -> dict[str, str]:
    """The kinds that a lab cannot have: name -> what it would need."""
    return {name: lack for name, kind in KINDS.items() if (lack := kind.lacks(cluster))}


def kinds_of(planned: Sequence[Planned]) -> dict[str, int]:
    """Kind -> how many there are."""
    return {kind: sum(each.kind == kind for each in planned) for kind in KINDS}
