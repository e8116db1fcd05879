"""Rotations of keys: the stages, what the program makes at each, and what a stage that is left out is refused with."""

import base64
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from components import rotation_record
from components.encryption import encryption_configuration, named_keys, told
from config import rotations, settings_file
from config.errors import UserError
from config.lab import parse
from config.problems import ConfigError
from config.rotations import NEVER, SUBJECTS, Rotation, Rotations
from lab.shipped import lab_of
from toolchain import rotations as recorded
from toolchain.errors import ToolchainError
from toolchain.stack import Stack
from unit.conftest import program
from unit.mocked_engine import Run, run_program, seed_of

KEY, CERTIFICATE = "tls:index/privateKey:PrivateKey", "tls:index/selfSignedCert:SelfSignedCert"
SIGNED, REQUEST = "tls:index/locallySignedCert:LocallySignedCert", "tls:index/certRequest:CertRequest"
CONTROLLER = "control-plane-controller-0"
PKI = "/etc/kubernetes/pki"


EXTERNAL: dict[str, Any] = {
    "bootstrap": "kubeadm",
    "controllers": 3,
    "workers": 3,
    "kubeadm": {"authorities": "external"},
}


def dev(**stages: Any) -> Run:
    return run_program("dev", lab_of("dev"), rotations={name.replace("_", "-"): each for name, each in stages.items()})


@pytest.fixture(scope="module")
def trusted() -> Run:
    return dev(ca="1 trusted", etcd_ca="1 trusted", front_proxy_ca="1 trusted", service_accounts="1 trusted")


@pytest.fixture(scope="module")
def used() -> Run:
    return dev(ca="1 used", etcd_ca="1 used", front_proxy_ca="1 used", service_accounts="1 used")


@pytest.fixture(scope="module")
def done() -> Run:
    return dev(ca=1, etcd_ca=1, front_proxy_ca=1, service_accounts=1)


def names(run: Run, *types: str) -> set[str]:
    return {each.name for each in run.of_type(*types)}


def steps(run: Run) -> set[str]:
    return names(run, "command:remote:Command")


# The stages


@pytest.mark.parametrize(
    ("subject", "stages"),
    [("ca", ["0", "1 trusted", "1 used", "1", "2 trusted"]), ("leaves", ["0", "1", "2"])],
)
def test_each_stage_comes_after_the_one_before_it(subject: str, stages: list[str]) -> None:
    found = [NEVER]
    while len(found) < len(stages):
        found.append(found[-1].next(subject))
    assert [str(each) for each in found] == stages
    assert [each.before(subject) for each in found[1:]] == found[:-1]


