"""The load balancer's configuration, read by HAProxy itself, and the traps that others fell into."""

import re
from pathlib import Path

import pytest

from lab.certificate_authority import CertificateAuthority
from lab.shipped import lab_of
from unit.mocked_engine import Run, run_program
from unit.node_tools import NodeTools, haproxy_without_machine

CONFIGURATION = "/etc/haproxy/haproxy.cfg"


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A certificate file, with its key: HAProxy reads it when it checks a configuration."""
    made = CertificateAuthority("kubernetes-ca")
    leaf = made.server("kubernetes")
    file = tmp_path / "ca.crt"
    file.write_text(leaf.certificate + leaf.key + made.certificate)
    return file


def test_haproxy_accepts_it_without_a_warning(balanced: Run, authority: Path, tmp_path: Path, tools: NodeTools) -> None:
    text = balanced.file("load-balancer-0", CONFIGURATION)
    file = tmp_path / "haproxy.cfg"
    text = text.replace("/etc/haproxy/kubernetes-ca.crt", str(authority)).replace(
        "/etc/haproxy/domain.pem", str(authority)
    )
    file.write_text(haproxy_without_machine(text))
    result = tools.run("haproxy", "-c", "-f", str(file))
    assert result.returncode == 0, result.stderr
    assert "WARNING" not in result.stdout + result.stderr


def test_load_balancer_gets_its_files_and_the_key_is_readable_by_root_only(balanced: Run) -> None:
    text = balanced.file("load-balancer-0", CONFIGURATION)
    expected = {CONFIGURATION: "0644"}
    # kubeadm creates its CA after the load balancer.
    if balanced.outputs["ca_certificate"] == "CERTIFICATE-pki-kubernetes-ca":
        expected["/etc/haproxy/kubernetes-ca.crt"] = "0644"
    if "domain.pem" in text:
        expected["/etc/haproxy/domain.pem"] = "0600"
    assert balanced.files("load-balancer-0") == expected


def sections(text: str) -> dict[str, list[str]]:
    """Section -> its lines, without comments."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if re.match(r"\S", line) and not line.startswith("#"):
            current = found.setdefault(line, [])
        elif line.strip() and not line.strip().startswith("#"):
            current.append(line.strip())
    return found


def test_every_controller_is_a_backend(ha: Run) -> None:
    parts = sections(ha.file("load-balancer-0", CONFIGURATION))
    for backend, port in (("backend api-servers", 6443), ("backend health-proxies", 80)):
        servers = [line.split()[1:3] for line in parts[backend] if line.startswith("server ")]
        assert servers == [[f"controller-{number}", f"10.251.0.{10 + number}:{port}"] for number in range(3)]


def test_health_checks_request_readyz_over_verified_tls(balanced: Run) -> None:
    if balanced.outputs["ca_certificate"] != "CERTIFICATE-pki-kubernetes-ca":
        # kubeadm makes its CA after the balancer: clients verify, health checks do not.
        assert "check-ssl verify none" in balanced.file("load-balancer-0", CONFIGURATION)
        return
    text = balanced.file("load-balancer-0", CONFIGURATION)
    assert "ssl-hello-chk" not in text, "it takes a TLS alert for health"
    backend = "\n".join(sections(text)["backend api-servers"])
    assert "mode tcp" in backend
    assert "option httpchk" in backend
    assert "http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host kubernetes" in backend
    assert backend.index("http-check expect status 200") > backend.index("http-check expect error-status L7OKC")
    (default,) = re.findall("^default-server .*", backend, re.M)
    for word in (
        "check-ssl",
        "verify required",
        "ca-file /etc/haproxy/kubernetes-ca.crt",
        "verifyhost kubernetes",
        # Without it nodes stay NotReady for a quarter of an hour after a controller dies.
        "on-marked-down shutdown-sessions",
    ):
        assert word in default
    assert "verify none" not in text


def test_watches_may_last_for_hours_and_checks_for_seconds(balanced: Run) -> None:
    defaults = sections(balanced.file("load-balancer-0", CONFIGURATION))["defaults"]
    assert {"timeout client 4h", "timeout server 4h", "timeout check 3s"} <= set(defaults)


