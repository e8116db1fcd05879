"""The preflight of a lab on Google Cloud, against a local server with the layout of Google's API."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.substrates.gcp import preflight as program
from lab.json_server import Request, json_server

CHECKOUT = Path(__file__).parents[2]
PROGRAM = CHECKOUT / "components" / "substrates" / "gcp" / "preflight.py"
TOKEN = "a-secret-token"
KEY = "ab" * 20
MACHINES = {f"hardway-gcp-{name}": "e2-standard-2" for name in ("controller-0", "worker-0", "worker-1")}


class Google:
    """What the API answers, by path; and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, list[str]], str | None]] = []
        self.quotas = {"CPUS": (8, 0), "IN_USE_ADDRESSES": (4, 0), "STATIC_ADDRESSES": (4, 0), "DISKS_TOTAL_GB": (9, 0)}
        self.project_quotas = {"CPUS_ALL_REGIONS": (12, 0), "NETWORKS": (5, 1)}
        self.instances: dict[str, str] = {}
        self.addresses: list[str] = []
        self.errors: dict[str, tuple[int, dict[str, Any] | str]] = {}
        # Kind -> what the project has of it.
        self.others: dict[str, list[dict[str, Any]]] = {}
        self.url = ""

    def answer(self, path: str, query: dict[str, list[str]]) -> tuple[int, dict[str, Any] | str]:
        for part, error in self.errors.items():
            if path.startswith(part):
                return error
        match path.removeprefix("/compute/v1/projects/mine").split("/"):
            case [""]:
                return 200, {"name": "mine", "quotas": _as_google(self.project_quotas)}
            case ["", "regions", "us-central1"]:
                return 200, {"name": "us-central1", "quotas": _as_google(self.quotas)}
            case ["", "aggregated", "instances"] if query["filter"] == ["labels.hardway-lab=gcp"]:
                # One on each page.
                position = int(query.get("pageToken", ["0"])[0])
                items = [
                    {"name": name, "machineType": f"https://google.example/zones/z/machineTypes/{machine_type}"}
                    for name, machine_type in list(self.instances.items())[position : position + 1]
                ]
                more = {"nextPageToken": str(position + 1)} if position + 1 < len(self.instances) else {}
                empty = {"warning": {"code": "NO_RESULTS_ON_PAGE"}}
                zones = {"zones/us-central1-a": empty, "zones/us-central1-b": {"instances": items} if items else empty}
                return 200, {"items": zones, **more}
            case ["", "regions", "us-central1", "addresses"]:
                return 200, {"items": [{"name": name} for name in self.addresses]} if self.addresses else {}
            case ["", "global", ("networks" | "firewalls" | "routes" | "httpHealthChecks") as kind]:
                return 200, {"items": self.listed(kind, query)}
            case ["", "aggregated", kind]:
                return 200, {"items": {"regions/us-central1": {kind: self.listed(kind, query)}}}
        if path == "/iam/v1/projects/mine/serviceAccounts":
            return 200, {}
        accounts = self.others.get("serviceAccounts", [])
        if path == "/iam/v1/projects/mine/serviceAccounts/hardway-gcp@mine.iam.gserviceaccount.com" and accounts:
            return 200, accounts[0]
        return 404, {"error": {"code": 404, "message": f"The resource '{path}' was not found", "errors": []}}

    def listed(self, kind: str, query: dict[str, list[str]]) -> list[dict[str, Any]]:
        """What a list has, filtered as Google does it: by a regular expression for the whole name."""
        (pattern,) = re.findall(r'^name eq "(.*)"$', query["filter"][0])
        return [
            {"selfLink": f"https://www.googleapis.com/compute/v1/projects/mine/global/{kind}/{each['name']}", **each}
            for each in self.others.get(kind, [])
            if re.fullmatch(pattern, each["name"])
        ]


def _as_google(quotas: dict[str, tuple[int, int]]) -> list[dict[str, Any]]:
    return [{"metric": name, "limit": float(limit), "usage": float(used)} for name, (limit, used) in quotas.items()]


