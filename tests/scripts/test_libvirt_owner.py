"""Whose lab of virtual machines has a name: records, and a virsh that says what it is told."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.substrates.libvirt.owner import forget
from components.substrates.pulumi_host import script
from toolchain import paths

PROGRAM = paths.checkout() / "components" / "substrates" / "libvirt" / "owner.py"
MINE, ANOTHERS = "SHA256:mine+/", "SHA256:anothers"
LAB = {
    "net-list --all --name": "default\nhardway-dev\nhardway-dev-two\n",
    "pool-list --all --name": "hardway-dev\n",
    "list --all --name": "hardway-dev-worker-0\nhardway-dev-two-worker-0\nelse\n",
    "desc hardway-dev-worker-0": "hardway-dev\n",
    "desc hardway-dev-two-worker-0": "hardway-dev-two\n",
}
ALL = "the network hardway-dev, the pool hardway-dev, the machine hardway-dev-worker-0"
FAKE = """#!{python}
import json, pathlib, sys
answers = json.loads(pathlib.Path(__file__).with_name("answers.json").read_text())
assert sys.argv[1:4] == ["-q", "-c", "qemu:///system"], sys.argv
if answers is None:
    sys.exit("error: failed to connect")
sys.stdout.write(answers.get(" ".join(sys.argv[4:]), ""))
"""


def ask(
    tmp_path: Path, action: str, answers: dict[str, str] | None, *, key: str = MINE, cwd: Path | None = None
) -> tuple[int, str]:
    """Run the program as the substrate does; return its exit status and what it complains of."""
    tools = tmp_path / "bin"
    tools.mkdir(exist_ok=True)
    (tools / "answers.json").write_text(json.dumps(answers))
    (tools / "virsh").write_text(FAKE.format(python=sys.executable))
    (tools / "virsh").chmod(0o755)
    given = ["--uri", "qemu:///system", "--lab", "dev", "--key", key, "--records", str(tmp_path / "records")]
    done = subprocess.run(
        [sys.executable, str(PROGRAM), action, *given],
        cwd=cwd or paths.checkout(),
        env={"PATH": f"{tools}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.stdout == "" and "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr.strip()


def record(tmp_path: Path, content: str) -> Path:
    file = tmp_path / "records" / "dev"
    file.parent.mkdir()
    file.write_text(content)
    return file


def test_a_name_without_a_record_and_the_labs_own_pass(tmp_path: Path) -> None:
    assert ask(tmp_path, "check", LAB) == (0, "")
    record(tmp_path, f"{MINE} /a/b c\n")
    assert ask(tmp_path, "check", LAB) == (0, "")


def test_record_of_another_lab_is_refused_with_solutions(tmp_path: Path) -> None:
    file = record(tmp_path, f"{ANOTHERS} /a/b c\n")
    status, said = ask(tmp_path, "check", LAB)
    assert status == 1
    assert said.startswith(
        f"hardway-dev is another lab on the Pulumi host. libvirt has {ALL}. Its key is {ANOTHERS}, and it was made "
        f"from /a/b c; the key in this state is {MINE}. It is neither removed nor reused."
    )
    ways = (
        "work in /a/b c,",
        "`./hardway destroy -s dev`",
        'README, "Whose lab is it?"',
        "Pulumi.NAME.yaml",
        str(file),
    )
    for way in ways:
        assert way in said, way


def test_a_state_that_was_moved_is_named_as_such(tmp_path: Path) -> None:
    record(tmp_path, f"{ANOTHERS} {tmp_path}\n")
    assert "work in this checkout with the state that made it" in ask(tmp_path, "check", LAB, cwd=tmp_path)[1]


def test_record_of_a_removed_lab_does_not_conflict(tmp_path: Path) -> None:
    file = record(tmp_path, f"{ANOTHERS} /a/b\n")
    two = {key: value for key, value in LAB.items() if "two" in key} | {"list --all --name": "hardway-dev-two-worker-0"}
    assert ask(tmp_path, "check", two) == (0, "")
    assert ask(tmp_path, "take", None) == (0, "")
    assert file.read_text() == f"{MINE} {paths.checkout()}\n"


@pytest.mark.parametrize("content", ["", "x\n", f"{ANOTHERS}\n", "MD5:x /a\n"])
def test_a_damaged_record_is_an_error(tmp_path: Path, content: str) -> None:
    file = record(tmp_path, content)
    status, said = ask(tmp_path, "check", LAB)
    assert (
        status == 1
        and said == f"The record {file} is damaged, so the owner of the lab is not known: remove the record."
    )


def test_a_libvirt_that_does_not_answer_has_no_free_names(tmp_path: Path) -> None:
    record(tmp_path, f"{ANOTHERS} /a/b\n")
    status, said = ask(tmp_path, "check", None)
    assert status == 1 and said == "libvirt at qemu:///system does not answer: error: failed to connect"


def test_a_name_is_taken_and_only_the_labs_own_record_is_removed(tmp_path: Path) -> None:
    for _ in range(2):
        assert ask(tmp_path, "take", None) == (0, "")
    file = tmp_path / "records" / "dev"
    assert file.stat().st_mode & 0o777 == 0o644 and list(file.parent.iterdir()) == [file]
    for key, stays in ((ANOTHERS, True), (MINE, False), (MINE, False)):
        lines = script("a record", forget("dev", key, str(file.parent)))
        subprocess.run(["bash", "-c", lines], check=True, env={"PATH": os.environ["PATH"]}, timeout=30)
        assert file.exists() == stays
