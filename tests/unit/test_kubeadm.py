"""What kubeadm is told, over every lab that it makes; and the shell around it."""

import base64
import os
import re
import subprocess
from pathlib import Path

import pulumi
import pytest
import yaml

from components.kubeadm import discovery_file, printed_credentials
from components.kubeadm_config import DISCOVERY
from components.kubeadm_pki import join_token
from config import lab as config
from config.problems import ConfigError
from config.versions import pins
from toolchain import paths
from unit.conftest import program
from unit.mocked_engine import ADMIN_CONF, Run, ed25519_pem, run_program, seed_of

INIT, JOIN, ADMISSION = "kubeadm-controller-0", "kubeadm-worker-0", "kubeadm-admission"
SETTINGS = "/etc/hardway/kubeadm.yaml"
VERBS = paths.checkout() / "components" / "kubeadm.sh"
KUBEADM = paths.mirror() / pins().products["kubernetes"].path_of("kubeadm", version="1.36.4", arch="amd64")


def is_external(run: Run) -> bool:
    return "/etc/kubernetes/kubelet.conf" in run.files(INIT)


def documents(run: Run, step: str) -> dict[str, dict[str, object]]:
    return {each["kind"]: each for each in yaml.safe_load_all(run.file(step, SETTINGS))}


def test_the_api_is_reached_through_the_balancer(kubeadm_lab: Run) -> None:
    cluster = documents(kubeadm_lab, INIT)["ClusterConfiguration"]
    endpoint = kubeadm_lab.outputs["endpoint"].removeprefix("https://")
    assert cluster["controlPlaneEndpoint"] == endpoint
    assert endpoint.removesuffix(":6443") in cluster["apiServer"]["certSANs"]  # type: ignore[index]
    discovery = yaml.safe_load(kubeadm_lab.secret_file(JOIN, "/etc/hardway/discovery.conf"))
    assert discovery["clusters"][0]["cluster"]["server"] == kubeadm_lab.outputs["endpoint"]


def test_only_what_has_a_reason_differs_from_kubeadms_defaults(kubeadm_lab: Run) -> None:
    cluster = documents(kubeadm_lab, INIT)["ClusterConfiguration"]
    own = {
        program: [flag["name"] for flag in cluster[program].get("extraArgs", [])]  # type: ignore[attr-defined]
        for program in ("apiServer", "controllerManager", "scheduler")
    }
    several = sum("controller" in each["roles"] for each in kubeadm_lab.outputs["machines"]) > 1
    assert own == {
        "apiServer": [
            "profiling",
            "audit-policy-file",
            "audit-log-path",
            "audit-log-maxage",
            "audit-log-maxbackup",
            "audit-log-maxsize",
            "service-account-extend-token-expiration",
            *(["shutdown-delay-duration"] if several else []),
            "shutdown-watch-termination-grace-period",
        ],
        "controllerManager": [
            "allocate-node-cidrs",
            "kube-api-qps",
            "kube-api-burst",
            "leader-elect-retry-period",
            "profiling",
        ],
        "scheduler": ["leader-elect-retry-period", "profiling"],
    }
    for step in (INIT, JOIN):
        kind = "InitConfiguration" if step == INIT else "JoinConfiguration"
        registration = documents(kubeadm_lab, step)[kind]["nodeRegistration"]
        ignored = [each for each in registration["ignorePreflightErrors"] if "FileAvailable" not in each]  # type: ignore[index]
        assert ignored == ["Mem", "Swap", "SystemVerification"]
        assert "taints" not in registration  # type: ignore[operator]


def test_kubelets_check_the_status_of_their_node_every_second(kubeadm_lab: Run) -> None:
    """One that starts may report its Node as not Ready, and nothing else until it checks again."""
    kubelet = documents(kubeadm_lab, INIT)["KubeletConfiguration"]
    assert (kubelet["nodeStatusUpdateFrequency"], kubelet["nodeStatusReportFrequency"]) == ("1s", "5m")