def off(service: str) -> tuple[int, dict[str, Any]]:
    """Google's answer where an API has never been used in a project."""
    message = f"{service} API has not been used in project 123 before or it is disabled."
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_DISABLED"}]
    errors = [{"message": message, "domain": "usageLimits", "reason": "accessNotConfigured"}]
    return 403, {"error": {"code": 403, "message": message, "errors": errors, "details": details}}


@pytest.fixture
def google() -> Iterator[Google]:
    api = Google()

    def answer(request: Request) -> tuple[int, Any]:
        api.asked.append((request.path, request.query, request.authorization))
        return api.answer(request.path, request.query)

    with json_server(answer) as api.url:
        yield api


def preflight(
    google: Google,
    *more: str,
    project: str = "mine",
    sources: str = "10.1.2.3/32",
    machines: dict[str, str] = MACHINES,
    static: tuple[str, ...] = ("hardway-gcp-api",),
    environment: dict[str, str] | None = None,
) -> tuple[int, list[str]]:
    """Run it as the substrate does; return its exit status and the problems."""
    done = subprocess.run(
        [
            *(sys.executable, "components/substrates/gcp/preflight.py"),
            *("--project", project, "--lab", "gcp", "--region", "us-central1", "--sources", sources),
            *("--machines", *(f"{name}={machine_type}" for name, machine_type in machines.items())),
            *("--static", *static),
            *("--compute", f"{google.url}/compute/v1", "--iam", f"{google.url}/iam/v1"),
            *more,
        ],
        cwd=CHECKOUT,
        env=os.environ | ({"GOOGLE_OAUTH_ACCESS_TOKEN": TOKEN} if environment is None else environment),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == ""
    assert TOKEN not in done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    first, *found = done.stderr.splitlines() or [""]
    assert first == ("The preflight failed; nothing was changed." if done.returncode else "")
    return done.returncode, [line.split(". ", 1)[1] for line in found]


NEW = ("--key", KEY, "--names", "hardway-gcp", "hardway-gcp-api", "hardway-gcp-worker-0")


def described(lab: str, key: str) -> str:
    return f"hardway-lab={lab} hardway-key={key}"


@pytest.mark.parametrize(
    ("kind", "resource", "shown"),
    [
        ("networks", {"name": "hardway-gcp"}, "networks/hardway-gcp (no key)"),
        ("networks", {"name": "hardway-gcp", "description": "my own"}, "networks/hardway-gcp (no key)"),
        ("routes", {"name": "hardway-gcp-worker-0", "description": described("gcp", "cd" * 20)}, f"(key {'cd' * 20})"),
        ("instances", {"name": "hardway-gcp-worker-0", "labels": {"hardway-lab": "gcp"}}, "(no key)"),
        (
            "addresses",
            {"name": "hardway-gcp-api", "labels": {"hardway-lab": "gcp", "hardway-key": "ef" * 20}},
            f"addresses/hardway-gcp-api (key {'ef' * 20})",
        ),
        (
            "serviceAccounts",
            {"description": described("gcp", "cd" * 20)},
            f"serviceAccounts/hardway-gcp (key {'cd' * 20})",
        ),
    ],
)
def test_names_of_another_lab_are_refused_with_solutions(
    google: Google, kind: str, resource: dict[str, Any], shown: str
) -> None:
    google.others[kind] = [resource]
    status, (problem,) = preflight(google, *NEW)
    assert status == 1
    assert problem.startswith("hardway-gcp is another lab in the project mine, or what is left of one: ")
    assert shown in problem and f"the key in this state is {KEY}. It is neither deleted nor reused." in problem
    for way in (
        "`./hardway destroy -s gcp`",
        'README, "Whose lab is it?"',
        "copy Pulumi.gcp.yaml",
        "delete these by gcloud",
    ):
        assert way in problem
    # An `up` of a lab that is there.
    assert preflight(google) == (0, [])


def test_similar_names_and_own_names_do_not_conflict(google: Google) -> None:
    google.others["networks"] = [{"name": "hardway-gcp-two"}, {"name": "hardway-gcptwo"}, {"name": "default"}]
    google.others["firewalls"] = [{"name": "hardway-gcp-api", "description": described("gcp", KEY)}]
    assert preflight(google, *NEW) == (0, [])


@pytest.mark.parametrize("path", ["global/networks", "aggregated/targetPools", "aggregated/instanceGroups"])
def test_failed_or_incomplete_list_is_an_error(google: Google, path: str) -> None:
    google.errors[f"/compute/v1/projects/mine/{path}"] = (503, "<html>")
    assert preflight(google, *NEW)[0] == 1
    warning = {"code": "UNREACHABLE", "message": "the zone is unreachable"}
    whole: dict[str, Any] = {"warning": warning} if "global" in path else {"items": {"zones/z": {"warning": warning}}}
    google.errors[f"/compute/v1/projects/mine/{path}"] = (200, whole)
    status, (problem,) = preflight(google, *NEW)
    assert status == 1 and problem.endswith("is not complete: the zone is unreachable")


def test_project_with_enough_quota_passes(google: Google) -> None:
    assert preflight(google) == (0, [])
    assert {authorization for _, _, authorization in google.asked} == {f"Bearer {TOKEN}"}
    filters = [query["filter"] for _, query, _ in google.asked if "filter" in query]
    assert filters == [["labels.hardway-lab=gcp"]] * 2


def test_examples_are_refused_without_a_request(google: Google) -> None:
    for project in ("your-project", "YOUR-PROJECT"):
        status, found = preflight(google, project=project, sources="203.0.113.0/24")
        assert status == 1
        assert [each.split(",")[0] for each in found] == [
            "lab.gcp.sources has 203.0.113.0/24",
            f"gcp:project is {project}",
        ]
    assert google.asked == []


@pytest.mark.parametrize(
    ("metric", "limit", "used", "says"),
    [
        ("CPUS", 8, 3, "CPUs (CPUS): the lab needs 6 more, and of 8 in the region us-central1 3 are in use"),
        ("IN_USE_ADDRESSES", 4, 1, "external addresses in use (IN_USE_ADDRESSES): the lab needs 4 more, and of 4"),
        ("STATIC_ADDRESSES", 4, 4, "static addresses (STATIC_ADDRESSES): the lab needs 1 more, and of 4"),
    ],
)
def test_a_quota_of_the_region_that_is_too_small(google: Google, metric: str, limit: int, used: int, says: str) -> None:
    google.quotas[metric] = (limit, used)
    status, (problem,) = preflight(google)
    assert status == 1
    assert problem.startswith(says)
    assert "ask for more quota" in problem


def test_a_quota_of_all_regions_together(google: Google) -> None:
    google.project_quotas["CPUS_ALL_REGIONS"] = (12, 8)
    status, (problem,) = preflight(google)
    assert status == 1
    assert "(CPUS_ALL_REGIONS): the lab needs 6 more, and of 12 in the project mine 8 are in use" in problem


def test_all_small_quotas_are_in_one_report(google: Google) -> None:
    google.quotas.update(CPUS=(4, 0), IN_USE_ADDRESSES=(3, 0), STATIC_ADDRESSES=(0, 0))
    assert len(preflight(google)[1]) == 3


def test_what_the_lab_has_already_is_not_counted_twice(google: Google) -> None:
    """An `up` of a lab that is there, with one worker more."""
    google.instances = dict(MACHINES)
    google.addresses = ["hardway-gcp-api"]
    google.quotas.update(CPUS=(8, 6), IN_USE_ADDRESSES=(5, 4), STATIC_ADDRESSES=(1, 1))
    google.project_quotas["CPUS_ALL_REGIONS"] = (8, 6)
    assert preflight(google, machines=MACHINES | {"hardway-gcp-worker-2": "e2-standard-2"}) == (0, [])
    assert len(preflight(google, machines=MACHINES | {"hardway-gcp-worker-2": "e2-standard-4"})[1]) == 2


def test_spot_machines_have_a_quota_of_their_own_where_there_is_one(google: Google) -> None:
    google.quotas.update(CPUS=(8, 8), PREEMPTIBLE_CPUS=(8, 0))
    assert preflight(google, "--spot") == (0, [])
    google.quotas.update(PREEMPTIBLE_CPUS=(0, 0))
    assert "(CPUS)" in preflight(google, "--spot")[1][0]


@pytest.mark.parametrize(("api", "service"), [("/compute", "compute"), ("/iam", "iam")])
def test_an_api_that_is_off_is_named_with_the_command(google: Google, api: str, service: str) -> None:
    google.errors[api] = off(service)
    status, found = preflight(google)
    assert status == 1
    name = f"{service}.googleapis.com"
    assert found == [f"the API {name} is off in the project mine: gcloud services enable {name} --project mine"]


def test_both_apis_off(google: Google) -> None:
    google.errors = {"/compute": off("compute"), "/iam": off("iam")}
    assert len(preflight(google)[1]) == 2


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ((401, {"error": {"code": 401, "message": "Invalid Credentials"}}), "gcloud auth application-default login"),
        ((403, {"error": {"code": 403, "message": "Required 'compute.regions.get' permission"}}), "see the roles"),
        ((404, {"error": {"code": 404, "message": "no such region"}}), "correct gcp:project or lab.gcp.region"),
        ((500, "<html>"), "answers with status 500"),
        ((200, "<html>"), "cannot be read"),
    ],
)
def test_failed_request_is_an_error(google: Google, error: tuple[int, Any], says: str) -> None:
    google.errors["/compute/v1/projects/mine/regions"] = error
    status, (problem,) = preflight(google)
    assert status == 1
    assert says in problem


