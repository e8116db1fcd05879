"""The workflows of GitHub Actions: what they run is what the README says, on every stack, with no right to spare."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.shipped import FOR_USERS
from toolchain.versions import tools

_CHECKOUT = Path(__file__).parents[2]
_WORKFLOWS = _CHECKOUT / ".github" / "workflows"


def workflow(name: str) -> dict[str, Any]:
    document: dict[Any, Any] = yaml.safe_load((_WORKFLOWS / f"{name}.yml").read_text())
    # YAML 1.1 takes the key `on` for a truth.
    return {"on" if key is True else key: value for key, value in document.items()}


def steps(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in document["jobs"].values() for step in job["steps"]]


ALL = sorted(path.stem for path in _WORKFLOWS.iterdir())


def test_there_are_two() -> None:
    assert ALL == ["preview", "test"]


@pytest.mark.parametrize("job", ["preview", "first-preview"])
def test_every_stack_of_the_one_list_is_previewed(job: str) -> None:
    previews = workflow("preview")["jobs"][job]
    assert previews["strategy"]["matrix"]["stack"] == "${{ fromJSON(needs.stacks.outputs.names) }}"
    assert previews["needs"] == "stacks"
    assert previews["strategy"]["fail-fast"] is False


def test_the_list_has_every_stack_for_users(tmp_path: Path) -> None:
    job = workflow("preview")["jobs"]["stacks"]
    assert job["outputs"] == {"names": "${{ steps.list.outputs.names }}"}
    (listing,) = (step for step in job["steps"] if step.get("id") == "list")
    for stack in FOR_USERS:
        (tmp_path / f"Pulumi.{stack}.yaml").touch()
    output = tmp_path / "output"
    subprocess.run(
        ["bash", "-e", "-c", listing["run"]], cwd=tmp_path, env={**os.environ, "GITHUB_OUTPUT": str(output)}, check=True
    )
    name, _, value = output.read_text().partition("=")
    assert (name, json.loads(value)) == ("names", sorted(FOR_USERS))


def test_the_preview_is_pulumis_own_action_and_becomes_a_comment() -> None:
    (action,) = (step for step in steps(workflow("preview")) if step.get("uses", "").startswith("pulumi/actions@"))
    given = action["with"]
    assert (given["command"], given["stack-name"]) == ("preview", "${{ matrix.stack }}")
    assert given["upsert"] is given["diff"] is given["comment-on-summary"] is True
    assert given["pulumi-version"] == tools().pulumi
    # Its environment is made in the step before.
    assert (_CHECKOUT / given["policyPacks"] / "PulumiPolicy.yaml").is_file()
    # Not from a fork, whose token may not write.
    assert given["comment-on-pr"] == "${{ github.event.pull_request.head.repo.full_name == github.repository }}"


def test_the_commands_are_those_of_the_readme() -> None:
    readme = (_CHECKOUT / "README.md").read_text()
    runs = {step["run"] for name in ALL for step in steps(workflow(name)) if "run" in step}
    assert {"sudo make test", "make preview STACK=${{ matrix.stack }}"} <= runs
    assert "\nmake test\n" in readme
    assert "`make preview`" in readme


@pytest.mark.parametrize("name", ALL)
def test_a_workflow_has_few_rights_and_no_secret(name: str) -> None:
    document = workflow(name)
    text = (_WORKFLOWS / f"{name}.yml").read_text()
    assert document["permissions"] == {"contents": "read"}
    granted = [job["permissions"] for job in document["jobs"].values() if "permissions" in job]
    assert granted == ([{"contents": "read", "pull-requests": "write"}] if name == "preview" else [])
    # It would run untrusted code with the permissions of the project.
    assert "pull_request_target" not in document["on"]
    assert "secrets." not in text
    for job in document["jobs"].values():
        assert job["timeout-minutes"] <= 120


@pytest.mark.parametrize("name", ALL)
def test_actions_are_pinned_by_commit(name: str) -> None:
    for step in steps(workflow(name)):
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"])
            if step["uses"].startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("name", ALL)
def test_nothing_of_a_pull_request_is_put_into_a_shell(name: str) -> None:
    for step in steps(workflow(name)):
        for expression in re.findall(r"\$\{\{(.*?)\}\}", step.get("run", "")):
            assert expression.strip() == "matrix.stack"