def test_the_api_servers_pod_has_its_audit_policy_and_a_place_for_the_log(kubeadm_lab: Run) -> None:
    server = documents(kubeadm_lab, INIT)["ClusterConfiguration"]["apiServer"]
    flags = {flag["name"]: flag["value"] for flag in server["extraArgs"]}  # type: ignore[index]
    policy, log = flags["audit-policy-file"], Path(flags["audit-log-path"])
    assert server["extraVolumes"] == [  # type: ignore[index]
        {"name": "audit-policy", "hostPath": policy, "mountPath": policy, "readOnly": True, "pathType": "File"},
        {
            "name": "audit-logs",
            "hostPath": str(log.parent),
            "mountPath": str(log.parent),
            "readOnly": False,
            "pathType": "DirectoryOrCreate",
        },
    ]
    for machine in kubeadm_lab.outputs["machines"]:
        if machine["pod_cidr"]:
            step = f"kubeadm-node-{machine['name']}"
            has_api_server = "controller" in machine["roles"]
            assert (policy in kubeadm_lab.files(step)) == has_api_server
            assert (f"\ninstall -d -m 0700 {log.parent}\n" in kubeadm_lab.script(step)) == has_api_server
    assert yaml.safe_load(kubeadm_lab.file("kubeadm-node-controller-0", policy))["kind"] == "Policy"


def test_kubelet_unit_files_are_readable_by_root_only(kubeadm_lab: Run) -> None:
    """Where it is the lab's: CIS Benchmark 4.1.1 and 4.1.9."""
    script = kubeadm_lab.script("kubeadm-node-worker-0")
    units = re.findall(r"^file /etc/systemd/system/kubelet\.service(?:\.d/10-kubeadm\.conf)? (\S+)", script, re.M)
    assert units in (["0600", "0600"], []), "none where the unit comes with upstream's package"
    assert script.rindex("\n. /usr/local/lib/hardway/kubeadm.sh\n") < script.rindex("\nclose_kubelet_config\n")


