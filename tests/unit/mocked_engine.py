"""The whole program without an engine: what it would register, and how each resource hangs on the others.

The providers are stood in for by values that can be recognised: every private key holds its resource's name, so that a
test can look for it wherever it must not be.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Address
from typing import Any

import pulumi
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.protobuf import json_format, struct_pb2
from pulumi.runtime import resource as resources_of_sdk
from pulumi.runtime import rpc, settings
from pulumi.runtime.proto import resource_pb2, source_pb2
from pulumi.runtime.stack import run_pulumi_func

from cli import without_engine
from lab.step_script import input_of, script_of

# Where in the source each resource is made: no test reads it, and to find it took an eighth of the time of a run.
resources_of_sdk._get_stack_trace = source_pb2.StackTrace

NOT_BEFORE, NOT_AFTER = "2026-01-01T00:00:00Z", "2031-01-01T00:00:00Z"
COMMANDS = ("command:remote:Command", "command:local:Command")
FACTS = {"seen": "true"}
"""What every command prints, as the readiness steps print facts."""


def _pem(what: str, holds: str) -> str:
    body = base64.b64encode(holds.encode()).decode()
    return base64.b64encode(f"-----BEGIN {what}-----\n{body}\n-----END {what}-----\n".encode()).decode()


ADMIN_CONF = yaml.safe_dump(
    {
        "clusters": [
            {
                "name": "kubernetes",
                "cluster": {
                    "certificate-authority-data": _pem("CERTIFICATE", "kubeadm's authority"),
                    "server": "https://elsewhere.example",
                    "proxy-url": "http://elsewhere.example",
                    "insecure-skip-tls-verify": True,
                },
            }
        ],
        "users": [
            {
                "name": "kubernetes-admin",
                "user": {
                    "client-certificate-data": _pem("CERTIFICATE", "kubeadm's administrator"),
                    "client-key-data": _pem("RSA PRIVATE KEY", "PRIVATE-KEY-of-kubeadm"),
                    "exec": {
                        "apiVersion": "client.authentication.k8s.io/v1",
                        "command": "/bin/sh",
                        "args": ["-c", "x"],
                    },
                },
            }
        ],
        "contexts": [{"name": "other", "context": {"cluster": "kubernetes", "user": "kubernetes-admin"}}],
        "current-context": "other",
    }
)
"""What a controller prints that kubeadm has made with its own CAs, and what somebody has added to it there."""


@dataclass(frozen=True, kw_only=True)
class Registered:
    """One resource as the engine would hear of it.

    Args:
        urn: its name in the graph.
        type: its token.
        name: its own name.
        inputs: plain values, without what was still unknown.
        secret: the names of the inputs that are marked secret.
        unknown: the names of the inputs that hold something unknown.
        request: all of the registration, with its options.
    """

    urn: str
    type: str
    name: str
    inputs: Mapping[str, Any]
    secret: frozenset[str]
    unknown: frozenset[str]
    request: Any = field(repr=False)

    @property
    def is_component(self) -> bool:
        """Whether it is one of the program's own components."""
        return self.type.startswith("hardway:")

    @property
    def script(self) -> str:
        """The script of a step, as root's bash gets it."""
        return script_of(str(self.inputs["stdin"]))


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of the program.

    Args:
        resources: all that was registered, in its order.
        outputs: export -> value.
        secret_outputs: the names of the exports that are secret.
    """

    resources: tuple[Registered, ...]
    outputs: Mapping[str, Any]
    secret_outputs: frozenset[str]

    def of_type(self, *types: str) -> list[Registered]:
        """All resources of these types."""
        return [resource for resource in self.resources if resource.type in types]

    @cached_property
    def _by_urn(self) -> dict[str, Registered]:
        return {resource.urn: resource for resource in self.resources}

    def at(self, urn: str) -> Registered:
        """The resource with this URN."""
        return self._by_urn[urn]

    def named(self, name: str, type: str = "command:remote:Command") -> Registered:
        """The one resource of this name and type."""
        (found,) = (resource for resource in self.resources if (resource.name, resource.type) == (name, type))
        return found

    def before(self, resource: Registered) -> set[str]:
        """The names of all custom resources that are made before this one, directly or through others."""
        seen: set[str] = set()
        waiting = [resource.urn]
        while waiting:
            request = self.at(waiting.pop()).request
            # A component is registered once what it depends on is there, and its children after it.
            for urn in (*request.dependencies, *([request.parent] if request.parent in self._by_urn else [])):
                if urn not in seen:
                    seen.add(urn)
                    waiting.append(urn)
        return {self.at(urn).name for urn in seen if self.at(urn).request.custom}

    @cached_property
    def machines(self) -> dict[str, Registered]:
        """Where SSH reaches it -> the resource that is the machine, whatever the substrate."""
        found = {}
        for each in self.resources:
            if each.type == "gcp:compute/instance:Instance":
                found[_nat_ip(each)] = each
            elif each.type == "libvirt:index/domain:Domain":
                # Its MAC address ends with its IPv4 address.
                mac = each.inputs["networkInterfaces"][0]["mac"].split(":")
                found[".".join(str(int(byte, 16)) for byte in mac[2:])] = each
            elif each.type == "command:local:Command" and (ip := re.search(r"--ip=(\S+) ", each.inputs["create"])):
                found[ip[1]] = each
            elif " -m components.substrates.existing enter " in str(each.inputs.get("create")):
                found[each.inputs["triggers"][0]] = each
        return found

    @property
    def etcd_step(self) -> str:
        """The step of the first etcd member: a controller's, or a dedicated machine's."""
        members = [resource.name for resource in self.resources if re.fullmatch(r"etcd-\w+-0", resource.name)]
        return members[0]

    @property
    def substrate(self) -> str:
        """The class of what the machines are made of."""
        (found,) = (each.type for each in self.resources if each.name == "machines" and each.is_component)
        return found.removeprefix("hardway:index:")

    def machine_of(self, step: Registered) -> dict[str, Any]:
        """The machine that a step is on, as the outputs have it."""
        name = self.machines[step.inputs["connection"]["host"]].name.removeprefix("machines-")
        (found,) = (each for each in self.outputs["machines"] if each["name"] == name)
        return dict(found)

    def script(self, name: str) -> str:
        """The create script of a step, as root's bash gets it."""
        return self.named(name).script

    def file(self, step: str, path: str) -> str:
        """A file that is not secret, out of a step's script."""
        script = self.script(step)
        start = script.index(f"\nfile {path} ") + 1
        body = script.index("\n", start) + 1
        return script[body : script.index("\nEND-OF-FILE", body) + 1]

    def yaml_file(self, step: str, path: str) -> Any:
        """A file that is not secret and holds one YAML (or JSON) document."""
        return yaml.safe_load(self.file(step, path))

    def flags(self, step: str, unit: str) -> dict[str, str]:
        """The flags of a unit's program."""
        command = re.search(
            r"^ExecStart=((?:.*\\\n)*.*)$", self.file(step, f"/etc/systemd/system/{unit}.service"), re.M
        )
        assert command is not None
        words = command[1].replace("\\\n", " ").split()[1:]
        return {name.removeprefix("--"): value for name, _, value in (word.partition("=") for word in words)}

    def secret_file(self, step: str, path: str) -> str:
        """A secret file, out of a step's standard input."""
        for line in input_of(str(self.named(step).inputs["stdin"])).splitlines():
            name, content = line.split()
            if name == path:
                return base64.b64decode(content).decode()
        raise LookupError(f"{step} gets no secret {path}")

    def files(self, step: str) -> dict[str, str]:
        """path -> mode, of every file that a step writes."""
        lines = (line.split() for line in self.script(step).splitlines() if line.startswith(("file ", "secret ")))
        return {words[1]: words[2] for words in lines}


