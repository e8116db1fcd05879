"""kubeadm's external CA mode in a lab with three controllers: created, renewed and rotated under load, destroyed.

The lab is the tests' own, on the stack of the folder: tests/labs/kubeadm_calico has them, too.
"""

import base64
import json
import os
import random
import re
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.rotations import subjects_of
from lab import session, tls
from lab.cluster import Cluster
from lab.commands import Ran, Started, toolchain
from lab.kills import SEED, Killed, Killer, check_gone, check_whole
from lab.load import BUDGET, Load
from lab.polling import eventually
from lab.rotations import stages
from lab.session import Show
from lab.settings_file import lab_settings
from lab.upgrades import assert_nothing_to_do
from labs.dev.test_rotation import logins

pytestmark = pytest.mark.long

_PKI = "/etc/kubernetes/pki"
_HOURS = 8000
_SUBJECTS = subjects_of("kubeadm", "external")
_CAS = {"ca": "ca.crt", "etcd-ca": "etcd/ca.crt", "front-proxy-ca": "front-proxy-ca.crt"}
_KILLS = 4
# Three stages took more than 20 minutes on two cores with a load of 50 to 100.
_SECONDS = 45 * 60
# Prints the files with a private key of one of the certificates in its arguments.
_SEARCH = """
wanted=$(for each; do openssl x509 -in "$each" -noout -pubkey | sha256sum; done)
places='/etc /root /home /run /tmp /var/lib/hardway /var/lib/kubelet /var/lib/etcd /usr/local'
for file in $(grep -rlsI -e 'PRIVATE KEY' -e client-key-data $places); do
  key=$({ sed -n 's/^ *client-key-data: //p' "$file" | base64 -d; cat "$file"; } | openssl pkey -pubout 2>/dev/null)
  [[ $wanted != *"$(sha256sum <<<"$key")"* ]] || echo "$file"
done
"""


@pytest.fixture(scope="module")
def external(stack: str, show: Show) -> Iterator[Cluster]:
    """The lab, without the key of a CA on any machine."""
    with session.empty_stack(stack, show), lab_settings(stack, controllers=3, kubeadm={"authorities": "external"}):
        yield session.made(session.settings_of(stack), show)


def test_no_machine_has_the_key_of_a_ca(external: Cluster) -> None:
    """A key under another name, in a kubeconfig, or left by a run of kubeadm."""
    for controller in external.controllers:
        assert _with_keys_of(external, controller.name, "ca", "etcd/ca", "front-proxy-ca") == set()
        # The search finds what there is.
        found = _with_keys_of(external, controller.name, "apiserver", "front-proxy-client")
        assert found == {f"{_PKI}/apiserver.key", f"{_PKI}/front-proxy-client.key"}
    for worker in external.workers:
        assert _with_keys_of(external, worker.name, "ca") == set()


def test_a_second_up_of_it_changes_nothing(external: Cluster) -> None:
    check_whole(external.settings, external.up)
    assert_nothing_to_do(external.settings.name)


def test_up_renews_what_kubeadm_cannot_renew(external: Cluster, show: Show, tmp_path: Path) -> None:
    """Certificates that no program has read; two control planes that restart at once."""
    with lab_settings(external.settings.name, pki={"validity_hours": _HOURS}):
        _check_new_certificates(external, show, tmp_path, "up")
        for machine in external.controllers:
            served = tls.served_by(str(machine.address), 6443)
            assert served.not_valid_after_utc - served.not_valid_before_utc == timedelta(hours=_HOURS)


def test_the_key_of_secrets_that_there_is_not_is_refused(external: Cluster) -> None:
    """A settings file that says that a key was rotated, which the lab does not have."""
    refused = toolchain("rotate", "encryption-key", "ca", stack=external.settings.name)
    assert refused.code == 1 and "encryption-key cannot be rotated there; nothing was changed" in refused.output
    assert "Secrets in its etcd are not encrypted" in refused.output


@pytest.mark.parametrize(
    "subjects",
    [_SUBJECTS, *((each,) for each in ("service-accounts", *_CAS))],
    ids=lambda each: each[0] if len(each) == 1 else "all",
)
def test_rotation_under_load_loses_nothing_and_old_keys_are_refused(
    external: Cluster, show: Show, tmp_path: Path, subjects: Sequence[str]
) -> None:
    """A machine that keeps an old key or trusts an old CA; a program that trusts only one of two CAs for a while; a
    stage in which a file changes that no program reads again."""
    doors = _doors(external, tmp_path)
    assert {door.what: door.ask() for door in doors} == {door.what: "200" for door in doors}
    before, keys = _fingerprints(external), _public_keys(external)
    rotated = _under_load(external, show, tmp_path, "rotate", *subjects)
    show(stages(rotated.output))
    for door in doors:
        said = door.ask()
        show(f"  the {door.what} of before: {said}\n")
        assert re.search(door.refused if door.subject in subjects else "^200$", said), door.what
    if subjects == _SUBJECTS:
        after = _fingerprints(external), _public_keys(external)
        for old, new in ((before, after[0]), (keys, after[1])):
            assert old.keys() == new.keys()
            assert not {place for place in old if old[place] == new[place]}
    _check_one_of_each_ca(external)