def test_the_generation_in_use_comes_first() -> None:
    assert [Rotation(2, stage).generations for stage in ("trusted", "used", "")] == [(1, 2), (2, 1), (2,)]


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"cas": 1}, "rotations.cas"),
        ({"ca": "1 trust"}, "rotations.ca"),
        ({"ca": "0 used"}, "rotations.ca"),
        ({"leaves": "1 used"}, "rotations.leaves"),
        ({"ca": True}, "rotations.ca"),
        ({"ca": -1}, "rotations.ca"),
        (["ca"], "rotations"),
    ],
)
def test_a_wrong_rotation_is_reported(given: Any, where: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse("dev", lab_of("dev"), rotated=given)
    assert [problem.keys[0] for problem in error.value.problems] == [where]


def test_rotations_of_what_kubeadm_makes_are_refused() -> None:
    with pytest.raises(ConfigError, match="not for a lab of kubeadm") as error:
        parse("kubeadm", lab_of("kubeadm"), rotated={"ca": 1, "ssh": 1})
    assert error.value.problems[0].keys == ("rotations.ca",)
    assert parse("kubeadm", lab_of("kubeadm"), rotated={"ssh": 1}).rotations["ssh"] == Rotation(1)
    external = {**lab_of("kubeadm"), "kubeadm": {"authorities": "external"}}
    everything = {subject: 1 for subject in SUBJECTS if subject != "encryption-key"}
    assert parse("kubeadm", external, rotated=everything).rotations["ca"] == Rotation(1)
    with pytest.raises(ConfigError, match="only service-accounts, leaves, ca, etcd-ca, front-proxy-ca, ssh") as error:
        parse("kubeadm", external, rotated={"encryption-key": 1})
    assert error.value.problems[0].keys == ("rotations.encryption-key",)


def test_in_the_external_mode_all_leaves_get_other_keys_and_no_ca() -> None:
    before, after = run_program("dev", EXTERNAL), run_program("dev", EXTERNAL, rotations={"leaves": 1})
    certificates, cas, keys = names(before, SIGNED), names(before, CERTIFICATE), names(after, KEY)
    assert {"pki-apiserver-controller-2", "pki-system-node-worker-1", "pki-admin"} <= certificates
    assert {f"{name}-rotated-1" for name in certificates} <= keys and not keys & certificates
    assert cas <= keys and not any(f"{name}-rotated-1" in keys for name in cas)


# What the program makes


def test_a_lab_that_never_rotated_is_as_before(no_output_in_a_string: None) -> None:
    run, empty = program("dev"), dev()
    assert {each.urn: each.inputs for each in run.resources} == {each.urn: each.inputs for each in empty.resources}
    assert not [each.urn for each in run.resources if "rotat" in each.urn]


def test_first_both_cas_are_trusted_and_the_old_one_issues(trusted: Run) -> None:
    old, new = "CERTIFICATE-pki-kubernetes-ca", "CERTIFICATE-pki-kubernetes-ca-rotated-1"
    assert trusted.file(CONTROLLER, f"{PKI}/ca.crt") == f"{old}\n{new}\n"
    assert trusted.secret_file(CONTROLLER, f"{PKI}/ca.key").strip() == "PRIVATE-KEY-pki-kubernetes-ca"
    issued = trusted.named("pki-admin", SIGNED).inputs
    assert (issued["caCertPem"], issued["caPrivateKeyPem"]) == (old, "PRIVATE-KEY-pki-kubernetes-ca")
    assert not {name for name in names(trusted, REQUEST, SIGNED) if "rotated" in name}
    assert {"pki-admin", "pki-kube-apiserver"} <= names(trusted, KEY)


def test_then_the_new_ca_issues_for_new_keys_and_both_are_trusted(used: Run) -> None:
    old, new = "CERTIFICATE-pki-kubernetes-ca", "CERTIFICATE-pki-kubernetes-ca-rotated-1"
    assert used.file(CONTROLLER, f"{PKI}/ca.crt") == f"{new}\n{old}\n"
    for name, ca in (("admin", "kubernetes"), ("etcd-controller-0", "etcd"), ("front-proxy-client", "front-proxy")):
        issued = used.named(f"pki-{name}", SIGNED).inputs
        assert issued["caCertPem"] == f"CERTIFICATE-pki-{ca}-ca-rotated-1"
        assert issued["caPrivateKeyPem"] == f"PRIVATE-KEY-pki-{ca}-ca-rotated-1"
        assert used.named(f"pki-{name}", REQUEST).inputs["privateKeyPem"] == f"PRIVATE-KEY-pki-{name}-rotated-1"


def test_the_controller_manager_signs_with_one_certificate(trusted: Run, used: Run, done: Run) -> None:
    for run, certificate in (
        (trusted, "CERTIFICATE-pki-kubernetes-ca\n"),
        (used, "CERTIFICATE-pki-kubernetes-ca-rotated-1\n"),
        (done, "CERTIFICATE-pki-kubernetes-ca-rotated-1\n"),
    ):
        path = run.flags(CONTROLLER, "kube-controller-manager")["cluster-signing-cert-file"]
        assert run.file(CONTROLLER, path) == certificate


def test_at_the_end_nothing_of_the_old_cas_is_left(done: Run) -> None:
    old = {f"pki-{ca}-ca" for ca in ("kubernetes", "etcd", "front-proxy")}
    assert not old & names(done, KEY, CERTIFICATE)
    for step in (CONTROLLER, "etcd-controller-0", "worker-0-node", "load-balancer-0"):
        text = str(done.named(step).inputs["stdin"])
        for name in old:
            assert f"CERTIFICATE-{name}\n" not in text


def test_every_member_of_etcd_trusts_both_cas_while_they_change(trusted: Run, used: Run) -> None:
    for run in (trusted, used):
        assert len(run.file("etcd-controller-0", "/etc/etcd/pki/ca.crt").splitlines()) == 2


def test_member_and_control_plane_are_told_the_same_keys(trusted: Run, used: Run, done: Run) -> None:
    """The step of etcd leaves a restart to the one of the control plane: its script has changed for the same reason."""
    seen = []
    for run in (dev(), dev(leaves="1"), trusted, used, done):
        words = run.script("etcd-controller-0").partition("\nmay_put_off ")[2].splitlines()[0]
        lines = run.script(CONTROLLER).splitlines()
        assert lines[-2] == f"end_member_turn {words}", "when all units serve"
        assert lines.index("restart_member 'a healthy voting member of a cluster with a leader'") < lines.index("start")
        seen.append(words)
    assert seen[0] == "'etcd-ca 0, leaves 0'" and "leaves 1'" in seen[1] and len(set(seen)) == len(seen)


def test_dedicated_members_restart_in_their_own_step() -> None:
    run = program("dedicated")
    for step in run.of_type("command:remote:Command"):
        assert not re.search(r"^(may_put_off|restart_member|end_member_turn) ", step.script, re.MULTILINE), step.name


def test_only_tokens_in_pods_wait_for_workers(used: Run, done: Run) -> None:
    """Workers restart one after the other: what needs the control plane alone is done meanwhile."""
    assert "worker-0-node" in used.before(used.named("rotations-tokens-worker-0"))
    assert "worker-1-node" not in used.before(used.named("rotations-tokens-worker-0"))
    for run, name in ((used, "rotations-token-secrets"), (done, "rotations-pods"), (done, "rotations-client-cas")):
        before = run.before(run.named(name))
        assert CONTROLLER in before and not {each for each in before if each.endswith("-node")}
        assert name in run.before(run.named("readiness-cluster"))


def test_tokens_of_both_keys_are_accepted_while_they_change(trusted: Run, used: Run, done: Run) -> None:
    old, new = "pki-service-accounts", "pki-service-accounts-rotated-1"
    for run, accepted in ((trusted, [old, new]), (used, [new, old]), (done, [new])):
        assert run.file(CONTROLLER, f"{PKI}/service-accounts.pub").split() == [
            f"PUBLIC-KEY-{each}" for each in accepted
        ]
        assert run.secret_file(CONTROLLER, f"{PKI}/service-accounts.key").strip() == f"PRIVATE-KEY-{accepted[0]}"


def test_tokens_are_renewed_after_the_new_key_signs_and_before_the_old_one_goes(
    trusted: Run, used: Run, done: Run
) -> None:
    renewals = {"rotations-token-secrets", "rotations-tokens-worker-0", "rotations-tokens-worker-1"}
    assert renewals <= steps(used)
    assert not renewals & (steps(trusted) | steps(done))
    renewal = used.named("rotations-tokens-worker-0")
    assert CONTROLLER in used.before(renewal)
    assert "PUBLIC-KEY-pki-service-accounts-rotated-1" in renewal.script


def test_pods_are_restarted_when_the_new_ca_is_trusted_and_when_the_old_one_is_gone(
    trusted: Run, used: Run, done: Run
) -> None:
    first, last = trusted.script("rotations-pods"), done.script("rotations-pods")
    assert first != last
    assert "rotations-pods" not in steps(used)
    assert "rotations-client-cas" in steps(done)
    assert "rotations-client-cas" not in steps(trusted) | names(used, "command:remote:Command")


def test_rotated_leaves_have_other_keys_and_the_same_ca() -> None:
    run = dev(leaves=2)
    assert run.named("pki-admin", REQUEST).inputs["privateKeyPem"] == "PRIVATE-KEY-pki-admin-rotated-2"
    assert run.named("pki-admin", SIGNED).inputs["caCertPem"] == "CERTIFICATE-pki-kubernetes-ca"
    leaves = {name for name in names(run, KEY) if "rotated" in name}
    assert len(leaves) == len(run.of_type(SIGNED))


def test_every_key_comes_after_the_record(used: Run) -> None:
    for key in used.of_type(KEY):
        if "rotated" in key.name:
            assert "rotation-record" in used.before(key), key.name


def test_no_private_key_is_in_a_script(used: Run) -> None:
    for each in used.of_type("command:remote:Command"):
        assert "PRIVATE-KEY" not in each.script, each.name


# kubeadm's external CA mode

STAGES = {"0": (0,), "1 trusted": (0, 1), "1 used": (1, 0), "1": (1,)}
"""Stage -> the generations that are accepted, the one in use first."""
CA_FILES = {"kubernetes": "ca.crt", "etcd": "etcd/ca.crt", "front-proxy": "front-proxy-ca.crt"}
INIT, NODES = "kubeadm-controller-0", [*(f"controller-{n}" for n in range(3)), *(f"worker-{n}" for n in range(3))]


@cache
def external(stage: str, *subjects: str) -> Run:
    subjects = subjects or ("ca", "etcd-ca", "front-proxy-ca", "service-accounts")
    return run_program("dev", EXTERNAL, rotations=dict.fromkeys(subjects, stage) if stage != "0" else None)


def generations(stage: str, name: str) -> list[str]:
    return [f"{name}-rotated-{number}" if number else name for number in STAGES[stage]]


@pytest.mark.parametrize("stage", STAGES)
def test_by_kubeadm_every_machine_trusts_both_cas_while_they_change(stage: str) -> None:
    """kubeadm reads the first certificate of a file: the one that has issued what is beside it."""
    run = external(stage)
    for machine in NODES:
        step = f"kubeadm-{machine}"
        for ca, file in CA_FILES.items():
            if machine.startswith("worker-") and ca != "kubernetes":
                assert f"{PKI}/{file}" not in run.files(step)
                continue
            wanted = "".join(f"CERTIFICATE-{each}\n" for each in generations(stage, f"pki-{ca}-ca"))
            assert run.file(step, f"{PKI}/{file}") == wanted, machine
            if ca == "kubernetes":
                for path in filter(re.compile(r"/etc/kubernetes/[^/]+\.conf").fullmatch, run.files(step)):
                    cluster = yaml.safe_load(run.secret_file(step, path))["clusters"][0]["cluster"]
                    assert base64.b64decode(cluster["certificate-authority-data"]).decode().split() == wanted.split()
    trusted_by_balancer = run.file("load-balancer-0", "/etc/haproxy/kubernetes-ca.crt").split()
    assert trusted_by_balancer == [f"CERTIFICATE-{each}" for each in generations(stage, "pki-kubernetes-ca")]
    assert f"CERTIFICATE-{generations(stage, 'pki-kubernetes-ca')[0]}\n" in f"{run.outputs['ca_certificate']}\n"


@pytest.mark.parametrize("stage", STAGES)
def test_by_kubeadm_the_ca_in_use_issues_everything_with_new_keys(stage: str) -> None:
    run = external(stage)
    for name, ca in (
        ("apiserver-controller-1", "kubernetes"),
        ("system-node-worker-2", "kubernetes"),
        ("kubernetes-admin", "kubernetes"),
        ("admin", "kubernetes"),
        ("etcd-peer-controller-2", "etcd"),
        ("kube-apiserver-etcd-client", "etcd"),
        ("front-proxy-client", "front-proxy"),
    ):
        issued, issuer = run.named(f"pki-{name}", SIGNED).inputs, generations(stage, f"pki-{ca}-ca")[0]
        assert (issued["caCertPem"], issued["caPrivateKeyPem"]) == (f"CERTIFICATE-{issuer}", f"PRIVATE-KEY-{issuer}")
        key = generations(stage, f"pki-{name}")[0]
        assert run.named(f"pki-{name}", REQUEST).inputs["privateKeyPem"] == f"PRIVATE-KEY-{key}"


@pytest.mark.parametrize("stage", STAGES)
def test_by_kubeadm_tokens_of_both_keys_are_accepted_while_they_change(stage: str) -> None:
    run = external(stage)
    accepted = generations(stage, "pki-service-accounts")
    for number in range(3):
        step = f"kubeadm-controller-{number}"
        assert run.file(step, f"{PKI}/sa.pub").split() == [f"PUBLIC-KEY-{each}" for each in accepted]
        assert run.secret_file(step, f"{PKI}/sa.key").strip() == f"PRIVATE-KEY-{accepted[0]}"


@pytest.mark.parametrize("stage", STAGES)
def test_by_kubeadm_no_machine_has_the_key_of_a_ca_while_it_changes(stage: str) -> None:
    run = external(stage)
    keys = [f"PRIVATE-KEY-{each}" for ca in CA_FILES for each in generations(stage, f"pki-{ca}-ca")]
    for step in run.of_type("command:remote:Command"):
        given = str(step.inputs["stdin"])
        for key in keys:
            assert key not in given and base64.b64encode(f"{key}\n".encode()).decode() not in given, step.name


@pytest.mark.parametrize("subject", ["etcd-ca", "front-proxy-ca", "service-accounts"])
def test_by_kubeadm_what_is_in_no_certificate_restarts_the_programs_that_read_it(subject: str) -> None:
    """A stage that changes one file alone; and labs that never rotated, whose programs must not restart."""
    trust = f"{PKI}/etcd/ca.crt {PKI}/front-proxy-ca.crt {PKI}/sa.pub\n"
    for stage in STAGES:
        lines = external(stage, subject).script(INIT).splitlines(keepends=True)
        (line,) = (each for each in lines if each.startswith("use_certificates "))
        assert line.endswith(trust) == (stage != "0"), line
    assert trust not in external("1 trusted", "ca").script(INIT)


def test_by_kubeadm_workers_read_the_cas_of_each_stage_after_the_controllers() -> None:
    name = "kubeadm-certificate-worker-0"
    assert len({external(stage, "ca").script(name) for stage in STAGES}) == len(STAGES)
    assert "# CA" not in external("0").script(name)


def test_by_kubeadm_a_worker_may_have_the_ca_before_it_joins() -> None:
    run = external("0")
    for machine, has_it in (("worker-0", True), ("controller-1", False)):
        told = yaml.safe_load(run.file(f"kubeadm-{machine}", "/etc/hardway/kubeadm.yaml"))
        ignored = told["nodeRegistration"]["ignorePreflightErrors"]
        assert ("FileAvailable--etc-kubernetes-pki-ca.crt" in ignored) == has_it


def test_by_kubeadm_pods_are_restarted_after_all_kubelets_and_cluster_info_has_the_cas() -> None:
    for stage in ("1 trusted", "1"):
        run = external(stage)
        pods = run.named("rotations-pods")
        assert {"kubeadm-controller-2", "kubeadm-certificate-worker-2"} <= run.before(pods)
        publishing, restart = pods.script.splitlines()[-3:-1]
        assert publishing == f"publish_ca {PKI}/ca.crt" and restart == f"restart_cluster_pods {PKI}/ca.crt"
        assert "rotations-pods" in run.before(run.named("readiness-cluster"))
        assert "rotations-pods" in run.before(run.named("kubeadm-upgrade-controller-0"))
    assert external("1 trusted").script("rotations-pods") != external("1").script("rotations-pods")
    made = {stage: {each for each in steps(external(stage)) if each.startswith("rotations-")} for stage in STAGES}
    assert made == {
        "0": set(),
        "1 trusted": {"rotations-pods"},
        "1 used": {"rotations-token-secrets", *(f"rotations-tokens-{machine}" for machine in NODES)},
        "1": {"rotations-pods", "rotations-client-cas"},
    }


def test_by_kubeadm_tokens_are_renewed_on_so_many_nodes_at_a_time() -> None:
    """Two workers whose kubelets restart at once leave too few pods ready."""
    for at_once in (1, 2):
        run = run_program("dev", {**EXTERNAL, "max_unavailable": at_once}, rotations={"service-accounts": "1 used"})
        turns = [f"rotations-tokens-{machine}" for machine in NODES]
        for number, (name, machine) in enumerate(zip(turns, NODES, strict=True)):
            before = run.before(run.named(name))
            assert {f"kubeadm-{machine}", "kubeadm-controller-2", "kubeadm-certificate-worker-2"} <= before
            assert before & set(turns) == set(turns[: max(0, number + 1 - at_once)][number % at_once :: at_once])
            script = run.script(name)
            assert "PUBLIC-KEY-pki-service-accounts-rotated-1" in script
            assert script.splitlines()[-2] == f"await_node {machine} 'with new tokens in its pods'"


def test_cluster_info_gets_the_cas_of_a_file(tmp_path: Path) -> None:
    """A document that loses what else is in it; a change in every run."""
    verbs = Path(rotation_record.__file__).with_name("kubeadm.sh").read_text()
    info = "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {}\n    server: https://a:6443\n"
    (tmp_path / "ca.crt").write_text("new\nold\n")
    (tmp_path / "info").write_text(info.format("b2xkCg=="))
    stand_in = f"""
        k() {{
          case "$*" in
            *" get configmap cluster-info "*) cat {tmp_path}/info ;;
            "create "*) cat ;;
            *" patch "*) cat >{tmp_path}/patched; cat {tmp_path}/patched >{tmp_path}/info ;;
          esac
        }}
        wait_for() {{ eval "$3"; }}"""
    script = f"HARDWAY={tmp_path} TIMEOUT_FACTOR=1\n{verbs}\n{stand_in}\npublish_ca {tmp_path}/ca.crt"
    for changes in (True, False):
        subprocess.run(["bash", "-euo", "pipefail", "-c", script], check=True, timeout=30)
        written = base64.b64encode(b"new\nold\n").decode()
        assert (tmp_path / "info").read_text().rstrip() == info.format(written).rstrip()
        assert (tmp_path / "patched").exists() == changes
        (tmp_path / "patched").unlink(missing_ok=True)


# The key of Secrets


def test_the_encryption_key_is_read_first_and_written_with_then() -> None:
    printed = "1 new\nold\n"
    orders = {
        stage: [
            key["secret"]
            for key in yaml.safe_load(encryption_configuration("secretbox", named_keys(printed), Rotation(1, stage)))[
                "resources"
            ][0]["providers"][0]["secretbox"]["keys"]
        ]
        for stage in ("trusted", "used")
    }
    assert orders == {"trusted": ["old", "new"], "used": ["new", "old"]}


def test_a_key_never_changes_its_name() -> None:
    assert dict(named_keys("old\n")) == {"key1": "old"}
    assert dict(named_keys("1 new\nold\n")) == {"key-1.1": "new", "key1": "old"}
    assert dict(named_keys("1 other\n1 new\n")) == {"key-1.2": "other", "key-1.1": "new"}
    assert dict(named_keys("2 newest\n1 new\n")) == {"key-2.1": "newest", "key-1.1": "new"}


def test_a_finished_rotation_forgets_the_key_before_and_nothing_else() -> None:
    keeper = dev(encryption_key=1).named("encryption-keys", "command:local:Command")
    key = base64.b64encode(seed_of("encryption-key-rotated-1")).decode()
    assert keeper.inputs["stdin"] == f"forget 1\n1 {key}\n"

    def printed(rotation: Rotation, new: str, before: str) -> str:
        return subprocess.run(
            ["/bin/sh", "-c", keeper.inputs["create"]],
            env={"PATH": "/usr/bin:/bin", "PULUMI_COMMAND_STDOUT": before},
            input=told(new, rotation, when_done=not rotation.stage),
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    assert printed(Rotation(1, "trusted"), "new", "old") == "1 new\nold"
    assert printed(Rotation(1, "used"), "new", "1 new\nold") == "1 new\nold"
    assert printed(Rotation(1), "new", "1 new\nold") == "1 new"
    # A key that Pulumi replaces later is kept.
    assert printed(Rotation(1), "other", "1 new") == "1 other\n1 new"
    assert printed(Rotation(2, "trusted"), "newest", "1 other\n1 new") == "2 newest\n1 other\n1 new"


def test_secrets_are_written_again_only_while_the_new_key_is_used() -> None:
    runs = {stage: dev(encryption_key=stage) for stage in ("1 trusted", "1 used", "1")}
    made = {stage for stage, run in runs.items() if "rotations-secrets" in steps(run)}
    assert made == {"1 used"}
    assert r"'k8s:enc:secretbox:v1:key-1\.[0-9]*:'" in runs["1 used"].script("rotations-secrets")


# Stages that are left out


def record(run: Run) -> str:
    command = run.named("rotation-record", "command:local:Command").inputs
    return subprocess.run(["/bin/sh", "-c", command["create"]], capture_output=True, text=True, check=True).stdout


def test_the_record_takes_the_next_stage_and_no_other(trusted: Run, used: Run, done: Run) -> None:
    first, second, third = (rotations.of_lines(record(run)) for run in (trusted, used, done))
    assert [each["ca"] for each in (first, second, third)] == [Rotation(1, "trusted"), Rotation(1, "used"), Rotation(1)]
    for before, wanted in ((first, second), (second, third), (second, second)):
        rotation_record.check(before, wanted)
    for before, wanted, said in (
        (first, third, "ca is at 1 trusted, and rotations says 1\n"),
        (second, first, "ca is at 1 used, and rotations says 1 trusted\n"),
    ):
        with pytest.raises(rotation_record.StageError, match="a stage of a rotation is left out") as error:
            rotation_record.check(before, wanted)
        assert said in str(error.value)


def test_a_record_from_before_there_was_a_subject_has_it_at_no_rotation() -> None:
    written = "".join(f"{subject} 0\n" for subject in SUBJECTS if subject != "ssh")
    rotation_record.check(rotations.of_lines(written), Rotations({"ssh": Rotation(1, "trusted")}))


def deployment(stdout: str | None) -> dict[str, Any]:
    resources: list[dict[str, Any]] = [{"urn": "urn:pulumi:dev::hardway::hardway:index:Pki::pki"}]
    if stdout is not None:
        urn = "urn:pulumi:dev::hardway::command:local:Command::rotation-record"
        resources.append({"urn": urn, "outputs": {"stdout": stdout}})
    return {"deployment": {"resources": resources}}


def stack(rotated: Rotations, directory: Path = Path("/")) -> Stack:
    file = directory / "Pulumi.dev.yaml"
    return Stack(
        name="dev", project="hardway", settings_file=file, substrate="x", engine="x", kubernetes="x", rotations=rotated
    )


@pytest.mark.parametrize(
    ("before", "wanted"),
    [
        (None, Rotations({"ca": Rotation(1)})),
        (Rotations({"ca": Rotation(1, "trusted")}), Rotations({"ca": Rotation(1)})),
        (Rotations({"ca": Rotation(1)}), Rotations()),
        (Rotations({"leaves": Rotation(1)}), Rotations({"leaves": Rotation(3)})),
    ],
    ids=["all at once", "a stage left out", "the setting is lost", "a number left out"],
)
def test_hardway_refuses_a_stage_that_is_left_out(before: Rotations | None, wanted: Rotations) -> None:
    state = deployment(None if before is None else rotations.lines(before))
    with pytest.raises(ToolchainError, match="nothing was changed"):
        recorded.check(state, stack(wanted))


def test_hardway_takes_the_next_stage_and_a_new_lab_of_any() -> None:
    recorded.check(deployment(None), stack(Rotations({"ca": Rotation(1, "trusted")})))
    recorded.check({}, stack(Rotations({"ca": Rotation(3)})))
    recorded.check(deployment(rotations.lines(Rotations({"ca": Rotation(3)}))), stack(Rotations({"ca": Rotation(3)})))


# The settings file


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "# The lab.\nconfig:\n  # two\n  hardway:lab:\n    workers: 2   # two\n",
            "# The lab.\nconfig:\n  hardway:rotations: {ca: 1 trusted}\n"
            "  # two\n  hardway:lab:\n    workers: 2   # two\n",
        ),
        (
            "config:\n    hardway:rotations: {ca: 1, leaves: 2}  # was\n    lab: {}\n",
            "config:\n    hardway:rotations: {ca: 1 trusted}\n    lab: {}\n",
        ),
        (
            "config:\n  hardway:rotations:\n    ca: 1\n    leaves: 2\n  hardway:lab:\n    workers: 2 # two\n",
            "config:\n  hardway:rotations: {ca: 1 trusted}\n  hardway:lab:\n    workers: 2 # two\n",
        ),
        (
            "config:\n  lab: {}\n  hardway:rotations: {ca: 1,\n    leaves: 2}\n",
            "config:\n  lab: {}\n  hardway:rotations: {ca: 1 trusted}\n",
        ),
        ("", "config:\n  hardway:rotations: {ca: 1 trusted}\n"),
        ("encryptionsalt: v1\n", "encryptionsalt: v1\n\nconfig:\n  hardway:rotations: {ca: 1 trusted}\n"),
    ],
    ids=["comments stay", "one is there", "as pulumi config set writes it", "two lines", "empty", "without config"],
)
def test_a_stage_is_written_as_one_line(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "Pulumi.dev.yaml"
    file.write_text(text)
    settings_file.write_rotations(file, "hardway", Rotations({"ca": Rotation(1, "trusted")}))
    assert file.read_text() == expected
    found, problems = rotations.parse(settings_file.rotations_of(file, "hardway"))
    assert found == Rotations({"ca": Rotation(1, "trusted")}) and not problems


@pytest.mark.parametrize(
    "text", ["config: {hardway:lab: {}}\n", "config:\n  hardway:rotations:\n    # of May\n    ca: 1\n"]
)
def test_a_file_without_a_place_for_the_line_stays_as_it_is(tmp_path: Path, text: str) -> None:
    file = tmp_path / "Pulumi.dev.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"hardway:rotations: \{ca: 1 trusted\}"):
        settings_file.write_rotations(file, "hardway", Rotations({"ca": Rotation(1, "trusted")}))
    assert file.read_text() == text


def test_the_settings_name_every_subject() -> None:
    everything = Rotations({subject: Rotation(1) for subject in SUBJECTS})
    assert rotations.of_lines(rotations.lines(everything)) == everything
    assert rotations.parse(everything.written()) == (everything, [])
