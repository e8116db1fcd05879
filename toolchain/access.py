"""How a person reaches a running lab: `.state/<stack>/` has its kubeconfig, ssh_config, key and list of machines."""

import ipaddress
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from config import chapters, container_engine
from config.versions import pins
from config.whole_file import write_whole
from toolchain import halted, owner, paths
from toolchain.errors import ToolchainError
from toolchain.stack import Stack
from toolchain.versions import architecture

_FILES = {"kubeconfig": "kubeconfig", "ssh_config": "ssh_config", "ssh_private_key": "ssh_key"}
"""Output of the program -> name of the file; all of them are secret."""
_ENFORCES = "calico"
"""The pod network that enforces network policies."""
_FACTS = ("endpoint", "machines", "certificates")
"""Outputs that stand together in lab.json."""


def room_for_outputs(stack: Stack) -> Path:
    """Where the program of an `up` may write its outputs; what a run that was killed has left there is removed."""
    # Not in the stack's directory, which says that the lab is up.
    stack.directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = stack.directory.with_name(f"{stack.name}-outputs.json")
    file.unlink(missing_ok=True)
    return file


def modified(recorded: Mapping[str, Any]) -> dict[str, str]:
    """When each resource of a deployment, as the state has it, was made or changed, by its URN.

    What is secret says nothing: the same secret may get another ciphertext.
    """
    return {each["urn"]: each.get("modified", "") for each in recorded.get("resources", [])}


def write(stack: Stack, outputs: Mapping[str, Any]) -> None:
    """Write the files, for the user's eyes only, and the kubectl of the lab's version.

    Args:
        stack: whose files.
        outputs: the stack's outputs, secrets in clear.

    Raises:
        ToolchainError: an output is missing, or the mirror has no such kubectl.
    """
    part = outputs.get("until", "")
    # The first chapter of a lab has no administrator.
    files = {output: name for output, name in _FILES.items() if output in outputs or not part}
    if absent := sorted({*files, *_FACTS} - outputs.keys()):
        raise ToolchainError(f"The stack {stack.name} has no output {', '.join(absent)}: `./hardway up` makes them.")
    stack.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for output, name in files.items():
        _replace(stack.directory / name, str(outputs[output]))
    facts = {fact: outputs[fact] for fact in _FACTS} | ({"until": part} if part else {})
    _replace(stack.directory / "lab.json", json.dumps(facts, indent=2))
    if stack.traits.on_engine:
        # Other backends than files cannot be read here: the lab keeps its container engine by this.
        container_engine.keep(stack.name, stack.engine, paths.state())
    _copy_kubectl(stack)


def read(stack: Stack, *, halted_too: bool = False) -> dict[str, Any]:
    """What `write` kept of the outputs that are not secret: `endpoint`, `machines`, `certificates`.

    A lab that ends with a chapter also has `until`, the name of that chapter.

    Args:
        stack: whose.
        halted_too: also of a lab that is stopped, or whose rewind is not finished.

    Raises:
        ToolchainError: the lab is not up, or does not run.
    """
    check_up(stack)
    if not halted_too:
        halted.check_runs(stack)
    facts: dict[str, Any] = json.loads((stack.directory / "lab.json").read_text())
    return facts


def remove(stack: Stack) -> None:
    """Remove the files of a lab that is no more, but for the snapshots: those are the user's."""
    room_for_outputs(stack)
    if not stack.directory.exists():
        return
    for file in stack.directory.iterdir():
        if file.is_file() or file.is_symlink():
            file.unlink()
    if not any(stack.directory.iterdir()):
        stack.directory.rmdir()


def nodes(stack: Stack, *, quiet: bool = False) -> str:
    """The table of the Nodes, as kubectl prints it; empty where it fails.

    Args:
        stack: the lab.
        quiet: whether the user is not told why.
    """
    deadline = f"--request-timeout={30 * stack.timeout_factor}s"
    command = [*kubectl_command(stack), "get", "nodes", "-o", "wide", deadline]
    errors = subprocess.DEVNULL if quiet else None
    environment = kubectl_environment(stack)
    done = subprocess.run(command, env=environment, check=False, stdout=subprocess.PIPE, stderr=errors, text=True)
    return done.stdout if done.returncode == 0 else ""


