"""The CIS Kubernetes Benchmark's targets, over what is rendered for the machines."""

import re
from typing import Any

import pytest
import yaml

from toolchain import paths
from unit.mocked_engine import Run, run_program

CONTROLLER, WORKER = "control-plane-controller-0", "worker-0-node"
SUITES = re.compile(r"TLS_ECDHE_(ECDSA|RSA)_WITH_(AES_(128|256)_GCM_SHA(256|384)|CHACHA20_POLY1305_SHA256)")

APISERVER = {
    "authorization-mode": "Node,RBAC",
    "enable-admission-plugins": "NodeRestriction",
    "profiling": "false",
    "audit-policy-file": "/etc/kubernetes/config/audit-policy.yaml",
    "audit-log-path": "/var/log/kubernetes/audit.log",
    "audit-log-maxage": "30",
    "audit-log-maxbackup": "10",
    "audit-log-maxsize": "100",
    "encryption-provider-config": "/etc/kubernetes/config/encryption.yaml",
    "service-account-extend-token-expiration": "false",
    "tls-min-version": "VersionTLS12",
    "kubelet-certificate-authority": "/etc/kubernetes/pki/ca.crt",
    "kubelet-client-certificate": "/etc/kubernetes/pki/apiserver-kubelet-client.crt",
    "kubelet-client-key": "/etc/kubernetes/pki/apiserver-kubelet-client.key",
    "client-ca-file": "/etc/kubernetes/pki/ca.crt",
    "etcd-cafile": "/etc/kubernetes/pki/etcd-ca.crt",
    "etcd-certfile": "/etc/kubernetes/pki/apiserver-etcd-client.crt",
    "etcd-keyfile": "/etc/kubernetes/pki/apiserver-etcd-client.key",
    "authentication-config": "/etc/kubernetes/config/authentication.yaml",
    "admission-control-config-file": "/etc/kubernetes/config/admission.yaml",
    "tls-cert-file": "/etc/kubernetes/pki/kube-apiserver.crt",
    "tls-private-key-file": "/etc/kubernetes/pki/kube-apiserver.key",
    "service-account-key-file": "/etc/kubernetes/pki/service-accounts.pub",
}
CONTROLLER_MANAGER = {
    "profiling": "false",
    "bind-address": "127.0.0.1",
    "use-service-account-credentials": "true",
    "service-account-private-key-file": "/etc/kubernetes/pki/service-accounts.key",
    "root-ca-file": "/etc/kubernetes/pki/ca.crt",
    "tls-min-version": "VersionTLS12",
}
SCHEDULER = {"profiling": "false", "bind-address": "127.0.0.1", "tls-min-version": "VersionTLS12"}
ETCD = {
    "data-dir": "/var/lib/etcd",
    "client-cert-auth": "true",
    "peer-client-cert-auth": "true",
    "trusted-ca-file": "/etc/etcd/pki/ca.crt",
    "peer-trusted-ca-file": "/etc/etcd/pki/ca.crt",
    "cert-file": "/etc/etcd/pki/member.crt",
    "key-file": "/etc/etcd/pki/member.key",
    "peer-cert-file": "/etc/etcd/pki/member.crt",
    "peer-key-file": "/etc/etcd/pki/member.key",
    "listen-metrics-urls": "http://127.0.0.1:2381",
    "feature-gates": "InitialCorruptCheck=true",
    "watch-progress-notify-interval": "5s",
    "tls-min-version": "TLS1.2",
}
# Of whichever machine carries it.
MEMBER = "etcd-member"
FLAGS = [
    (step, unit, flag, value)
    for step, unit, flags in (
        (CONTROLLER, "kube-apiserver", APISERVER),
        (CONTROLLER, "kube-controller-manager", CONTROLLER_MANAGER),
        (CONTROLLER, "kube-scheduler", SCHEDULER),
        (MEMBER, "etcd", ETCD),
    )
    for flag, value in flags.items()
]


