"""Imports go one way: `__main__` -> bootstrap -> components -> config; cli -> live, toolchain -> config."""

import ast
from collections.abc import Iterator
from pathlib import Path

from config import paths

_MAY_IMPORT = {
    "__main__": {"bootstrap", "components", "config"},
    "bootstrap": {"components", "config"},
    "components": {"config"},
    "config": set(),
    "cli": {"live", "toolchain", "config", "components", "bootstrap", "benchmarks"},
    "live": {"toolchain", "config"},
    "toolchain": {"config"},
    "policy": set(),
}
"""`cli explain` runs the program, and so imports what the program imports."""


def imported(source: str) -> Iterator[str]:
    """The top packages that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def against_the_rule(root: Path) -> set[tuple[str, str]]:
    """File and the package that it may not import."""
    found = [root / "__main__.py", *(file for layer in _MAY_IMPORT for file in (root / layer).rglob("*.py"))]
    # The policy pack has an environment of its own.
    files = [file for file in found if ".venv" not in file.parts]
    project = {*_MAY_IMPORT, "benchmarks", "tests"}
    return {
        (str(file.relative_to(root)), package)
        for file in files
        for package in imported(file.read_text())
        if package in project
        and package != (layer := file.relative_to(root).parts[0].removesuffix(".py"))
        and package not in _MAY_IMPORT[layer]
    }


def test_imports_go_one_way() -> None:
    assert against_the_rule(paths.checkout()) == set()


def test_an_import_against_the_rule_is_found(tmp_path: Path) -> None:
    (tmp_path / "__main__.py").write_text("import bootstrap.hard_way\n")
    for layer in _MAY_IMPORT.keys() - {"__main__"}:
        (tmp_path / layer).mkdir()
    (tmp_path / "config" / "lab.py").write_text("def late() -> None:\n    from toolchain import paths\n")
    (tmp_path / "components" / "etcd.py").write_text("from config import lab\nimport bootstrap\n")
    assert against_the_rule(tmp_path) == {("config/lab.py", "toolchain"), ("components/etcd.py", "bootstrap")}
