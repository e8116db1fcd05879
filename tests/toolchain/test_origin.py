import pytest
from upstream_server import Upstream

from toolchain import origin
from toolchain.errors import ToolchainError
from toolchain.origin import Origin


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOOLCHAIN", raising=False)


def test_an_answer_means_upstream_and_is_asked_for_once(upstream: Upstream) -> None:
    upstream.publish("kubelet", b"")
    url = f"{upstream.base_url}/kubelet"
    assert origin.of_release(url) is Origin.UPSTREAM
    assert origin.of_release(url) is Origin.UPSTREAM
    assert upstream.asked == [("HEAD", "kubelet", None)]


def test_a_file_that_is_absent_is_for_the_download_to_report(upstream: Upstream) -> None:
    assert origin.of_release(f"{upstream.base_url}/absent") is Origin.UPSTREAM


@pytest.mark.parametrize("status", [403, 407, 502])
def test_a_proxy_s_refusal_means_source(upstream: Upstream, status: int) -> None:
    upstream.failures[f"kubelet-{status}"] = [status]
    assert origin.of_release(f"{upstream.base_url}/kubelet-{status}") is Origin.SOURCE


def test_nobody_there_means_source() -> None:
    assert origin.of_release("http://127.0.0.1:1/kubelet") is Origin.SOURCE


@pytest.mark.parametrize("demanded", list(Origin))
def test_the_environment_decides_without_asking(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch, demanded: Origin
) -> None:
    monkeypatch.setenv("TOOLCHAIN", demanded.value)
    assert origin.of_release(f"{upstream.base_url}/demanded") is demanded
    assert origin.of_images("registry.k8s.io") is demanded
    assert upstream.asked == []


def test_an_unknown_demand_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLCHAIN", "sources")
    with pytest.raises(ToolchainError, match="TOOLCHAIN='sources'"):
        origin.policy()
