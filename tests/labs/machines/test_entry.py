"""The lab's way into a host and out again, on hosts whose owners have set them up in ways of their own."""

import asyncio
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import asyncssh
import pytest

from components.substrates.existing import entry, preflight, reach
from components.substrates.existing.free import free
from components.substrates.existing.plan import Host, Login, Plan
from components.substrates.existing.reach import SSH_PASSWORD, Credentials, HostError
from lab.polling import eventually
from labs.machines.own_hosts import PASSWORD, OwnHost, OwnHosts, Segment

STACK = "entry"
HOST = OwnHost(number=1, name="node-0", segment=Segment(name="hw-entry", range="10.147.0.0/24"))
USER, OTHER = "jane.doe", "JOE"
LAB_KEY = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
FINGERPRINT = asyncssh.import_private_key(LAB_KEY).get_fingerprint()
# All that an entry may leave.
TRACES = (
    "ls -A /etc/sudoers.d /var/lib/hardway 2>/dev/null || true; "
    "for home in /root /home/*; do "
    "ls -d $home/.ssh $home/.hardway* 2>/dev/null || true; cat $home/.ssh/authorized_keys 2>/dev/null || true; done"
)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnHosts]:
    with OwnHosts([HOST], tmp_path_factory.mktemp("entry") / "key") as made:
        for user in (USER, OTHER):
            made.bash(HOST, f"useradd -m -s /bin/bash -G sudo {user} && echo '{user}:{PASSWORD}' | chpasswd")
        yield made


