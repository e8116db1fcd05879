"""Command blocks of README.md and docs/: each runs in a test or says why not; how outputs are compared and recorded."""

import re
import tempfile
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
import yaml

from config import lab as config
from lab import documents
from lab.commands import CHECKOUT
from lab.documents_server import serving
from lab.shipped import FOR_USERS, lab_of

_BLOCKS = [block for page in documents.pages() for block in documents.blocks(page)]
_COMMANDS = [block for block in _BLOCKS if block.language not in documents.NOT_COMMANDS]
_COMMAND = re.compile(r"\$ |(\./)?hardway [a-z-]")
_ADDRESS = re.compile(r"(?<![\d.])10\.\d+\.\d+\.\d+(?![\d.])")


def test_every_block_runs_or_says_why_not() -> None:
    """A new command block that nobody has decided about."""
    problems = []
    for block in _BLOCKS:
        if block.language in documents.NOT_COMMANDS:
            example = any(line.startswith("```") for line in block.lines)
            if block.language == "text" and not example and any(_COMMAND.match(line) for line in block.lines):
                problems.append(f"{block.place}: a command in a block of text")
        elif block.language not in ("console", "bash"):
            problems.append(f"{block.place}: ```{block.language or ' without a language'}; see docs/testing.md")
        elif block.language == "bash" and not block.marks.get("not run") and not block.marks.get("run by"):
            problems.append(f"{block.place}: ```bash is not compared: it needs `not run: reason` or `run by: test`")
        elif block.language == "console" and not block.recorded:
            problems.append(f"{block.place}: no `$ command`")
        elif any(mark in block.marks and not block.marks[mark] for mark in ("not run", "run by", "exercise")):
            problems.append(f"{block.place}: a mark without a reason, a test or a name")
    assert problems == []


def test_blocks_that_run_change_no_lab() -> None:
    """A destroy on a page must not destroy the lab of the tests."""
    problems = [
        f"{block.place}: {command}"
        for block in _COMMANDS
        if block.runs
        for stack, command in block.subcommands
        if command in documents.CHANGING or (stack.strip() and stack.removeprefix(" -s ") != block.lab)
    ]
    assert problems == []


def test_blocks_that_change_the_settings_run_alone() -> None:
    """Pages run side by side: another one would see the changed settings."""
    changing = [
        block for block in _COMMANDS if block.runs and re.search(r"(sed -i|>+) .*Pulumi\.", "".join(block.lines))
    ]
    assert [block.place for block in changing if "long" not in block.marks] == []


def test_tests_that_run_a_block_exist_and_name_its_commands() -> None:
    """`run by: FILE` for a test that was renamed, or never had this command."""
    problems = []
    for block in _COMMANDS:
        files = [name for name in block.marks.get("run by", "").split(", ") if name]
        missing = [name for name in files if not (CHECKOUT / name).is_file()]
        problems += [f"{block.place}: there is no {name}" for name in missing]
        if not files or missing:
            continue
        # Every lab is made and destroyed by this file.
        text = "".join((CHECKOUT / name).read_text() for name in [*files, "tests/lab/session.py"])
        problems += [
            f"{block.place}: {command} is not in {', '.join(files)}"
            for _, command in block.subcommands
            if not re.search(rf"\b{command}\b", text)
        ]
    assert problems == []


def test_addresses_belong_to_labs_that_are_shipped() -> None:
    """Pages that name a lab which nobody can create."""
    ranges: list[IPv4Network] = []
    for stack in FOR_USERS:
        network = lab_of(stack).get("network", {})
        defaults = {"nodes": "10.240.0.0/24", "pods": "10.200.0.0/16", "services": "10.32.0.0/24"}
        ranges += [IPv4Network(network.get(key, value)) for key, value in defaults.items()]
    problems = []
    for page in documents.pages():
        # Settings of a lab of the reader's own have ranges of their own.
        text = re.sub(r"^```yaml$.*?^```$", "", page.read_text(), flags=re.M | re.S)
        problems += [
            f"{page.relative_to(CHECKOUT)}: {address}"
            for address in _ADDRESS.findall(text)
            if page.name != "CHANGELOG.md" and not any(IPv4Address(address) in each for each in ranges)
        ]
    assert problems == []


def test_settings_on_pages_are_valid() -> None:
    """A key that was renamed, or a value that is refused now."""
    for block in _BLOCKS:
        document = yaml.safe_load("\n".join(block.lines)) if block.language == "yaml" else None
        lab = document.get("config", {}).get("hardway:lab") if isinstance(document, dict) else None
        # `...` and https://... stand for the reader's own.
        if lab is not None and "..." not in "".join(block.lines):
            config.parse("own", lab)


