"""What `trace packet` asks of the machines: interfaces and routes, a watch on the connection, the request itself."""

import json
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any, Self

from live.cluster import Cluster, LiveMachine
from live.probe import Answer, parse
from live.trace.packet_events import TABLE, Visit
from live.trace.packet_events import parse as parse_events
from live.trace.packet_objects import Endpoint, Target
from toolchain import access
from toolchain.errors import ToolchainError

_WATCH = Path(__file__).with_name("packet_watch.sh")
_FACTS_SECONDS, _READY_SECONDS, _REQUEST_SECONDS, _WATCH_SECONDS = 20, 20, 3, 60
# Below the ports that Linux chooses by itself, and those of NodePorts: no other connection of the Pod has one.
_PORTS = "20000-29999"

# Prints "== NAME STATUS", then what a command printed, with a blank before each line: the form that probe.parse reads.
_ASK = """
export LC_ALL=C
ask() { local name=$1 said code; shift; said=$("$@" 2>&1); code=$?; echo "== $name $code"; sed 's/^/ /' <<<"$said"; }
space_of() {
  local each
  for each in /run/netns/*; do
    nsenter --net="$each" ip -4 -o address show 2>/dev/null | grep -qF " inet $1/" && echo "$each" && return
  done
  echo "no network namespace of the machine has the address $1"; return 1
}
"""


@dataclass(frozen=True, kw_only=True)
class Interface:
    """An interface of a machine, or of a Pod.

    Args:
        name: its name.
        kind: veth, bridge, vxlan ...; empty for one of hardware.
        master: the bridge that it is a port of; empty where it is none's.
    """

    name: str
    kind: str
    master: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a machine says before the request.

    Args:
        machine: which.
        interfaces: its own, by name.
        address_of: the name of the interface that carries the machine's address; empty where none does.
        veths: a Pod's address -> the interface on the machine that is the other end of the Pod's.
        asked: everything else, as it was said.
    """

    machine: LiveMachine
    interfaces: Mapping[str, Interface]
    address_of: str
    veths: Mapping[str, str]
    asked: Mapping[str, Answer]

    @property
    def devices(self) -> list[str]:
        """The interfaces on which packets are watched."""
        tunnels = [each.name for each in self.interfaces.values() if each.kind == "vxlan"]
        return list(dict.fromkeys(filter(None, [*self.veths.values(), *tunnels, self.address_of])))

    def kind(self, interface: str) -> str:
        """The kind of an interface."""
        return self.interfaces[interface].kind if interface in self.interfaces else ""

    def said(self, question: str) -> str:
        """What was printed; empty where the question failed."""
        answer = self.asked.get(question)
        return answer.out.strip() if answer is not None and answer.status == 0 else ""

    def why(self, question: str) -> str:
        """What a question that failed printed."""
        answer = self.asked.get(question)
        return "" if answer is None or answer.status == 0 else (answer.out.strip() or f"status {answer.status}")


def gather(cluster: Cluster, target: Target, machine: LiveMachine) -> Facts:
    """Ask a machine about its interfaces and the Pods of the trace on it. Changes nothing.

    Raises:
        ToolchainError: it does not answer.
    """
    endpoints = [each for each in target.endpoints if each.machine == machine]
    try:
        done = cluster.ssh(machine, facts_script(cluster, target, machine, endpoints), seconds=_FACTS_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise ToolchainError(f"{machine.name} did not answer within {error.timeout:.0f} s.") from None
    answers = parse(done.stdout, seconds=_FACTS_SECONDS)
    if "links" not in answers or answers["links"].status != 0:
        said = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise ToolchainError(f"{machine.name} could not be asked for its interfaces: {said}")
    return read_facts(machine, answers)


def facts_script(cluster: Cluster, target: Target, machine: LiveMachine, endpoints: Sequence[Endpoint]) -> str:
    """The shell lines that print what `read_facts` reads."""
    lines = [_ASK, "ask links ip -j -d link", "ask addresses ip -j -4 address"]
    if machine == target.machine:
        namespace, _, name = target.service.partition("/")
        full = f"{name}.{namespace}.svc.{cluster.stack.network.cluster_domain}"
        lines += [
            f'space=$(space_of {target.pod_address}); ask space [ -e "$space" ]; ask space-path echo "$space"',
            f'ask pod-{target.pod_address} nsenter --net="$space" ip -j -4 address',
            f'ask pod-route nsenter --net="$space" ip -4 route get {target.address}',
            'process=$(ip netns pids "${space##*/}" 2>/dev/null | head -n 1)',
            "file=/proc/$process/root/etc/resolv.conf",
            'resolver=$(awk \'$1 == "nameserver" { print $2; exit }\' "$file" 2>/dev/null)',
            'ask resolver [ -n "$resolver" ]; ask resolver-address echo "$resolver"',
            'name() { nsenter --net="$space" dig +noall +answer +comments +time=2 +tries=1 '
            f'"@$resolver" {quote(full)}. A; }}',
            '[ -z "$resolver" ] || ask name name',
            f'port() {{ for each in $(shuf -i {_PORTS} -n 20); do [ -n "$(nsenter --net="$space" ss -Htan '
            '"sport = :$each")" ] || { echo "$each"; return; }; done; return 1; }',
            "ask port port",
        ]
    for endpoint in endpoints:
        listening = f"ss -Htlnp 'sport = :{endpoint.port}'"
        if endpoint.address == machine.address:
            lines.append(f"ask listens-{endpoint.address} {listening}")
            continue
        lines += [
            f"there=$(space_of {endpoint.address})",
            f'ask pod-{endpoint.address} nsenter --net="$there" ip -j -4 address',
            f'ask listens-{endpoint.address} nsenter --net="$there" {listening}',
        ]
    return "\n".join(lines)


def read_facts(machine: LiveMachine, answers: Mapping[str, Answer]) -> Facts:
    """The facts, out of the answers to `facts_script`."""
    links: list[dict[str, Any]] = json.loads(answers["links"].out)
    by_index = {each["ifindex"]: each["ifname"] for each in links}
    veths = {}
    for question, answer in answers.items():
        if question.startswith("pod-") and question != "pod-route" and answer.status == 0:
            address = question.removeprefix("pod-")
            for each in json.loads(answer.out):
                if address in [entry.get("local") for entry in each.get("addr_info", [])]:
                    veths[address] = by_index.get(each.get("link_index"), "")
    addresses = json.loads(answers["addresses"].out) if answers["addresses"].status == 0 else []
    return Facts(
        machine=machine,
        interfaces={
            each["ifname"]: Interface(
                name=each["ifname"],
                kind=each.get("linkinfo", {}).get("info_kind", ""),
                master=each.get("master", ""),
            )
            for each in links
        },
        address_of=next(
            (
                each["ifname"]
                for each in addresses
                if machine.address in [entry.get("local") for entry in each.get("addr_info", [])]
            ),
            "",
        ),
        veths=veths,
        asked=answers,
    )


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a machine has seen of the connection.

    Args:
        visits: of its first packet and the answer, in order.
        conntrack: the entry of its connection tracking; empty where it has none.
        missing: why it could not watch; empty where it did.
    """

    visits: Sequence[Visit]
    conntrack: str
    missing: str