def test_a_server_that_does_not_answer(google: Google) -> None:
    status, found = preflight(google, "--compute", "http://127.0.0.1:9/compute/v1")
    assert status == 1
    assert "cannot be read" in found[0]


def test_the_token_of_gcloud(google: Google, tmp_path: Path) -> None:
    gcloud = tmp_path / "gcloud"
    words = "auth application-default print-access-token"
    gcloud.write_text(f'#!/bin/sh\n[ "$*" = "{words}" ] && echo {TOKEN}\n')
    gcloud.chmod(0o755)
    path = {"GOOGLE_OAUTH_ACCESS_TOKEN": "", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert preflight(google, environment=path) == (0, [])
    gcloud.write_text("#!/bin/sh\nexit 1\n")
    status, (problem,) = preflight(google, environment=path)
    assert status == 1
    assert problem == "there are no credentials for Google Cloud: gcloud auth application-default login"


def test_a_host_with_neither_ssh_nor_gcloud(google: Google, tmp_path: Path) -> None:
    _, found = preflight(google, environment={"GOOGLE_OAUTH_ACCESS_TOKEN": "", "PATH": str(tmp_path)})
    assert [each.split(":")[0] for each in found] == ["ssh is not installed", "gcloud is not installed"]
    assert google.asked == []


@pytest.mark.parametrize(
    ("machine_type", "cpus"),
    [("e2-standard-2", 2), ("n2-highmem-8", 8), ("e2-custom-4-8192", 4), ("e2-medium", 2), ("e2-micro", 2)],
)
def test_the_cpus_of_a_machine_type(machine_type: str, cpus: int) -> None:
    assert program.cpus_of(machine_type) == cpus


def test_families_with_a_quota_of_their_own() -> None:
    counted = program.needs(
        {"a": "n2-standard-4", "b": "n1-standard-1", "c": "e2-medium"}, ["x-api", "x-a"], spot=False
    )
    assert counted == {
        "N2_CPUS": 4,
        "CPUS": 3,
        "CPUS_ALL_REGIONS": 7,
        "STATIC_ADDRESSES": 2,
        "IN_USE_ADDRESSES": 4,
    }