@pytest.fixture
def before(hosts: OwnHosts, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What is there; the test must leave just that."""
    monkeypatch.setenv(SSH_PASSWORD, PASSWORD)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    there = hosts.bash(HOST, TRACES)
    yield there
    assert hosts.bash(HOST, TRACES) == there


@contextmanager
def changed(hosts: OwnHosts, script: str, back: str) -> Iterator[None]:
    hosts.bash(HOST, script)
    try:
        yield
    finally:
        hosts.bash(HOST, back)


def at(hosts: OwnHosts, user: str = "root") -> Host:
    key = hosts.bash(HOST, "cat /etc/ssh/ssh_host_ed25519_key.pub").split()
    login = Login(host=HOST.address, port=22, user=user, host_keys=(" ".join(key[:2]),))
    return Host(name=HOST.name, roles=("worker",), login=login, address=HOST.address)


def mine(hosts: OwnHosts) -> Credentials:
    return Credentials(lab_key=LAB_KEY, key=str(hosts.key))


ALONE = Credentials(lab_key=LAB_KEY, lab_key_only=True)


def as_root(host: Host, credentials: Credentials, script: str) -> str:
    async def run() -> str:
        async with reach.connected(host, credentials) as connection:
            return await reach.as_root(connection, host.login, script)

    return asyncio.run(run())


def enter(hosts: OwnHosts, user: str = "root") -> None:
    asyncio.run(entry.enter(at(hosts, user), STACK, mine(hosts)))


def leave(hosts: OwnHosts, user: str = "root") -> None:
    asyncio.run(entry.leave(at(hosts, user), STACK, ALONE))


@pytest.mark.parametrize("user", ["root", USER, OTHER])
def test_the_labs_key_alone_opens_a_host_until_it_leaves(hosts: OwnHosts, before: str, user: str) -> None:
    """Users whose names sudo takes for something else: a dot in a file's name, an alias in capitals."""
    enter(hosts, user)
    enter(hosts, user)
    assert as_root(at(hosts, user), ALONE, "id -u") == "0\n"
    leave(hosts, user)


def test_an_entry_that_fails_leaves_nothing(hosts: OwnHosts, before: str) -> None:
    """A key, a rule and a mark of a lab that is not there, and no way to be rid of them."""
    file = "/etc/ssh/sshd_config.d/keys.conf"
    with changed(
        hosts,
        f"mkdir -p /etc/ssh/keys && cp /root/.ssh/authorized_keys /etc/ssh/keys/root && "
        f"echo 'AuthorizedKeysFile /etc/ssh/keys/%u' >{file} && systemctl restart ssh",
        f"rm -r {file} /etc/ssh/keys && systemctl restart ssh",
    ):
        for user in ("root", USER):
            with pytest.raises(HostError) as caught:
                enter(hosts, user)
            assert hosts.bash(HOST, TRACES) == before
            said = str(caught.value)
            assert "Its sshd reads keys from /etc/ssh/keys/%u (AuthorizedKeysFile" in said
            assert "The lab left nothing on node-0" in said


def test_rules_that_come_before_in_sudoers_d_are_overridden(hosts: OwnHosts, before: str) -> None:
    with changed(hosts, f"echo '{USER} ALL=(ALL) ALL' >/etc/sudoers.d/z-theirs", "rm /etc/sudoers.d/z-theirs"):
        enter(hosts, USER)
        assert as_root(at(hosts, USER), ALONE, "id -u") == "0\n"
        leave(hosts, USER)


def test_a_later_rule_that_wants_a_password_is_named(hosts: OwnHosts, before: str) -> None:
    """A broken pipe in the middle of an upload."""
    rule = f"{USER} ALL=(ALL) ALL"
    with (
        changed(hosts, f"echo '{rule}' >>/etc/sudoers", f"sed -i '$d' /etc/sudoers && ! grep -F '{rule}' /etc/sudoers"),
        pytest.raises(HostError) as caught,
    ):
        enter(hosts, USER)
    assert "sudo wants a password" in str(caught.value) and "a later rule overrides it" in str(caught.value)


@pytest.mark.parametrize(("old", "new"), [("root", USER), (USER, OTHER), (OTHER, "root")])
def test_another_user_takes_the_place_of_the_one_before(hosts: OwnHosts, before: str, old: str, new: str) -> None:
    """A key and a rule of a user whom the lab does not know any more."""
    enter(hosts, old)
    hosts.bash(HOST, "mkdir -p /var/lib/hardway/steps/host")
    enter(hosts, new)
    assert as_root(at(hosts, new), ALONE, "id -u") == "0\n"
    with pytest.raises(HostError, match="refuses the keys"):
        as_root(at(hosts, old), ALONE, "true")
    hosts.bash(HOST, "rmdir /var/lib/hardway/steps/host /var/lib/hardway/steps")
    leave(hosts, new)


def test_a_lab_keeps_its_user_where_another_cannot_enter(hosts: OwnHosts, before: str) -> None:
    enter(hosts, "root")
    hosts.bash(HOST, "mkdir -p /var/lib/hardway/steps/host")
    rule = f"{USER} ALL=(ALL) ALL"
    with (
        changed(hosts, f"echo '{rule}' >>/etc/sudoers", "sed -i '$d' /etc/sudoers"),
        pytest.raises(HostError, match="a later rule overrides it"),
    ):
        enter(hosts, USER)
    assert as_root(at(hosts), ALONE, "ls /etc/sudoers.d; ls /var/lib/hardway").split() == [
        "README",
        "entered",
        "lab",
        "steps",
    ]
    hosts.bash(HOST, "rmdir /var/lib/hardway/steps/host /var/lib/hardway/steps")
    leave(hosts)


def test_older_lab_is_unchanged_and_can_change_its_user(hosts: OwnHosts, before: str) -> None:
    """Its note does not say as whom it logs in; its rule has another name."""
    public = " ".join(asyncssh.import_private_key(LAB_KEY).export_public_key().decode().split()[:2])
    old = f"""
        mkdir -p /var/lib/hardway && echo '{entry.mark(STACK, LAB_KEY, HOST.name)}' >/var/lib/hardway/lab
        printf 'directory\\nfile\\nnoted\\n' >/var/lib/hardway/made
        install -d -m 0700 -o {USER} /home/{USER}/.ssh
        echo '{public} hardway-{STACK}' >/home/{USER}/.ssh/authorized_keys
        chown {USER} /home/{USER}/.ssh/authorized_keys
        printf '# Until.\\n{USER} ALL=(ALL:ALL) NOPASSWD: ALL\\n' >/etc/sudoers.d/hardway-{STACK}"""
    hosts.bash(HOST, old)
    leave(hosts, USER)
    assert hosts.bash(HOST, TRACES) == before
    hosts.bash(HOST, old)
    enter(hosts, OTHER)
    leave(hosts, OTHER)


def test_the_login_shell_need_not_be_bash(hosts: OwnHosts, before: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts in bash that another shell reads: sh here, and what zsh, fish and csh read in the same way."""
    sent = []
    create = asyncssh.SSHClientConnection.create_process

    async def create_process(connection: asyncssh.SSHClientConnection, command: str) -> object:
        sent.append(command)
        return await create(connection, command)

    monkeypatch.setattr(asyncssh.SSHClientConnection, "create_process", create_process)
    with changed(hosts, "chsh -s /bin/sh root", "chsh -s /bin/bash root"):
        enter(hosts)
        assert as_root(at(hosts), ALONE, "printf '%s\\n' 'a\\b' \"it's\" <<<x") == "a\\b\nit's\n"
        leave(hosts)
    # Nothing between the quotes that a shell would replace there, and one line.
    assert sent and all(re.fullmatch(r"bash --norc -c '[^'\\!\n]+' [\w+/=]+ [\w+/=]+ \w+", each) for each in sent)


def test_a_shell_that_prints_is_named_and_changes_no_answer(hosts: OwnHosts, before: str) -> None:
    """Tracebacks of programs that read what a host never said."""
    with changed(
        hosts, "cp /root/.bashrc /tmp; sed -i '1i echo Welcome to node-0' /root/.bashrc", "cp /tmp/.bashrc /root"
    ):
        assert as_root(at(hosts), mine(hosts), "echo answer") == "answer\n"
        with pytest.raises(HostError, match="the login shell prints 'Welcome to node-0' before a command runs"):
            enter(hosts)
        found = asyncio.run(preflight.check(Plan(stack=STACK, hosts=(at(hosts),)), mine(hosts), {}))
        assert "the login shell prints 'Welcome to node-0'" in found[HOST.name][0]


def test_roots_key_with_a_forced_command_is_named(hosts: OwnHosts, before: str) -> None:
    """As cloud images have it."""
    command = 'command="echo Please login as the user debian rather than the user root.;exit 142" '
    with (
        changed(
            hosts,
            f"sed -i 's/^/{command}/' /root/.ssh/authorized_keys",
            f"sed -i 's/^{command}//' /root/.ssh/authorized_keys",
        ),
        pytest.raises(HostError) as caught,
    ):
        enter(hosts)
    assert "root may not log in here to run commands; set user= to a user who may" in str(caught.value)
    assert "Please login as the user debian rather than the user root." in str(caught.value)


def test_a_named_key_is_tried_before_an_agents_seven(
    hosts: OwnHosts, before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sshd ends a connection after six keys that it does not know."""
    monkeypatch.delenv(SSH_PASSWORD)
    with agent(tmp_path, seven=True) as socket:
        monkeypatch.setenv("SSH_AUTH_SOCK", socket)
        assert as_root(at(hosts), Credentials(key=str(hosts.key)), "id -u") == "0\n"
        monkeypatch.setattr(reach, "_own_keys", list)
        with pytest.raises(HostError, match=r"name the right one in lab\.machines\.key"):
            as_root(at(hosts), Credentials(), "true")


def test_a_named_key_with_a_passphrase_is_the_agents(
    hosts: OwnHosts, before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SSH_PASSWORD)
    named = tmp_path / "named"
    shutil.copy(hosts.key, named)
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", named], check=True)
    with agent(tmp_path, seven=True) as socket:
        monkeypatch.setenv("SSH_AUTH_SOCK", socket)
        subprocess.run(["ssh-add", "-q", hosts.key], check=True, env={"SSH_AUTH_SOCK": socket, "PATH": "/usr/bin"})
        with pytest.raises(HostError, match=r"named.pub is not there, which says which of an agent's keys is meant"):
            as_root(at(hosts), Credentials(key=str(named)), "true")
        public = subprocess.run(["ssh-keygen", "-y", "-f", hosts.key], check=True, capture_output=True).stdout
        (tmp_path / "named.pub").write_bytes(public)
        assert as_root(at(hosts), Credentials(key=str(named)), "id -u") == "0\n"
    monkeypatch.delenv("SSH_AUTH_SOCK")
    with pytest.raises(HostError, match="has a passphrase: add it to an agent"):
        as_root(at(hosts), Credentials(key=str(named)), "true")


@contextmanager
def agent(directory: Path, *, seven: bool) -> Iterator[str]:
    socket = directory / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL)
    try:
        environment = {"SSH_AUTH_SOCK": str(socket), "PATH": "/usr/bin:/bin"}
        # 1: it has no keys; 2: it cannot be reached.
        ask = partial(subprocess.run, ["ssh-add", "-l"], capture_output=True, env=environment)
        eventually("an answer of the agent", lambda: ask().returncode == 1, seconds=30)
        for number in range(7 if seven else 0):
            file = directory / f"key-{number}"
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file], check=True)
            subprocess.run(["ssh-add", "-q", file], check=True, env=environment)
        yield str(socket)
    finally:
        process.terminate()
        process.wait()


