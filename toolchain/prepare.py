"""Set-up as a whole: everything that a stack needs before `pulumi up`, in the order in which it is needed."""

import os
from dataclasses import dataclass
from pathlib import Path

from config.versions import pins
from toolchain import (
    apparmor,
    artifacts,
    images,
    node_image,
    paths,
    plugins,
    pulumi_cli,
    state,
    system,
    vm_image,
)
from toolchain.errors import ToolchainError
from toolchain.progress import Report
from toolchain.stack import Stack
from toolchain.state import State
from toolchain.versions import Plugin, architecture, tools

_ENGINES = {"podman": system.PODMAN, "docker": system.DOCKER}


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What set-up has made.

    Args:
        pulumi: the Pulumi command.
        state: where the state is.
        environment: the variables that make plain `pulumi` work on this project.
    """

    pulumi: Path
    state: State
    environment: dict[str, str]


def everything(report: Report, stack: Stack, *, retry: bool = False) -> Workshop:
    """Set up all that a stack needs; quick where it is there already.

    Args:
        report: shows the progress.
        stack: whose substrate and versions decide what is needed.
        retry: ask again for official plugins that could not be had before.

    Raises:
        ToolchainError: with what is wrong and what to do.
    """
    found = state.ensure()
    if stack.traits.root_for:
        _check_root(stack)
    _check_cache(stack)
    paths.record_cache()
    system.ensure(report, _packages(stack))
    cli = pulumi_cli.ensure(report)
    plugins.ensure(report, cli, _plugins(stack), retry=retry)
    # Where machines get everything from upstream, the Pulumi host needs no more than a kubectl.
    kubernetes, features = _known(stack.kubernetes), stack.features
    artifacts.ensure(report, kubernetes, features, only=None if stack.traits.mirror else ("kubectl",))
    if stack.traits.mirror:
        images.ensure(report, features)
    for arch in stack.architectures:
        artifacts.ensure(report, kubernetes, features, arch=arch)
        images.ensure(report, features, arch=arch)
    if stack.traits.image == "node":
        # Its machines have the mirror among their files.
        artifacts.unpack(report, kubernetes, features)
        node_image.ensure(report, stack.engine)
    if stack.traits.image == "disk":
        _have_vm_image(report, stack)
        _let_machines_use_the_pool(report, stack)
    return Workshop(pulumi=cli, state=found, environment=_environment(cli, found))


def for_preview(report: Report, stack: Stack) -> Workshop:
    """Set up what a preview needs, which any user may have: the CLI, its plugins and a state.

    Raises:
        ToolchainError: with what is wrong and what to do.
    """
    found = state.ensure()
    _check_cache(stack)
    cli = pulumi_cli.ensure(report)
    plugins.ensure(report, cli, _plugins(stack))
    return Workshop(pulumi=cli, state=found, environment=_environment(cli, found))


def for_plain_pulumi(report: Report, stack: Stack) -> Workshop:
    """Set up what plain `pulumi` needs; what only root may set up is left out for other users.

    Raises:
        ToolchainError: with what is wrong and what to do.
    """
    if stack.traits.root_for and os.geteuid() != 0:
        return for_preview(report, stack)
    return everything(report, stack)


def _plugins(stack: Stack) -> dict[str, Plugin]:
    """The providers of every lab, and the substrate's own."""
    needed = {"command", "tls", stack.traits.plugin}
    return {name: plugin for name, plugin in tools().plugins.items() if name in needed}


def _check_root(stack: Stack) -> None:
    if os.geteuid() != 0:
        raise ToolchainError(
            f"The stack {stack.name} makes its machines as {stack.traits.root_for}, with addresses and "
            "routes of their own on the Pulumi host,\nwhich only root may do. Run the same command with sudo."
        )


def _check_cache(stack: Stack) -> None:
    cache = paths.cache()
    try:
        is_open = not cache.exists() or os.access(cache, os.R_OK | os.X_OK)
    except PermissionError:
        is_open = False
    if not is_open:
        raise ToolchainError(
            f"This checkout uses the cache {cache}, which this user may not use. "
            f"Run the command with sudo, like `sudo ./hardway preview -s {stack.name}`."
        )


def _have_vm_image(report: Report, stack: Stack) -> None:
    image, sha256 = stack.libvirt.image, stack.libvirt.image_sha256
    if not image:
        vm_image.ensure(report)
    # Without a sum the program itself refuses the settings.
    elif image.startswith("http") and sha256:
        vm_image.ensure(report, url=image, sha256=sha256)


def _let_machines_use_the_pool(report: Report, stack: Stack) -> None:
    apparmor.ensure(report, Path(stack.libvirt.pool))


def _packages(stack: Stack) -> tuple[system.Package, ...]:
    packages: tuple[system.Package, ...] = system.ACCESS
    groups = {"engine": _ENGINES.get(stack.engine, ()), "node-image": system.NODE_IMAGE, "libvirt": system.LIBVIRT}
    for group in stack.traits.packages:
        packages += groups[group]
    if stack.traits.mirror and _something_in_c_is_built():
        packages += system.SOURCE_BUILDS
    if _images_are_pulled(stack):
        packages += system.IMAGE_PULLS
    return packages


def _images_are_pulled(stack: Stack) -> bool:
    """Whether an image is still to be pulled; a host is asked only for what is not there yet."""
    here = (architecture(),) if stack.traits.mirror else ()
    return any(images.are_pulled(stack.features, arch) for arch in (*here, *stack.architectures))


def _something_in_c_is_built() -> bool:
    """Whether runc or pause is still to be made here; a host is asked only for what is not there yet."""
    return artifacts.is_built("runc") or images.is_built("pause")


def _known(kubernetes: str) -> str:
    versions = pins().products["kubernetes"].versions
    if kubernetes not in versions:
        raise ToolchainError(
            f"lab.versions.kubernetes is {kubernetes}, which is not in config/versions.yaml; "
            f"there are {', '.join(versions)}."
        )
    return kubernetes


def _environment(cli: Path, found: State) -> dict[str, str]:
    directories = [str(plugins.on_path()), str(cli.parent), *os.environ.get("PATH", "").split(os.pathsep)]
    variables = {
        # Once each: `eval "$(make -s env)"` may be repeated in one shell.
        "PATH": os.pathsep.join(dict.fromkeys(directories)),
        "PULUMI_SKIP_UPDATE_CHECK": "1",
        # The CLI calls `git status`, which as root would write an index that the user's git cannot read.
        "GIT_OPTIONAL_LOCKS": "0",
        # The official language host names the provider of every SDK in the virtual environment, and the engine would
        # install them all before it runs the program. With this option it installs a provider when a resource needs it.
        "PULUMI_OPTION_SKIP_PLUGIN_PRE_INSTALL": "true",
        # Where the settings file has no salt, take the state's, rather than make another.
        "PULUMI_FALLBACK_TO_STATE_SECRETS_MANAGER": "1",
        **found.environment,
    }
    if any(plugins.on_path().iterdir()):
        # All that the program needs is there; the engine would look for releases that cannot be reached.
        variables["PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION"] = "1"
    return variables
