"""Whose lab it is that has a stack's name, asked before Pulumi is run: what another state has made is left alone.

Plain `pulumi up` is refused by the preflight, and the scripts of its resources spare what is another lab's
(components/substrates/containers/owner.py). Here is what those cannot see: a state without the lab, and scripts of
earlier versions in the state.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from config.fingerprint import fingerprint
from toolchain import lab_key, state
from toolchain.errors import ToolchainError
from toolchain.recovery import recorded
from toolchain.stack import Stack

# As that program writes them: the identity first.
_RECORDS = Path("/var/lib/hardway-labs")
_NETWORK = "::machines-network"


def check_backend(stack: Stack) -> None:
    """Refuse to begin a lab where the files of this checkout say that it is up, and the backend has no such stack.

    Raises:
        ToolchainError: they do.
    """
    if (stack.directory / "lab.json").exists():
        raise ToolchainError(
            f"The lab {stack.name} is up, as {stack.directory / 'lab.json'} says, and the state\n"
            "that Pulumi uses now has no such stack. Nothing was changed.\n"
            "`pulumi login`, PULUMI_BACKEND_URL or PULUMI_ACCESS_TOKEN has chosen another state than that which made\n"
            "the lab (`pulumi whoami -v` names it). Do one of these:\n"
            "  - use that state again: if it is .state of this checkout, unset those variables and `pulumi logout`;\n"
            '  - bring the lab\'s state to the new one (README, "Whose lab is it?");\n'
            f"  - where the lab is gone: remove {stack.directory / 'lab.json'}, and run this again."
        )


def check_before_up(deployment: Mapping[str, Any], stack: Stack) -> None:
    """Refuse to change what is another lab's; mark a lab that was made before labs were marked.

    Args:
        deployment: the stack's state, as `pulumi stack export` has it.
        stack: whose lab.

    Raises:
        ToolchainError: it is another lab's.
    """
    # With nothing made yet the preflight has it in its report.
    if not stack.traits.on_engine or not _has(deployment, _NETWORK) or _is_recorded(deployment, stack):
        return
    if anothers := _anothers(stack, _key(deployment), "--take"):
        raise ToolchainError(f"{anothers}\nNothing was changed.")


def check_before_destroy(deployment: Mapping[str, Any], stack: Stack) -> None:
    """Refuse to destroy what is another lab's, or to say that a lab is gone which another state has.

    Args:
        deployment: the stack's state, as `pulumi stack export` has it.
        stack: whose lab.

    Raises:
        ToolchainError: the state has no lab and the host has; or its scripts would remove another lab's containers.
    """
    if stack.traits.image == "disk" and not _key(deployment):
        _check_machines_of(stack)
    if not stack.traits.on_engine or _is_recorded(deployment, stack):
        return
    # A record that was lost is written again: the scripts remove what it says is theirs.
    is_marked = _has(deployment, _NETWORK) and _spares_others(deployment)
    anothers = _anothers(stack, _key(deployment), *(["--take"] if is_marked else []))
    if not anothers:
        return
    if not _key(deployment):
        raise ToolchainError(_not_in_the_state(stack, anothers))
    if _has(deployment, _NETWORK) and not is_marked:
        raise ToolchainError(
            f"{anothers}\nNothing was changed: the state is of an earlier version, whose scripts remove by name.\n"
            f"If the lab of this state is gone, forget it: `pulumi stack rm --force {stack.name}` "
            f'(after `eval "$(./hardway env -s {stack.name})"`).'
        )
    print(f"Only what this state has made is removed. {anothers}", flush=True)


def check_own(stack: Stack) -> None:
    """Refuse to stop, start or rewind containers that the lab's own key does not open.

    Needs no state: a lab that was recreated from another state has another key on its machines. After a rotation the
    record still has the first key; a state in files says which that is, and else the containers are asked for the key
    that opens them.

    Raises:
        ToolchainError: the lab of this name is another's.
    """
    key = lab_key.of_files(stack)
    owner = _owner(stack)
    if owner and (owner == fingerprint(key) or owner == _identity_in_files(stack)):
        return
    if anothers := _anothers(stack, key, "--in-use"):
        raise ToolchainError(f"{anothers}\nNothing was changed.")


def _identity_in_files(stack: Stack) -> str:
    """The fingerprint of the lab's first key in a state that is in files; empty where there is none."""
    return lab_key.output_of(recorded(state.directory(), stack).get("resources") or [], lab_key.FINGERPRINT)


def _check_machines_of(stack: Stack) -> None:
    """Refuse to say that a lab of virtual machines is gone which another state has."""
    uri = stack.libvirt.uri
    done = lab_key.ask_owner("libvirt", "check", "--uri", uri, "--lab", stack.name, "--key", "not there")
    if done.returncode != 0:
        raise ToolchainError(_not_in_the_state(stack, done.stderr.strip()))


def _not_in_the_state(stack: Stack, anothers: str) -> str:
    return f"The state has no lab {stack.name}, but the Pulumi host has one.\n{anothers}\nNothing was changed."


def _is_recorded(deployment: Mapping[str, Any], stack: Stack) -> bool:
    """Whether the record of the Pulumi host says that the lab is that of the state: then no container need be asked."""
    identity = lab_key.output_of(_resources(deployment), lab_key.FINGERPRINT)
    return bool(identity) and _owner(stack) == identity


def _owner(stack: Stack) -> str:
    """Whose the lab's name is, by the record of the Pulumi host; empty where there is none that can be read."""
    try:
        return next(iter((_RECORDS / stack.name).read_text().split()), "")
    except (OSError, ValueError):
        return ""


def _anothers(stack: Stack, key: str, *more: str) -> str:
    """What on the Pulumi host has the lab's name and is not the lab's, in words; nothing where all of it is."""
    words = ("--begun", "--lab", stack.name, "--engine", stack.engine, "--key", key, *more)
    done = lab_key.ask_owner("containers", *words)
    if done.returncode == 0:
        return ""
    if not done.stdout.strip():
        raise ToolchainError(f"The owner of the lab {stack.name} is not known: {done.stderr.strip()}")
    return done.stdout.strip()


def _key(deployment: Mapping[str, Any]) -> str:
    """The lab's public key in a state; empty where there is none."""
    return " ".join(lab_key.output_of(_resources(deployment), "publicKeyOpenssh").split()[:2])


def _has(deployment: Mapping[str, Any], name: str) -> bool:
    return any(str(resource["urn"]).endswith(name) for resource in _resources(deployment))


def _spares_others(deployment: Mapping[str, Any]) -> bool:
    """Whether the scripts in a state look at the owner before they remove something."""
    scripts = [
        str((resource.get("inputs") or {}).get("delete"))
        for resource in _resources(deployment)
        if "::machines-" in str(resource["urn"]) and (resource.get("inputs") or {}).get("delete")
    ]
    return all(script.startswith("# removes ") for script in scripts)


def _resources(deployment: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = (deployment.get("deployment") or {}).get("resources") or []
    return found