def test_a_rotation_that_is_killed_is_finished_by_the_next_run(external: Cluster, show: Show) -> None:
    """A control plane that is half changed, a token or a CA of before that stays."""
    stack = external.settings.name
    killed: list[Killed] = []
    show(f"\n{_KILLS} kills, HARDWAY_SEED={SEED}\n")
    ended = Killer(chance=random.Random(SEED), seconds={"rotate": 200.0}).kill_in_a_row(
        "rotate",
        # By its names, since a run that was killed early has not begun.
        lambda: Started("rotate", "ca", "service-accounts", stack=stack),
        killed.append,
        most=_KILLS,
        seconds=_SECONDS,
    )
    for each in killed:
        show(f"  killed after {each.after:6.1f} s, {each.done:4} done | {each.last[:60]}\n")
    assert ended.code == 0, ended.output
    _check_healthy(external, ended)
    _check_one_of_each_ca(external)


def test_machines_that_are_replaced_during_a_rotation_join_and_finish_it(external: Cluster, show: Show) -> None:
    """kubeadm on a new machine that takes the first of two CAs for the only one."""
    stack = external.settings.name
    for words in (
        ("rotate", "--stage", "ca", "etcd-ca"),
        ("replace", external.controllers[0].name),
        ("rotate", "--stage"),
        ("replace", external.workers[-1].name),
        ("rotate",),
    ):
        started = time.monotonic()
        done = Started(*words, stack=stack).wait(_SECONDS)
        show(f"\n{' '.join(words)} in {time.monotonic() - started:.0f} s\n")
        assert done.code == 0, done.output
    _check_healthy(external, done)
    _check_one_of_each_ca(external)


def test_when_it_is_destroyed_nothing_is_left(external: Cluster) -> None:
    destroyed = Started("destroy", stack=external.settings.name).wait(_SECONDS)
    assert destroyed.code == 0, destroyed.output
    check_gone(external.settings)


def _with_keys_of(lab: Cluster, machine: str, *certificates: str) -> set[str]:
    """The files of a machine that have the private key of one of these certificates."""
    files = " ".join(f"{_PKI}/{each}.crt" for each in certificates)
    return set(lab.ssh(machine, f"bash -s -- {files}", stdin=_SEARCH).split())


def _check_new_certificates(lab: Cluster, show: Show, directory: Path, *words: str) -> None:
    """Assert that a command has every machine use other certificates, and that clients hardly see it."""
    before = _fingerprints(lab)
    _under_load(lab, show, directory, *words)
    after = _fingerprints(lab)
    assert after.keys() == before.keys()
    assert not {place for place in before if before[place] == after[place]}


def _under_load(lab: Cluster, show: Show, directory: Path, *words: str) -> Ran:
    """Run a command; assert that clients hardly see it, and that the lab is as the stack says afterwards."""
    with Load(lab, directory) as seen:
        started = time.monotonic()
        done = Started(*words, stack=lab.settings.name).wait(_SECONDS)
        seconds = time.monotonic() - started
    load = " ".join(f"{each:.0f}" for each in os.getloadavg())
    show(f"\n{' '.join(words)} in {seconds:.0f} s, load average {load}; {seen}\n")
    show("".join(f"  {each}\n" for each in seen.failed))
    assert done.code == 0, done.output
    _check_healthy(lab, done)
    assert seen.lost == []
    assert seen.lowest >= BUDGET
    assert seen.gap <= 2
    assert seen.failed_in_thousand <= 1
    return done


def _check_healthy(lab: Cluster, done: Ran) -> None:
    stack = lab.settings.name
    eventually(
        "a healthy lab",
        lambda: toolchain("status", stack=stack).code == 0,
        seconds=90,
        report=lab.situation,
        pause=1,
    )
    check_whole(lab.settings, done)
    assert_nothing_to_do(stack)
    for command in ("drift", "certs"):
        said = toolchain(command, stack=stack)
        assert said.code == 0, said.output


@dataclass(frozen=True, kw_only=True)
class _Door:
    """Something that a key opens, asked with the key that the lab had when this was made.

    Args:
        subject: of the rotation after which it is refused.
        what: the key.
        ask: says the status, or the error.
        refused: a pattern for what it then says.
    """

    subject: str
    what: str
    ask: Callable[[], str]
    refused: str


