"""A version that a running lab cannot change to, by plain Pulumi: a preview refuses it, too, and nothing runs."""

from pathlib import Path

from engine.project import Project

_CHECKOUT = Path(__file__).parents[2]
_PROGRAM = """
import sys
sys.path.insert(0, {checkout!r})
from pathlib import Path
from types import SimpleNamespace
import pulumi
from pulumi_command import local
from components.unfinished_updates import UnfinishedUpdates
from components.version_guard import version_guard
UnfinishedUpdates(Path("unfinished.json")).run_again()
lab = SimpleNamespace(
    name="engine-test-without-a-record",
    artifacts=SimpleNamespace(versions={{"kubernetes": {version!r}, "etcd": "3.6.14"}}),
    settings=SimpleNamespace(bootstrap="hard-way", kubeadm=SimpleNamespace(packages="artifacts")),
)
guard = version_guard("machines-versions", lab, pulumi.ResourceOptions())
local.Command("machine", create="echo {version} >>log", opts=pulumi.ResourceOptions(depends_on=[guard]))
"""


def test_a_downgrade_is_refused_before_anything_runs(project: Project) -> None:
    def wants(version: str) -> None:
        project.program(_PROGRAM.format(checkout=str(_CHECKOUT), version=version))

    def has() -> list[str]:
        return (project.directory / "log").read_text().split()

    wants("1.35.8")
    project.up()
    wants("1.36.4")
    project.up()
    assert has() == ["1.35.8", "1.36.4"], "the next minor version is taken"

    wants("1.35.8")
    for refused in (project.preview(ok=False), project.pulumi("up", "--yes"), project.up(ok=False)):
        assert refused.code != 0
        assert "kubernetes 1.36.4 to 1.35.8: that is a downgrade" in refused.output
        assert "Traceback" not in refused.output
    assert has() == ["1.35.8", "1.36.4"]

    wants("1.36.4")
    assert "3 unchanged" in project.up().output, "nothing is to be repaired after a refusal"
    wants("1.35.8")
    project.environment["INSIST"] = "yes"
    project.up()
    assert has()[2:] == ["1.35.8"]
