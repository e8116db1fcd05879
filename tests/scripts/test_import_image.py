"""How a step imports images: side by side in a new lab, one at a time where a cluster serves; by a real bash."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from toolchain import paths

LIBRARY = paths.checkout() / "components" / "step.sh"
NAMES = ("a", "b", "c")
# An import notes its beginning and its end. The file `together` has it wait until all others have begun.
STAND_IN = """
ctr() {{
  [ "$3 $4" != "images ls" ] || {{ cat {root}/there 2>/dev/null || true; return 0; }}
  echo "begin" >>{log}
  if [ -e {root}/together ]; then
    for _ in {{1..100}}; do [ "$(grep -c begin {log})" -lt {all} ] || break; sleep 0.1; done
  else
    sleep 0.05
  fi
  echo "end" >>{log}
}}
"""


class Machines:
    """Several machines, each with its own directory, and the mirror that they have in common."""

    def __init__(self, root: Path) -> None:
        self.root, self.log = root, root / "log"
        (root / "mirror").mkdir()
        for name in NAMES:
            (root / "mirror" / name).write_text(name)

    def start(self, machine: str, mirror: str, *, before: str = "") -> "subprocess.Popen[str]":
        """Start a step that imports all images at once."""
        (self.root / machine).mkdir(exist_ok=True)
        imports = [
            f"import_image {mirror}/{name} {hashlib.sha256(name.encode()).hexdigest()} example.org/{name}:v1 &"
            for name in NAMES
        ]
        text = f"""HARDWAY={self.root}/{machine}
            . {LIBRARY}
            {STAND_IN.format(root=self.root, log=self.log, all=2 * len(NAMES))}
            download() {{ cp "{self.root}/mirror/${{1##*/}}" "$3"; }}
            {before}
            {" ".join(imports)} wait"""
        return subprocess.Popen(["bash", "-c", text], stderr=subprocess.PIPE, text=True)

    def run(self, mirror: str, *, before: str = "") -> list[str]:
        """Run the step on two machines at the same time; what was noted."""
        runs = [self.start(each, mirror, before=before) for each in ("controller-0", "controller-1")]
        for run in runs:
            _, said = run.communicate(timeout=60)
            assert (run.returncode, said) == (0, "")
        return self.log.read_text().split() if self.log.exists() else []


@pytest.fixture
def machines(tmp_path: Path) -> Machines:
    return Machines(tmp_path)


def test_a_new_lab_imports_all_images_at_once(machines: Machines) -> None:
    (machines.root / "together").touch()
    assert machines.run(f"file://{machines.root}/mirror") == ["begin"] * 6 + ["end"] * 6


def test_machines_that_share_a_mirror_import_one_image_at_a_time(machines: Machines) -> None:
    found = machines.run(f"file://{machines.root}/mirror", before="import_in_turn")
    assert found == ["begin", "end"] * 6


def test_a_machine_that_downloads_imports_one_image_at_a_time(machines: Machines) -> None:
    run = machines.start("worker-0", "http://mirror.example", before="import_in_turn")
    _, said = run.communicate(timeout=60)
    assert (run.returncode, said) == (0, "")
    assert machines.log.read_text().split() == ["begin", "end"] * 3


def test_a_turn_of_a_run_that_was_killed_is_over(machines: Machines) -> None:
    mirror = f"file://{machines.root}/mirror"
    holder = subprocess.Popen(["flock", f"{machines.root}/mirror", "sleep", "60"], start_new_session=True)
    try:
        run = machines.start("worker-0", mirror, before="import_in_turn")
        with pytest.raises(subprocess.TimeoutExpired):
            run.communicate(timeout=0.5)
        assert not machines.log.exists(), "another one has the turn"
    finally:
        subprocess.run(["kill", "-9", "--", f"-{holder.pid}"], check=True)
        holder.wait()
    _, said = run.communicate(timeout=60)
    assert (run.returncode, said) == (0, "")
    assert machines.log.read_text().split() == ["begin", "end"] * 3


def test_what_is_there_waits_for_no_turn(machines: Machines) -> None:
    (machines.root / "there").write_text("example.org/x:v1")
    with subprocess.Popen(["flock", f"{machines.root}/mirror", "sleep", "60"], start_new_session=True) as holder:
        try:
            assert machines.run(f"file://{machines.root}/mirror", before="import_in_turn") == []
        finally:
            subprocess.run(["kill", "-9", "--", f"-{holder.pid}"], check=True)
