"""What `diff` compares with: the steps of the program's next `up`, by the program and the state."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from cli import planned_steps
from config import chapters
from config.recorded_state import SECRET_KEY
from lab.certificate_authority import CertificateAuthority
from live.by_hand import certificates, compare, kubeconfigs
from live.by_hand.compare import DIFFERENT, SAME, Row, compare_content
from live.drift import recorded
from live.drift.recorded import File
from toolchain import stack
from unit.conftest import program
from unit.mocked_engine import _computed
from unit.test_chapters import until

SHIPPED = ("dev", "ha")


def state_of(name: str, chapter: str) -> Mapping[str, Any]:
    """The state of a lab that ends with a chapter, as `pulumi stack export --show-secrets` prints it."""
    resources = []
    for each in until(name, chapter).resources:
        outputs = {**each.inputs, **(_computed(each) if each.request.custom else {})}
        if "privateKeyPem" in outputs:
            secret = {SECRET_KEY: "1b47061264138c4ac30d75fd1eb44270", "plaintext": json.dumps(outputs["privateKeyPem"])}
            outputs["privateKeyPem"] = secret
        resources.append({"urn": each.urn, "type": each.type, "id": each.name, "outputs": outputs})
    return {"deployment": {"resources": resources}}


@pytest.mark.parametrize("name", SHIPPED)
def test_they_are_those_of_the_program(name: str, no_output_in_a_string: None) -> None:
    """Before etcd is there, the program knows every file that it would write: as it writes them in the end."""
    planned = planned_steps.plan(stack.read(name), state_of(name, "encryption"))
    assert all(not each.unknown for each in planned)
    found = recorded.read([each.step for each in planned])
    whole = program(name)
    steps = [
        recorded.Step(urn=each.urn, machine=whole.machine_of(each)["name"], name="", script=str(each.inputs["stdin"]))
        for each in whole.of_type("command:remote:Command")
    ]
    wanted = recorded.read(steps)
    assert found.keys() == wanted.keys()
    for machine, expected in wanted.items():
        contents = {path: (file.content, file.mode, file.owner, file.secret) for path, file in expected.files.items()}
        assert contents == {
            path: (file.content, file.mode, file.owner, file.secret) for path, file in found[machine].files.items()
        }
        assert found[machine].units.keys() == expected.units.keys()


def test_without_keys_the_contents_are_unknown(no_output_in_a_string: None) -> None:
    planned = planned_steps.plan(stack.read("dev"), state_of("dev", "machines"))
    unknown = {path for each in planned for path in each.unknown}
    assert {"/etc/etcd/pki/ca.crt", "/etc/kubernetes/kubelet.kubeconfig"} <= unknown
    assert "/etc/systemd/system/etcd.service" not in unknown


def test_a_variable_of_the_environment_ends_no_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(chapters.VARIABLE, "etcd")
    planned = planned_steps.plan(stack.read("dev"), state_of("dev", "encryption"))
    assert "Dns" in {each.component for each in planned}


def test_every_chapter_but_those_of_the_state_has_something_to_compare(no_output_in_a_string: None) -> None:
    planned = planned_steps.plan(stack.read("dev"), state_of("dev", "encryption"))
    for chapter in chapters.CHAPTERS:
        steps = [each.step for each in planned if chapter.files or each.component in chapter.components]
        machines = [compare.of_chapter(chapter, each) for each in recorded.read(steps).values()]
        assert any(compare.has_any(each) for each in machines), chapter.name
        assert not any(path.startswith("/usr/local/lib/hardway/") for each in machines for path in each.files)


ROW = Row(machine="worker-0", kind="file", name="/x", state=DIFFERENT, remarks=("content differs", "mode 644"))


def file_of(content: str, *, secret: bool = False) -> File:
    return File(step="", content=content.encode(), mode="600", owner="root", secret=secret)


def test_a_text_is_shown_as_a_unified_diff() -> None:
    row = compare_content(ROW, file_of("one\ntwo\n"), b"one\n2\n")
    assert row.remarks == ROW.remarks
    assert row.lines[-3:] == (" one", "-two", "+2")


def test_a_word_that_the_program_has_written_is_no_secret() -> None:
    row = compare_content(ROW, file_of("--cluster-token=lab\ntwo\n"), b"--cluster-token=lab\n2\n")
    assert row.lines[-1] == "+2"


@pytest.mark.parametrize(
    "found",
    [b"-----BEGIN PRIVATE KEY-----\nabc", b'{"token": "abc"}', b"        client-key-data: YWJj", b"secret: abc"],
)
def test_what_may_have_a_secret_is_not_shown(found: bytes) -> None:
    row = compare_content(ROW, file_of("one\n"), found)
    assert not row.lines and "abc" not in repr(row) and "YWJj" not in repr(row)
    assert not compare_content(ROW, file_of("one\n", secret=True), b"two").lines


def test_certificates_are_compared_by_what_they_say() -> None:
    """Not by their keys; but a CA of the same name is another one."""
    ca, other = CertificateAuthority("lab"), CertificateAuthority("other")
    wanted, again = (ca.client("admin").certificate.encode() for _ in range(2))

    def said(found: str) -> list[str]:
        return certificates.differences(wanted, found.encode())

    assert wanted != again and said(again.decode()) == []
    assert said(ca.client("jane").certificate) == ["subject CN=jane, expected CN=admin"]
    assert said(other.client("admin").certificate) == ["issuer CN=other, expected CN=lab"]
    assert any(each.startswith("usage ") for each in said(ca.server("admin").certificate))
    assert said("nothing") == ["it is no certificate in PEM"]
    row = compare_content(replace(ROW, remarks=("content differs",)), file_of(wanted.decode()), again)
    assert (row.state, row.remarks) == (SAME, ("another certificate that says the same",))


def test_kubeconfigs_are_compared_by_what_they_say() -> None:
    text = """\
current-context: a
contexts: [{name: a, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "https://x", certificate-authority-data: Y2E=}}]
users: [{name: u, user: {client-key-data: a2V5, client-certificate-data: Y2VydA==}}]
"""
    other = text.replace("https://x", "https://y").replace("a2V5", "b3RoZXI=")
    said = kubeconfigs.differences(text.encode(), other.encode())
    assert "server differs" in said and "client-key-data differs" in said and "b3RoZXI" not in "".join(said)
    assert kubeconfigs.differences(text.encode(), b"kind: Config") != []
