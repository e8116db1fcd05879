"""The files that lie ready for a person who builds a lab by hand: `python -m benchmarks.files LAB DIRECTORY`.

Written, by the program's own renderers: `machines.txt` (address, FQDN, name and pod range of each machine) and, for
each machine, `<machine>/root/`, which is everything below its `/` that is neither a secret nor a certificate: units
and configuration, `/root/downloads.txt` (checksum, path, destination and members of what it fetches) and
`/root/images.txt` (checksum, path and reference of what containerd imports); for kubeadm also `/root/kubeadm.yaml`,
its configuration. Beside it `<machine>/expected.txt` and
`<machine>/units.txt`: mode, owner and path of every file, and the name of every unit, that the program would have
there.
"""

import asyncio
import json
import runpy
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pulumi
from pulumi.runtime.stack import run_pulumi_func

from benchmarks.labs import LABS, MeasuredLab
from components.kubeadm import kubeadm_images
from components.kubeadm_config import init_documents, join_configuration, yaml_of
from components.machine import Machine
from components.step import Fetch, File, Step, StepArgs, unit_file
from config import lab as config
from config.machine_paths import LIBRARY
from config.machines import MachineSpec, Role
from config.ports import API_PORT
from config.versions import pins
from toolchain import paths

NAME = "shell"
NETWORK = {"nodes": "10.246.0.0/24", "pods": "10.206.0.0/16", "services": "10.46.0.0/24"}
"""The ranges of every lab that is built by hand."""
_KUBEADMS = ("node", "admission")
"""The steps in which kubeadm itself is at work."""


def settings(measured: MeasuredLab) -> dict[str, Any]:
    """As the program's stack has them, but for the ranges."""
    return measured.settings | {"network": NETWORK}


def lab(measured: MeasuredLab) -> config.Lab:
    """The lab that is built by hand."""
    return config.parse(NAME, settings(measured))


def write(measured: MeasuredLab, directory: Path) -> None:
    """Write all files below a directory."""
    planned = lab(measured)
    (directory / "machines.txt").write_text(
        "".join(f"{spec.address} {spec.fqdn} {spec.name} {spec.pod_cidr or ''}\n" for spec in planned.machines)
    )
    for spec in planned.machines:
        home = directory / spec.name / "root" / "root"
        home.mkdir(parents=True)
        archives = {image: planned.artifacts.image(image, arch=planned.arch) for image in _images(planned, spec)}
        (home / "images.txt").write_text(
            "".join(
                f"{archive.sha256} {_path(archive.url)} {pins().images[image].reference}\n"
                for image, archive in archives.items()
            )
        )
    by_kubeadm = planned.settings.bootstrap == "kubeadm"
    for step in steps(measured):
        if by_kubeadm and step.name in _KUBEADMS:
            _write_kubeadm(directory / step.machine.name, step.machine, planned)
        else:
            _write_step(directory / step.machine.name, step)


def steps(measured: MeasuredLab) -> list[StepArgs]:
    """Every step of the program, for this lab; nothing is made, and nothing is asked."""
    seen: list[StepArgs] = []
    make = Step.__init__

    def remember(step: Step, name: str, args: StepArgs, opts: pulumi.ResourceOptions) -> None:
        seen.append(args)
        make(step, name, args, opts)

    def program() -> None:
        runpy.run_path(str(paths.checkout() / "__main__.py"))

    async def preview() -> None:
        pulumi.runtime.set_all_config({f"{config.PROJECT}:lab": json.dumps(settings(measured))})
        pulumi.runtime.set_mocks(_Unanswered(), project=config.PROJECT, stack=NAME, preview=True)
        pulumi.runtime.settings.SETTINGS.callbacks = _Callbacks()
        await run_pulumi_func(program)

    with mock.patch.object(Step, "__init__", remember):
        asyncio.run(preview())
    return seen


def _images(planned: config.Lab, spec: MachineSpec) -> tuple[str, ...]:
    version = planned.artifacts.versions["kubernetes"]
    others = kubeadm_images(spec, version) if planned.settings.bootstrap == "kubeadm" else ("coredns",)
    return ("pause", *others)


def _write_kubeadm(directory: Path, machine: Machine, planned: config.Lab) -> None:
    """What kubeadm is told, in place of the step that runs it: what that makes is kubeadm's own."""
    first = machine.name == planned.with_role(Role.CONTROLLER)[0].name
    documents = (
        init_documents(
            machine,
            NAME,
            endpoint=f"{planned.api_address}:{API_PORT}",
            domains=[],
            network=planned.network,
            pki=planned.settings.pki,
            version=planned.artifacts.versions["kubernetes"],
            several=len(planned.with_role(Role.CONTROLLER)) > 1,
            extra_flags={},
        )
        if first
        else [join_configuration(machine, NAME, version=planned.artifacts.versions["kubernetes"])]
    )
    (directory / "root" / "root" / "kubeadm.yaml").write_text(yaml_of(documents))


class _Callbacks:
    """Takes what an engine would call during updates: here none takes place."""

    def register_resource_hook(self, hook: pulumi.ResourceHook) -> None:
        pass


class _Unanswered(pulumi.runtime.Mocks):
    """An engine that has nothing to tell yet, as in a preview."""

    def call(self, args: pulumi.runtime.MockCallArgs) -> Any:
        raise AssertionError(f"the program calls {args.token}")

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        return None, {}


def _write_step(machine: Path, step: StepArgs) -> None:
    units = [unit_file(unit) for unit in step.units if unit.content]
    # The unit that writes the host table takes its verbs from there.
    library = [File(path=LIBRARY, content=step.brings)] if step.brings else []
    files = [*step.files, *units, *library]
    for file in files:
        # A certificate is not known before it is made.
        if not file.secret and isinstance(file.content, str):
            target = machine / "root" / file.path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(file.content.rstrip("\n") + "\n")
            target.chmod(int(file.mode, 8))
    with (machine / "root" / "root" / "downloads.txt").open("a") as downloads:
        downloads.writelines(_download(fetch) for fetch in step.fetches)
    with (machine / "expected.txt").open("a") as expected:
        expected.writelines(f"{file.mode.lstrip('0')} {file.owner} {file.path}\n" for file in files)
        expected.writelines(f"755 root {path}\n" for fetch in step.fetches for path in _destinations(fetch))

    with (machine / "units.txt").open("a") as expected_units:
        expected_units.writelines(f"{unit.name}\n" for unit in step.units)


def _download(fetch: Fetch) -> str:
    return " ".join([fetch.artifact.sha256, _path(fetch.artifact.url), fetch.destination, *fetch.members]) + "\n"


def _destinations(fetch: Fetch) -> list[str]:
    return [f"{fetch.destination}/{Path(member).name}" for member in fetch.members] or [fetch.destination]


def _path(url: str) -> str:
    return url.removeprefix("file://")


if __name__ == "__main__":
    write(LABS[sys.argv[1]], Path(sys.argv[2]))
