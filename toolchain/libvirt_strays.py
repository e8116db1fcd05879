"""What libvirt has of a lab and Pulumi's state has not: a run was killed, or failed, between making and noting it.

The provider does not take over what is there already, so that the next `up` would fail on the name: it is removed. What
another lab has made is none of that, see components/substrates/libvirt/owner.py.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolchain import lab_key
from toolchain.command import ask
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

_TYPES = {
    "libvirt:index/domain:Domain": "domain",
    "libvirt:index/volume:Volume": "volume",
    "libvirt:index/cloudInitDisk:CloudInitDisk": "volume",
    "libvirt:index/network:Network": "network",
    "libvirt:index/pool:Pool": "pool",
}
_REMOVAL = {
    "domain": ("destroy {name}", "undefine {name}"),
    "volume": ("vol-delete {name} --pool {lab}",),
    "network": ("net-destroy {name}", "net-undefine {name}"),
    "pool": ("pool-destroy {name}", "pool-delete {name}", "pool-undefine {name}"),
}


_UUID = {"domain": "domuuid", "network": "net-uuid", "pool": "pool-uuid"}
"""Kind -> the command that prints what the provider has as the id of a resource."""


def remove(deployment: Mapping[str, Any], stack: Stack) -> list[str]:
    """Remove the strays of a lab.

    Args:
        deployment: its state, by `pulumi stack export`.
        stack: whose lab.

    Returns:
        What was removed, e.g. "domain hardway-dev-worker-0".

    Raises:
        ToolchainError: what has the names in this state is another state's: nothing was removed.
    """
    resources = (deployment.get("deployment") or {}).get("resources") or []
    # Before the lab's preflight has passed, what has its name may belong to another lab.
    if not any(str(resource["urn"]).endswith("::machines-preflight") for resource in resources):
        return []
    lab, uri = f"hardway-{stack.name}", stack.libvirt.uri
    if others := list(_made_by_another_state(uri, resources)):
        raise ToolchainError(
            f"{lab} on the Pulumi host was created from another state: {', '.join(others)}. Nothing was changed.\n"
            "Work there, or destroy it from there. If the lab of this state is gone, forget it: "
            f'`pulumi stack rm --force {stack.name}` (after `eval "$(./hardway env -s {stack.name})"`). '
            "Else take another name for the stack."
        )
    _check_owner(uri, resources, stack)
    known = {
        (_TYPES[resource["type"]], (resource.get("inputs") or {}).get("name"))
        for resource in resources
        if resource["type"] in _TYPES
    }
    strays = [found for found in _having(uri, lab) if found not in known]
    for kind, name in strays:
        for command in _REMOVAL[kind]:
            # What is not running cannot be stopped; what stays is named by the `up` that follows.
            _virsh(uri, *command.format(name=name, lab=lab).split())
    drafts = list(_drafts(resources))
    for draft in drafts:
        shutil.rmtree(draft)
    return [*(f"{kind} {name}" for kind, name in strays), *(f"directory {draft}" for draft in drafts)]


def _check_owner(uri: str, resources: Sequence[Mapping[str, Any]], stack: Stack) -> None:
    """Refuse what is another lab's by its record; mark a lab that was made before there were records."""
    key = lab_key.output_of(resources, lab_key.FINGERPRINT)
    if not key:
        return
    whose = ("--uri", uri, "--lab", stack.name, "--key", key)
    done = lab_key.ask_owner("libvirt", "check", *whose)
    if done.returncode != 0:
        raise ToolchainError(f"{done.stderr.strip()}\nNothing was changed.")
    if any(_is_there(uri, resource) for resource in resources):
        # Nothing of it has another UUID.
        lab_key.ask_owner("libvirt", "take", *whose).check_returncode()


def _is_there(uri: str, resource: Mapping[str, Any]) -> bool:
    """Whether libvirt has a network, pool or machine of the state."""
    kind, name = _TYPES.get(str(resource["type"])), (resource.get("inputs") or {}).get("name")
    return bool(kind in _UUID and name and resource.get("id")) and bool(
        _virsh(uri, _UUID[str(kind)], str(name)).strip()
    )


def _drafts(resources: Sequence[Mapping[str, Any]]) -> Iterator[Path]:
    """The directories in which the provider was making cloud-init disks of the lab: they hold SSH host keys."""
    key = lab_key.output_of(resources, "publicKeyOpenssh")
    if not key:
        return
    # As Go finds the directory for temporary files.
    for draft in sorted(Path(os.environ.get("TMPDIR") or "/tmp").glob("cloudinit*")):
        if draft.is_symlink() or not draft.is_dir() or draft.stat().st_uid != os.geteuid():
            continue
        data = draft / "user-data"
        # Names of labs may be alike: whose it is says the key that opens the machine.
        if data.is_file() and key in data.read_text(errors="replace"):
            yield draft


def _made_by_another_state(uri: str, resources: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What has a name of the state, and another UUID."""
    for resource in resources:
        kind, name = _TYPES.get(str(resource["type"])), (resource.get("inputs") or {}).get("name")
        if kind in _UUID and name and resource.get("id"):
            found = _virsh(uri, _UUID[kind], str(name)).strip()
            if found and found != resource["id"]:
                yield f"the {kind} {name} has the UUID {found}, not {resource['id']}"


def _having(uri: str, lab: str) -> Iterator[tuple[str, str]]:
    """Kind and name of all that libvirt has of a lab, in the order in which it can be removed."""
    for name in _virsh(uri, "list", "--all", "--name").split():
        # Another lab's name may begin with this one's.
        if name.startswith(f"{lab}-") and _virsh(uri, "desc", name).strip() == lab:
            yield "domain", name
    if lab in _virsh(uri, "pool-list", "--all", "--name").split():
        for line in _virsh(uri, "vol-list", "--pool", lab).splitlines():
            yield "volume", line.split()[0]
        yield "pool", lab
    if lab in _virsh(uri, "net-list", "--all", "--name").split():
        yield "network", lab


def _virsh(uri: str, *command: str) -> str:
    done = ask("virsh", "-q", "-c", uri, *command, timeout=60)
    return done.stdout if done.returncode == 0 else ""