class Watch:
    """A watch on one machine, as long as the `with` block runs; the machine removes its tables at the end.

    Args:
        cluster: the lab.
        facts: of the machine.
        target: what is traced.
        port: the source port of the request.
    """

    def __init__(self, cluster: Cluster, facts: Facts, target: Target, port: int) -> None:
        self._cluster, self._facts = cluster, facts
        values = {
            "table": TABLE,
            "pod": target.pod_address,
            "port": str(port),
            "devices": ", ".join(f'"{name}"' for name in facts.devices),
            "seconds": f"{cluster.allowed(_WATCH_SECONDS):.0f}",
        }
        head = "\n".join(f"{name}={quote(value)}" for name, value in values.items())
        script = facts.machine.as_root(f"{head}\n{_WATCH.read_text()}")
        ssh = [*access.ssh_command(cluster.stack), *access.keepalive(cluster.stack)]
        self._command = [*ssh, facts.machine.name, script]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Ctrl-C is for the program: it ends the watches, and the machines remove their tables.
            start_new_session=True,
        )
        return self

    def wait_until_ready(self) -> None:
        """Return once the machine watches; one that lacks nft says so in the end.

        Raises:
            ToolchainError: it does not.
        """
        assert self._process.stdout is not None
        timer = threading.Timer(self._cluster.allowed(_READY_SECONDS), self._process.kill)
        timer.start()
        self._first = self._process.stdout.readline().strip()
        timer.cancel()
        if self._first != "ready" and not self._first.startswith("missing"):
            _, error = self._process.communicate()
            said = (error.strip() or "no answer").splitlines()[-1]
            raise ToolchainError(f"{self._facts.machine.name} cannot watch the connection: {said}")

    def end(self) -> Seen:
        """What was seen.

        Raises:
            ToolchainError: the machine did not say all of it.
        """
        try:
            printed, error = self._process.communicate(timeout=self._cluster.allowed(_READY_SECONDS))
        except subprocess.TimeoutExpired:
            self._process.kill()
            printed, error = self._process.communicate()
        return read_seen(self._facts.machine.name, f"{self._first}\n{printed}", error)

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            # The end of its input ends the script there.
            try:
                self._process.communicate(timeout=self._cluster.allowed(_READY_SECONDS))
            except (subprocess.TimeoutExpired, ValueError):
                self._process.kill()
                self._process.wait()


