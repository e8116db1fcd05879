"""The definitions of a lab's containers, as the state has them, and those that the container engine has."""

import json
import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

from live.drift.compare import Difference
from toolchain.stack import Stack

ENGINE = "container engine"
_SECONDS = 30
_UNLIMITED = ("Memory", "MemorySwap", "NanoCpus", "CpuShares", "CpuQuota", "CpusetCpus")
"""Limits that `podman update` or `docker update` can set. Machines have none but those of the settings."""
_FOLLOWS = {"MemorySwap": "memory", "CpuQuota": "cpus"}
"""Limit -> the option that sets it, too, with an engine's own value."""


def ask(stack: Stack, deployment: Mapping[str, Any]) -> tuple[list[Difference], str]:
    """What differs in the definitions of a lab's containers; and why the engine could not be asked, if so."""
    expected = dict(_expected(stack, deployment))
    if not expected:
        return [], ""
    if stack.engine == "podman" and os.geteuid() != 0:
        # It would tell of this user's own containers.
        return [], "only root sees the lab's containers: run the command with sudo"
    names = [definition[0] for definition in expected.values()]
    try:
        done = subprocess.run(
            [stack.engine, "container", "inspect", *names],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS * stack.timeout_factor,
            check=False,
        )
        found = {str(each["Name"]).lstrip("/"): each for each in json.loads(done.stdout or "[]")}
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return [], str(error)
    if done.returncode != 0 and "no such" not in done.stderr.lower():
        return [], (done.stderr.strip().splitlines() or [f"{stack.engine} ended with status {done.returncode}"])[-1]
    return [
        Difference(machine=machine, kind="container", name=name, problems={"definition": "; ".join(problems)})
        for machine, (name, words, identity) in expected.items()
        if (problems := list(problems_of(words, identity, found.get(name))))
    ], ""


def _expected(stack: Stack, deployment: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, list[str], str]]]:
    """Machine -> the container's name, the words of the command that creates it, and its id."""
    if not stack.traits.on_engine or stack.traits.machine is None:
        return
    prefix = f"{stack.traits.machine[0]}::machines-"
    for resource in deployment.get("deployment", {}).get("resources", []):
        _, found, machine = str(resource["urn"]).partition(prefix)
        script = str(resource.get("inputs", {}).get("create", ""))
        if not found or not script.startswith("# container "):
            continue
        words = shlex.split(script[script.index(f"{stack.engine} create") :].partition(">/dev/null")[0])[2:]
        yield machine, (script.split()[2], words, _text(resource["outputs"].get("stdout")))


def _text(value: Any) -> str:
    return str(json.loads(value["plaintext"])) if isinstance(value, dict) else str(value)


def problems_of(words: list[str], identity: str, found: Mapping[str, Any] | None) -> Iterator[str]:
    """What differs between a container and the command that created it.

    Args:
        words: the options of the command, and the image.
        identity: the container's id, as the state has it.
        found: what the engine says of it; None where there is none of its name.
    """
    if found is None:
        yield "missing"
        return
    if found["Id"] != identity:
        yield "another container than the state's"
    if not found["State"]["Running"]:
        yield "does not run"
    host, config = found["HostConfig"], found["Config"]
    options = [word.removeprefix("--").partition("=")[::2] for word in words if word.startswith("--")]
    image = found.get("ImageName") or config["Image"]
    if image != words[-1]:
        yield f"image {image}, expected {words[-1]}"
    ulimits = {
        each["Name"].removeprefix("RLIMIT_").lower(): f"{each['Soft']}:{each['Hard']}" for each in host["Ulimits"] or ()
    }
    mounts = {each["Destination"]: each for each in found["Mounts"]}
    networks = found["NetworkSettings"]["Networks"]
    for option, value in options:
        match option:
            case "privileged" if not host["Privileged"]:
                yield "not privileged"
            case "ulimit":
                name, _, limit = value.partition("=")
                if ulimits.get(name) != limit:
                    yield f"limit {name} is {ulimits.get(name)}, expected {limit}"
            case "volume":
                yield from _mount_problems(value.split(":"), mounts)
            case "hostname" if config["Hostname"] != value:
                yield f"host name {config['Hostname']}, expected {value}"
            case "label" if config["Labels"].get(value.partition("=")[0]) != value.partition("=")[2]:
                yield f"without the label {value}"
            case "network" if value not in networks:
                yield f"not in the network {value}"
    wanted = dict(options)
    yield from (f"also in the network {name}" for name in networks if name != wanted.get("network"))
    limits = _limits(wanted)
    yield from (
        f"{name} is limited: {host[name]}"
        for name in _UNLIMITED
        if host.get(name) and name not in limits and _FOLLOWS.get(name) not in wanted
    )
    yield from (
        f"{name} is {host.get(name) or 'not limited'}, expected {limit}"
        for name, limit in limits.items()
        if host.get(name) != limit
    )
    if wanted.get("pids-limit") == "-1" and (host.get("PidsLimit") or 0) > 0:
        yield f"limit of processes {host['PidsLimit']}, expected none"


def _limits(options: Mapping[str, str]) -> dict[str, int]:
    """Limit -> its value, as the engine shows what the options say."""
    found = {}
    if "memory" in options:
        found["Memory"] = int(options["memory"].removesuffix("m")) * 2**20
    if "cpus" in options:
        found["NanoCpus"] = int(options["cpus"]) * 10**9
    return found


def _mount_problems(words: list[str], mounts: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """`words` are [destination], or source, destination and options."""
    destination = words[1] if len(words) > 1 else words[0]
    mount = mounts.get(destination)
    if mount is None:
        yield f"nothing is mounted on {destination}"
    elif len(words) > 1 and mount["Source"] != words[0]:
        yield f"{mount['Source']} is mounted on {destination}, expected {words[0]}"
    elif "ro" in words[2:] and mount["RW"]:
        yield f"{destination} is writable"