def test_kubelet_configuration_gets_mode_0600_after_kubeadm(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    (tmp_path / "steps" / "node").mkdir(parents=True)
    verbs = VERBS.read_text().replace("/var/lib/kubelet/config.yaml", str(file))
    done = f"HARDWAY={tmp_path}; {verbs}\nfinished"
    subprocess.run(["bash", "-euc", done], check=True, timeout=30)
    assert not file.exists()
    file.touch(0o644)
    subprocess.run(["bash", "-euc", done], check=True, timeout=30)
    assert file.stat().st_mode & 0o777 == 0o600


def test_preflight_errors_are_errors_on_machines_with_a_kernel_of_their_own() -> None:
    hosts = [
        {"address": "192.0.2.10", "fqdn": "a.example", "name": "controller-0"},
        {"address": "192.0.2.11", "fqdn": "b.example", "name": "worker-0", "pod_cidr": "10.200.0.0/24"},
        {"address": "192.0.2.12", "fqdn": "c.example", "name": "load-balancer-0", "role": "load-balancer"},
    ]
    run = run_program("own", {"substrate": "machines", "bootstrap": "kubeadm", "machines": {"database": hosts}})
    assert documents(run, INIT)["InitConfiguration"]["nodeRegistration"]["ignorePreflightErrors"] == []  # type: ignore[index]
    assert "failSwapOn" not in documents(run, INIT)["KubeletConfiguration"]
    # What is uploaded is what the steps fetch.
    uploaded = str(run.named("machines-controller-0-artifacts", "command:local:Command").inputs["create"])
    for step in (
        "container-runtime-controller-0",
        "container-runtime-controller-0-images",
        "kubeadm-node-controller-0",
    ):
        for line in run.script(step).splitlines():
            if line.startswith(("fetch ", "import_image ")):
                assert line.split()[1].removeprefix("file:///var/lib/hardway/mirror/") in uploaded


def test_only_the_initial_machine_bootstraps_a_cluster(kubeadm_lab: Run) -> None:
    assert "kubeadm-founders" in kubeadm_lab.before(kubeadm_lab.named(INIT))
    assert f"\ninit_cluster {kubeadm_lab.outputs['endpoint']} controller-0" in kubeadm_lab.script(INIT)
    initial = str(kubeadm_lab.named("kubeadm-founders", "command:local:Command").inputs["create"])
    assert "controller-0 " in initial and "controller-1" not in initial


def test_a_machine_is_known_by_its_label(kubeadm_lab: Run) -> None:
    told = kubeadm_lab.script(ADMISSION).split("<<'END'\n")[1].split("\nEND\n")[0]
    admitted = dict(line.split()[:2] for line in told.splitlines())
    nodes = [each["name"] for each in kubeadm_lab.outputs["machines"] if each["pod_cidr"]]
    assert sorted(admitted) == sorted(nodes)
    for name, label in admitted.items():
        assert f"hardway/machine={label}\n" in kubeadm_lab.file(f"kubeadm-{name}", SETTINGS)


def test_kubelet_has_the_address_of_its_machine(kubeadm_lab: Run) -> None:
    """Without it, the kubelet takes the address of the default route."""
    for machine in (each for each in kubeadm_lab.outputs["machines"] if each["pod_cidr"]):
        found = documents(kubeadm_lab, f"kubeadm-{machine['name']}")
        kind = "InitConfiguration" if "InitConfiguration" in found else "JoinConfiguration"
        arguments = found[kind]["nodeRegistration"]["kubeletExtraArgs"]  # type: ignore[index]
        assert {"name": "node-ip", "value": machine["address"]} in arguments, machine["name"]


def test_machines_join_in_parallel_and_wait_for_the_token(kubeadm_lab: Run) -> None:
    joins = [f"kubeadm-{each['name']}" for each in kubeadm_lab.outputs["machines"] if each["pod_cidr"]]
    joins.remove(INIT)
    in_order = {join for join in joins if "controller" in join} if is_external(kubeadm_lab) else set()
    for join in joins:
        before = kubeadm_lab.before(kubeadm_lab.named(join))
        others = {*joins, ADMISSION} - (in_order if join in in_order else set())
        assert INIT in before and not others & before
        assert f"container-runtime-{join.removeprefix('kubeadm-')}-images" in before
    assert INIT in kubeadm_lab.before(kubeadm_lab.named(ADMISSION))
    assert not set(joins) & kubeadm_lab.before(kubeadm_lab.named(ADMISSION)), (
        "they wait for the token that it gives them"
    )


def test_ports_of_all_machines_are_checked_before_kubeadm_runs(kubeadm_lab: Run) -> None:
    checks = {f"kubeadm-node-{each['name']}" for each in kubeadm_lab.outputs["machines"] if each["pod_cidr"]}
    assert checks <= kubeadm_lab.before(kubeadm_lab.named(INIT))
    assert "\n10250 kubelet\n" in kubeadm_lab.script("kubeadm-node-worker-0")
    assert "\n2379 etcd, clients\n" in kubeadm_lab.script("kubeadm-node-controller-0")


def test_lab_writes_no_file_into_the_static_pod_directory(kubeadm_lab: Run) -> None:
    """Manifests that it takes for pods, and complains about for ever."""
    steps = [each.name for each in kubeadm_lab.of_type("command:remote:Command")]
    assert INIT in steps
    assert [step for step in steps if "/etc/kubernetes/manifests/" in kubeadm_lab.script(step)] == []


def test_kubeadm_gets_the_cas_of_the_stack_unless_it_creates_its_own(kubeadm_lab: Run) -> None:
    given = {path.removeprefix("/etc/kubernetes/pki/") for path in kubeadm_lab.files(INIT) if "/pki/" in path}
    pairs = {"ca.crt", "ca.key", "etcd/ca.crt", "etcd/ca.key", "front-proxy-ca.crt", "front-proxy-ca.key"}
    own = kubeadm_lab.outputs["ca_certificate"] != "CERTIFICATE-pki-kubernetes-ca"
    if is_external(kubeadm_lab):
        # Which has tests of its own below.
        given = {path for path in given if path in pairs or path.startswith("sa.")}
        pairs -= {"ca.key", "etcd/ca.key", "front-proxy-ca.key"}
    assert given == (set() if own else pairs | {"sa.key", "sa.pub"})
    of_worker = {path for path in kubeadm_lab.files(JOIN) if "/pki/" in path}
    assert of_worker == ({"/etc/kubernetes/pki/ca.crt"} if is_external(kubeadm_lab) else set()), "no key of a CA"
    assert "kubeconfig" in kubeadm_lab.secret_outputs
    assert ("cat /etc/kubernetes/admin.conf" in kubeadm_lab.script(INIT)) == own
    if own:
        assert {"stdout", "stderr"} <= set(kubeadm_lab.named(INIT).request.additionalSecretOutputs)


def test_three_fields_of_a_printed_kubeconfig_are_used() -> None:
    """On the host that runs Pulumi kubectl would run what stands below `exec`."""
    own = program("kubeadm-own")
    printed, shown = yaml.safe_load(ADMIN_CONF), yaml.safe_load(own.outputs["kubeconfig"])
    authority = printed["clusters"][0]["cluster"]["certificate-authority-data"]
    user = printed["users"][0]["user"]
    assert "exec" in user and shown == {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "hardway-kubeadm-own",
                "cluster": {"server": own.outputs["endpoint"], "certificate-authority-data": authority},
            }
        ],
        "users": [
            {"name": "admin", "user": {key: user[key] for key in ("client-certificate-data", "client-key-data")}}
        ],
        "contexts": [
            {"name": "admin@hardway-kubeadm-own", "context": {"cluster": "hardway-kubeadm-own", "user": "admin"}}
        ],
        "current-context": "admin@hardway-kubeadm-own",
    }
    assert own.outputs["ca_certificate"] == base64.b64decode(authority).decode()
    assert "kubeconfig" in own.secret_outputs and "ca_certificate" not in own.secret_outputs