def read_seen(machine: str, printed: str, error: str) -> Seen:
    """What a watch printed.

    Raises:
        ToolchainError: it is not complete.
    """
    lines = printed.splitlines()
    if lines and lines[0].startswith("missing "):
        return Seen(visits=[], conntrack="", missing=lines[0].removeprefix("missing "))
    if not lines or lines[-1] != "done":
        said = (error.strip() or "its output is not complete").splitlines()[-1]
        raise ToolchainError(f"{machine} did not say what it saw of the connection: {said}")
    entries = [line.removeprefix("conntrack ") for line in lines if line.startswith("conntrack ")]
    return Seen(
        visits=parse_events(line.removeprefix("event ") for line in lines if line.startswith("event ")),
        conntrack=" ".join(entries[0].split()) if entries else "",
        missing="",
    )


@dataclass(frozen=True, kw_only=True)
class Request:
    """How the request went.

    Args:
        connected: whether the connection was made: the answer to its first packet came.
        status: of HTTP; 0 where the server speaks something else.
        seconds: until the connection was made, and until the end.
        error: what curl said.
    """

    connected: bool
    status: int
    seconds: tuple[float, float]
    error: str


_FORM = "%{http_code} %{time_connect} %{time_total}"


def send(cluster: Cluster, target: Target, space: str, port: int) -> Request:
    """Make the request, in the network of the Pod.

    Raises:
        ToolchainError: its machine does not answer.
    """
    scheme = "https" if target.tls else "http"
    script = (
        f"nsenter --net={quote(space)} curl -sS -k -o /dev/null --max-time {cluster.allowed(_REQUEST_SECONDS):.0f} "
        f"--local-port {port} -w {quote(_FORM)} {scheme}://{target.address}:{target.port}/"
    )
    try:
        done = cluster.ssh(target.machine, script, seconds=_REQUEST_SECONDS + 10)
    except subprocess.TimeoutExpired as error:
        raise ToolchainError(f"{target.machine.name} did not answer within {error.timeout:.0f} s.") from None
    return read_request(target.machine.name, done)


def read_request(machine: str, done: subprocess.CompletedProcess[str]) -> Request:
    """What curl printed.

    Raises:
        ToolchainError: nothing that can be read.
    """
    words = done.stdout.split()
    if len(words) != 3:
        said = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise ToolchainError(f"The request could not be made on {machine}: {said}")
    connect, total = float(words[1]), float(words[2])
    return Request(
        connected=connect > 0,
        status=int(words[0]),
        seconds=(connect, total),
        error=done.stderr.strip().removeprefix("curl: "),
    )


def routes(cluster: Cluster, machine: LiveMachine, asked: Sequence[tuple[str, str, str]]) -> list[str]:
    """The machine's own answer to where it sends packets: `ip route get`, or what that says instead.

    Args:
        cluster: the lab.
        machine: which.
        asked: destination, source and incoming interface.
    """
    lines = [
        f"ask {number} ip -4 route get {to} from {source} iif {iif}" for number, (to, source, iif) in enumerate(asked)
    ]
    try:
        done = cluster.ssh(machine, "\n".join([_ASK, *lines]), seconds=_FACTS_SECONDS)
    except subprocess.TimeoutExpired as error:
        return [f"no answer within {error.timeout:.0f} s"] * len(asked)
    answers = parse(done.stdout, seconds=_FACTS_SECONDS)
    unknown = (done.stderr.strip() or "no answer").splitlines()[-1]
    numbers = map(str, range(len(asked)))
    return [" ".join(answers[number].out.split()) if number in answers else unknown for number in numbers]


def remove_leftovers(cluster: Cluster, machine: LiveMachine) -> None:
    """Remove the tables of a trace that was killed; a machine that does not answer keeps them until it does."""
    families = "inet netdev"
    script = f"command -v nft >/dev/null || exit 0; for family in {families}; do nft delete table $family {TABLE}; done"
    try:
        cluster.ssh(machine, f"{script} 2>/dev/null", seconds=_FACTS_SECONDS)
    except subprocess.TimeoutExpired:
        return
