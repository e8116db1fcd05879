"""`certs` on recorded answers: what is listed, what differs, what is due; a machine prints no key."""

import base64
import json
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.main import group
from components.kubeconfigs import render
from lab.certificate_authority import CertificateAuthority, Leaf
from live.certs import run as certs
from live.certs.found import Certificate, in_text
from live.certs.run import DIFFERS, ONLY_MACHINE, ONLY_STATE, Certificates, Place, Row
from live.drift.recorded import File, Recorded, Unit
from toolchain.errors import ToolchainError

NOW = datetime.now(UTC)
CA = CertificateAuthority("kubernetes-ca")
LEAF = CA.client("system:node:worker-0")
CRT, CONF = "/var/lib/kubelet/pki/kubelet.crt", "/etc/kubernetes/kubelet.kubeconfig"


def kubeconfig(leaf: Leaf, ca: str = CA.certificate) -> str:
    return render(
        cluster="x", server="https://x:6443", ca_certificate=ca, user="u", certificate=leaf.certificate, key=leaf.key
    )


def file(text: str) -> File:
    return File(step="s", content=text.encode(), mode="644", owner="root")


def machine() -> Recorded:
    unit = Unit(step="s", step_name="node", watches=(CRT, CONF))
    return Recorded(
        name="worker-0",
        files={CRT: file(LEAF.certificate), CONF: file(kubeconfig(LEAF)), "/etc/other": file("no certificate\n")},
        units={"kubelet.service": unit},
    )


def there(files: Mapping[str, str]) -> dict[Place, Certificate]:
    numbered: dict[Place, Certificate] = {}
    for path, text in files.items():
        for field, each in in_text(text):
            numbered[path, field, sum(place[:2] == (path, field) for place in numbered)] = each
    return numbered


def rows(
    files: Mapping[str, str], *, renewal: timedelta = timedelta(0), now: datetime = NOW, issued_there: bool = False
) -> list[Row]:
    return certs.compare(machine(), there(files), issued_there=issued_there, renewal=renewal, now=now)


def as_recorded(**changed: str) -> dict[str, str]:
    return {CRT: LEAF.certificate, CONF: kubeconfig(LEAF), **changed}


def test_a_machine_as_the_state_says_has_no_difference() -> None:
    found = rows(as_recorded())
    assert [(row.file, row.field, row.subject, row.issuer) for row in found] == [
        (CONF, "certificate-authority-data", "CN=kubernetes-ca", "itself"),
        (CONF, "client-certificate-data", "CN=system:node:worker-0", "kubernetes-ca"),
        (CRT, "", "CN=system:node:worker-0", "kubernetes-ca"),
    ]
    assert [row.used_by for row in found] == [["kubelet.service"]] * 3
    assert not any(row.is_wrong for row in found)


def test_another_certificate_differs_and_the_machines_own_is_shown() -> None:
    other = CA.client("somebody")
    found = [row for row in rows(as_recorded(**{CRT: other.certificate})) if row.difference]
    assert [(row.file, row.subject, row.difference) for row in found] == [(CRT, "CN=somebody", DIFFERS)]


def test_a_lost_certificate_is_named() -> None:
    found = [row for row in rows({CONF: kubeconfig(LEAF)}) if row.difference]
    assert [(row.file, row.difference) for row in found] == [(CRT, ONLY_STATE)]


def test_a_second_ca_in_a_bundle_is_named() -> None:
    bundle = CA.certificate + CertificateAuthority("kubernetes-ca").certificate
    found = [row for row in rows(as_recorded(**{CONF: kubeconfig(LEAF, bundle)})) if row.difference]
    assert [(row.file, row.field, row.difference) for row in found] == [
        (CONF, "certificate-authority-data", ONLY_MACHINE)
    ]


def test_what_kubeadm_issued_is_no_difference_and_has_its_user() -> None:
    path = "/etc/kubernetes/pki/apiserver.crt"
    found = rows(as_recorded(**{path: LEAF.certificate}), issued_there=True)
    assert not any(row.difference for row in found)
    assert [row.used_by for row in found if row.file == path] == [["kube-apiserver"]]


