"""`make preview` as the first command of a user: every lab for users, by the real engine, on a host that has nothing.

The host is this one without its network, its container engines and the right to write: mounted read-only but for a
directory of the test's, with another user id. What a preview needs beyond that would make it fail.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from lab.shipped import FOR_USERS

_CHECKOUT = Path(__file__).parents[2]
# And one of the tests' own: its settings file is in another directory.
STACKS = [*sorted(FOR_USERS), "docker-test"]
# Without a plugin that could be had from a package registry, or a stand-in.
OFFICIAL_ONLY = {"gcp", "gcp-trial", "libvirt"}
_LEFT_OUT = (".venv", ".state", "trust", ".git", "__pycache__", ".*_cache", ".hypothesis")

_UNSHARE = ("unshare", "--mount", "--net", "--propagation=private", "--")
# Run as root, which only prepares: the preview itself is user 1000, who has no right over anything.
_BARE_HOST = r"""
set -eu
directory=$1; shift
ip link set lo up
mount --bind "$directory" "$directory"
mount -o remount,ro,bind /
mount -o remount,rw,bind "$directory"
# Each once: a directory of PATH may be a link to another, and an engine may be there in two versions.
type -aP podman docker | xargs -r realpath | sort -u | while read -r program; do
  mount --bind /dev/null "$program"
done
cd "$directory/checkout"
exec unshare --user --map-user=1000 --map-group=1000 -- "$@"
"""


@dataclass(frozen=True, kw_only=True)
class BareHost:
    """A checkout and a home on a host where nothing else can be written, and nothing be reached."""

    directory: Path

    @property
    def checkout(self) -> Path:
        return self.directory / "checkout"

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
        home = self.directory / "home"
        cache = os.environ.get("HARDWAY_CACHE") or str(Path.home() / ".cache" / "hardway")
        return subprocess.run(
            [*_UNSHARE, "bash", "-c", _BARE_HOST, "bash", str(self.directory), *command],
            env=kept
            | {
                "HOME": str(home),
                "PULUMI_HOME": str(home / "pulumi"),
                "TMPDIR": str(self.directory / "tmp"),
                "PYTHONDONTWRITEBYTECODE": "1",
                # Where the CLI is, if it was built: read-only like all else.
                "HARDWAY_CACHE": cache,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=600,
        )

    def files(self) -> dict[str, str | bytes]:
        """Everything in the checkout but the state and bytecode: path -> content."""
        return {
            str(path.relative_to(self.checkout)): path.read_bytes()
            for path in sorted(self.checkout.rglob("*"))
            if path.is_file() and not {".state", ".venv", "__pycache__"}.intersection(path.parts)
        }


@pytest.fixture
def bare(tmp_path: Path) -> BareHost:
    assert os.geteuid() == 0, "these tests make namespaces: run them as root"
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    shutil.copytree(_CHECKOUT, tmp_path / "checkout", ignore=shutil.ignore_patterns(*_LEFT_OUT))
    for stack, text in FOR_USERS.items():
        (tmp_path / "checkout" / f"Pulumi.{stack}.yaml").write_text(text)
    (tmp_path / "checkout" / ".venv").symlink_to(_CHECKOUT / ".venv")
    return BareHost(directory=tmp_path)


def test_the_bare_host_is_bare(bare: BareHost) -> None:
    """Each of these would be seen if a preview did it."""
    assert bare.run("id", "-u").stdout == "1000\n"
    assert bare.run("touch", str(Path.home() / "x")).returncode != 0
    assert bare.run("touch", "/tmp/x").returncode != 0
    assert bare.run("touch", "here").returncode == 0
    assert bare.run("bash", "-c", "podman --version || docker --version").returncode in (126, 127)
    assert "unreachable" in bare.run("bash", "-c", "exec 3<>/dev/tcp/192.0.2.1/80").stdout.lower()
    assert bare.run("ip", "link", "add", "type", "dummy").returncode != 0


@pytest.mark.parametrize("stack", [stack for stack in STACKS if stack not in OFFICIAL_ONLY])
def test_a_first_preview_needs_nothing_and_leaves_nothing_but_a_state(bare: BareHost, stack: str) -> None:
    before = bare.files()
    done = bare.run("make", "preview", f"STACK={stack}")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "pulumi:pulumi:Stack: (create)" in done.stdout.replace("+ ", "")
    assert "to create" in done.stdout
    assert "PRIVATE KEY" not in done.stdout
    assert bare.files() == before
    state = {path.name for path in (bare.checkout / ".state").iterdir()}
    assert state <= {".pulumi", "passphrase", "plugins", "pulumi-home-1000", "locks", "bootstrap.lock"}
    assert (bare.checkout / ".state" / "passphrase").stat().st_mode & 0o777 == 0o600
    # The engine's own records.
    assert {path.name for path in (bare.directory / "home").iterdir()} <= {"pulumi", ".cache"}
    assert not any((bare.directory / "tmp").iterdir())


@pytest.mark.parametrize("stack", sorted(OFFICIAL_ONLY))
def test_a_stack_whose_plugin_cannot_be_had_says_so_plainly(bare: BareHost, stack: str) -> None:
    substrate = yaml.safe_load(FOR_USERS[stack])["config"]["hardway:lab"]["substrate"]
    done = bare.run("make", "preview", f"STACK={stack}")
    assert done.returncode != 0
    why = f"pulumi-resource-{substrate}: this project has no stand-in for it, and the official ones cannot be had"
    assert f"error: {why} from here (Official releases at github.com cannot be reached" in done.stdout, done.stdout
    assert "Run this where Pulumi's releases can be reached" in done.stdout
    assert "Traceback" not in done.stdout
