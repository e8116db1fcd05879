"""`toolchain/bootstrap.sh`, and `hardway` by it, in a checkout of its own, with requirements that install nothing.

Most of the time that an empty virtual environment takes is ensurepip's: the tests copy one that was made before, except
where the files that venv itself writes are what is tested.
"""

import hashlib
import io
import os
import shutil
import signal
import subprocess
import tarfile
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

SCRIPT = Path(__file__).parents[2] / "toolchain" / "bootstrap.sh"
PATH = os.environ["PATH"]
# Python as it is, but for `-m venv --clear DIRECTORY`.
QUICK_PYTHON = """#!/bin/sh
if [ "$1 $2 $3" = "-m venv --clear" ]; then
  rm -rf "$4" && exec cp -a {empty} "$4"
fi
exec {python} "$@"
"""


@pytest.fixture(scope="session")
def quick_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a python3 that copies an empty virtual environment."""
    directory = tmp_path_factory.mktemp("quick-python")
    python = shutil.which("python3") or ""
    subprocess.run([python, "-m", "venv", directory / "empty"], check=True)
    program = directory / "bin" / "python3"
    program.parent.mkdir()
    program.write_text(QUICK_PYTHON.format(empty=directory / "empty", python=python))
    program.chmod(0o755)
    return program.parent


@pytest.fixture
def checkout(tmp_path: Path, quick_python: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{quick_python}:{PATH}")
    (tmp_path / "toolchain").mkdir()
    shutil.copy(SCRIPT, tmp_path / "toolchain" / "bootstrap.sh")
    (tmp_path / "requirements.txt").write_text("# nothing\n")
    (tmp_path / "requirements-dev.txt").write_text("# nothing\n")
    return tmp_path


def start(checkout: Path, *words: str, path: str | None = None, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [checkout / "toolchain" / "bootstrap.sh", *words],
        env=os.environ | ({"PATH": path} if path else {}) | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def bootstrap(checkout: Path, *words: str, path: str | None = None, **environment: str) -> tuple[int, str]:
    process = start(checkout, *words, path=path, **environment)
    out, err = process.communicate(timeout=240)
    assert out == "", "stdout belongs to `./hardway env`"
    return process.returncode, err


def test_the_environment_is_made_when_it_has_to_be_and_only_then(checkout: Path) -> None:
    made_from = checkout / ".venv" / "made-from"
    runs = [start(checkout), start(checkout)]
    said = "".join(run.communicate(timeout=240)[1] for run in runs)
    assert [run.returncode for run in runs] == [0, 0]
    assert said.count("Making the virtual environment") == 1, "two runs at once are to make it once"
    assert subprocess.run([checkout / ".venv" / "bin" / "python", "-c", ""], check=False).returncode == 0

    assert bootstrap(checkout) == (0, "")
    without_python = checkout / "programs"
    without_python.mkdir()
    for name in ("sh", "dirname", "cat", "sha256sum"):
        (without_python / name).symlink_to(shutil.which(name) or "")
    assert bootstrap(checkout, path=str(without_python)) == (0, ""), "no other interpreter is looked for"

    # As a run leaves it that was killed before its end.
    made_from.unlink()
    (checkout / ".venv" / "half-made").touch()
    assert "Making the virtual environment" in bootstrap(checkout)[1]
    assert not (checkout / ".venv" / "half-made").exists()

    (checkout / "requirements.txt").write_text("# something else\n")
    assert "Making the virtual environment" in bootstrap(checkout)[1]
    assert bootstrap(checkout) == (0, "")


def test_the_policy_pack_has_an_environment_of_its_own(checkout: Path) -> None:
    (checkout / "policy").mkdir()
    a_package(checkout, "policy/requirements.txt")
    bootstrap(checkout)
    assert "policy/.venv" in bootstrap(checkout, "policy")[1]
    assert list((checkout / "policy" / ".venv").glob("lib/python3*/site-packages/toy.py"))
    assert not list((checkout / ".venv").glob("lib/python3*/site-packages/toy.py"))
    assert bootstrap(checkout, "policy") == bootstrap(checkout) == (0, "")


def test_what_lint_and_tests_need_is_installed_for_these_only(checkout: Path) -> None:
    a_package(checkout, "requirements-dev.txt")
    bootstrap(checkout)
    assert not list((checkout / ".venv").glob("lib/python3*/site-packages/toy.py"))
    assert bootstrap(checkout, "dev") == (0, "Installing what lint and tests need into .venv ...\n")
    assert list((checkout / ".venv").glob("lib/python3*/site-packages/toy.py"))
    assert bootstrap(checkout, "dev") == bootstrap(checkout) == (0, "")

    (checkout / "requirements-dev.txt").write_text("# something else\n")
    assert bootstrap(checkout) == (0, "")
    assert bootstrap(checkout, "dev")[1].startswith("Installing what lint and tests need")


def test_a_file_without_a_checksum_is_not_installed(checkout: Path) -> None:
    a_package(checkout)
    requirement = (checkout / "requirements.txt").read_text()
    (checkout / "requirements.txt").write_text(requirement.partition(" --hash")[0] + "\n")
    status, said = bootstrap(checkout)
    assert status != 0
    assert "hash" in said.lower()
    assert not list((checkout / ".venv").glob("lib/python3*/site-packages/toy.py"))


def test_a_package_that_has_to_be_built_is_not_installed(checkout: Path) -> None:
    """Its own code would run, as root."""
    sources = checkout / "toy-1.tar.gz"
    with tarfile.open(sources, "w:gz") as archive:
        for name, text in {
            "toy-1/PKG-INFO": "Metadata-Version: 2.1\nName: toy\nVersion: 1\n",
            "toy-1/setup.py": f"open({str(checkout / 'it-ran')!r}, 'w')",
        }.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    sha256 = hashlib.sha256(sources.read_bytes()).hexdigest()
    (checkout / "requirements.txt").write_text(f"toy==1 --hash=sha256:{sha256}\n")
    status, _ = bootstrap(checkout, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(checkout))
    assert status != 0
    assert not (checkout / "it-ran").exists()


def test_what_pip_cannot_have_fails_now_and_is_tried_again(checkout: Path) -> None:
    (checkout / "requirements.txt").write_text("./no-such-directory\n")
    for _ in range(2):
        status, said = bootstrap(checkout)
        assert status != 0
        assert "no-such-directory" in said
    assert not (checkout / ".venv" / "made-from").exists()


def test_an_old_python_is_refused_with_the_version_that_is_needed(checkout: Path, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "dirname", "cat", "sha256sum", "id"):
        (programs / name).symlink_to(shutil.which(name) or "")
    (programs / "python3").write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.9.2 || exit 1\n')
    (programs / "python3").chmod(0o755)
    status, said = bootstrap(checkout, path=str(programs))
    assert status != 0
    assert "Python 3.11 or newer is needed; this machine has Python 3.9.2" in said
    assert not (checkout / ".venv").exists()


def a_package(checkout: Path, requirements: str = "requirements.txt") -> None:
    """A requirement that pip installs from the checkout, and needs nothing for."""
    wheel = checkout / "toy-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("toy.py", "")
        archive.writestr("toy-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy\nVersion: 1\n")
        archive.writestr("toy-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("toy-1.dist-info/RECORD", "")
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (checkout / requirements).write_text(f"./{wheel.name} --hash=sha256:{sha256}\n")


def test_what_root_makes_in_a_users_checkout_is_the_users(checkout: Path) -> None:
    """With a umask that lets nobody else read, and settings that send packages elsewhere; also where pip fails."""
    os.chown(checkout, 47110, 47110)
    a_package(checkout)
    elsewhere = {"PIP_USER": "1", "PIP_TARGET": "elsewhere", "PIP_PREFIX": "elsewhere", "PYTHONPATH": "/"}
    for fails in (False, True):
        if fails:
            (checkout / "requirements.txt").write_text("./no-such-directory\n")
        before = os.umask(0o077)
        try:
            # The first time by Python's own venv, which writes files of its own.
            status, said = bootstrap(checkout, path=None if fails else PATH, **elsewhere)
        finally:
            os.umask(before)
        assert (status != 0) == fails, said
        if not fails:
            assert list((checkout / ".venv").glob("lib/python3*/site-packages/toy.py"))
        assert not (checkout / "elsewhere").exists()
        made = [path for name in (".venv", ".state") for path in [checkout / name, *(checkout / name).rglob("*")]]
        assert len(made) > 100
        assert [path for path in made if path.lstat().st_uid != 47110] == []


def test_a_checkout_that_belongs_to_root_says_so_to_a_user(checkout: Path) -> None:
    """No traceback and no half of an environment; pytest's directories above are opened for the user to enter."""
    with TemporaryDirectory(prefix="hardway-roots-") as made:
        Path(made).chmod(0o755)
        shutil.copytree(checkout, made, dirs_exist_ok=True)
        Path(made).chmod(0o755)
        done = subprocess.run(
            [
                *("setpriv", "--reuid=47110", "--regid=47110", "--clear-groups", "--"),
                Path(made) / "toolchain" / "bootstrap.sh",
            ],
            env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode != 0
        assert "Run the command with sudo, like: sudo ./hardway up" in done.stderr
        assert not (Path(made) / ".venv").exists()


# What stands in for the command line: it says how it was called.
SAYS = """import os, sys
print(os.getcwd(), sys.argv[1:], [name for name in sys.path if name in ("", os.getcwd())])
sys.exit(7)
"""


class TestHardway:
    @pytest.fixture
    def link(self, checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A link to `hardway` in a directory of its own, by way of another link."""
        shutil.copy(SCRIPT.parents[1] / "hardway", checkout / "hardway")
        (checkout / "cli").mkdir()
        (checkout / "cli" / "__main__.py").write_text(SAYS)
        directory = tmp_path_factory.mktemp("the user's programs")
        (directory / "first").symlink_to(checkout / "hardway")
        (directory / "hardway").symlink_to("first")
        return directory / "hardway"

    @staticmethod
    def start(link: Path, *words: str, path: str = "", **environment: str) -> subprocess.Popen[str]:
        """Start it as a user does: by its name, from the directory of the link."""
        return subprocess.Popen(
            ["sh", "-c", 'exec hardway "$@"', "sh", *words],
            cwd=link.parent,
            env=os.environ | {"PATH": f"{link.parent}:{path or os.environ['PATH']}"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, link: Path, *words: str, **environment: str) -> tuple[int, str, str]:
        process = self.start(link, *words, **environment)
        out, err = process.communicate(timeout=240)
        return process.returncode, out, err

    def test_the_first_run_installs_and_then_runs_the_command(self, checkout: Path, link: Path) -> None:
        """Beside a run of the Makefile's: one of them installs, the other waits for it."""
        words = ["ssh", "worker-0", "--", "a b", "$HOME", ""]
        said = f"{link.parent} {words} []\n"
        runs = [start(checkout), self.start(link, *words)]
        (makes, made), (out, err) = (run.communicate(timeout=240) for run in runs)
        assert [run.returncode for run in runs] == [0, 7]
        assert (makes, out) == ("", said)
        assert (made + err).count("Making the virtual environment") == 1
        assert self.run(link, *words) == (7, said, "")
        assert bootstrap(checkout) == (0, "")

    def test_a_killed_installation_is_completed_by_the_next_run(
        self, checkout: Path, link: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        slow = tmp_path_factory.mktemp("slow") / "python3"
        pipe = slow.with_name("pipe")
        os.mkfifo(pipe)
        slow.write_text(
            f'#!/bin/sh\n[ "$2" != venv ] || {{ mkdir -p .venv/bin; ln -s {slow} .venv/bin/python; cat {pipe}; }}\n'
            f'exec {shutil.which("python3")} "$@"\n'
        )
        slow.chmod(0o755)
        process = self.start(link, "up", path=f"{slow.parent}:{os.environ['PATH']}")
        # Opened only once the other end is: the environment is half made then.
        with pipe.open("w"):
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=60)
        assert (checkout / ".venv" / "bin" / "python").is_symlink()
        code, out, err = self.run(link, "up")
        assert (code, out) == (7, f"{link.parent} ['up'] []\n")
        assert "Making the virtual environment" in err

    def test_a_failed_installation_runs_no_command(self, checkout: Path, link: Path) -> None:
        (checkout / "requirements.txt").write_text("./no-such-directory\n")
        code, out, err = self.run(link, "up")
        assert code not in (0, 7)
        assert out == ""
        assert "no-such-directory" in err

    def test_a_completion_installs_nothing(self, checkout: Path, link: Path) -> None:
        assert self.run(link, _HARDWAY_COMPLETE="bash_complete") == (0, "", "")
        assert not (checkout / ".venv").exists()


def test_the_environment_behind_a_link_is_not_emptied(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("another") / "environment"
    (other / "bin").mkdir(parents=True)
    (other / "bin" / "python").touch()
    (checkout / ".venv").symlink_to(other)
    status, said = bootstrap(checkout)
    assert status == 1
    assert f"{checkout}/.venv is a symbolic link" in said and "Remove the link" in said
    assert (other / "bin" / "python").exists()
