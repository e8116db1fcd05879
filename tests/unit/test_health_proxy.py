"""nginx on every controller: /healthz over plain HTTP, the same configuration in every lab."""

from pathlib import Path

from unit.conftest import HARD_WAY, program
from unit.mocked_engine import Run
from unit.node_tools import NodeTools

STEP, CONFIGURATION = "control-plane-controller-0", "/etc/nginx/nginx.conf"


def test_nginx_accepts_it_without_a_warning(tmp_path: Path, tools: NodeTools) -> None:
    (text,) = {program(stack).file(STEP, CONFIGURATION) for stack in HARD_WAY}
    for ours, theirs in (
        ("/run/nginx.pid", str(tmp_path / "nginx.pid")),
        ("/var/log/nginx/error.log", str(tmp_path / "error.log")),
        ("/etc/kubernetes/pki/ca.crt", "/etc/ssl/certs/ca-certificates.crt"),
        ("listen 80 ", f"listen unix:{tmp_path}/http.sock "),
        ("user www-data;\n", ""),
    ):
        assert ours in text
        text = text.replace(ours, theirs)
    file = tmp_path / "nginx.conf"
    file.write_text(text)
    result = tools.run("nginx", "-t", "-p", str(tmp_path), "-c", str(file), "-e", str(tmp_path / "error.log"))
    assert result.returncode == 0, result.stderr
    assert "[warn]" not in result.stderr


def test_only_healthz_is_passed_to_the_api_server(hard_way: Run) -> None:
    text = hard_way.file(STEP, CONFIGURATION)
    assert text.count("proxy_pass ") == 1
    assert "location = /healthz {\n      proxy_pass https://127.0.0.1:6443/healthz;" in text
    assert "location / {\n      return 404;" in text


def test_api_servers_certificate_is_verified(hard_way: Run) -> None:
    text = hard_way.file(STEP, CONFIGURATION)
    assert "proxy_ssl_verify on;" in text
    assert "proxy_ssl_name kubernetes;" in text
    assert "proxy_ssl_trusted_certificate /etc/kubernetes/pki/ca.crt;" in text
