"""The files that tools of the ecosystem read: pyproject.toml, .pre-commit-config.yaml, CHANGELOG.md."""

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

_CHECKOUT = Path(__file__).parents[2]
_PYTHON = ".venv/bin/python"


def pyproject() -> dict[str, Any]:
    return tomllib.loads((_CHECKOUT / "pyproject.toml").read_text())


def lint_commands() -> list[str]:
    """The recipe of `make lint`, with that of the target that it needs."""
    makefile = (_CHECKOUT / "Makefile").read_text()
    assert "\nlint: static " in makefile
    recipes = [re.search(rf"^{target}:.*\n((?:\t.*\n)+)", makefile, re.M) for target in ("static", "lint")]
    lines = [line for recipe in recipes if recipe for line in recipe[1].splitlines()]
    return [line.strip().replace("$(PYTHON)", _PYTHON) for line in lines]


def test_pre_commit_runs_the_commands_of_lint_from_the_locked_environment() -> None:
    (repo,) = yaml.safe_load((_CHECKOUT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = repo["hooks"]
    assert repo["repo"] == "local"
    assert {hook["language"] for hook in hooks} == {"system"}
    assert all(hook["entry"].startswith(f"{_PYTHON} -m ") for hook in hooks)
    assert lint_commands()
    assert [hook["entry"] for hook in hooks if hook["id"] != "shellcheck"] == lint_commands()


def test_the_shellcheck_hook_names_a_test_that_exists() -> None:
    (repo,) = yaml.safe_load((_CHECKOUT / ".pre-commit-config.yaml").read_text())["repos"]
    (entry,) = (hook["entry"] for hook in repo["hooks"] if hook["id"] == "shellcheck")
    file, _, test = entry.split()[-1].partition("::")
    assert f"def {test}(" in (_CHECKOUT / file).read_text()


def test_the_python_version_is_the_one_that_set_up_asks_for() -> None:
    minimum = re.search(r"sys\.version_info < \((\d+), (\d+)\)", (_CHECKOUT / "toolchain" / "bootstrap.sh").read_text())
    assert minimum is not None
    version = f"{minimum[1]}.{minimum[2]}"
    assert pyproject()["project"]["requires-python"] == f">={version}"
    assert pyproject()["tool"]["mypy"]["python_version"] == version


def test_dependencies_are_read_from_the_list_that_the_lock_is_made_from() -> None:
    assert pyproject()["project"]["dynamic"] == ["dependencies"]
    (source,) = pyproject()["tool"]["setuptools"]["dynamic"]["dependencies"]["file"]
    lock = (_CHECKOUT / "requirements.txt").read_text()
    assert f" {source} --output-file requirements.txt\n" in lock
    assert "--generate-hashes" in lock.split("annotated-types", 1)[0]


def test_the_changelog_begins_with_the_version_of_the_project() -> None:
    first = re.search(r"^## (\S+)", (_CHECKOUT / "CHANGELOG.md").read_text(), re.M)
    assert first is not None
    assert first[1] == pyproject()["project"]["version"]


def test_every_long_test_is_in_make_test_long() -> None:
    """A test that is never run."""
    makefile = (_CHECKOUT / "Makefile").read_text()
    (recipe,) = re.findall(r"^test-long:.*\n((?:\t.*\n)+)", makefile, re.M)
    named = [_CHECKOUT / word for word in recipe.split() if word.startswith("tests/")]
    marked = [path for path in (_CHECKOUT / "tests").rglob("test_*.py") if "pytest.mark.long" in path.read_text()]
    left = [path for path in marked if not any(path.is_relative_to(place) for place in named)]
    assert marked and [path.relative_to(_CHECKOUT) for path in left if path != Path(__file__)] == []
