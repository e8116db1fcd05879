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
# The step of whichever machine has the first member.
MEMBER = "etcd-member"
PROGRAMS: dict[str, tuple[str, dict[str, str], str]] = {
    "kube-apiserver": (CONTROLLER, APISERVER, "tls-cipher-suites"),
    "kube-controller-manager": (CONTROLLER, CONTROLLER_MANAGER, "tls-cipher-suites"),
    "kube-scheduler": (CONTROLLER, SCHEDULER, "tls-cipher-suites"),
    "etcd": (MEMBER, ETCD, "cipher-suites"),
}
# Each would give access without authentication, or would contradict the AuthenticationConfiguration.
ABSENT_FROM_APISERVER = {"runtime-config", "insecure-port", "anonymous-auth", "token-auth-file"}
CONFIGURATIONS: dict[tuple[str, str], dict[str, object]] = {
    (WORKER, "kubelet"): {
        "authentication.anonymous.enabled": False,
        "authentication.webhook.enabled": True,
        "authentication.x509.clientCAFile": "/var/lib/kubelet/pki/ca.crt",
        "authorization.mode": "Webhook",
        "readOnlyPort": 0,
        "seccompDefault": True,
        "podPidsLimit": 4096,
        "tlsMinVersion": "VersionTLS12",
        "tlsCertFile": "/var/lib/kubelet/pki/kubelet.crt",
        "tlsPrivateKeyFile": "/var/lib/kubelet/pki/kubelet.key",
    },
    (WORKER, "kube-proxy"): {"metricsBindAddress": "127.0.0.1:10249"},
    (CONTROLLER, "kube-scheduler"): {"enableProfiling": False, "leaderElection.leaderElect": True},
    (CONTROLLER, "admission"): {
        "plugins.0.name": "PodSecurity",
        "plugins.0.configuration.defaults.enforce": "baseline",
        "plugins.0.configuration.defaults.warn": "restricted",
    },
    (CONTROLLER, "audit-policy"): {"kind": "Policy"},
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_program_has_all_flags_of_the_benchmark(hard_way: Run, program: str) -> None:
    step, required, suites = PROGRAMS[program]
    flags = hard_way.flags(hard_way.etcd_step if step == MEMBER else step, program)
    assert {name: flags.get(name) for name in required} == required
    assert weak(flags[suites].split(",")) == []
    if program == "kube-apiserver":
        assert ABSENT_FROM_APISERVER & flags.keys() == set()


def weak(suites: list[str]) -> list[str]:
    """Suites without forward secrecy or without authenticated encryption."""
    assert suites
    return [suite for suite in suites if not SUITES.fullmatch(suite)]


def at(document: Any, path: str) -> Any:
    for key in path.split("."):
        document = document[int(key)] if isinstance(document, list) else document[key]
    return document


def test_configurations_have_all_settings_of_the_benchmark(hard_way: Run) -> None:
    for (step, file), required in CONFIGURATIONS.items():
        document = hard_way.yaml_file(step, f"/etc/kubernetes/config/{file}.yaml")
        # Not ==: False is 0, and readOnlyPort must be the number.
        assert repr({path: at(document, path) for path in required}) == repr(required), file


def test_kubelet_accepts_no_weak_suite(hard_way: Run) -> None:
    assert weak(hard_way.yaml_file(WORKER, "/etc/kubernetes/config/kubelet.yaml")["tlsCipherSuites"]) == []


def test_anonymous_clients_are_allowed_the_health_paths_only(hard_way: Run) -> None:
    anonymous = hard_way.yaml_file(CONTROLLER, "/etc/kubernetes/config/authentication.yaml")["anonymous"]
    assert anonymous == {
        "enabled": True,
        "conditions": [{"path": "/livez"}, {"path": "/readyz"}, {"path": "/healthz"}],
    }


def test_audit_log_has_metadata_of_secrets_only(hard_way: Run) -> None:
    rules = hard_way.yaml_file(CONTROLLER, "/etc/kubernetes/config/audit-policy.yaml")["rules"]
    first = next(
        rule
        for rule in rules
        if any("secrets" in each.get("resources", ["secrets"]) for each in rule.get("resources", []))
        and "userGroups" not in rule
    )
    assert first["level"] == "Metadata"
    assert rules[-1] == {"level": "Metadata"}, "whatever no rule names is still on record"


def test_api_servers_access_to_kubelets_is_granted_by_rbac(hard_way: Run) -> None:
    request = hard_way.named("pki-apiserver-kubelet-client", "tls:index/certRequest:CertRequest")
    assert "organization" not in request.inputs["subject"]
    assert "name: kube-apiserver-kubelet-client" in hard_way.script("kubelet-access")


KUBERNETES = ("/etc/etcd/", "/etc/kubernetes/", "/var/lib/kubelet/", "/etc/cni/", "/etc/containerd/")


def test_keys_configurations_and_units_are_readable_by_their_owner_only(hard_way: Run) -> None:
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


def test_etcd_runs_as_user_etcd_which_owns_its_data_and_keys(hard_way: Run) -> None:
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
def test_secrets_are_written_encrypted_and_identity_only_reads(provider: str) -> None:
    run = run_program("dev", {"encryption": provider})
    text = run.secret_file(CONTROLLER, "/etc/kubernetes/config/encryption.yaml")
    assert text.index(provider) < text.index("identity")


def test_paths_given_to_kube_bench_exist_on_machines(hard_way: Run) -> None:
    """A path that no machine has: the checks of that file are then passed over, or fail for no reason."""
    told = yaml.safe_load((paths.checkout() / "config" / "kube-bench.yaml").read_text())
    named = {
        path for part in told.values() for program in part.values() for found in program.values() for path in found
    }
    made = {path for step in hard_way.of_type("command:remote:Command") for path in hard_way.files(step.name)}
    assert named - made == {"/var/lib/etcd"}
    assert len(named) == 12


def test_administrators_kubeconfig_is_at_the_path_that_the_benchmark_checks(hard_way: Run) -> None:
    """1.1.13 and 1.1.14 look at this path alone; steps of running labs know the other one."""
    assert hard_way.files(CONTROLLER)["/etc/kubernetes/admin.conf"] == "0600"
    script = hard_way.script(CONTROLLER)
    assert "own file /etc/kubernetes/admin.kubeconfig\n" in script
    assert "ln -sfn /etc/kubernetes/admin.conf /etc/kubernetes/admin.kubeconfig\n" in script
