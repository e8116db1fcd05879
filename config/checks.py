"""The checks on values that are fine by themselves and wrong together."""

import re
from collections.abc import Iterator, Sequence
from itertools import combinations

from config import extra_flags, libvirt
from config.machines import MOST, MOST_MEMBERS, MachineSpec, Role
from config.problems import Problem
from config.settings import LabSettings, dedicated_members, load_balancers, versions_of
from config.versions import pins

_DATABASE = "lab.machines.database"
# RFC 5280, ub-common-name.
_LONGEST_COMMON_NAME = 64


def run(stack: str, settings: LabSettings, machines: Sequence[MachineSpec]) -> list[Problem]:
    """All that is wrong with a lab whose single values are readable."""
    return [
        *_stack_name(stack),
        *_counts(settings, machines),
        *_ranges(settings),
        *_addresses(settings, machines),
        *_shared_address(settings, machines),
        *_domain(settings, machines),
        *_pod_ranges(settings, machines),
        *_calico(settings),
        *_versions(settings),
        *_validity(settings),
        *settings.traits.problems(stack, settings, machines),
        *_extra_flags(settings),
        *_kubeadm(settings, machines),
        *libvirt.problems(settings.libvirt),
    ]


def _stack_name(stack: str) -> Iterator[Problem]:
    # It becomes part of container, network and host names, and of a DNS name.
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,18}[a-z0-9])?", stack):
        yield Problem(
            ("the stack's name",),
            f"{stack!r} is not allowed in host names",
            "name the stack with at most 20 lower case letters, digits and dashes, a letter first",
        )


def _counted(settings: LabSettings, machines: Sequence[MachineSpec]) -> dict[str, int]:
    """How many machines of each role are wanted, by the role's key."""
    if settings.traits.existing_hosts:
        having = {
            key: sum(role in machine.roles for machine in machines)
            for key, role in (
                ("controllers", Role.CONTROLLER),
                ("etcd_members", Role.ETCD),
                ("workers", Role.WORKER),
                ("load_balancers", Role.LOAD_BALANCER),
            )
        }
        # None of their own: the controllers carry them.
        return {key: count for key, count in having.items() if count or key != "etcd_members"}
    return {
        key: wanted if isinstance(wanted, int) else len(wanted)
        for key, wanted in (
            ("controllers", settings.controllers),
            *((("etcd_members", dedicated_members(settings)),) if settings.etcd == "dedicated" else ()),
            ("workers", settings.workers),
            *((("load_balancers", load_balancers(settings)),) if not settings.traits.own_balancer else ()),
        )
    }


def _counts(settings: LabSettings, machines: Sequence[MachineSpec]) -> Iterator[Problem]:
    counts = _counted(settings, machines)
    dedicated = "etcd_members" in counts

    def place(key: str) -> str:
        return _DATABASE if settings.traits.existing_hosts else f"lab.{key}"

    for key, count in counts.items():
        if count < 1:
            what = f"{count} is too few" if place(key) != _DATABASE else f"{count} {key.replace('_', ' ')} are too few"
            yield Problem((place(key),), what, "a lab needs at least one of them")
    if counts["workers"] > MOST:
        yield Problem(
            (place("workers"),),
            f"{counts['workers']} workers are more than Kubernetes supports",
            f"take at most {MOST}",
        )
    if counts.get("load_balancers", 0) > 2:
        yield Problem(
            (place("load_balancers"),),
            f"{counts['load_balancers']} load balancers are too many: at most two can share the API's address",
            "take 1 or 2",
        )
    if "etcd_members" in settings.model_fields_set and not dedicated and place("etcd_members") != _DATABASE:
        yield Problem(
            ("lab.etcd_members", "lab.etcd"),
            "the controllers have the etcd members in this lab",
            "leave it out, or write etcd: dedicated",
        )
    key, what = ("etcd_members", "members") if dedicated else ("controllers", "controllers")
    members = counts[key]
    # Of dedicated ones there is room for five.
    if members > MOST_MEMBERS and not dedicated:
        yield Problem((place(key),), f"{members} etcd members are too many", "take 1, 3, 5 or 7")
    elif members > 0 and members % 2 == 0:
        yield Problem(
            (place(key),),
            f"{members} {what} make an even number of etcd members, which survives no more failures than {members - 1}",
            f"take {members - 1} or {members + 1}",
        )


