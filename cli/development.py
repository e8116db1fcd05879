"""The commands for work on the project itself: pins, bench, compare, scale."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from cli import stacks
from toolchain.stack import Stack

LABS = ("dev", "ha", "kubeadm")
"""The keys of benchmarks.labs.LABS, which takes its time to load."""


@click.command(cls=stacks.LabCommand)
@click.argument("products", nargs=-1, metavar="[PRODUCT]...")
@click.argument("version")
def pins(products: Sequence[str], version: str) -> None:
    """Write a version and its checksums into config/versions.yaml.

    PRODUCT is kubernetes (the default), etcd, pulumi, plugin/tls, image/coredns ...; VERSION is such as 1.36.5.
    """
    from toolchain.progress import Report
    from toolchain.releases import pins as pinning

    names = list(products) or ["kubernetes"]
    with Report() as report:
        file = pinning.write(report, names, version)
    print(f"{file} has the checksums of {', '.join(names)} {version}: read `git diff` before you use them.")


@stacks.command()
@click.option("--lab", type=click.Choice(LABS), default="dev", show_default=True, help="Which lab is measured.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--path", is_flag=True, help="Measure nothing: show the critical path of the last `up` of the lab of -s.")
@click.option(
    "--workers",
    multiple=True,
    type=click.IntRange(min=1, max=100),
    metavar="NUMBER",
    help="Measure the program alone, with so many workers. Can be repeated.",
)
@click.option("--json", "json_file", type=stacks.FILE, metavar="FILE", help="Also write all figures to this file.")
def bench(stack: Stack, *, lab: str, rounds: int, path: bool, workers: Sequence[int], json_file: Path | None) -> int:
    """Measure the lab and the same work in plain shell, one after the other; or show where an `up` spent its time."""
    if path:
        from live import critical_path

        found = critical_path.find(stack)
        print("\n".join(critical_path.lines(found)))
        if json_file is not None:
            json_file.write_text(found.json() + "\n")
        return 0
    from benchmarks import bench as measuring
    from benchmarks import labs

    _use_pulumi(stack)
    if workers:
        from benchmarks import workers as growing

        return growing.main(labs.LABS[lab], workers, json_file=json_file)
    return measuring.main(labs.LABS[lab], rounds=rounds, json_file=json_file)


@stacks.command()
@click.option("--rounds", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--json", "json_file", type=stacks.FILE, metavar="FILE", help="Also write all figures to this file.")
@click.option("--files", is_flag=True, help="Also list the files.")
def compare(stack: Stack, *, rounds: int, json_file: Path | None, files: bool) -> int:
    """Compare the hard way and kubeadm on the same containers: seconds, memory, processes, files."""
    from benchmarks import compare as comparing

    _use_pulumi(stack)
    return comparing.main(rounds=rounds, json_file=json_file, files=files)


@stacks.command()
@click.argument("nodes", nargs=-1, type=click.IntRange(min=0, max=9999), metavar="[NODES]...")
@click.option("--json", "json_file", type=stacks.FILE, metavar="FILE", help="Also write all figures to this file.")
@click.option(
    "--seconds",
    type=click.IntRange(min=1),
    default=60,
    show_default=True,
    help="How long requests are measured, at each number.",
)
def scale(stack: Stack, nodes: Sequence[int], *, seconds: int, json_file: Path | None) -> int:
    """Measure the running lab with 0, 100 and 1000 simulated Nodes more, or with those that are given."""
    from live import scale as measuring

    return measuring.main(stack, nodes or (0, 100, 1000), seconds=seconds, json_file=json_file)


def _use_pulumi(chosen: Stack) -> None:
    """Put Pulumi and what it needs into this process's environment, as `eval "$(hardway env)"` does in a shell."""
    from toolchain import prepare
    from toolchain.progress import Report

    with Report(sys.stderr) as report:
        os.environ.update(prepare.for_plain_pulumi(report, chosen).environment)