def _doors(lab: Cluster, directory: Path) -> list[_Door]:
    """All that is refused once its subject is rotated."""
    kubeconfig = yaml.safe_load((lab.directory / "kubeconfig").read_text())
    user, api = kubeconfig["users"][0]["user"], kubeconfig["clusters"][0]["cluster"]
    balanced, controller = f"{api['server']}/api", f"https://{lab.controller.address}"
    trusting_ca = ssl.create_default_context(cadata=base64.b64decode(api["certificate-authority-data"]).decode())
    token = lab.kubectl("create", "token", "default").strip()

    def client(name: str, pem: str) -> ssl.SSLContext:
        file = directory / f"{name}.pem"
        file.touch(mode=0o600)
        file.write_text(pem)
        return tls.with_certificate(file)

    def on_controller(name: str) -> ssl.SSLContext:
        return client(Path(name).name, lab.ssh(lab.controller.name, f"cat {_PKI}/{name}.crt {_PKI}/{name}.key"))

    admin = client(
        "admin", "".join(base64.b64decode(user[f"client-{part}-data"]).decode() for part in ("certificate", "key"))
    )
    etcd, proxy = on_controller("etcd/healthcheck-client"), on_controller("front-proxy-client")
    ssh_key = directory / "ssh_key"
    ssh_key.touch(mode=0o600)
    ssh_key.write_bytes((lab.directory / "ssh_key").read_bytes())
    for_someone = {"X-Remote-User": "somebody", "X-Remote-Group": "system:masters"}
    return [
        _Door(
            subject="ca", what="certificate of the administrator", ask=lambda: _status(balanced, admin), refused="^401$"
        ),
        _Door(
            subject="ca",
            what="CA of the API servers",
            ask=lambda: _status(balanced, trusting_ca, token=lab.kubectl("create", "token", "default").strip()),
            refused="CERTIFICATE_VERIFY_FAILED",
        ),
        _Door(
            subject="etcd-ca",
            what="client of etcd",
            ask=lambda: _status(f"{controller}:2379/health", etcd),
            refused="(?i)alert",
        ),
        _Door(
            subject="front-proxy-ca",
            what="client of extension API servers",
            ask=lambda: _status(f"{controller}:6443/api", proxy, headers=for_someone),
            refused="^401$",
        ),
        _Door(
            subject="service-accounts",
            what="token of a service account",
            ask=lambda: _status(balanced, tls.anyone(), token=token),
            refused="^401$",
        ),
        _Door(
            subject="ssh",
            what="SSH key",
            ask=lambda: "200" if logins(lab, ssh_key) == {0} else "denied",
            refused="denied",
        ),
    ]


def _status(url: str, context: ssl.SSLContext, **options: Any) -> str:
    try:
        return str(tls.fetch(url, context, **options)[0])
    except OSError as error:
        return str(error)


def _check_one_of_each_ca(lab: Cluster) -> None:
    """Assert that machines, API and pods have one CA of each kind, the same."""
    certs = toolchain("certs", "--json", stack=lab.settings.name)
    rows = json.JSONDecoder().raw_decode(certs.output, certs.output.index("{"))[0]["certificates"]
    for ca in ("kubernetes-ca", "etcd-ca", "front-proxy-ca"):
        found = {row["issuer_key"] for row in rows if row["subject"].endswith(f"CN={ca}")}
        assert len(found) == 1, (ca, found)

    def on_controller(subject: str) -> list[str]:
        return lab.ssh(lab.controller.name, f"cat {_PKI}/{_CAS[subject]}").split()

    def data(namespace: str, name: str, key: str) -> str:
        return str(lab.get("--namespace", namespace, "configmap", name)["data"][key])

    kubernetes, front_proxy = on_controller("ca"), on_controller("front-proxy-ca")
    assert kubernetes.count("-----BEGIN") == front_proxy.count("-----BEGIN") == 1
    assert data("kube-system", "kube-root-ca.crt", "ca.crt").split() == kubernetes
    authentication = "extension-apiserver-authentication"
    assert data("kube-system", authentication, "client-ca-file").split() == kubernetes
    assert data("kube-system", authentication, "requestheader-client-ca-file").split() == front_proxy
    published = yaml.safe_load(data("kube-public", "cluster-info", "kubeconfig"))["clusters"][0]["cluster"]
    assert base64.b64decode(published["certificate-authority-data"]).decode().split() == kubernetes


def _public_keys(lab: Cluster) -> dict[str, str]:
    """Machine and file -> what stands for the key of the certificate in it."""
    each = "for file in $(find /etc/kubernetes -name '*.crt' ! -name '*ca.crt'); do "
    each += "echo $file $(openssl x509 -in $file -noout -pubkey | sha256sum); done"
    lines = [
        f"{machine.name} {line}" for machine in lab.controllers for line in lab.ssh(machine.name, each).splitlines()
    ]
    return {" ".join(line.split()[:2]): line.split()[2] for line in lines}


def _fingerprints(lab: Cluster) -> dict[str, str]:
    """Machine and file -> what stands for the certificates in it, of all that the stack issues."""
    found: dict[str, str] = {}
    for machine in (*lab.controllers, *lab.workers):
        # The file for containers' name resolution, in a directory below, ends with .conf, too.
        files = "ls /etc/kubernetes/*.conf; find /etc/kubernetes -name '*.crt' ! -name '*ca.crt'"
        lines = lab.ssh(machine.name, f"{{ {files}; }} | sort | xargs sha256sum").splitlines()
        found |= {f"{machine.name} {file}": checksum for checksum, file in map(str.split, lines)}
    return found
