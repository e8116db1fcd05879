"""States of labs that an earlier commit made, and the project that they are previewed in.

A file of `recorded_states/` has the state of one lab, what its settings were, and what of the Pulumi host the program
read then. The keys in it opened a lab that is destroyed. It is encrypted all the same, so that nobody takes them for
keys of value; the passphrase is here.
"""

import base64
import json
import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from cryptography.fernet import Fernet

from engine.project import Project

_PASSPHRASE = Fernet(base64.urlsafe_b64encode(b"a passphrase of no value at all."))
_STATES = Path(__file__).parent / "recorded_states"
_CHECKOUT = Path(__file__).parents[2]
NOWHERE = "/nowhere/.state"
"""In recorded states: the checkout's directory `.state`. It does not exist."""
_PROGRAM = """
import runpy, sys
from pathlib import Path
sys.path.insert(0, {checkout!r})
import config.lab
from config import container_engine, paths, trust
# What the program read of the host then.
paths.mirror = lambda: Path({mirror!r})
paths.state = lambda: Path({state!r})
trust.file_of = lambda stack: Path({trusted!r})
config.lab.read_checksums = lambda mirror: {sums!r}
container_engine.has_cgroup_v2 = lambda: False
runpy.run_path({program!r}, run_name="__main__")
"""


@dataclass(frozen=True, kw_only=True)
class RecordedLab:
    """One lab.

    Args:
        commit: of the program that made it.
        stack: its stack's name.
        settings: the value of the key `lab`.
        mirror: the directory of the artifact mirror, under another name than it had.
        sums: the checksums of the artifacts in it.
        state: by `pulumi stack export --show-secrets`, with the names of `mirror` and NOWHERE in place of directories.
        trusted: the host keys that were pinned, as the file in `trust` has them.
    """

    commit: str
    stack: str
    settings: dict[str, Any]
    mirror: str
    sums: dict[str, str]
    state: dict[str, Any]
    trusted: str = ""

    def write(self, name: str) -> None:
        """Record it."""
        text = json.dumps(vars(self)).encode()
        (_STATES / name).write_bytes(_PASSPHRASE.encrypt(lzma.compress(text)))


def names() -> list[str]:
    """All that are recorded."""
    return sorted(file.name for file in _STATES.iterdir())


def read(name: str) -> RecordedLab:
    """One of them."""
    return RecordedLab(**json.loads(lzma.decompress(_PASSPHRASE.decrypt((_STATES / name).read_bytes()))))


def project_of(lab: RecordedLab, pulumi: str, home: Path) -> Project:
    """A project with the lab's state, its settings and today's program."""
    project = Project(pulumi, home)
    project.environment["PULUMI_STACK"] = lab.stack
    project.directory.mkdir()
    (home / "state").mkdir()
    (project.directory / "Pulumi.yaml").write_text("name: hardway\nruntime: python\n")
    project.pulumi("stack", "init", lab.stack, ok=True)
    settings = project.directory / f"Pulumi.{lab.stack}.yaml"
    document = yaml.safe_load(settings.read_text())
    # Encrypted by the project's own passphrase from here on.
    provider = {"type": "passphrase", "state": {"salt": document["encryptionsalt"]}}
    state = lab.state | {"deployment": lab.state["deployment"] | {"secrets_providers": provider}}
    project.pulumi("stack", "import", ok=True, stdin=json.dumps(state))
    settings.write_text(yaml.safe_dump(document | {"config": {"hardway:lab": lab.settings}}))
    program = _PROGRAM.format(
        checkout=str(_CHECKOUT),
        program=str(_CHECKOUT / "__main__.py"),
        mirror=lab.mirror,
        sums=lab.sums,
        state=NOWHERE,
        trusted=str(home / "known_hosts"),
    )
    (home / "known_hosts").write_text(lab.trusted)
    project.program(program)
    return project
