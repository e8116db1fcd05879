"""kubeadm's external CA mode in a lab with three controllers: created, renewed under load, destroyed.

The lab is the tests' own, on the stack of the folder: tests/labs/kubeadm_calico has them, too.
"""

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from lab import session, tls
from lab.cluster import Cluster
from lab.commands import Started, toolchain
from lab.kills import check_gone, check_whole
from lab.load import BUDGET, Load
from lab.polling import eventually
from lab.session import Show
from lab.settings_file import lab_settings
from lab.upgrades import assert_nothing_to_do

pytestmark = pytest.mark.long

_PKI = "/etc/kubernetes/pki"
_HOURS = 8000
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


def test_the_keys_that_the_stack_has_are_rotated(external: Cluster, show: Show, tmp_path: Path) -> None:
    """A machine that keeps an old key; another key that `rotate` changes in a lab by kubeadm."""
    stack = external.settings.name
    refused = toolchain("rotate", "ca", "leaves", stack=stack)
    assert refused.code == 1 and "ca cannot be rotated there; nothing was changed" in refused.output
    before = (external.directory / "ssh_key").read_bytes(), _public_keys(external)
    _check_new_certificates(external, show, tmp_path, "rotate", "leaves", "ssh")
    after = (external.directory / "ssh_key").read_bytes(), _public_keys(external)
    assert after[0] != before[0]
    assert after[1].keys() == before[1].keys()
    assert not {place for place in before[1] if before[1][place] == after[1][place]}


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
    stack = lab.settings.name
    before = _fingerprints(lab)
    with Load(lab, directory) as seen:
        started = time.monotonic()
        done = Started(*words, stack=stack).wait(_SECONDS)
        seconds = time.monotonic() - started
    show(f"\n{' '.join(words)} in {seconds:.0f} s; {seen}\n" + "".join(f"  {each}\n" for each in seen.failed))
    assert done.code == 0, done.output
    after = _fingerprints(lab)
    assert after.keys() == before.keys()
    assert not {place for place in before if before[place] == after[place]}
    eventually(
        "a healthy lab",
        lambda: toolchain("status", stack=stack).code == 0,
        seconds=90,
        report=lab.situation,
        pause=1,
    )
    check_whole(lab.settings, done)
    assert_nothing_to_do(stack)
    drift = toolchain("drift", stack=stack)
    assert drift.code == 0, drift.output
    assert seen.lost == []
    assert seen.lowest >= BUDGET
    assert seen.gap <= 2


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
