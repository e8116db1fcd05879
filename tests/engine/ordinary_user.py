"""An ordinary user of the host, who has a clone of the project and sudo.

The user is there for the test's processes only: they have a mount namespace with an /etc/passwd of its own. sudo is
imitated by what Debian's does: root's HOME, nothing else of the user's environment, and SUDO_UID and its kind.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

_PROJECT = Path(__file__).parents[2]
_UID = 47110
_SETPRIV = ("setpriv", f"--reuid={_UID}", f"--regid={_UID}", "--clear-groups", "--")
# An interpreter in root's home is one that the user could not start: only its own directory is shown there.
_ENTER = r"""
set -eu
directory=$1 interpreter=$2
shift 2
mount --bind "$directory/passwd" /etc/passwd
case $interpreter in
  "$HOST_HOME"/*)
    mount --bind "$interpreter" "$directory/interpreter"
    mount -t tmpfs -o mode=755 tmpfs "$HOST_HOME"
    mkdir -p "$interpreter"
    mount --move "$directory/interpreter" "$interpreter"
    ;;
esac
cd "$PWD"
exec "$@"
"""


@dataclass(frozen=True, kw_only=True)
class OrdinaryUser:
    """A user with a home directory and a clone, both below `directory`."""

    directory: Path

    @property
    def uid(self) -> int:
        return _UID

    @property
    def home(self) -> Path:
        return self.directory / "home"

    @property
    def roots_home(self) -> Path:
        """The HOME that commands with sudo have."""
        return self.directory / "root"

    @property
    def checkout(self) -> Path:
        """Its path has a space."""
        return self.home / "the hard way"

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the checkout as the user."""
        return self._run([*_SETPRIV, *command], self._environment(self.home, "learner") | environment)

    def sudo(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the checkout by sudo, with a umask that lets no one else read."""
        return self.root(*command, SUDO_UID=str(_UID), SUDO_GID=str(_UID), SUDO_USER="learner", SUDO_COMMAND="make")

    def root(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the user's checkout as root, without sudo."""
        environment |= self._environment(self.roots_home, "root")
        return self._run(["sh", "-c", 'umask 077; exec "$@"', "sh", *command], environment)

    def not_owned(self) -> list[str]:
        """Files in the checkout that belong to another user."""
        return [
            str(path.relative_to(self.checkout)) for path in self.checkout.rglob("*") if path.lstat().st_uid != _UID
        ]

    def _environment(self, home: Path, name: str) -> dict[str, str]:
        return {
            "PATH": f"{sys.base_prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(home),
            "USER": name,
            "LOGNAME": name,
            "HOST_HOME": str(Path.home()),
        }

    def _run(self, command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        entered = ["unshare", "--mount", "--propagation=private", "--", "sh", "-c", _ENTER, "sh"]
        return subprocess.run(
            [*entered, str(self.directory), sys.base_prefix, *command],
            cwd=self.checkout,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=300,
        )


@contextmanager
def ordinary_user() -> Iterator[OrdinaryUser]:
    """A user whose clone, virtual environment and Pulumi CLI are there already."""
    # Not below pytest's directories, which only root may enter.
    with TemporaryDirectory(prefix="hardway-user-") as made:
        user = OrdinaryUser(directory=Path(made))
        user.directory.chmod(0o755)
        passwd = Path("/etc/passwd").read_text()
        (user.directory / "passwd").write_text(f"{passwd}learner:*:{_UID}:{_UID}::{user.home}:/bin/bash\n")
        (user.directory / "passwd").chmod(0o644)
        user.roots_home.mkdir(mode=0o700)
        (user.directory / "interpreter").mkdir()
        clone = ["git", "-c", "core.autocrlf=true", "clone", "--quiet", "--no-hardlinks", str(_PROJECT)]
        subprocess.run([*clone, str(user.checkout)], check=True)
        # What is not committed yet, too.
        for name in _listed("ls-files", "--modified", "--others", "--exclude-standard"):
            target = user.checkout / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(_PROJECT / name, target)
        _copy(_PROJECT / ".venv", user.checkout / ".venv")
        cache = Path(os.environ.get("HARDWAY_CACHE") or Path.home() / ".cache" / "hardway")
        (user.home / ".cache" / "hardway").mkdir(parents=True)
        _copy(cache / "pulumi", user.home / ".cache" / "hardway" / "pulumi")
        subprocess.run(["chown", "-R", "-h", f"{_UID}:{_UID}", str(user.home)], check=True)
        yield user


def _listed(*arguments: str) -> list[str]:
    said = subprocess.run(["git", *arguments], cwd=_PROJECT, capture_output=True, text=True, check=True)
    return [name for name in said.stdout.splitlines() if (_PROJECT / name).is_file()]


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", "--reflink=auto", str(source), str(target)], check=True)