def _without(kind: str, one: str, field: str) -> str:
    document = yaml.safe_load(ADMIN_CONF)
    del document[kind][0][one][field]
    return yaml.safe_dump(document)


def _with(kind: str, one: str, field: str, value: object) -> str:
    document = yaml.safe_load(ADMIN_CONF)
    document[kind][0][one][field] = value
    return yaml.safe_dump(document)


KEY = yaml.safe_load(ADMIN_CONF)["users"][0]["user"]["client-key-data"]
MALFORMED = {
    "nothing": ("", "not exactly one entry below clusters"),
    "no YAML": ("a: [", "no YAML"),
    "a deep YAML": ("[" * 5000, "no YAML"),
    "a list": ("- 1", "not exactly one entry below clusters"),
    "two users": (ADMIN_CONF.replace("users:", "users:\n- {name: x, user: {}}"), "not exactly one entry below users"),
    "no user": (yaml.safe_dump(yaml.safe_load(ADMIN_CONF) | {"users": [{"name": "x"}]}), "has no user"),
    "no key": (_without("users", "user", "client-key-data"), "client-key-data is not there"),
    "no authority": (
        _without("clusters", "cluster", "certificate-authority-data"),
        "certificate-authority-data is not",
    ),
    "a number": (_with("users", "user", "client-certificate-data", 7), "client-certificate-data is not there"),
    "no base64": (_with("users", "user", "client-key-data", "%%%"), "client-key-data is no PEM in base64"),
    "no PEM": (_with("users", "user", "client-key-data", "aGVsbG8="), "client-key-data is no private key in PEM"),
    "no text": (_with("users", "user", "client-key-data", "/w=="), "client-key-data is no PEM in base64"),
    "a key for a certificate": (
        _with("users", "user", "client-certificate-data", KEY),
        "client-certificate-data is no certificate in PEM",
    ),
    "more behind it": (
        _with("users", "user", "client-key-data", base64.b64encode(base64.b64decode(KEY) + b"users: x").decode()),
        "client-key-data is no private key in PEM",
    ),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_kubeconfig_that_cannot_be_used_is_one_error_without_its_content(kind: str) -> None:
    text, says = MALFORMED[kind]
    with pytest.raises(pulumi.RunError) as caught:
        printed_credentials("controller-0", text)
    said = str(caught.value)
    assert said.startswith("controller-0 has printed an administrator's kubeconfig that cannot be used: ")
    assert says in said and said.endswith(". kubeadm writes it to /etc/kubernetes/admin.conf there.")
    assert KEY not in said and "\n" not in said and caught.value.__cause__ is None


def test_a_join_token_is_one_that_kubernetes_takes_and_random() -> None:
    tokens = {join_token(ed25519_pem(name)) for name in ("one", "two")}
    assert len(tokens) == 2
    for token in tokens:
        assert re.fullmatch(r"[a-z0-9]{6}\.[a-z0-9]{16}", token)
        # Nobody learns the key from it.
        assert token.replace(".", "") not in base64.b32encode(seed_of("one")).decode().lower()


@pytest.mark.parametrize("step", [INIT, JOIN])
def test_kubeadm_itself_takes_its_configuration(kubeadm_lab: Run, step: str, tmp_path: Path) -> None:
    assert KUBEADM.exists(), "./hardway setup puts kubeadm into the mirror"
    discovery = tmp_path / "discovery.conf"
    discovery.write_text(discovery_file(server="https://192.0.2.1:6443", ca_certificate="none", token="a.b"))
    text = kubeadm_lab.file(step, SETTINGS).replace(DISCOVERY, str(discovery))
    assert _validated(tmp_path, text).returncode == 0, _validated(tmp_path, text).stderr
    assert "unknown field" not in _validated(tmp_path, text).stderr
    wrong = _validated(tmp_path, text.replace("nodeRegistration:", "nodeRegistrations:"))
    assert wrong.returncode != 0, "a key that does not exist passes: this test shows nothing"


def _validated(tmp_path: Path, text: str) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "kubeadm.yaml"
    file.write_text(text)
    command = [str(KUBEADM), "config", "validate", "--config", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def shell(script: str, tmp_path: Path, **commands: str) -> subprocess.CompletedProcess[str]:
    """Run verbs with some commands stood in for."""
    programs = tmp_path / "programs"
    programs.mkdir(exist_ok=True)
    for name, body in commands.items():
        (programs / name).write_text(f"#!/bin/bash\n{body}\n")
        (programs / name).chmod(0o755)
    library = paths.checkout() / "components" / "step.sh"
    return subprocess.run(
        ["bash", "-c", f". {library}\n. {VERBS}\n{script}"],
        env={"PATH": f"{programs}:{os.environ['PATH']}", "HARDWAY": str(tmp_path / "hardway")},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_all_ports_in_use_are_shown_with_their_process(tmp_path: Path) -> None:
    listening = "case $* in *:10250*) echo 'LISTEN 0 9 *:10250 *:* users:((\"nc\",pid=77,fd=3))' ;; esac"
    table = "ports <<'END'\n6443 Kubernetes API server\n10250 kubelet\nEND"
    taken = shell(table, tmp_path, ss=listening, hostname="echo here")
    assert taken.returncode == 1
    rows = [line.split() for line in taken.stderr.splitlines()]
    assert ["6443", "Kubernetes", "API", "server", "-"] in rows
    assert ["10250", "kubelet", "nc", "(process", "77)"] in rows
    assert "TAKEN ON here BY" in taken.stderr
    assert shell(table, tmp_path, ss=":", hostname="echo here").returncode == 0


def test_ports_used_by_the_joined_machine_itself_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "hardway" / "steps" / "node").mkdir(parents=True)
    (tmp_path / "hardway" / "steps" / "node" / "finished").touch()
    assert shell("ports <<<'10250 kubelet'", tmp_path, ss="echo LISTEN").returncode == 0


@pytest.mark.parametrize(
    ("verb", "answers", "told"),
    [
        ("init_cluster", False, ["init"]),
        ("init_cluster", True, ["let_in", "join"]),
        ("rejoin_cluster", True, ["let_in", "join"]),
        ("rejoin_cluster", False, []),
    ],
)
def test_a_second_cluster_is_never_made(tmp_path: Path, verb: str, answers: bool, told: list[str]) -> None:
    """Where the others do not answer, a first controller that was recreated must not begin from nothing."""
    (tmp_path / "hardway" / "steps" / "node").mkdir(parents=True)
    (tmp_path / "rejoin").touch()
    said = tmp_path / "said"
    done = shell(
        f"TIMEOUT_FACTOR=0 KUBEADM_SETTINGS={tmp_path}/rejoin KUBEADM_REJOIN={tmp_path}/rejoin; "
        f"KUBEADM_TOKEN={tmp_path}/t KUBEADM_DISCOVERY={tmp_path}/d; "
        f"run_kubeadm() {{ echo $1 >>{said}; }}; let_in() {{ echo let_in >>{said}; }}; "
        f"{verb} https://192.0.2.1:6443 c-0",
        tmp_path,
        curl="exit 0" if answers else "exit 7",
        hostname="echo c-0",
    )
    assert (said.read_text().split() if said.exists() else []) == told
    assert done.returncode == (0 if told else 1)
    assert told or "an answer of the cluster that c-0 was the first controller of: not within" in done.stderr


@pytest.mark.parametrize(
    ("expires", "made"), [("-1 minute", True), ("5 minutes", True), ("14 minutes", False), ("", True)]
)
def test_expired_token_is_recreated_and_a_valid_one_kept(tmp_path: Path, expires: str, made: bool) -> None:
    """Also where it ran out between two runs, or between preview and `up`."""
    when = subprocess.run(
        ["date", "-ud", expires or "now", "+%FT%TZ"], capture_output=True, text=True, check=True
    ).stdout
    encoded = base64.b64encode(when.strip().encode()).decode() if expires else ""
    (tmp_path / "token").write_text("abcdef.0123456789abcdef")
    # What is not there is an error of kubectl's, unless it is told otherwise.
    answer = f"echo {encoded}" if expires else "case $* in *--ignore-not-found*) ;; *) return 1 ;; esac"
    done = shell(
        f'KUBEADM_TOKEN={tmp_path}/token; k() {{ echo "k $*" >>{tmp_path}/said; '
        f"case $* in *'get secret'*) {answer} ;; esac; }}; "
        f'install() {{ command install "${{@:1:3}}" {tmp_path}/settings; }}; allow_joins abcdef',
        tmp_path,
        kubeadm=f'echo "kubeadm $*" >>{tmp_path}/said; cat {tmp_path}/settings >>{tmp_path}/given',
    )
    assert done.returncode == 0, done.stderr
    said = (tmp_path / "said").read_text()
    assert ("kubeadm token create" in said) == made
    assert "0123456789abcdef" not in said, "a command line shows the token"
    if made:
        given = yaml.safe_load((tmp_path / "given").read_text())
        assert given["bootstrapTokens"] == [{"token": "abcdef.0123456789abcdef", "ttl": "15m"}]


@pytest.mark.parametrize(
    ("lab", "keys"),
    [
        ({"substrate": "gcp", "gcp": {"sources": ["192.0.2.0/24"]}}, {"lab.bootstrap"}),
        ({"etcd": "dedicated"}, {"lab.etcd"}),
        ({"encryption": "aescbc"}, {"lab.encryption"}),
        (
            {"kubeadm": {"authorities": "kubeadm"}, "network": {"pod_network": "calico"}},
            {"lab.kubeadm.authorities"},
        ),
        ({"controllers": 3, "kubeadm": {"authorities": "kubeadm"}}, {"lab.kubeadm.authorities"}),
        (
            {
                "kubeadm": {"authorities": "kubeadm"},
                "load_balancing": {"mode": "terminate", "domain": "api.hardway.example"},
            },
            {"lab.kubeadm.authorities"},
        ),
        ({"network": {"pods": "10.200.0.0/24"}, "workers": 1}, {"lab.workers"}),
        ({"controllers": 3, "network": {"pods": "10.200.0.0/23"}, "workers": 1}, {"lab.controllers", "lab.workers"}),
    ],
)
def test_what_kubeadm_cannot_do_is_refused(lab: dict[str, object], keys: set[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        config.parse("lab", {"bootstrap": "kubeadm", **lab})
    assert {problem.keys[0] for problem in refused.value.problems} == keys


def test_kubeadm_keys_are_refused_on_the_hard_way() -> None:
    with pytest.raises(ConfigError) as refused:
        config.parse("lab", {"kubeadm": {"packages": "apt"}})
    assert refused.value.problems[0].keys[0] == "lab.kubeadm.packages"


def test_controllers_have_ranges_that_no_worker_gets() -> None:
    lab = config.parse("lab", {"bootstrap": "kubeadm", "controllers": 3, "workers": 4})
    ranges = {machine.name: str(machine.pod_cidr) for machine in lab.machines if machine.pod_cidr}
    assert ranges["controller-0"] == "10.200.255.0/24" and ranges["controller-2"] == "10.200.253.0/24"
    assert ranges["worker-3"] == "10.200.3.0/24"


def test_packages_come_from_a_repository_whose_key_is_pinned() -> None:
    from unit.conftest import program

    script = program("kubeadm-ha").script("kubeadm-node-worker-0")
    assert not [line for line in script.splitlines() if line.startswith("fetch ") and "kubelet" in line]
    assert not [line for line in script.splitlines() if line.startswith("file /etc/systemd/system/kubelet.service ")]
    repository = "https://pkgs.k8s.io/core:/stable:/v1.36/deb DE15B14486CD377B9E876E1A234654DA9A296436"
    assert f"\nupstream_packages {repository} 1.36.4 1.9.1 kubelet kubeadm kubectl\n" in script


# The external CA mode


def test_in_the_external_mode_no_machine_has_the_key_of_a_ca() -> None:
    run = program("kubeadm-external")
    keys = {f"PRIVATE-KEY-pki-{name}-ca" for name in ("kubernetes", "etcd", "front-proxy")}
    for step in run.of_type("command:remote:Command"):
        given = str(step.inputs["stdin"])
        for key in keys:
            assert key not in given and base64.b64encode(f"{key}\n".encode()).decode() not in given, step.name
    files = run.files(INIT)
    assert {f"/etc/kubernetes/pki/{name}" for name in ("ca.crt", "etcd/ca.crt", "front-proxy-ca.crt", "sa.key")} <= set(
        files
    )


def test_in_the_external_mode_a_controller_has_all_that_kubeadm_would_issue() -> None:
    """Source: https://kubernetes.io/docs/setup/best-practices/certificates/"""
    run = program("kubeadm-external")
    pki = {f"/etc/kubernetes/pki/{name}.{end}" for end in ("crt", "key") for name in (
        "apiserver", "apiserver-kubelet-client", "apiserver-etcd-client", "front-proxy-client",
        "etcd/server", "etcd/peer", "etcd/healthcheck-client",
    )}  # fmt: skip
    kubeconfigs = {
        "admin": ("kubernetes-admin", "kubeadm:cluster-admins"),
        "super-admin": ("kubernetes-super-admin", "system:masters"),
        "controller-manager": ("system:kube-controller-manager", None),
        "scheduler": ("system:kube-scheduler", None),
        "kubelet": ("system:node:{}", "system:nodes"),
    }
    subjects = {
        each.inputs["subject"]["commonName"]: each.inputs["subject"].get("organization")
        for each in run.of_type("tls:index/certRequest:CertRequest")
    }
    for controller in ("controller-0", "controller-1"):
        step = f"kubeadm-{controller}"
        assert pki | {f"/etc/kubernetes/{name}.conf" for name in kubeconfigs} <= set(run.files(step))
        for name, (user, group) in kubeconfigs.items():
            written = yaml.safe_load(run.secret_file(step, f"/etc/kubernetes/{name}.conf"))
            assert written["users"][0]["name"] == user.format(controller)
            assert subjects[user.format(controller)] == group
            server = written["clusters"][0]["cluster"]["server"]
            is_local = name in ("controller-manager", "scheduler")
            assert (server == run.outputs["endpoint"]) != is_local
    assert set(run.files(JOIN)) & (pki | {f"/etc/kubernetes/{name}.conf" for name in kubeconfigs}) == {
        "/etc/kubernetes/kubelet.conf"
    }


def test_in_the_external_mode_a_kubelet_requests_no_certificate() -> None:
    run = program("kubeadm-external")
    for step, kind in ((INIT, "InitConfiguration"), (JOIN, "JoinConfiguration")):
        registration = documents(run, step)[kind]["nodeRegistration"]
        flags = {flag["name"]: flag["value"] for flag in registration["kubeletExtraArgs"]}  # type: ignore[index]
        assert flags["rotate-certificates"] == "false"
        assert "FileAvailable--etc-kubernetes-kubelet.conf" in registration["ignorePreflightErrors"]  # type: ignore[index]


def test_in_the_external_mode_controllers_restart_one_after_the_other() -> None:
    run = program("kubeadm-external")
    second = run.named("kubeadm-controller-1")
    assert INIT in run.before(second)
    assert "\nuse_certificates controller-1 /etc/kubernetes/admin.conf " in second.script
    # So long the step waits that sees them all join: the last of three begins when the two before are done.
    assert "\nadmit 3 <<'END'\n" in run.named("kubeadm-admission").script
    assert "\nadmit <<'END'\n" in program("kubeadm").named("kubeadm-admission").script
    listed = {row["name"] for row in run.outputs["certificates"]}
    assert {"pki-apiserver-controller-1", "pki-system-node-worker-0", "pki-kubernetes-admin"} <= listed


def test_in_the_external_mode_workers_restart_after_controllers_and_in_waves() -> None:
    """Two workers at once, or one beside a controller manager that begins to lead, leave too few pods ready."""
    last, kubelet = "kubeadm-controller-2", "/etc/kubernetes/kubelet.conf"
    lab = {"bootstrap": "kubeadm", "controllers": 3, "workers": 3, "kubeadm": {"authorities": "external"}}
    for at_once in (1, 2):
        run = run_program("dev", {**lab, "max_unavailable": at_once})
        steps = [f"kubeadm-certificate-worker-{number}" for number in range(3)]
        for number, name in enumerate(steps):
            before = run.before(run.named(name))
            assert {last, f"kubeadm-worker-{number}"} <= before
            assert before & set(steps) == set(steps[: max(0, number + 1 - at_once)][number % at_once :: at_once])
            assert f"\nuse_certificates worker-{number} {kubelet}\n" in run.script(name)
            assert "use_certificates" not in run.script(f"kubeadm-worker-{number}")
        assert set(steps) <= run.before(run.named("kubeadm-upgrade-controller-0"))
        assert set(steps) <= run.before(run.named("readiness-cluster"))


@pytest.mark.parametrize("value", ["stacks", "External", True])
def test_an_unknown_authority_is_refused_with_the_three_that_there_are(value: object) -> None:
    with pytest.raises(ConfigError, match="'stack', 'kubeadm' or 'external'") as refused:
        config.parse("lab", {"bootstrap": "kubeadm", "kubeadm": {"authorities": value}})
    assert [problem.keys[0] for problem in refused.value.problems] == ["lab.kubeadm.authorities"]


class Renewed:
    """A bash with `use_certificates`, where programs only note what they are asked."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("bin", "steps/node", "pki", "manifests"):
            (root / name).mkdir(parents=True)
        for name in ("systemctl", "pkill", "kubectl"):
            (root / "bin" / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{root}/done\ncat {root}/holder\n')
            (root / "bin" / name).chmod(0o755)
        (root / "holder").touch()

    def run(self, *, ok: bool = True) -> list[str]:
        """What was done in a run."""
        (self.root / "done").unlink(missing_ok=True)
        (self.root / "done").touch()
        verbs = VERBS.read_text().replace("/etc/kubernetes/", f"{self.root}/")
        stand_in = """wait_for() { [ ! -e killed ] || exit 9; echo "wait for ${*:3}" >>done; }
            await() { :; }; leave_leadership() { :; }; kubelet_identity() { :; }; hostname() { echo controller-0; }"""
        script = f"HARDWAY={self.root} step={self.root} TIMEOUT_FACTOR=1\n{verbs}\n{stand_in}\n"
        ran = subprocess.run(
            ["bash", "-euc", f"{script}use_certificates worker-0 certificate"],
            cwd=self.root,
            env={"PATH": f"{self.root}/bin:{os.environ['PATH']}"},
            check=False,
            timeout=30,
        )
        assert (ran.returncode == 0) == ok
        return (self.root / "done").read_text().splitlines()


@pytest.fixture
def renewed(tmp_path: Path) -> Renewed:
    """A machine whose certificate was renewed after its first use."""
    machine = Renewed(tmp_path)
    (tmp_path / "certificate").write_text("one")
    assert machine.run() == [] == machine.run()
    (tmp_path / "certificate").write_text("two")
    return machine


def test_changed_certificates_restart_the_pods_once(renewed: Renewed) -> None:
    """A renewal that is written and not used, or a restart in every `up`."""
    (renewed.root / "pki" / "apiserver.crt").touch()
    (renewed.root / "manifests" / "etcd.yaml").touch()
    (renewed.root / "killed").touch()
    assert "systemctl restart kubelet.service" in renewed.run(ok=False)
    (renewed.root / "killed").unlink()
    done = [each for each in renewed.run() if not each.startswith("kubectl ")]
    assert done == [
        "systemctl stop kubelet.service",
        "pkill -TERM -x kube-apiserver",
        "pkill -TERM -x etcd|kube-controller|kube-scheduler",
        "systemctl restart kubelet.service",
        "wait for serves_new_certificate",
        "wait for another_leads",
    ], "the next run finishes what was killed"
    assert renewed.run() == []


def test_leases_of_programs_that_ended_are_released(renewed: Renewed) -> None:
    """A lease of another machine that is taken from a program that leads; 15 s without a leader."""
    (renewed.root / "pki" / "apiserver.crt").touch()
    (renewed.root / "manifests" / "etcd.yaml").touch()
    (renewed.root / "holder").write_text("controller-0_of-before")
    done = renewed.run()
    patches = [number for number, line in enumerate(done) if line.startswith("kubectl ") and " patch lease " in line]
    assert len(patches) == 2
    assert done.index("pkill -TERM -x etcd|kube-controller|kube-scheduler") < patches[0]
    assert patches[1] < done.index("systemctl restart kubelet.service")
    assert sum('"path": "/spec/holderIdentity", "value": "controller-0_of-before"' in line for line in done) == 2
    (renewed.root / "certificate").write_text("three")
    (renewed.root / "holder").write_text("controller-01_leads")
    assert not [line for line in renewed.run() if " patch lease " in line]


def test_a_changed_certificate_of_a_worker_restarts_its_kubelet_once(renewed: Renewed) -> None:
    """The next worker that restarts before this one is Ready."""
    assert renewed.run() == [
        "systemctl restart kubelet.service",
        "wait for node_is_ready",
    ]
    assert renewed.run() == []