@pytest.mark.parametrize(
    ("renewal", "later", "due"),
    [
        (timedelta(hours=5), timedelta(0), False),
        (timedelta(hours=7), timedelta(0), True),
        (timedelta(0), timedelta(hours=7), True),
    ],
    ids=["not yet", "in the time of early renewal", "expired"],
)
def test_a_certificate_is_due_for_renewal(renewal: timedelta, later: timedelta, due: bool) -> None:
    # They are valid for six hours.
    leaves = [row for row in rows(as_recorded(), renewal=renewal, now=NOW + later) if not row.is_ca]
    assert {row.renewal_due for row in leaves} == {due}


def test_the_exit_code_tells_fine_from_wrong_and_from_unknown() -> None:
    fine, wrong = rows(as_recorded()), rows({CRT: LEAF.certificate})
    assert Certificates(stack="x", certificates=fine, not_asked={}).exit_code == 0
    assert Certificates(stack="x", certificates=wrong, not_asked={}).exit_code == 1
    assert Certificates(stack="x", certificates=fine, not_asked={"worker-1": "no answer"}).exit_code == 2


def test_the_table_names_what_is_wrong_and_who_was_not_asked() -> None:
    found = Certificates(stack="x", certificates=rows({CRT: LEAF.certificate}), not_asked={"worker-1": "no answer"})
    text = "\n".join(certs.lines(found))
    assert "worker-1 could not be asked: no answer" in text
    assert "2 not as in the state. `./hardway repair -s x` puts back what the state says." in text
    assert "All are as the state says" not in text


def look(*paths: Path) -> list[str]:
    """What look.sh prints for these files; all others are left out."""
    script = Path(certs.__file__).with_name("look.sh")
    told = "".join(f"{path}\n" for path in paths)
    done = subprocess.run(["bash", script], input=told, capture_output=True, text=True, check=True)
    *lines, last = done.stdout.splitlines()
    assert last == "end"
    return [line for line in lines if line.startswith(str(paths[0].parent))]


def test_a_machine_prints_certificates_and_never_a_key(tmp_path: Path) -> None:
    both, conf, plain = tmp_path / "both.pem", tmp_path / "conf", tmp_path / "plain"
    both.write_text(LEAF.key + LEAF.certificate + CA.certificate)
    conf.write_text(kubeconfig(LEAF))
    plain.write_text("nothing\n")
    lines = look(both, conf, plain, tmp_path / "missing")
    found = certs.parse(lines)
    assert [(Path(path).name, field, each.subject) for (path, field, _), each in found.items()] == [
        ("both.pem", "", "CN=system:node:worker-0"),
        ("both.pem", "", "CN=kubernetes-ca"),
        ("conf", "client-certificate-data", "CN=system:node:worker-0"),
        ("conf", "certificate-authority-data", "CN=kubernetes-ca"),
    ]
    key = LEAF.key.splitlines()[1]
    assert key not in "".join(lines)
    assert base64.b64encode(LEAF.key.encode()).decode()[:60] not in "".join(lines)


def test_a_file_behind_two_names_is_listed_once(tmp_path: Path) -> None:
    file, link = tmp_path / "a.pem", tmp_path / "b.pem"
    file.write_text(LEAF.certificate)
    link.symlink_to(file)
    assert len(look(file, link)) == 1


def test_a_block_that_is_no_certificate_is_an_error_and_not_skipped() -> None:
    with pytest.raises(ValueError, match="/x has a block that is no certificate"):
        certs.parse([f"/x\t\t{base64.b64encode(b'garbage').decode()}"])


def test_the_command_ends_with_2_where_the_lab_is_not_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise ToolchainError("the lab is not up")

    monkeypatch.setattr(certs, "find", refuse)
    assert CliRunner().invoke(group, ["certs", "-s", "dev"], standalone_mode=False).return_value == 2


def test_json_has_all_that_the_table_has() -> None:
    found = Certificates(stack="x", certificates=rows(as_recorded()), not_asked={})
    (first, *_) = json.loads(found.json())["certificates"]
    assert {"machine", "file", "used_by", "issuer", "not_after", "difference"} <= first.keys()