@pytest.mark.parametrize(("step", "unit", "flag", "value"), FLAGS, ids=lambda part: str(part)[:60])
def test_a_program_is_started_hardened(hard_way: Run, step: str, unit: str, flag: str, value: str) -> None:
    assert hard_way.flags(hard_way.etcd_step if step == MEMBER else step, unit).get(flag) == value


@pytest.mark.parametrize(
    ("step", "unit", "flag"),
    [
        (CONTROLLER, "kube-apiserver", "tls-cipher-suites"),
        (CONTROLLER, "kube-controller-manager", "tls-cipher-suites"),
        (CONTROLLER, "kube-scheduler", "tls-cipher-suites"),
        (MEMBER, "etcd", "cipher-suites"),
    ],
)
def test_only_suites_with_forward_secrecy_and_authenticated_encryption(
    hard_way: Run, step: str, unit: str, flag: str
) -> None:
    suites = hard_way.flags(hard_way.etcd_step if step == MEMBER else step, unit)[flag].split(",")
    assert suites
    assert all(SUITES.fullmatch(suite) for suite in suites)


@pytest.mark.parametrize("flag", ["runtime-config", "insecure-port", "anonymous-auth", "token-auth-file"])
def test_the_apiserver_has_no_flag_that_opens_it(hard_way: Run, flag: str) -> None:
    # Who may ask without a name is said in the AuthenticationConfiguration, and cannot be said twice.
    assert flag not in hard_way.flags(CONTROLLER, "kube-apiserver")


def at(document: Any, path: str) -> Any:
    for key in path.split("."):
        document = document[int(key)] if isinstance(document, list) else document[key]
    return document


@pytest.mark.parametrize(
    ("step", "file", "path", "value"),
    [
        (WORKER, "kubelet", "authentication.anonymous.enabled", False),
        (WORKER, "kubelet", "authentication.webhook.enabled", True),
        (WORKER, "kubelet", "authentication.x509.clientCAFile", "/var/lib/kubelet/pki/ca.crt"),
        (WORKER, "kubelet", "authorization.mode", "Webhook"),
        (WORKER, "kubelet", "readOnlyPort", 0),
        (WORKER, "kubelet", "seccompDefault", True),
        (WORKER, "kubelet", "podPidsLimit", 4096),
        (WORKER, "kubelet", "tlsMinVersion", "VersionTLS12"),
        (WORKER, "kubelet", "tlsCertFile", "/var/lib/kubelet/pki/kubelet.crt"),
        (WORKER, "kubelet", "tlsPrivateKeyFile", "/var/lib/kubelet/pki/kubelet.key"),
        (WORKER, "kube-proxy", "metricsBindAddress", "127.0.0.1:10249"),
        (CONTROLLER, "kube-scheduler", "enableProfiling", False),
        (CONTROLLER, "kube-scheduler", "leaderElection.leaderElect", True),
        (CONTROLLER, "admission", "plugins.0.name", "PodSecurity"),
        (CONTROLLER, "admission", "plugins.0.configuration.defaults.enforce", "baseline"),
        (CONTROLLER, "admission", "plugins.0.configuration.defaults.warn", "restricted"),
        (CONTROLLER, "audit-policy", "kind", "Policy"),
    ],
)
def test_a_configuration_is_hardened(hard_way: Run, step: str, file: str, path: str, value: object) -> None:
    assert at(hard_way.yaml_file(step, f"/etc/kubernetes/config/{file}.yaml"), path) == value


def test_the_kubelet_takes_no_weak_suite(hard_way: Run) -> None:
    suites = hard_way.yaml_file(WORKER, "/etc/kubernetes/config/kubelet.yaml")["tlsCipherSuites"]
    assert suites
    assert all(SUITES.fullmatch(suite) for suite in suites)


def test_strangers_may_ask_for_health_and_nothing_else(hard_way: Run) -> None:
    anonymous = hard_way.yaml_file(CONTROLLER, "/etc/kubernetes/config/authentication.yaml")["anonymous"]
    assert anonymous == {
        "enabled": True,
        "conditions": [{"path": "/livez"}, {"path": "/readyz"}, {"path": "/healthz"}],
    }


