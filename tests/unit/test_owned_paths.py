"""What the steps of every lab own is what step.sh lets them own: the rest of a machine is out of reach of `destroy`."""

import re
import subprocess

from toolchain import paths
from unit.conftest import SHAPES, program
from unit.mocked_engine import COMMANDS

LIBRARY = paths.checkout() / "components" / "step.sh"


def owned(lab: str) -> set[str]:
    """Kind and path of what the scripts of a lab's steps name."""
    found: set[str] = set()
    for command in program(lab).of_type(*COMMANDS):
        script = str(command.inputs.get("stdin") or "")
        found |= {f"file {path}" for path in re.findall(r"^(?:file|secret|own file) '?(/[^\s']+)", script, re.M)}
        for line in re.findall(r"^data (.*)$", script, re.M):
            found |= {f"data {path}" for path in line.split()}
        for destination, members in re.findall(r"^fetch \S+ \S+ (/\S+)(.*)$", script, re.M):
            names = [member.rpartition("/")[2] for member in members.split()]
            found |= {f"file {destination}/{name}" for name in names} or {f"file {destination}"}
    return found


def test_a_step_may_own_what_its_script_names() -> None:
    lines = set().union(*map(owned, SHAPES))
    assert {"data /var/lib/etcd", "file /etc/haproxy/domain.pem", "file /opt/cni/bin/bridge"} <= lines
    refused = 'may_own "$kind" "$(eval echo "$path")" || echo "$kind $path"'
    check = f". {LIBRARY}\nwhile read -r kind path; do {refused}; done"
    result = subprocess.run(
        ["bash", "-c", check], input="\n".join(sorted(lines)) + "\n", capture_output=True, text=True, check=True
    )
    assert result.stdout == ""