def run_program(stack: str, lab: Any, *, preview: bool = False, rotations: Any = None) -> Run:
    """Run __main__.py for a stack whose `lab` value is given, and how far the rotations of its keys are."""

    return run(without_engine.project_program, stack=stack, lab=lab, preview=preview, rotations=rotations)


def run(
    program: Callable[[], None],
    *,
    stack: str = "unit",
    lab: Any = None,
    preview: bool = False,
    rotations: Any = None,
) -> Run:
    """Run a program."""
    monitor = _Monitor(preview=preview)

    async def main() -> Run:
        root = settings.get_root_resource()
        assert root is not None
        await run_pulumi_func(program)
        outputs, secret = await _known(root.outputs)  # type: ignore[attr-defined]
        return Run(resources=tuple(monitor.registered), outputs=outputs, secret_outputs=secret)

    return without_engine.run(
        main,
        monitor,
        project="hardway",
        stack=stack,
        preview=preview,
        config={
            "gcp:project": "a-project",
            "hardway:lab": json.dumps(lab),
            **({"hardway:rotations": json.dumps(rotations)} if rotations is not None else {}),
        },
        executor=_Immediately(),
    )


async def _known(outputs: Mapping[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
    values = {name: pulumi.Output.from_input(value) for name, value in outputs.items()}
    secret = frozenset([name for name, value in values.items() if await value.is_secret()])
    return {name: await value.future() for name, value in values.items()}, secret


class _Immediately(ThreadPoolExecutor):
    """Runs what it is given at once: threads would finish in another order every time."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


class _Monitor(without_engine.Monitor):
    """The engine's side: remembers each registration and answers as the providers would."""

    def __init__(self, *, preview: bool) -> None:
        super().__init__()
        self.preview = preview
        self.registered: list[Registered] = []

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802
        urn = self.make_urn(request.parent, request.type, request.name)
        if request.type == "pulumi:pulumi:Stack":
            return resource_pb2.RegisterResourceResponse(urn=urn)
        given = json_format.MessageToDict(request.object)
        inputs = {key: _plain(value) for key, value in given.items()}
        secret = frozenset(key for key, value in given.items() if _any(value, rpc.is_rpc_secret))
        resource = Registered(
            urn=urn,
            type=request.type,
            name=request.name,
            inputs=inputs,
            secret=secret,
            unknown=frozenset(key for key, value in given.items() if _any(value, _is_unknown)),
            request=request,
        )
        self.registered.append(resource)
        if not request.custom:
            return resource_pb2.RegisterResourceResponse(urn=urn)
        computed = {} if self.preview else _computed(resource)
        hidden = secret | set(request.additionalSecretOutputs)
        state = {
            key: rpc.wrap_rpc_secret(value) if key in hidden else value
            for key, value in {**{k: _plain(v) for k, v in given.items()}, **computed}.items()
        }
        answer = struct_pb2.Struct()
        answer.update(state)
        return resource_pb2.RegisterResourceResponse(
            urn=urn, id="" if self.preview else f"id-{request.name}", object=answer
        )


def _plain(value: Any) -> Any:
    if rpc.is_rpc_secret(value):
        return _plain(rpc.unwrap_rpc_secret(value))
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value


def _is_unknown(value: Any) -> bool:
    return isinstance(value, str) and value == rpc.UNKNOWN


def _any(value: Any, holds: Callable[[Any], bool]) -> bool:
    if holds(value):
        return True
    if rpc.is_rpc_secret(value):
        return _any(rpc.unwrap_rpc_secret(value), holds)
    if isinstance(value, dict):
        return any(_any(each, holds) for each in value.values())
    return isinstance(value, list) and any(_any(each, holds) for each in value)


def fingerprint(name: str) -> str:
    """That of a key, as OpenSSH writes it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(name.encode()).digest()).decode().rstrip("=")


def _computed(resource: Registered) -> dict[str, Any]:
    """What a provider adds to the inputs."""
    name = resource.name
    if resource.type in COMMANDS:
        local = resource.type.startswith("command:local")
        if name == "encryption-keys":
            return {"stdout": resource.inputs["stdin"], "stderr": ""}
        if name.endswith("-login"):
            return {"stdout": str(resource.inputs["create"]).rsplit(" ", 1)[-1], "stderr": ""}
        if name.endswith("-founders") and isinstance(create := resource.inputs.get("create"), str):
            return {"stdout": create.split("'")[3], "stderr": ""}
        if not local and "\ncat /etc/kubernetes/admin.conf" in resource.script:
            return {"stdout": ADMIN_CONF, "stderr": ""}
        return {"stdout": container_id(name) if local else json.dumps({name: FACTS}), "stderr": ""}
    if resource.type == "tls:index/privateKey:PrivateKey":
        pem = f"PRIVATE-KEY-{name}"
        return {
            "privateKeyPem": ed25519_pem(name) if resource.inputs["algorithm"] == "ED25519" else pem,
            "privateKeyPemPkcs8": pem,
            "privateKeyOpenssh": f"PRIVATE-KEY-{name}-openssh\n",
            "publicKeyPem": f"PUBLIC-KEY-{name}",
            "publicKeyOpenssh": f"ssh-ed25519 PUBLIC-{name}\n",
            "publicKeyFingerprintSha256": fingerprint(name),
        }
    if resource.type == "tls:index/certRequest:CertRequest":
        return {"certRequestPem": f"REQUEST-{name}"}
    if resource.type.startswith(("libvirt:", "pulumi:providers:")):
        return {}
    if resource.type.startswith("gcp:"):
        return {"selfLink": f"https://google.example/{name}", **_computed_by_google(resource)}
    return {"certPem": f"CERTIFICATE-{name}", "validityStartTime": NOT_BEFORE, "validityEndTime": NOT_AFTER}


def external_address(name: str) -> str:
    """What Google answers for an external address: one of the range for benchmarks, the same every time."""
    return str(IPv4Address("198.18.0.0") + int.from_bytes(seed_of(name)[:2], "big"))


def _nat_ip(instance: Registered) -> str:
    """The external address of an instance: one that was reserved, or one that Google gives."""
    reserved = instance.inputs["networkInterfaces"][0]["accessConfigs"][0].get("natIp")
    return str(reserved or external_address(instance.name))


def _computed_by_google(resource: Registered) -> dict[str, Any]:
    match resource.type:
        case "gcp:compute/address:Address":
            return {"address": external_address(resource.name)}
        case "gcp:compute/instance:Instance":
            (interface,) = resource.inputs["networkInterfaces"]
            given = {**interface, "accessConfigs": [{"natIp": _nat_ip(resource)}]}
            return {"instanceId": container_id(resource.name), "networkInterfaces": [given]}
        case "gcp:serviceaccount/account:Account":
            return {"email": f"{resource.name}@google.example"}
        case _:
            return {}


def container_id(name: str) -> str:
    """What a local command prints: what an engine calls a new container."""
    return hashlib.sha256(name.encode()).hexdigest()


def seed_of(name: str) -> bytes:
    """The 32 bytes of the Ed25519 key of this name."""
    return hashlib.sha256(name.encode()).digest()


def ed25519_pem(name: str) -> str:
    """A real key, the same every time."""
    key = Ed25519PrivateKey.from_private_bytes(seed_of(name))
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
