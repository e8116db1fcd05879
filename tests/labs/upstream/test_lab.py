"""A lab made of what upstream serves: TOOLCHAIN=upstream, a fresh copy of the project, an empty cache."""

import json
from typing import Any

import pytest

from config.versions import pins
from lab.polling import eventually
from labs.upstream.imitation import API, TOKENS
from labs.upstream.upstream_host import UpstreamHost
from toolchain import artifacts, plugins
from toolchain.checksum import sha256_of
from toolchain.versions import architecture, tools


@pytest.fixture(scope="module")
def set_up(host: UpstreamHost) -> str:
    """What `setup` printed."""
    return host.toolchain("setup")


@pytest.fixture(scope="module")
def up(host: UpstreamHost, set_up: str) -> str:
    """What `up` printed."""
    return host.toolchain("up")


def served(host: UpstreamHost) -> list[str]:
    """Host and path of what was sent in whole or in part."""
    return [f"{one['host']}{one['path']}" for one in host.requests() if one["method"] == "GET" and one["status"] < 300]


def test_every_file_of_the_mirror_is_upstreams(host: UpstreamHost, set_up: str) -> None:
    origins: dict[str, dict[str, Any]] = json.loads((host.cache / "mirror" / "ORIGINS.json").read_text())
    kubernetes, arch = pins().products["kubernetes"].default, architecture()
    assert set(origins) == {
        *(file.path for file in artifacts.plan(kubernetes, arch)),
        *(pins().images[name].archive_path(arch) for name in pins().images_for(())),
    }
    assert {entry["origin"] for entry in origins.values()} == {"upstream"}
    assert "building" not in set_up


def test_the_server_has_sent_each_of_them(host: UpstreamHost, set_up: str) -> None:
    sent = served(host)
    for file in artifacts.plan(pins().products["kubernetes"].default, architecture()):
        name = file.path.partition("/")[2]
        assert any(path.endswith(f"/{name}") for path in sent), file.path
    for name in pins().images_for(()):
        repository = f"/v2/{pins().images[name].repository}/"
        assert any(repository in path and "/blobs/" in path for path in sent), name
    for name in ("command", "tls"):
        archive = plugins.archive_name(name, tools().plugins[name].version, architecture())
        assert any(path.endswith(f"/{archive}") for path in sent), f"{name}: {sent}"
    assert any(f"/pulumi-v{tools().pulumi}-linux-" in path for path in sent)


def test_no_stand_in_is_linked(host: UpstreamHost, set_up: str) -> None:
    assert list((host.checkout / ".state" / "plugins").iterdir()) == []
    assert "Stand-ins" not in set_up


def test_redirects_rate_limits_and_broken_transfers_are_handled(host: UpstreamHost, set_up: str) -> None:
    """So that the tests above can fail."""
    asked = host.requests()
    assert [one for one in asked if one["status"] == 429]
    assert [one for one in asked if one["status"] == 401] and [one for one in asked if one["host"] == TOKENS]
    assert [one for one in asked if one["status"] == 206 and "/etcd-v" in one["path"]]
    assert [one for one in asked if one["status"] == 302]


def test_nothing_is_asked_of_an_api_that_limits_its_answers(host: UpstreamHost, set_up: str) -> None:
    """By itself the Pulumi command asks it where a provider's release is."""
    assert [one for one in host.requests() if one["host"] == API] == []


def test_the_providers_sums_are_recorded(host: UpstreamHost, set_up: str) -> None:
    files = [plugins.archive_name(name, tools().plugins[name].version, architecture()) for name in ("command", "tls")]
    recorded = (host.cache / "plugins" / "SHA256SUMS").read_text().split()
    assert recorded[1::2] == files
    assert recorded[0::2] == [sha256_of(host.cache / "plugins" / file) for file in files]


def test_no_other_host_was_asked_for(host: UpstreamHost, set_up: str) -> None:
    assert host.names() == []


def test_the_lab_comes_up_from_it(host: UpstreamHost, up: str) -> None:
    def is_ready() -> bool:
        nodes = json.loads(host.toolchain("kubectl", "get", "nodes", "-o", "json"))["items"]
        conditions = [condition for node in nodes for condition in node["status"]["conditions"]]
        return [one["status"] for one in conditions if one["type"] == "Ready"] == ["True"]

    eventually("the Node's being Ready", is_ready, seconds=60)


def test_a_second_set_up_asks_for_nothing(host: UpstreamHost, up: str) -> None:
    before = len(host.requests())
    host.toolchain("setup")
    assert host.requests()[before:] == []


def test_destroy_leaves_no_machine(host: UpstreamHost, up: str) -> None:
    host.toolchain("destroy")
    assert host.run("podman", "ps", "--all", "--quiet") == ""
