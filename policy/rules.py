"""What must be true of every lab. Each rule takes plain data, and yields a sentence for each violation.

A value that a preview does not know yet is `UNKNOWN`. A rule judges only what is known: the same rule sees the value
when the lab is made, before the resource is.
"""

import json
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

UNKNOWN = object()
"""In place of a value that is not known before the lab is made."""

REDACTED = "[secret]"
"""In place of a secret, where `pulumi policy analyze` reads an exported state without its passphrase."""

_FIREWALL = "gcp:compute/firewall:Firewall"
_LEAF = "tls:index/locallySignedCert:LocallySignedCert"
_LOCAL, _REMOTE = "command:local:Command", "command:remote:"
_GUARDED_PORTS = {"SSH": 22, "the API": 6443}
_YEAR_HOURS = 366 * 24
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_ETCD_HTTP = re.compile(
    r"(?:etcd[-_]servers|(?:listen|advertise)[-_](?:client|peer)[-_]urls|initial[-_]cluster)"
    # As a flag, a variable, a key of YAML, or a name and a value of kubeadm's extraArgs.
    r"[\"']?\s*(?:[=: ]|\n\s*[\"']?value[\"']?:)\s*\S*http://\S*",
    re.IGNORECASE,
)
_IMAGE = re.compile(r"^\s*(?:- )?[\"']?image[\"']?: *[\"']?([^\s\"',]+)", re.MULTILINE)
_IMPORTED = re.compile(r"^import_image \S+ [0-9a-f]{64} (\S+)", re.MULTILINE)
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
_ENTERS = "components.substrates.existing enter "


@dataclass(frozen=True)
class Resource:
    """A resource of the lab.

    Args:
        urn: its URN.
        type: its type token.
        name: its name in the program.
        properties: its inputs; where the whole stack is judged, its outputs as well.
        depends_on: the URNs of what it depends on directly.
    """

    urn: str
    type: str
    name: str
    properties: Mapping[str, Any] = field(default_factory=dict)
    depends_on: Collection[str] = ()


def open_to_the_world(resource: Resource, allowed: Collection[str] = ()) -> Iterator[str]:
    """No firewall rule lets every address reach SSH or the API, except rules that the pack's configuration names."""
    if resource.type != _FIREWALL or resource.name in allowed:
        return
    properties = resource.properties
    ranges = [each for each in _list(properties.get("sourceRanges")) if isinstance(each, str)]
    world = [each for each in ranges if ip_network(each, strict=False).prefixlen == 0]
    if not any(properties.get(each) for each in ("sourceRanges", "sourceTags", "sourceServiceAccounts")):
        world = ["every address (no source is named)"]
    open_ports = [
        f"{what} (port {port})"
        for what, port in _GUARDED_PORTS.items()
        if any(_reaches(allow, port) for allow in _list(properties.get("allows")))
    ]
    if world and open_ports and properties.get("direction") != "EGRESS":
        yield (
            f"{' and '.join(open_ports)} can be reached from {', '.join(world)}. Name your own addresses, "
            f"or allow {resource.name} in the configuration of this policy."
        )


def leaf_validity(resource: Resource) -> Iterator[str]:
    """A certificate that is no CA is valid for a year at most."""
    hours = resource.properties.get("validityPeriodHours")
    is_ca = resource.properties.get("isCaCertificate") is True
    if resource.type == _LEAF and not is_ca and isinstance(hours, int | float) and hours > _YEAR_HOURS:
        yield f"The certificate is valid for {hours / 24:g} days. At most {_YEAR_HOURS // 24} are allowed."


def plain_private_keys(properties: Mapping[str, Any]) -> Iterator[str]:
    """No private key is in a property that is not secret.

    Args:
        properties: those of one resource that are not secret.
    """
    for path, text in _texts(properties):
        if _PRIVATE_KEY.search(text):
            yield f"{path} has a private key and is not secret: the state would have it in plain text."


def host_key(resource: Resource) -> Iterator[str]:
    """A connection by SSH names the host key of the machine, and that of a machine on the way to it."""
    if not resource.type.startswith(_REMOTE):
        return
    connection = resource.properties.get("connection")
    if not isinstance(connection, Mapping):
        return
    for where, end in (("connection", connection), ("connection.proxy", connection.get("proxy"))):
        if isinstance(end, Mapping) and not end.get("hostKey"):
            yield f"{where} has no hostKey: any machine that answers there would be taken for this one."


def etcd_without_tls(resource: Resource) -> Iterator[str]:
    """etcd's clients and peers use HTTPS. Its metrics on the loopback address are no part of this."""
    for path, text in _texts(resource.properties):
        for found in _ETCD_HTTP.finditer(text):
            yield f"{path} has etcd without TLS: {' '.join(found.group().split())[:120]}"


def images_without_digest(resources: Sequence[Resource]) -> Iterator[tuple[str, str]]:
    """A container image is named by its digest, or a step of the lab imports it from an archive with a checksum.

    Yields:
        The URN of the resource and the violation.
    """
    texts = [(each.urn, text) for each in resources for _, text in _texts(each.properties)]
    imported = {reference for _, text in texts for reference in _IMPORTED.findall(text)}
    for urn, reference in dict.fromkeys((urn, found) for urn, text in texts for found in _IMAGE.findall(text)):
        if not _DIGEST.search(reference) and reference not in imported:
            yield urn, f"The image {reference} has no digest, and no step imports it from an archive with a checksum."


def unmarked_hosts(resources: Sequence[Resource]) -> Iterator[tuple[str, str]]:
    """No command runs on an existing host before the lab has marked the host as its own.

    The mark is made by the command `enter` of the host. It refuses a host that is another lab's.

    Yields:
        The URN of the resource and the violation.
    """
    by_urn = {each.urn: each for each in resources}
    if not any(each.type == "hardway:index:Machines" for each in resources):
        return
    for each in resources:
        if not each.type.startswith(_REMOTE):
            continue
        marked = {host for urn in _before(each, by_urn) for host in _marked(by_urn[urn])}
        connection = each.properties.get("connection")
        host = connection.get("host") if isinstance(connection, Mapping) else UNKNOWN
        if host not in marked if isinstance(host, str) else not marked:
            where = host if isinstance(host, str) else "its host"
            yield each.urn, f"It runs on {where} and does not depend on the command that marks the host as this lab's."


def _reaches(allow: Any, port: int) -> bool:
    if not isinstance(allow, Mapping) or allow.get("protocol") not in ("tcp", "all", "6"):
        return False
    ports = _list(allow.get("ports"))
    return not ports or any(_in_range(each, port) for each in ports)


def _in_range(ports: Any, port: int) -> bool:
    first, _, last = str(ports).partition("-")
    return first.isdigit() and int(first) <= port <= int(last or first)


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """All strings in a value, with the path to each."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _texts(each, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from _texts(each, f"{path}[{index}]")


def _before(resource: Resource, by_urn: Mapping[str, Resource]) -> Iterable[str]:
    """All that a resource depends on, directly or not."""
    seen: dict[str, None] = {}
    open_ends = list(resource.depends_on)
    while open_ends:
        urn = open_ends.pop()
        if urn in by_urn and urn not in seen:
            seen[urn] = None
            open_ends += by_urn[urn].depends_on
    return seen


def _marked(resource: Resource) -> Iterator[str]:
    """The addresses of the hosts that a command marks."""
    create = resource.properties.get("create")
    if resource.type == _LOCAL and isinstance(create, str) and _ENTERS in create:
        _, _, plan = create.partition(_ENTERS)
        for host in json.loads(shlex.split(plan)[0])["hosts"]:
            yield host["login"]["host"]
