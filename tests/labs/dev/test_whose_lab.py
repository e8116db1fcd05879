"""Whose lab it is: another checkout, or another backend, neither removes nor reuses what runs."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import footprint
from lab.cluster import Cluster
from lab.commands import CHECKOUT, STACK, exported, pulumi, settings_file, toolchain

RECORD = Path("/var/lib/hardway-labs") / STACK


@pytest.fixture
def other_state(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An empty state, as a second checkout has, a `.state` that was moved away, and another login."""
    file = settings_file(STACK)
    kept = file.read_text()
    # Plain pulumi writes a salt there, which is of one passphrase.
    file.write_text("".join(line for line in kept.splitlines(keepends=True) if not line.startswith("encryptionsalt:")))
    yield {"PULUMI_BACKEND_URL": f"file://{tmp_path}", "PULUMI_CONFIG_PASSPHRASE": "another"}
    file.write_text(kept)


def test_another_state_is_refused(
    cluster: Cluster, other_state: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running lab that is destroyed, or made again, by a state that has no key of it."""
    before, record = footprint.of_lab(cluster.settings), RECORD.read_text()
    with monkeypatch.context() as context:
        for name, value in other_state.items():
            context.setenv(name, value)
        for command in ("up", "destroy"):
            refused = toolchain(command)
            assert refused.code != 0
            assert f"The lab {STACK} is up" in refused.output, refused.output
    assert pulumi("stack", "init", "--no-select", **other_state).code == 0
    up = pulumi("up", "--yes", "--skip-preview", **other_state)
    assert up.code != 0
    assert f"hardway-{STACK} is another lab on the Pulumi host" in up.output, up.output
    assert f"it was made from {CHECKOUT}" in up.output
    assert footprint.of_lab(cluster.settings) == before
    assert RECORD.read_text() == record


@contextmanager
def restored_on_failure(state: str, record: str) -> Iterator[None]:
    """Keep a test that fails from leaving a lab that nothing can destroy."""
    try:
        yield
    except BaseException:
        RECORD.write_text(record)
        pulumi("stack", "import", stdin=state)
        raise


def test_a_lab_of_an_earlier_version_is_marked_by_the_next_up(cluster: Cluster) -> None:
    """Machines that are replaced because their resources have a new interpreter, or steps that run again."""
    before, record = footprint.running(STACK), RECORD.read_text()
    saved = exported(secrets=True)
    state = json.loads(saved)
    machines = {f"machines-{machine.name}" for machine in cluster.machines}
    for resource in state["deployment"]["resources"]:
        name = resource["urn"].rpartition("::")[2]
        for values in (resource.get("inputs", {}), resource.get("outputs", {})):
            if name == "machines-preflight":
                values["create"] = values["create"].partition(" --lab ")[0]
                del values["update"], values["delete"], values["environment"]
            elif name in {"machines-network", "machines-firewall", "machines-boot", *machines}:
                values["delete"] = f"# {name}, removed\nfalse"
                del values["interpreter"], values["environment"]
                if name in machines:
                    values["interpreter"] = ["/bin/bash", "-c"]
                    del values["update"]
    with restored_on_failure(saved, record):
        imported = pulumi("stack", "import", stdin=json.dumps(state))
        assert imported.code == 0, imported.output
        RECORD.unlink()
        up = toolchain("up")
        assert up.code == 0, up.output
        assert up.summary.keys() == {"updated", "unchanged"}, up.output
        # Preflight, network, firewall, boot unit, and the machines.
        assert up.summary["updated"] == 4 + len(cluster.machines), up.output
        assert footprint.running(STACK) == before
        assert RECORD.read_text() == record