def test_timeout_factor_gives_api_servers_longer_to_answer() -> None:
    run = run_program("slow", {**lab_of("dev"), "timeout_factor": 10})
    defaults = sections(run.file("load-balancer-0", CONFIGURATION))["defaults"]
    assert {"timeout check 30s", "timeout connect 1s"} <= set(defaults)


def seconds(text: str, what: str) -> float:
    """A time that stands after a word, in seconds."""
    (number, unit) = re.findall(rf"\b{what} (\d+)(ms|s|m)\b", text)[-1]
    return int(number) * {"ms": 0.001, "s": 1, "m": 60}[unit]


def test_lost_controller_is_detected_within_five_seconds(balanced: Run) -> None:
    """A check that begins late, meets no answer to its SYN, and is made again: `fall` times."""
    text = balanced.file("load-balancer-0", CONFIGURATION)
    connect = min(seconds(text, "timeout connect"), seconds(text, "inter"))
    (fall,) = map(int, re.findall(r"\bfall (\d+)", text))
    assert seconds(text, "inter") + connect + (fall - 1) * (seconds(text, "fastinter") + connect) < 4
    # Until then a client whose connection goes there waits, and is served by another API server.
    defaults = sections(text)["defaults"]
    assert "option redispatch 1" in defaults and "retries 2" in defaults
    # An election of etcd, during which no API server is ready, is no reason to cut what is connected to all of them.
    assert seconds(text, "timeout check") >= 3


def test_changed_list_of_controllers_closes_no_connection(balanced: Run) -> None:
    script = balanced.script("load-balancer-0")
    assert "\nunit haproxy.service\n" in script, "no file may restart it"
    read = [path for path in balanced.files("load-balancer-0") if path.endswith("ca.crt")]
    assert f"\nreloads haproxy.service {' '.join([*read, CONFIGURATION])}" in script
    assert f"\nvalid haproxy.service 'haproxy -c -f {CONFIGURATION}'\n" in script
    # What an old process still holds is not watched over: not for long.
    assert 0 < seconds(balanced.file("load-balancer-0", CONFIGURATION), "hard-stop-after") <= 300


def test_tls_ends_at_the_load_balancer_in_mode_terminate_only() -> None:
    domain = "api.hardway.example"
    named = run_program("dev", {"load_balancing": {"domain": domain}})
    ended = run_program("dev", {"load_balancing": {"domain": domain, "mode": "terminate"}})
    assert "domain.pem" not in named.script("load-balancer-0")
    pem = ended.secret_file("load-balancer-0", "/etc/haproxy/domain.pem")
    assert "CERTIFICATE-pki-load-balancer" in pem and "PRIVATE-KEY-pki-load-balancer" in pem
    parts = sections(ended.file("load-balancer-0", CONFIGURATION))
    backend = parts["backend api-servers-terminated"]
    assert _checks(backend) == _checks(parts["backend api-servers"]) != []
    (server,) = (line for line in backend if line.startswith("default-server"))
    assert " verify required " in server and " verifyhost kubernetes" in server
    for run in (named, ended):
        request = run.named("pki-kube-apiserver", "tls:index/certRequest:CertRequest")
        assert domain in request.inputs["dnsNames"]
        assert f"10.240.0.5 {domain}\n" in run.file("neighbours-worker-0", "/etc/hardway/hosts")
        # What needs a certificate of its own goes where TLS passes through.
        assert run.outputs["endpoint"] == "https://10.240.0.5:6443"


def _checks(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("http-check")]


def test_added_worker_changes_only_host_table_and_routes_of_a_load_balancer(dev: Run) -> None:
    assert len(dev.of_type("command:remote:Command")) > 10
    one = run_program("dev", {**lab_of("dev"), "workers": 1})
    assert one.script("load-balancer-0") == dev.script("load-balancer-0")


def test_health_is_served_over_plain_http(balanced: Run) -> None:
    parts = sections(balanced.file("load-balancer-0", CONFIGURATION))
    assert {"mode http", "bind :80", "default_backend health-proxies"} <= set(parts["frontend healthz"])