def test_a_host_is_freed_without_the_labs_state(hosts: OwnHosts, before: str) -> None:
    """A mark, a key and a rule that nobody can take back."""
    enter(hosts, USER)
    users = Credentials(key=str(hosts.key))
    host = at(hosts, USER)
    with pytest.raises(HostError) as caught:
        asyncio.run(free(host, STACK, users, None))
    assert f"./hardway free -s {STACK} {HOST.name} {FINGERPRINT}" in str(caught.value)
    with pytest.raises(HostError, match="not SHA256:other; nothing was changed"):
        asyncio.run(free(host, STACK, users, "SHA256:other"))
    with pytest.raises(HostError, match="is the machine node-0 of the lab entry, not node-1 of entry"):
        asyncio.run(free(replace(host, name="node-1"), STACK, users, FINGERPRINT))
    with pytest.raises(HostError, match="not node-0 of other"):
        asyncio.run(free(host, "other", users, FINGERPRINT))
    assert as_root(host, ALONE, "id -u") == "0\n"
    asyncio.run(free(host, STACK, users, FINGERPRINT))
    assert hosts.bash(HOST, TRACES) == before
    with pytest.raises(HostError, match=f"has nothing of the lab {STACK}"):
        asyncio.run(free(host, STACK, users, FINGERPRINT))


def test_a_host_whose_mark_is_lost_is_freed_by_its_key(hosts: OwnHosts, before: str) -> None:
    enter(hosts, USER)
    hosts.bash(HOST, ": >/var/lib/hardway/lab")
    users = Credentials(key=str(hosts.key))
    with pytest.raises(HostError, match=f"has keys of a lab {STACK}, and no mark"):
        asyncio.run(free(at(hosts, USER), STACK, users, None))
    asyncio.run(free(at(hosts, USER), STACK, users, FINGERPRINT))