def _ranges(settings: LabSettings) -> Iterator[Problem]:
    network = settings.network
    ranges = {"nodes": network.nodes, "pods": network.pods, "services": network.services}
    if not _has_range(settings):
        del ranges["nodes"]
    for (one, first), (other, second) in combinations(ranges.items(), 2):
        if first.overlaps(second):
            yield Problem(
                (f"lab.network.{other}", f"lab.network.{one}"),
                f"{second} overlaps lab.network.{one} ({first})",
                "choose ranges that have no address in common",
            )
    if not 12 <= network.services.prefixlen <= 28:
        yield Problem(
            ("lab.network.services",),
            f"/{network.services.prefixlen} cannot be used: the API server takes /12 at the widest, and the cluster's "
            "DNS stands at the tenth address",
            "take a prefix length from 12 to 28, like 10.32.0.0/24",
        )
    # A worker's range loses the network's, the bridge's and the broadcast address.
    room = 2 ** (32 - network.node_prefix) - 3
    if network.max_pods > room:
        yield Problem(
            ("lab.network.max_pods", "lab.network.node_prefix"),
            f"{network.max_pods} pods do not fit a worker's /{network.node_prefix}, which holds {room}",
            f"take at most {room}, or a shorter lab.network.node_prefix",
        )


def _addresses(settings: LabSettings, machines: Sequence[MachineSpec]) -> Iterator[Problem]:
    nodes = settings.network.nodes
    gateway = nodes[min(1, nodes.num_addresses - 1)]
    for machine in machines if settings.traits.existing_hosts else ():
        for key in ("nodes", "pods", "services"):
            range_ = getattr(settings.network, key)
            if (machine.address in range_) != (key == "nodes") and (key != "nodes" or _has_range(settings)):
                yield Problem(
                    (machine.key, f"lab.network.{key}"),
                    f"{machine.name}'s address {machine.address} is {'not ' if key == 'nodes' else ''}part of "
                    f"lab.network.{key} ({range_})",
                    f"choose another lab.network.{key}",
                )
    for machine in machines if not settings.traits.existing_hosts else ():
        if machine.address not in nodes or machine.address in (nodes[0], gateway, nodes[-1]):
            yield Problem(
                (machine.key, "lab.network.nodes"),
                f"{machine.name} cannot have the address {machine.address}: the machines' range is {nodes}, and its "
                "first, second and last address are taken",
                "choose another address, or another lab.network.nodes",
            )
    for what, keys, values in (
        ("name", (), [machine.name for machine in machines]),
        ("FQDN", (), [machine.fqdn for machine in machines]),
        ("address", ("lab.network.nodes",), [str(machine.address) for machine in machines]),
    ):
        first: dict[str, MachineSpec] = {}
        for machine, value in zip(machines, values, strict=True):
            other = first.setdefault(value, machine)
            # Of the same name, with the same FQDN: the name has been reported.
            if other is not machine and not (what == "FQDN" and other.name == machine.name):
                yield Problem(
                    (machine.key, other.key, *keys),
                    f"the {what} {value} is {other.key}'s, too",
                    f"give each machine a {what} of its own",
                )


def _has_range(settings: LabSettings) -> bool:
    """Whether the machines' range means anything: hosts that exist already have their addresses from elsewhere."""
    return not settings.traits.existing_hosts or "nodes" in settings.network.model_fields_set


