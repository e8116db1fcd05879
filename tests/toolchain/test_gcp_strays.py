"""What a killed run has left on Google Cloud, against a local server with the layout and the rules of Google's API."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.json_server import Request, json_server
from toolchain import choices, gcp_strays, lab_key, operations, paths
from toolchain.errors import ToolchainError
from toolchain.prepare import Workshop
from toolchain.stack import Stack
from toolchain.state import State

MINE, ANOTHERS = bytes(range(32)), bytes(range(1, 33))
GLOBAL = ("networks", "firewalls", "routes", "httpHealthChecks")
PROJECT = "/compute/v1/projects/mine"
ACCOUNT = "/iam/v1/projects/mine/serviceAccounts/hardway-gcp@mine.iam.gserviceaccount.com"
# Kind -> what must be gone before it.
BEFORE = {
    "networks": ("subnetworks", "firewalls", "routes", "instances", "instanceGroups"),
    "subnetworks": ("instances",),
    "backendServices": ("forwardingRules",),
    "instanceGroups": ("backendServices",),
    "healthChecks": ("backendServices",),
    "addresses": ("instances", "forwardingRules"),
}


def mark(key: bytes, kind: str) -> dict[str, Any]:
    """What says whose a resource is."""
    digits = key.hex()[:40]
    if kind in ("addresses", "instances", "forwardingRules"):
        return {"labels": {"hardway-lab": "gcp", "hardway-key": digits, "owner": "me"}}
    return {"description": f"hardway-lab=gcp hardway-key={digits}"}


class Google:
    """A project: what it has, what is being made, and what was deleted in which order."""

    def __init__(self) -> None:
        self.url = ""
        self.there: dict[tuple[str, str], dict[str, Any]] = {}
        # Made after it was asked for once more.
        self.being_made: dict[str, tuple[str, str, dict[str, Any]]] = {}
        self.operations: dict[str, dict[str, Any]] = {}
        self.deleted: list[str] = []
        self.fails: dict[str, int] = {}

    def has(self, kind: str, name: str, key: bytes | None) -> None:
        self.there[kind, name] = {"name": name, **({} if key is None else mark(key, kind))}

    def link(self, kind: str, name: str) -> str:
        scope = "global" if kind in GLOBAL else "regions/r"
        # Google's own links lead to another host than the API is asked at.
        return f"https://www.googleapis.com{PROJECT}/{scope}/{kind}/{name}"

    def answer(self, method: str, path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        for part, status in self.fails.items():
            if path.startswith(part):
                return status, {"error": {"message": "no"}}
        if path == ACCOUNT:
            return self._account(method)
        words = path.removeprefix(f"{PROJECT}/").split("/")
        match method, words:
            case "GET", ["aggregated", "operations"]:
                assert query["filter"] == ['status != "DONE"']
                running = [each for each in self.operations.values() if each["status"] != "DONE"]
                return 200, {"items": {"global": {"operations": running}}}
            case "GET", [*_, "operations", name]:
                return 200, self._proceed(name)
            case "GET", [("aggregated" | "global") as where, kind]:
                (pattern,) = re.findall(r'^name eq "(.*)"$', query["filter"][0])
                found = [
                    {**described, "selfLink": self.link(kind, name)}
                    for (of_kind, name), described in self.there.items()
                    if of_kind == kind and re.fullmatch(pattern, name)
                ]
                assert (where == "global") == (kind in GLOBAL)
                return 200, {"items": found if where == "global" else {"regions/r": {kind: found}}}
            case "DELETE", [*_, kind, name]:
                return self._delete(kind, name)
        return 404, {"error": {"message": f"{method} {path}"}}

    def _delete(self, kind: str, name: str) -> tuple[int, Any]:
        if (kind, name) not in self.there:
            return 404, {"error": {"message": "gone"}}
        if users := [each for each in self.there if each[0] in BEFORE.get(kind, ())]:
            return 400, {"error": {"message": f"{kind}/{name} is in use by {users}"}}
        operation = self.operation(f"delete-{kind}", kind, name)
        return 200, operation

    def operation(self, name: str, kind: str, target: str) -> dict[str, Any]:
        link = f"https://www.googleapis.com{PROJECT}/global/operations/{name}"
        self.operations[name] = {
            "name": name,
            "status": "RUNNING",
            "selfLink": link,
            "targetLink": self.link(kind, target),
        }
        return dict(self.operations[name])

    def _proceed(self, name: str) -> dict[str, Any]:
        operation = self.operations[name]
        operation["status"] = "DONE"
        kind, target = operation["targetLink"].split("/")[-2:]
        if name.startswith("delete-"):
            del self.there[kind, target]
            self.deleted.append(f"{kind}/{target}")
        elif name in self.being_made:
            of_kind, of_name, described = self.being_made.pop(name)
            self.there[of_kind, of_name] = described
        else:
            operation["error"] = {"errors": [{"code": "QUOTA", "message": "no more"}]}
        return operation

    def _account(self, method: str) -> tuple[int, Any]:
        found = self.there.get(("serviceAccounts", "hardway-gcp"))
        if found is None:
            return 404, {"error": {"message": "no such account"}}
        if method == "DELETE":
            del self.there["serviceAccounts", "hardway-gcp"]
            self.deleted.append("serviceAccounts/hardway-gcp")
            return 200, {}
        return 200, found


@pytest.fixture
def google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Google]:
    api = Google()

    def answer(request: Request) -> tuple[int, Any]:
        assert request.authorization == "Bearer a-token"
        return api.answer(request.method, request.path, request.query)

    with json_server(answer) as api.url:
        # The program itself, which asks here instead of Google.
        program = paths.checkout() / "components" / "substrates" / "gcp" / "owner.py"
        asks_here = tmp_path / "owner.py"
        asks_here.write_text(
            f"import runpy, sys\nsys.path[0] = {str(program.parent)!r}\n"
            f"sys.argv += ['--compute', '{api.url}/compute/v1', '--iam', '{api.url}/iam/v1']\n"
            f"runpy.run_path({str(program)!r}, run_name='__main__')\n"
        )
        monkeypatch.setattr(lab_key, "owner_program", lambda _: asks_here)
        monkeypatch.setenv("GOOGLE_OAUTH_ACCESS_TOKEN", "a-token")
        yield api


STACK = Stack(
    name="gcp",
    project="hardway",
    settings_file=Path("Pulumi.gcp.yaml"),
    substrate="gcp",
    engine="",
    kubernetes="1.36.4",
    gcp_project="mine",
)


def resource(kind: str, name: str) -> dict[str, Any]:
    type_ = next(type_ for type_, of in gcp_strays._KINDS.items() if of == kind)
    key = "accountId" if kind == "serviceAccounts" else "name"
    return {"type": type_, "urn": f"urn:pulumi:gcp::hardway::{type_}::{kind}-{name}", "inputs": {key: name}}


def state(*known: tuple[str, str], pending: tuple[tuple[str, str], ...] = ()) -> dict[str, Any]:
    encoded = base64.b64encode(MINE).decode().rstrip("=")
    key = {
        "type": "tls:index/privateKey:PrivateKey",
        "urn": "urn:pulumi:gcp::hardway::tls:index/privateKey:PrivateKey::machines-ssh",
        "outputs": {"publicKeyFingerprintSha256": f"SHA256:{encoded}"},
    }
    operations_ = [{"type": "creating", "resource": resource(*each)} for each in pending]
    return {"deployment": {"resources": [key, *(resource(*each) for each in known)], "pending_operations": operations_}}


NETWORK = ("networks", "hardway-gcp")
WHOLE = (
    NETWORK,
    ("subnetworks", "hardway-gcp"),
    ("serviceAccounts", "hardway-gcp"),
    ("addresses", "hardway-gcp-api"),
    ("addresses", "hardway-gcp-worker-0"),
    ("instances", "hardway-gcp-worker-0"),
    ("routes", "hardway-gcp-worker-0"),
    ("firewalls", "hardway-gcp-internal"),
    ("instanceGroups", "hardway-gcp-us-central1-a"),
    ("healthChecks", "hardway-gcp-api"),
    ("backendServices", "hardway-gcp-api"),
    ("forwardingRules", "hardway-gcp-api"),
)


@pytest.mark.parametrize("made", [1, 2, 3, 6, 9, len(WHOLE)])
def test_wherever_a_run_was_killed_its_names_are_free_again(google: Google, made: int) -> None:
    """Everything up to one resource is there, and the state knows all but the last, or has lost it all."""
    for each in WHOLE[:made]:
        google.has(*each, MINE)
    assert gcp_strays.remove(state(*WHOLE[:made]), STACK) == []
    last = WHOLE[made - 1]
    if last not in (NETWORK, *WHOLE[1:2]):
        assert gcp_strays.remove(state(*WHOLE[: made - 1], pending=(last,)), STACK) == ["/".join(last)]
        google.has(*last, MINE)
    gone = gcp_strays.remove(state(pending=(last,)), STACK)
    assert sorted(gone) == sorted("/".join(each) for each in WHOLE[:made])
    assert google.there == {} and gone == google.deleted[-made:], "in an order that Google takes"


def test_what_google_is_still_making_is_waited_for(google: Google) -> None:
    """It is in no list yet, and would be there a moment later."""
    google.being_made["make"] = (*NETWORK, {"name": NETWORK[1], **mark(MINE, "networks")})
    google.operation("make", *NETWORK)
    google.operation("of somebody else", "instances", "else")
    assert gcp_strays.remove(state(pending=(NETWORK,)), STACK) == ["networks/hardway-gcp"]
    assert google.there == {} and google.operations["of somebody else"]["status"] == "RUNNING"


def test_what_google_could_not_make_is_no_error(google: Google) -> None:
    google.operation("make", *NETWORK)
    assert gcp_strays.remove(state(pending=(NETWORK,)), STACK) == []


@pytest.mark.parametrize("key", [ANOTHERS, None], ids=["another's", "nobody's"])
def test_what_another_has_made_meanwhile_is_refused_and_nothing_is_deleted(google: Google, key: bytes | None) -> None:
    google.has(*NETWORK, key)
    google.has("addresses", "hardway-gcp-api", MINE)
    with pytest.raises(ToolchainError) as caught:
        gcp_strays.remove(state(pending=(NETWORK,)), STACK)
    said = str(caught.value)
    assert f"networks/hardway-gcp ({f'key {ANOTHERS.hex()[:40]}' if key else 'no key'})" in said
    assert f"the key in this state is {MINE.hex()[:40]}" in said and said.endswith("Nothing was changed.")
    assert google.deleted == []


def test_a_state_whose_names_another_lab_has_now_is_refused(google: Google) -> None:
    """Its lab is gone, and another checkout has made one: the provider would find that by name, and delete it."""
    for each in WHOLE:
        google.has(*each, ANOTHERS)
    with pytest.raises(ToolchainError, match="hardway-gcp is another lab in the project mine"):
        gcp_strays.remove(state(*WHOLE), STACK)
    assert google.deleted == []


def test_labs_of_earlier_versions_and_labs_with_names_alike_stay(google: Google) -> None:
    for each in WHOLE:
        google.has(*each, None)
    google.has("networks", "hardway-gcp-two", ANOTHERS)
    google.has("firewalls", "hardway-gcp-mine", None)
    google.has("networks", "hardway-gcptwo", MINE)
    assert gcp_strays.remove(state(*WHOLE), STACK) == []
    assert google.deleted == []


@pytest.mark.parametrize(
    "path", [f"{PROJECT}/global/routes", f"{PROJECT}/aggregated/instances", f"{PROJECT}/aggregated/operations", ACCOUNT]
)
def test_failed_request_is_an_error(google: Google, path: str) -> None:
    google.has(*NETWORK, MINE)
    google.fails[path] = 403
    with pytest.raises(ToolchainError, match="Google does not permit it"):
        gcp_strays.remove(state(pending=(NETWORK,)), STACK)
    assert google.deleted == []


def test_a_deletion_that_fails_says_what_is_gone(google: Google) -> None:
    google.has(*NETWORK, MINE)
    google.has("firewalls", "hardway-gcp-internal", MINE)
    # The user's own, in the lab's network.
    google.there["instances", "mine"] = {"name": "mine"}
    with pytest.raises(ToolchainError) as caught:
        gcp_strays.remove(state(pending=(NETWORK,)), STACK)
    assert "is in use by" in str(caught.value)
    assert str(caught.value).endswith("Deleted before that: firewalls/hardway-gcp-internal.")


@pytest.mark.parametrize("deployment", [{}, {"deployment": None}, state(), {"deployment": {"resources": []}}])
def test_a_state_without_anything_of_google_asks_nothing(google: Google, deployment: dict[str, Any]) -> None:
    google.fails["/"] = 500
    assert gcp_strays.remove(deployment, STACK) == []


def test_up_destroy_and_replace_begin_with_it_before_a_refresh_and_a_preview_does_not(
    google: Google, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ran: list[str] = []

    def run(_: Workshop, __: Stack, *arguments: str, **___: object) -> int:
        ran.append(arguments[0])
        return 0

    monkeypatch.setattr(operations, "_pulumi", run)
    monkeypatch.setattr(operations, "_export_or_init", lambda *_: state(pending=(NETWORK,)))
    monkeypatch.setattr(choices, "check", lambda *_: None)
    monkeypatch.setattr(paths, "checkout", lambda: tmp_path)
    (tmp_path / "Pulumi.gcp.yaml").write_text("config: {}\n")
    there = State(environment={}, directory=None, own_passphrase=False)
    workshop = Workshop(pulumi=Path("pulumi"), state=there, environment={})
    stack = Stack(**{**STACK.__dict__, "settings_file": tmp_path / "Pulumi.gcp.yaml"})
    for command in ("preview", "up", "destroy"):
        google.has(*NETWORK, MINE)
        google.deleted.clear()
        ran.clear()
        assert getattr(operations, command)(workshop, stack) == 0
        is_preview = command == "preview"
        assert ran == (["preview"] if is_preview else ["refresh", command])
        assert google.deleted == ([] if is_preview else ["networks/hardway-gcp"])
        said = "Removed incomplete resources of an earlier run: networks/hardway-gcp.\n"
        assert (said in capsys.readouterr().out) is not is_preview