def show(stack: Stack, outputs: Mapping[str, Any], table: str = "") -> None:
    """Print the nodes, the endpoint, where the kubeconfig is, and that network policies are not enforced if so.

    Of a part of a lab: what it is, and how it goes on.

    Args:
        stack: which lab.
        outputs: its outputs.
        table: the Nodes, see `nodes`; asked for if not given.
    """
    print(flush=True)
    if part := outputs.get("until", ""):
        _show_part(stack, part)
        return
    print(table or nodes(stack), end="")
    print(f"\nendpoint    {outputs.get('endpoint', 'unknown')}")
    print(f"kubeconfig  {stack.directory / 'kubeconfig'}", flush=True)
    if stack.domain:
        address = urlsplit(str(outputs.get("endpoint", ""))).hostname
        print(f"hosts line  {address} {stack.domain}   (for /etc/hosts, where no DNS server has it)", flush=True)
    if _ENFORCES not in stack.features:
        # The API takes them all the same, and says nothing.
        print("policies    NetworkPolicies are not enforced here: docs/calico.md", flush=True)


def _show_part(stack: Stack, until: str) -> None:
    chapter = chapters.following(until)
    assert chapter is not None
    at = f"-s {stack.name}"
    print(f"The lab {stack.name} is built up to the chapter {until!r}. The next one is {chapter.name!r}:")
    print(f"  by hand      docs/by-hand.md, then ./hardway diff {at} {chapter.name}")
    print(f"  by program   ./hardway up {at} --until {chapter.name}, or all the rest: ./hardway up {at}", flush=True)


def kubectl(stack: Stack, arguments: Sequence[str]) -> None:
    """Become the lab's kubectl.

    Raises:
        ToolchainError: the lab is not up, or does not run.
    """
    check_up(stack, with_kubeconfig=True)
    halted.check_runs(stack)
    command = kubectl_command(stack)
    os.environ.update(kubectl_environment(stack))
    _become(command[0], [*command, *arguments])


def ssh(stack: Stack, machine: str, remote: str | None, *, terminal: bool = False) -> None:
    """Become an ssh to a machine of the lab, as its ssh_config names it: a shell there, or one command.

    Args:
        stack: the lab.
        machine: where.
        remote: the command, for the shell there.
        terminal: whether the command gets a terminal there.

    Raises:
        ToolchainError: the lab is not up or does not run, there is no such machine, or no ssh.
    """
    check_up(stack)
    halted.check_runs(stack)
    program = shutil.which("ssh")
    if program is None:
        raise ToolchainError("ssh is not installed: `./hardway setup` installs it.")
    config, key = stack.directory / "ssh_config", stack.directory / "ssh_key"
    hosts = [
        word
        for line in config.read_text().splitlines()
        if line.strip().lower().startswith("host ")
        for word in line.split()[1:]
        if "*" not in word
    ]
    if machine not in hosts:
        raise ToolchainError(f"There is no machine {machine!r}: it must be one of {', '.join(hosts)}.")
    # Relative names in the lab's ssh_config mean files beside it.
    os.chdir(stack.directory)
    command = [program, "-F", str(config), "-i", str(key), *(["-tt"] if terminal else []), machine]
    _become(program, [*command, remote] if remote else command)


def check_up(stack: Stack, *, with_kubeconfig: bool = False) -> None:
    """Refuse what needs a lab.

    Args:
        stack: which.
        with_kubeconfig: whether it needs a kubeconfig too, which a lab of the chapter "machines" has not.

    Raises:
        ToolchainError: the lab is not up.
    """
    try:
        (stack.directory / "kubeconfig").stat()  # `exists` answers no where the directory may not be read
    except FileNotFoundError:
        if (stack.directory / "lab.json").exists():
            if not with_kubeconfig:
                return
            raise ToolchainError(
                f"The lab {stack.name} has no kubeconfig yet: it has machines and no certificates. "
                f"`./hardway up -s {stack.name} --until kubeconfigs` creates it."
            ) from None
        raise ToolchainError(
            f"The lab {stack.name} is not up: there is no {stack.directory / 'kubeconfig'}. "
            f"Run `./hardway up -s {stack.name}`."
        ) from None