def _shared_address(settings: LabSettings, machines: Sequence[MachineSpec]) -> Iterator[Problem]:
    balancers = [machine for machine in machines if Role.LOAD_BALANCER in machine.roles]
    network = settings.network
    if len(balancers) == 2 and not _has_range(settings):
        yield Problem(
            ("lab.network.nodes",),
            "is missing, and the two load balancers share its fourth address",
            "write the range of the machines' network; its fourth address must be free",
        )
        return
    # A range that ends before its fourth address cannot hold the machines either: that has been said.
    if len(balancers) != 2 or network.nodes.num_addresses <= 4:
        return
    for machine in machines:
        if machine.address == network.shared_address:
            yield Problem(
                (machine.key, "lab.network.nodes", "lab.load_balancers"),
                f"{machine.name} cannot have the address {machine.address}: the two balancers share it",
                "choose another address, or another lab.network.nodes",
            )


def _domain(settings: LabSettings, machines: Sequence[MachineSpec]) -> Iterator[Problem]:
    balancing, key = settings.load_balancing, "lab.load_balancing.domain"
    if balancing.mode == "terminate" and balancing.domain is None:
        yield Problem(
            (key, "lab.load_balancing.mode"),
            "is missing, and TLS termination needs a certificate with a name",
            "set the name that clients use, like api.hardway.example",
        )
    if balancing.mode == "terminate" and len(balancing.domain or "") > _LONGEST_COMMON_NAME:
        yield Problem(
            (key, "lab.load_balancing.mode"),
            f"{balancing.domain} has {len(balancing.domain or '')} characters, and it is the common name of the "
            f"balancer's certificate, which holds {_LONGEST_COMMON_NAME}",
            f"write a name of at most {_LONGEST_COMMON_NAME} characters",
        )
    for machine in machines:
        if balancing.domain in (machine.name, machine.fqdn):
            yield Problem((key, machine.key), f"{balancing.domain} is {machine.name}'s own name", "choose another")


def _pod_ranges(settings: LabSettings, machines: Sequence[MachineSpec]) -> Iterator[Problem]:
    network = settings.network
    ranges = [(machine, machine.pod_cidr) for machine in machines if machine.pod_cidr is not None]
    for machine, pod_cidr in ranges:
        if not pod_cidr.subnet_of(network.pods):
            yield Problem(
                (machine.key, "lab.network.pods"),
                f"{machine.name}'s pod range {pod_cidr} is not part of lab.network.pods ({network.pods})",
                "choose a range inside of it",
            )
        # `_ranges` has looked at those that follow lab.network.node_prefix.
        elif pod_cidr.num_addresses - 3 < network.max_pods and pod_cidr.prefixlen != network.node_prefix:
            yield Problem(
                (machine.key, "lab.network.max_pods"),
                f"{machine.name}'s pod range {pod_cidr} is too small for {network.max_pods} pods",
                "take a larger range, or a smaller lab.network.max_pods",
            )
    # In the order of their addresses, a range that overlaps any before it overlaps the one that reaches furthest.
    ranges.sort(key=lambda each: (each[1], each[0].key))
    furthest = ranges[:1]
    for machine, pod_cidr in ranges[1:]:
        other, reaching = furthest[0]
        if reaching.overlaps(pod_cidr):
            yield Problem(
                (machine.key, other.key, "lab.network.pods", "lab.network.node_prefix"),
                f"{machine.name}'s pod range {pod_cidr} overlaps {other.name}'s ({reaching})",
                "give each worker a range of its own",
            )
        if pod_cidr.broadcast_address > reaching.broadcast_address:
            furthest = [(machine, pod_cidr)]


def _calico(settings: LabSettings) -> Iterator[Problem]:
    if "calico" in settings.model_fields_set and settings.network.pod_network != "calico":
        yield Problem(
            ("lab.calico", "lab.network.pod_network"),
            f"lab.network.pod_network is {settings.network.pod_network}, and has no use for it",
            "leave it out, or write pod_network: calico",
        )


