"""Whether Google Cloud can carry a lab: one report of every failed precondition, with nothing changed.

Run by the substrate `gcp` before it makes anything, as a program of its own (standard library only). It asks Google's
API for the region's quotas, and subtracts what the lab has there already. The token comes from the environment or from
gcloud. Before the first `up` nothing may have the names that the lab needs.

Source: https://cloud.google.com/compute/docs/reference/rest/v1/regions/get
"""

import argparse
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

# Run as a program: the project is not on its path.
sys.path.insert(0, str(Path(__file__).parents[3]))

from components.substrates.gcp.api import COMPUTE, IAM, Api, RefusedError, token
from components.substrates.gcp.owner import another_labs, everything

PLACEHOLDER_PROJECT = "your-project"
# The ranges that documents may use: no client has such an address, so a person has yet to replace them.
_PLACEHOLDERS = tuple(IPv4Network(text) for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"))
# Families whose CPUs Google counts together as CPUS; each other family has a quota of its own, like N2_CPUS.
_COUNTED_AS_CPUS = ("e2", "n1")
# Types without a number in their name (e2-medium) have two virtual CPUs.
_SHARED_CORE_CPUS = 2
_NAMES = {"IN_USE_ADDRESSES": "external addresses in use", "STATIC_ADDRESSES": "static addresses"}


def main() -> int:
    """Print every failed precondition; exit status 1 if there is one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--project", required=True)
    parser.add_argument("--lab", required=True)
    parser.add_argument("--region", required=True)
    parser.add_argument("--sources", required=True, nargs="+", type=IPv4Network)
    parser.add_argument("--machines", required=True, nargs="+", metavar="NAME=TYPE")
    parser.add_argument("--static", required=True, nargs="+", metavar="NAME")
    parser.add_argument(
        "--names", nargs="+", default=[], help="before the first up: what the lab's resources are called"
    )
    parser.add_argument("--key", default="", help="the identity of the lab's key")
    parser.add_argument("--spot", action="store_true")
    parser.add_argument("--compute", default=COMPUTE)
    parser.add_argument("--iam", default=IAM)
    found = list(problems(parser.parse_args()))
    if found:
        print("The preflight failed; nothing was changed.", file=sys.stderr)
        for number, problem in enumerate(found, 1):
            print(f"  {number}. {problem}", file=sys.stderr)
    return 1 if found else 0


def problems(args: argparse.Namespace) -> Iterator[str]:
    """Every failed precondition, each with what would help."""
    if shutil.which("ssh") is None:
        yield "ssh is not installed: run `./hardway setup`, or install it"
    for source in args.sources:
        if any(source.subnet_of(example) for example in _PLACEHOLDERS):
            yield f"lab.gcp.sources has {source}, an example: put your own range there"
    if args.project.lower() == PLACEHOLDER_PROJECT:
        # Google has nothing to say about it.
        yield f"gcp:project is {args.project}, an example: put the ID of your own project there (gcloud projects list)"
        return
    try:
        api = Api(compute=args.compute, iam=args.iam, project=args.project, token=token())
    except RefusedError as error:
        yield str(error)
        return
    try:
        api.get(f"{args.iam}/projects/{args.project}/serviceAccounts", pageSize="1")
    except RefusedError as error:
        yield str(error)
    try:
        yield from _quotas(api, args)
        if args.names:
            yield from another_labs(
                args.lab,
                args.project,
                args.key,
                [
                    found
                    for found in everything(api, args.lab)
                    if found.name in args.names and found.identity != args.key
                ],
            )
    except RefusedError as error:
        yield str(error)


def cpus_of(machine_type: str) -> int:
    """The virtual CPUs of a machine type, by its name: n2-standard-4, e2-custom-4-8192, e2-medium."""
    return next((int(word) for word in machine_type.split("-") if word.isdigit()), _SHARED_CORE_CPUS)


def needs(machines: Mapping[str, str], static: Sequence[str], *, spot: bool) -> Counter[str]:
    """What machines and static addresses count as: Google's name of a quota -> how much.

    Args:
        machines: name -> machine type.
        static: the names of the static addresses; that of the API is in use without a machine.
        spot: whether the machines' CPUs are counted as those of spot machines.
    """
    counted: Counter[str] = Counter()
    for machine_type in machines.values():
        family = machine_type.split("-")[0]
        own = "CPUS" if family in _COUNTED_AS_CPUS else f"{family.upper()}_CPUS"
        counted["PREEMPTIBLE_CPUS" if spot else own] += cpus_of(machine_type)
        counted["CPUS_ALL_REGIONS"] += cpus_of(machine_type)
    counted["STATIC_ADDRESSES"] = len(static)
    counted["IN_USE_ADDRESSES"] = len(machines) + sum(name.endswith("-api") for name in static)
    return counted


def _quotas(api: Api, args: argparse.Namespace) -> Iterator[str]:
    project = f"{api.compute}/projects/{api.project}"
    limits = {**_limits(api.get(project)), **_limits(api.get(f"{project}/regions/{args.region}"))}
    # Where there is no quota for spot machines, they count as others.
    spot = args.spot and limits.get("PREEMPTIBLE_CPUS", (0, 0))[0] > 0
    label = f"labels.hardway-lab={args.lab}"
    machines = dict(word.split("=", 1) for word in args.machines)
    wanted = needs(machines, args.static, spot=spot)
    there = needs(_instances(api, project, label), _addresses(api, project, args.region, label), spot=spot)
    for metric in sorted(wanted):
        # A quota that Google does not list is none of this region's.
        if metric not in limits:
            continue
        limit, used = limits[metric]
        more = wanted[metric] - there[metric]
        if more > 0 and used + more > limit:
            where = f"the project {api.project}" if metric == "CPUS_ALL_REGIONS" else f"the region {args.region}"
            yield (
                f"{_NAMES.get(metric, 'CPUs')} ({metric}): the lab needs {more} more, and of {limit:g} in {where} "
                f"{used:g} are in use: {_remedy(metric)}, or ask for more quota"
            )


def _remedy(metric: str) -> str:
    if metric == "STATIC_ADDRESSES":
        return "write `addresses: ephemeral` below lab.gcp"
    return "fewer or smaller machines (Pulumi.gcp-trial.yaml), or another region"


def _limits(answer: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    return {each["metric"]: (float(each["limit"]), float(each["usage"])) for each in answer.get("quotas", [])}


def _instances(api: Api, project: str, label: str) -> dict[str, str]:
    found = {}
    for page in api.pages(f"{project}/aggregated/instances", filter=label):
        for zone in page.get("items", {}).values():
            for each in zone.get("instances", []):
                found[each["name"]] = each["machineType"].rpartition("/")[2]
    return found


def _addresses(api: Api, project: str, region: str, label: str) -> list[str]:
    pages = api.pages(f"{project}/regions/{region}/addresses", filter=label)
    return [each["name"] for page in pages for each in page.get("items", [])]


if __name__ == "__main__":
    sys.exit(main())