def test_the_audit_log_never_holds_the_content_of_a_secret(hard_way: Run) -> None:
    rules = hard_way.yaml_file(CONTROLLER, "/etc/kubernetes/config/audit-policy.yaml")["rules"]
    first = next(
        rule
        for rule in rules
        if any("secrets" in each.get("resources", ["secrets"]) for each in rule.get("resources", []))
        and "userGroups" not in rule
    )
    assert first["level"] == "Metadata"
    assert rules[-1] == {"level": "Metadata"}, "whatever no rule names is still on record"


def test_the_apiserver_reaches_kubelets_by_rbac_and_not_as_master(hard_way: Run) -> None:
    request = hard_way.named("pki-apiserver-kubelet-client", "tls:index/certRequest:CertRequest")
    assert "organization" not in request.inputs["subject"]
    assert "name: kube-apiserver-kubelet-client" in hard_way.script("kubelet-access")


KUBERNETES = ("/etc/etcd/", "/etc/kubernetes/", "/var/lib/kubelet/", "/etc/cni/", "/etc/containerd/")


def test_keys_configurations_and_units_are_for_their_owner_alone(hard_way: Run) -> None:
    seen = 0
    for step in hard_way.of_type("command:remote:Command"):
        for path, mode in hard_way.files(step.name).items():
            private = path.startswith(KUBERNETES) or path.endswith(".service")
            public = path.endswith((".crt", ".pub"))
            # 0700 is a program that only root runs.
            allowed = {"0600"} if private and not public else {"0600", "0644", "0700"}
            assert mode in allowed, f"{step.name}: {path} is {mode}"
            seen += 1
    assert seen > 40


def test_etcd_runs_as_its_own_user_on_data_that_are_its_own(hard_way: Run) -> None:
    unit = hard_way.file(hard_way.etcd_step, "/etc/systemd/system/etcd.service")
    assert "\nUser=etcd\n" in unit
    script = hard_way.script(hard_way.etcd_step)
    assert re.search(r"-m 0?700 -o etcd -g etcd /var/lib/etcd$|directory /var/lib/etcd 0?700 etcd", script, re.M)
    owners = {
        line.split()[1]: line.split()[3]
        for line in script.splitlines()
        if re.match("(file|secret) /etc/etcd/pki", line)
    }
    assert set(owners.values()) == {"etcd"}
    assert "secret /etc/etcd/pki/member.key 0600 etcd" in script


@pytest.mark.parametrize("provider", ["secretbox", "aescbc"])
def test_secrets_are_encrypted_first_and_identity_only_reads(provider: str) -> None:
    run = run_program("dev", {"encryption": provider})
    text = run.secret_file(CONTROLLER, "/etc/kubernetes/config/encryption.yaml")
    assert text.index(provider) < text.index("identity")


def test_kube_bench_is_told_where_the_files_are(hard_way: Run) -> None:
    """A path that no machine has: the checks of that file are then passed over, or fail for no reason."""
    told = yaml.safe_load((paths.checkout() / "config" / "kube-bench.yaml").read_text())
    named = {
        path for part in told.values() for program in part.values() for found in program.values() for path in found
    }
    made = {path for step in hard_way.of_type("command:remote:Command") for path in hard_way.files(step.name)}
    assert named - made == {"/var/lib/etcd"}
    assert len(named) == 12


def test_the_administrator_s_kubeconfig_is_where_the_benchmark_looks(hard_way: Run) -> None:
    """1.1.13 and 1.1.14 look at this path alone; steps of running labs know the other one."""
    assert hard_way.files(CONTROLLER)["/etc/kubernetes/admin.conf"] == "0600"
    link = (
        "own file /etc/kubernetes/admin.kubeconfig\nln -sfn /etc/kubernetes/admin.conf /etc/kubernetes/admin.kubeconfig"
    )
    assert link in hard_way.script(CONTROLLER)
