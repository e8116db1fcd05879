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
    assert origin.released(url).why_not() is None
    assert origin.released(url).why_not() is None
    assert upstream.asked == [("HEAD", "kubelet", None)]


def test_a_file_that_is_absent_is_for_the_download_to_report(upstream: Upstream) -> None:
    assert origin.released(f"{upstream.base_url}/absent").why_not() is None


@pytest.mark.parametrize("status", [403, 407, 451, 502, 504])
def test_a_refusal_means_source_and_the_reason_is_known(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(origin, "_PAUSES", (0.0, 0.0))
    upstream.failures[f"kubelet-{status}"] = [status] * 10
    url = f"{upstream.base_url}/kubelet-{status}"
    assert (origin.released(url).why_not() or "").startswith(
        f"Official releases at 127.0.0.1 cannot be reached ({status} "
    )


def test_nobody_there_means_source_and_the_reason_is_known() -> None:
    assert "(Connection refused)" in (origin.released("http://127.0.0.1:1/kubelet").why_not() or "")


def test_a_name_that_does_not_exist_means_source_and_the_reason_is_known() -> None:
    said = origin.released("https://dl.invalid/kubelet").why_not()
    assert said is not None
    assert said.startswith("Official releases at dl.invalid cannot be reached (")


def test_a_host_that_takes_five_seconds_for_a_head_is_upstream(upstream: Upstream) -> None:
    upstream.publish("slow", b"")
    upstream.slow["HEAD", "slow"] = 5.0
    assert origin.released(f"{upstream.base_url}/slow").why_not() is None


def test_a_host_that_is_there_and_does_not_answer_in_time_is_upstream(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origin, "_PROBE_SECONDS", 0.2)
    upstream.publish("slower", b"")
    upstream.slow["HEAD", "slower"] = 30.0
    assert origin.released(f"{upstream.base_url}/slower").why_not() is None


@pytest.mark.parametrize(
    ("status", "headers"),
    [(429, {}), (429, {"Retry-After": "600"}), (403, {"Retry-After": "60"}), (403, {"X-RateLimit-Remaining": "0"})],
)
def test_a_host_that_limits_the_rate_is_upstream(upstream: Upstream, status: int, headers: dict[str, str]) -> None:
    path = f"limited-{status}-{'-'.join(headers)}"
    upstream.failures[path] = [status] * 10
    upstream.failure_headers = headers
    assert origin.released(f"{upstream.base_url}/{path}").why_not() is None


def test_a_gateway_that_has_no_answer_right_now_is_asked_again(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origin, "_PAUSES", (0.0, 0.0))
    upstream.publish("again", b"")
    upstream.failures["again"] = [503, 502]
    assert origin.released(f"{upstream.base_url}/again").why_not() is None


def test_a_storage_host_that_refuses_a_head_of_a_signed_url_is_upstream(upstream: Upstream) -> None:
    upstream.publish("storage", b"content")
    upstream.redirects["asset"] = f"{upstream.base_url}/storage"
    upstream.refused["HEAD", "storage"] = 403
    assert origin.released(f"{upstream.base_url}/asset").why_not() is None
    assert upstream.asked[-1][:2] == ("GET", "storage")


@pytest.mark.parametrize("demanded", list(Origin))
def test_the_environment_decides_without_asking(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch, demanded: Origin
) -> None:
    monkeypatch.setenv("TOOLCHAIN", demanded.value)
    why = {Origin.UPSTREAM: None, Origin.SOURCE: "TOOLCHAIN=source is set"}[demanded]
    assert origin.released(f"{upstream.base_url}/demanded").why_not() == why
    assert origin.pulled("registry.k8s.io").why_not() == why
    assert [each for each in Origin if origin.permits(each)] == [demanded]
    assert upstream.asked == []


def test_an_unknown_demand_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLCHAIN", "sources")
    with pytest.raises(ToolchainError, match="TOOLCHAIN='sources'"):
        origin.policy()