@pytest.fixture(scope="module")
def shell() -> Iterator[documents.Session]:
    """A session that reaches no lab."""
    with tempfile.TemporaryDirectory() as scratch, serving(Path(scratch)) as socket:
        home = Path(scratch, "home")
        home.mkdir()
        with documents.Session(documents.DEFAULT_LAB, home, socket) as session:
            yield session


@pytest.mark.parametrize("page", documents.pages_of(documents.NO_LAB), ids=lambda page: page.stem)
def test_commands_without_a_lab_print_what_the_page_shows(page: Path, shell: documents.Session) -> None:
    outcomes = documents.run_page(page, documents.NO_LAB, shell, None, long=False)
    problems = [outcome.problem for outcome in outcomes if outcome.problem]
    assert not problems, "\n\n".join(problems)


def test_variables_and_directories_stay_in_a_session(shell: documents.Session, tmp_path: Path) -> None:
    shell.run(f"cd {tmp_path}; word=kept")
    assert shell.run("pwd; echo $word; false") == (1, f"{tmp_path}\nkept\n")
    assert shell.run("cat <<'END'\nseveral lines\nEND") == (0, "several lines\n")
    assert shell.run(f"cd {CHECKOUT}; hardway nosuch")[0] == 2


@pytest.mark.parametrize(
    ("recorded", "printed", "same"),
    [
        ("a 1 b", "a   1 b", True),
        ("pod <hash>-<random> <age>", "pod 7456cd9f5b-b74c6 2m32s", True),
        ("pod <age>", "pod soon", False),
        ("leader <boolean>, size <size>", "leader false, size 934 kB", True),
        ("leader <boolean>", "leader 1", False),
        (
            "<uuid> <date>",
            "0b1e3ba0-3ac5-4f1c-9e05-7d0e6a1c2f44 2026-11-29T17:40:01.123456Z",
            True,
        ),
        ("first\n...\nlast", "first\n2\n3\nlast", True),
        ("first\n...\nlast", "first\nlast", True),
        ("first\n...", "second\nfirst", False),
        ("ready ... ok", "ready after a while ok", True),
        ("<none> [a]", "<none> [a]", True),
        ("a", "a\nb", False),
        ("a\nb", "a", False),
        ("", "", True),
    ],
)
def test_an_output_is_compared_line_by_line(recorded: str, printed: str, same: bool) -> None:
    assert documents.is_as_recorded(recorded.splitlines(), printed.splitlines()) is same


def test_a_new_record_keeps_placeholders_and_what_was_left_out() -> None:
    recorded = ["NAME AGE", "web <age>", "...", "version 1"]
    printed = ["NAME   AGE", "web    7s", "db     9s", "x 1", "version 2"]
    assert documents.merged(recorded, printed) == ["NAME AGE", "web <age>", "...", "version 2"]
    new = documents.merged([], ["coredns-7456cd9f5b-b74c6 1/1 Running 0 5m3s"])
    assert new == ["coredns-<hash>-<random> 1/1 Running 0 <age>"]


def test_a_page_on_another_lab_has_its_addresses_and_names(tmp_path: Path) -> None:
    page, running = (config.parse(name, lab_of(name)) for name in ("dev", "test"))
    translation = documents.Translation(page, running, home=tmp_path)
    command = "curl 10.240.0.5 10.200.1.2 10.32.0.10; ip route show dev eth0; podman ps -f label=hardway.lab=dev"
    there = translation.command(command)
    assert there == command.replace("240", "250").replace("200", "210").replace("10.32", "10.42").replace(
        "lab=dev", "lab=test"
    )
    assert translation.output(f"{there} {tmp_path}/.kube/config") == f"{command} /root/.kube/config"


def test_counts(capsys: pytest.CaptureFixture[str]) -> None:
    """How many blocks run; printed for docs/testing.md."""
    run = [block for block in _COMMANDS if block.runs]
    by = [block for block in _COMMANDS if "run by" in block.marks]
    rest = [block for block in _COMMANDS if "not run" in block.marks]
    checks = [block for block in _COMMANDS if "exercise" in block.marks]
    assert len(run) + len(by) + len(rest) + len(checks) == len(_COMMANDS)
    with capsys.disabled():
        commands = sum(len(block.recorded) for block in run)
        print(
            f"\n{len(run)} blocks run ({commands} commands), {len(by)} by other tests, {len(rest)} not, "
            f"{len(checks)} are checks of exercises"
        )