def ssh_command(stack: Stack) -> list[str]:
    """The command line that reaches the lab's machines without questions: a machine and a script follow."""
    config, key = stack.directory / "ssh_config", stack.directory / "ssh_key"
    options = ["BatchMode=yes", f"ConnectTimeout={5 * stack.timeout_factor}"]
    if stack.traits.on_engine:
        # OpenSSH's first choice protects recordings of a connection from later quantum computers. It takes a sixth of a
        # second of a processor, for each machine that is asked, and these connections do not leave the Pulumi host.
        options.append("KexAlgorithms=^curve25519-sha256")
    return ["ssh", "-F", str(config), "-i", str(key), *(word for option in options for word in ("-o", option))]


def keepalive(stack: Stack) -> list[str]:
    """Options of ssh, for what may take long: a machine that has not answered for 30 s is given up."""
    return ["-o", f"ServerAliveInterval={5 * stack.timeout_factor}", "-o", "ServerAliveCountMax=6"]


def kubectl_command(stack: Stack) -> list[str]:
    """The command line of the lab's kubectl, as its administrator: arguments follow."""
    return [str(stack.directory / "kubectl"), "--kubeconfig", str(stack.directory / "kubeconfig")]


def kubectl_environment(stack: Stack) -> dict[str, str]:
    """The environment of that command: a private address is connected to directly, without the user's proxy.

    A public one (Google Cloud) may be behind that proxy, and NO_PROXY says whether it is.
    """
    servers = [server for server in _servers(stack) if _is_private(server)]
    if not servers:
        return dict(os.environ)
    direct = ",".join([*filter(None, (os.environ.get("NO_PROXY") or os.environ.get("no_proxy"),)), *servers])
    return os.environ | {"NO_PROXY": direct, "no_proxy": direct}


def is_reached_directly(stack: Stack) -> bool:
    """Whether the lab's API has a private address: it is connected to without the user's proxy."""
    return all(map(_is_private, _servers(stack)))


def _servers(stack: Stack) -> list[str]:
    """The hosts of the API, by the lab's kubeconfig."""
    return re.findall(r"^\s*server: https://([^:/\s]+)", (stack.directory / "kubeconfig").read_text(), re.M)


def _is_private(server: str) -> bool:
    try:
        return ipaddress.ip_address(server).is_private
    except ValueError:
        return False


def _copy_kubectl(stack: Stack) -> None:
    """Put the mirror's kubectl of the lab's version beside its kubeconfig, executable.

    A copy, since the mirror is somewhere else for another user, and may be where only root reads.
    """
    version = stack.kubernetes
    released = paths.mirror() / pins().products["kubernetes"].path_of("kubectl", version=version, arch=architecture())
    if not released.exists():
        raise ToolchainError(f"kubectl {version} is not in the mirror ({released}): `./hardway setup` gets it.")
    program, wanted = stack.directory / "kubectl", released.stat()
    if program.exists() and not program.is_symlink():
        found = program.stat()
        if (found.st_size, found.st_mtime_ns) == (wanted.st_size, wanted.st_mtime_ns):
            return
    draft = program.with_name(f"{program.name}.{os.getpid()}")
    shutil.copyfile(released, draft)
    draft.chmod(0o755)
    os.utime(draft, ns=(wanted.st_atime_ns, wanted.st_mtime_ns))
    draft.replace(program)


def _become(program: str, command: Sequence[str]) -> None:
    owner.hand_over()
    os.execv(program, list(command))


def _replace(file: Path, text: str) -> None:
    write_whole(file, text if text.endswith("\n") else f"{text}\n")