def _versions(settings: LabSettings) -> Iterator[Problem]:
    products = pins().products
    for name, version in settings.versions.items():
        if name not in products:
            yield Problem(
                (f"lab.versions.{name}",), "there is no such product", f"one of {', '.join(sorted(products))}"
            )
        elif version not in products[name].versions:
            yield Problem(
                (f"lab.versions.{name}",),
                f"{version} is not in config/versions.yaml",
                f"one of {', '.join(products[name].versions)}",
            )


def _extra_flags(settings: LabSettings) -> Iterator[Problem]:
    versions = versions_of(settings)
    # A version that is not pinned is a problem of its own.
    if all(version in pins().products[product].versions for product, version in versions.items()):
        yield from extra_flags.problems(settings.extra_flags, bootstrap=settings.bootstrap, versions=versions)


def _validity(settings: LabSettings) -> Iterator[Problem]:
    pki = settings.pki
    if pki.early_renewal_hours >= pki.validity_hours:
        yield Problem(
            ("lab.pki.early_renewal_hours", "lab.pki.validity_hours"),
            f"renewing {pki.early_renewal_hours} h before the expiry leaves nothing of {pki.validity_hours} h: every "
            "`up` would renew all certificates",
            f"take less than {pki.validity_hours}",
        )
    if pki.validity_hours > pki.ca_validity_hours:
        yield Problem(
            ("lab.pki.validity_hours", "lab.pki.ca_validity_hours"),
            f"{pki.validity_hours} h is longer than the validity of its CA ({pki.ca_validity_hours} h)",
            "take no more than lab.pki.ca_validity_hours",
        )


def _kubeadm(settings: LabSettings, machines: Sequence[MachineSpec]) -> Iterator[Problem]:
    if settings.bootstrap != "kubeadm":
        for key in settings.kubeadm.model_fields_set:
            yield Problem(
                (f"lab.kubeadm.{key}", "lab.bootstrap"),
                "kubeadm makes nothing here",
                "leave it out, or write bootstrap: kubeadm",
            )
        return
    if not settings.traits.routes_every_pod:
        yield Problem(
            ("lab.bootstrap", "lab.substrate"),
            f"on {settings.substrate} the network routes packets only to pods of workers, "
            "and kubeadm's controllers have pods, too",
            "take the hard way there, or another substrate",
        )
    if settings.etcd == "dedicated":
        yield Problem(
            ("lab.etcd", "lab.bootstrap"),
            "kubeadm runs etcd as static pods of the controllers",
            "leave it out, or take the hard way",
        )
    if "encryption" in settings.model_fields_set:
        yield Problem(
            ("lab.encryption", "lab.bootstrap"),
            "with kubeadm Secrets in etcd are not encrypted",
            "leave it out, or take the hard way",
        )
    default = pins().products["etcd"].default
    if settings.versions.get("etcd", default) != default:
        yield Problem(
            ("lab.versions.etcd", "lab.bootstrap"),
            f"the image of kubeadm's etcd is pinned for etcd {default}",
            "leave it out, or take the hard way",
        )
    if settings.kubeadm.authorities == "kubeadm":
        yield from _cas_of_kubeadm(settings, machines)


def _cas_of_kubeadm(settings: LabSettings, machines: Sequence[MachineSpec]) -> Iterator[Problem]:
    key = "lab.kubeadm.authorities"
    if _counted(settings, machines)["controllers"] > 1:
        yield Problem(
            (key, "lab.controllers"),
            "kubeadm creates its CAs on the first controller, and the other controllers would need their keys",
            "take stack, which gives them to every controller, or one controller",
        )
    if settings.network.pod_network == "calico":
        yield Problem(
            (key, "lab.network.pod_network"),
            "Calico's plugin needs a certificate from the CA of the lab, which does not exist then",
            "take stack, or leave lab.network.pod_network out",
        )
    if settings.load_balancing.mode == "terminate":
        yield Problem(
            (key, "lab.load_balancing.mode"),
            "a load balancer that terminates TLS verifies the API servers with the CA, which does not exist yet",
            "take stack, or leave lab.load_balancing.mode out",
        )
