"""The hosts that a run is about, as its caller describes them: JSON without any secret."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

FIRST_KEY = "first "
"""How the line begins that has the lab's first public key."""


@dataclass(frozen=True, kw_only=True)
class Login:
    """An sshd and who logs in there.

    Args:
        host: address or name.
        port: of its sshd.
        user: who logs in.
        host_keys: its pinned public keys; without any it is not connected to.
    """

    host: str
    port: int
    user: str
    host_keys: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.user}@{self.host}" + ("" if self.port == 22 else f":{self.port}")


@dataclass(frozen=True, kw_only=True)
class Host:
    """One machine of a lab.

    Args:
        name: its host name.
        roles: what it is to be.
        login: how it is reached.
        jumpbox: through whom; directly where there is none.
        address: its IPv4 address among the machines.
        arch: amd64 or arm64.
        interface: what has its address; of no interest where it is not said.
    """

    name: str
    roles: tuple[str, ...]
    login: Login
    jumpbox: Login | None = None
    address: str
    arch: str = "amd64"
    interface: str | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A lab's hosts, and what its programs need to know of it.

    Args:
        stack: the lab's name.
        hosts: all of them, or those that a run is about.
        key: the file of the user's private key, where one is named.
        shares_kernel: whether they are containers.
        pods: the range of all pods.
        services: the range of all Services.
        modules: kernel modules that workers need beyond those of every machine.
        timeout_factor: what the deadlines of connections are multiplied by.
    """

    stack: str
    hosts: tuple[Host, ...]
    key: str | None = None
    shares_kernel: bool = False
    pods: str = ""
    services: str = ""
    modules: tuple[str, ...] = ()
    timeout_factor: int = 1

    def to_json(self) -> str:
        """In one line."""
        # A default is left out: the commands of running labs stay as they are.
        defaults = {"modules": (), "timeout_factor": 1}
        said = {key: value for key, value in asdict(self).items() if key not in defaults or value != defaults[key]}
        return json.dumps(said, separators=(",", ":"))


def from_json(text: str) -> Plan:
    """The reverse of `Plan.to_json`."""
    plan = json.loads(text)
    hosts, modules = tuple(_host(host) for host in plan["hosts"]), tuple(plan.get("modules", ()))
    return Plan(**{**plan, "hosts": hosts, "modules": modules})


def _host(fields: dict[str, object]) -> Host:
    jumpbox = fields["jumpbox"]
    return Host(
        **{  # type: ignore[arg-type]
            **fields,
            "roles": tuple(fields["roles"]),  # type: ignore[arg-type]
            "login": _login(fields["login"]),
            "jumpbox": jumpbox and _login(jumpbox),
        }
    )


def _login(fields: object) -> Login:
    assert isinstance(fields, dict)
    return Login(**{**fields, "host_keys": tuple(fields["host_keys"])})


def rotated_keys(first: str, private: Sequence[str]) -> str:
    """The lab's keys, once they were rotated, for the standard input of a run; else that is the private key alone.

    Args:
        first: the public key that the lab was made with.
        private: the private keys that hosts accept, the one in use first.
    """
    return "\n".join([*map(str.strip, private), f"{FIRST_KEY}{' '.join(first.split()[:2])}", ""])


def numbered(problems: Sequence[str]) -> str:
    """A report of problems, of which one may have several lines."""
    return "\n".join(f"  {number}. {problem}".replace("\n", "\n     ") for number, problem in enumerate(problems, 1))
