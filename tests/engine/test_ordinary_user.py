"""`sudo make ...` in the clone of an ordinary user, and the user's own commands after it; by the real engine."""

from collections.abc import Iterator

import pytest

from engine.ordinary_user import OrdinaryUser, ordinary_user

# What `./hardway up` does when the lab is there: write the files by which a person reaches it.
_WRITE_ACCESS = """
from config.versions import pins
from toolchain import access, owner, paths, stack
from toolchain.versions import architecture

chosen = stack.read("dev")
kubectl = paths.mirror() / pins().products["kubernetes"].path_of(
    "kubectl", version=chosen.kubernetes, arch=architecture())
kubectl.parent.mkdir(parents=True, exist_ok=True)
kubectl.write_text('#!/bin/sh\\necho "kubectl $*"\\n')
with owner.keeps_files():
    access.write(chosen, {
        "kubeconfig": "secret-1", "ssh_config": "Host worker-0\\n  HostName 127.0.0.1\\n  Port 9\\n",
        "ssh_private_key": "secret-2", "endpoint": "https://127.0.0.1:9",
        "machines": [{"name": "worker-0", "roles": ["worker"], "address": "127.0.0.1", "pod_cidr": None}],
        "certificates": []})
"""


@pytest.fixture(scope="module")
def user() -> Iterator[OrdinaryUser]:
    """A user who has run a command with sudo already."""
    with ordinary_user() as made:
        first = made.sudo("make", "preview")
        assert first.returncode == 0, first.stdout[-3000:]
        assert "to create" in first.stdout
        written = made.sudo(".venv/bin/python", "-c", _WRITE_ACCESS)
        assert written.returncode == 0, written.stdout
        yield made


def test_everything_in_the_checkout_is_the_users(user: OrdinaryUser) -> None:
    """Also bytecode, Pulumi's state, and the settings file, into which Pulumi writes."""
    assert user.not_owned() == []
    secrets = [user.checkout / ".state" / name for name in ("passphrase", "dev/kubeconfig", "dev/ssh_key")]
    assert [file.stat().st_mode & 0o777 for file in secrets] == [0o600] * 3


def test_root_uses_the_users_cache(user: OrdinaryUser) -> None:
    assert not (user.roots_home / ".cache" / "hardway").exists()
    cache = user.home / ".cache" / "hardway"
    assert (cache / "mirror").stat().st_uid == user.uid


def test_the_users_kubectl(user: OrdinaryUser) -> None:
    done = user.run("make", "kubectl", "ARGS=get nodes")
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("kubectl --kubeconfig ")
    assert done.stdout.endswith("/.state/dev/kubeconfig get nodes\n")


def test_the_users_ssh_reads_its_files(user: OrdinaryUser) -> None:
    """Nothing listens on the port: the connection is the first thing that fails."""
    done = user.run("make", "ssh", "MACHINE=worker-0", "ARGS=true")
    assert "connect to host 127.0.0.1 port 9: Connection refused" in done.stdout
    assert "ermission" not in done.stdout


def test_the_users_status_asks_the_lab(user: OrdinaryUser) -> None:
    done = user.run("make", "status")
    assert "worker-0" in done.stdout
    assert "Traceback" not in done.stdout, done.stdout
    assert "ermission" not in done.stdout


def test_the_users_preview_and_another_one_by_sudo(user: OrdinaryUser) -> None:
    done = user.run("make", "preview")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "to create" in done.stdout
    again = user.sudo("make", "preview")
    assert again.returncode == 0, again.stdout[-3000:]
    assert user.not_owned() == []


def test_plain_pulumi_with_the_variables_of_make_env(user: OrdinaryUser) -> None:
    script = 'variables=$(make -s env) && eval "$variables" && pulumi preview --stack dev && cat Pulumi.dev.yaml'
    done = user.run("bash", "-c", script)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "to create" in done.stdout


@pytest.mark.parametrize("command", ["setup", "up", "destroy"])
def test_what_only_root_may_do_says_so_in_one_message(user: OrdinaryUser, command: str) -> None:
    done = user.run("make", command)
    assert done.returncode != 0
    assert "Run the same command with sudo." in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize("command", ["kubectl", "ssh MACHINE=worker-0", "status", "preview", "env"])
def test_where_a_killed_run_has_left_roots_files_one_sentence_says_so(user: OrdinaryUser, command: str) -> None:
    state = user.checkout / ".state"
    assert user.sudo("chown", "root", str(state)).returncode == 0
    try:
        done = user.run("make", *command.split())
    finally:
        repaired = user.sudo("make", "kubectl")
    assert done.returncode != 0
    assert "with sudo" in done.stdout
    assert "Traceback" not in done.stdout
    assert repaired.returncode == 0, repaired.stdout
    assert state.stat().st_uid == user.uid


def test_a_cache_that_only_root_may_read_is_named(user: OrdinaryUser) -> None:
    """That of a lab which an earlier version has made with sudo."""
    record = user.checkout / ".state" / "cache-directory"
    before = record.read_text() if record.exists() else None
    record.write_text(f"{user.roots_home / '.cache' / 'hardway'}\n")
    try:
        done = user.run("make", "preview")
        kubectl = user.run("make", "kubectl")
    finally:
        record.unlink()
        if before is not None:
            record.write_text(before)
    assert done.returncode != 0
    assert "which this user may not use. Run the command with sudo, like `sudo ./hardway preview -s dev`" in done.stdout
    assert "Traceback" not in done.stdout
    assert kubectl.returncode == 0, kubectl.stdout


def test_root_without_sudo_in_the_users_checkout(user: OrdinaryUser) -> None:
    """Git refuses to work for root there, since nothing says on whose behalf: no command depends on it."""
    done = user.root("make", "preview")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "to create" in done.stdout
    assert "safe.directory" not in done.stdout
    assert user.not_owned() == []


def test_a_clone_with_converted_line_ends_has_none(user: OrdinaryUser) -> None:
    """The clone was made with core.autocrlf=true."""
    listed = user.run("git", "ls-files", "--eol")
    assert listed.returncode == 0, listed.stdout
    assert [line for line in listed.stdout.splitlines() if "w/crlf" in line or "w/mixed" in line] == []


def test_a_second_worktree(user: OrdinaryUser) -> None:
    script = (
        "git worktree add --quiet ../second HEAD && cp -a .venv ../second/ && cd ../second && "
        "make kubectl; make preview | tail -n 5"
    )
    done = user.run("bash", "-c", script)
    assert "The lab dev is not up" in done.stdout
    assert "to create" in done.stdout, done.stdout[-3000:]
