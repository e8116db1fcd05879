import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
from upstream_server import Upstream

from toolchain import paths
from toolchain.errors import ToolchainError
from toolchain.progress import Part, Report
from toolchain.releases.download import download

PATH = "dl.k8s.io/v1.36.4/bin/linux/amd64/kubelet"
CONTENT = os.urandom(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()

ALONE = """
import sys
from pathlib import Path
from toolchain.releases.download import download
from toolchain.progress import Report
with Report() as report, report.part("kubelet") as part:
    download(sys.argv[1], Path(sys.argv[2]), sha256=sys.argv[3], part=part)
"""


@pytest.fixture
def part(report: Report) -> Iterator[Part]:
    with report.part("kubelet") as running:
        yield running


@pytest.fixture
def url(upstream: Upstream) -> str:
    upstream.publish(PATH, CONTENT)
    return f"{upstream.base_url}/{PATH}"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "mirror" / PATH


@pytest.fixture
def start(url: str, place: Path) -> Iterator[Callable[[], "subprocess.Popen[str]"]]:
    """Starts the download in a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def process() -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", ALONE, url, str(place), SHA256]
        started.append(subprocess.Popen(command, cwd=paths.checkout(), text=True, stdout=subprocess.PIPE))
        return started[-1]

    yield process
    for one in started:
        one.kill()
        one.communicate()


def left_in(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.01)


def test_a_good_file_is_there_and_nothing_else(url: str, place: Path, part: Part) -> None:
    assert download(url, place, sha256=SHA256, part=part) == SHA256
    assert place.read_bytes() == CONTENT
    assert left_in(place.parent) == ["kubelet"]
    assert (part.done, part.total) == (len(CONTENT), len(CONTENT))


def test_a_file_that_is_there_is_not_asked_for(url: str, place: Path, part: Part, upstream: Upstream) -> None:
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    download(url, place, sha256=SHA256, part=part)
    assert upstream.asked == []


def test_a_spoiled_file_is_replaced(url: str, place: Path, part: Part) -> None:
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT[:-1] + b"?")
    download(url, place, sha256=SHA256, part=part)
    assert place.read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_no_file_and_says_all(url: str, place: Path, part: Part) -> None:
    with pytest.raises(ToolchainError) as failure:
        download(url, place, sha256="0" * 64, part=part)
    for word in (url, "0" * 64, SHA256, "versions.yaml", "thrown away"):
        assert word in str(failure.value)
    assert left_in(place.parent) == []


def test_a_missing_file_is_final_and_says_what_to_do(url: str, place: Path, part: Part, upstream: Upstream) -> None:
    with pytest.raises(ToolchainError, match="404") as failure:
        download(f"{url}x", place, sha256=SHA256, part=part)
    assert f"{url}x" in str(failure.value)
    assert "TOOLCHAIN=source" in str(failure.value)
    assert upstream.ranges(f"{PATH}x") == [None]
    assert left_in(place.parent) == []


def test_a_cut_connection_is_gone_on_with(url: str, place: Path, part: Part, upstream: Upstream) -> None:
    upstream.cuts[PATH] = [1_000_000, 500_000]
    download(url, place, sha256=SHA256, part=part)
    assert place.read_bytes() == CONTENT
    assert upstream.ranges(PATH) == [None, "bytes=1000000-", "bytes=1500000-"]


def test_without_a_validator_a_cut_download_starts_anew(url: str, place: Path, part: Part, upstream: Upstream) -> None:
    upstream.validators = False
    upstream.cuts[PATH] = [1_000_000]
    download(url, place, sha256=SHA256, part=part)
    assert place.read_bytes() == CONTENT
    assert upstream.ranges(PATH) == [None, None]


def test_the_server_s_passing_faults_are_waited_out(url: str, place: Path, part: Part, upstream: Upstream) -> None:
    upstream.failures[PATH] = [503, 429]
    download(url, place, sha256=SHA256, part=part)
    assert place.read_bytes() == CONTENT


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_rate_limit_is_waited_for_as_long_as_the_server_asks(
    url: str, place: Path, part: Part, upstream: Upstream, form: str
) -> None:
    upstream.failures[PATH] = [429]
    # A date has whole seconds.
    upstream.failure_headers["Retry-After"] = "2" if form == "seconds" else formatdate(time.time() + 3, usegmt=True)
    begun = time.monotonic()
    # A timeout below what the server asks for: that pause does not count.
    download(url, place, sha256=SHA256, part=part, timeout=1)
    assert time.monotonic() - begun >= 1.9
    assert place.read_bytes() == CONTENT


def test_the_403_of_an_api_that_limits_the_rate_is_waited_for(
    url: str, place: Path, part: Part, upstream: Upstream
) -> None:
    upstream.failures[PATH] = [403]
    upstream.failure_headers["Retry-After"] = "1"
    download(url, place, sha256=SHA256, part=part)
    assert place.read_bytes() == CONTENT


def test_any_other_403_is_final(url: str, place: Path, part: Part, upstream: Upstream) -> None:
    upstream.failures[PATH] = [403]
    with pytest.raises(ToolchainError, match=f"{url}: the server said 403"):
        download(url, place, sha256=SHA256, part=part)


def test_a_server_that_asks_to_wait_for_an_hour_is_an_error_at_once(
    url: str, place: Path, part: Part, upstream: Upstream
) -> None:
    upstream.failures[PATH] = [429]
    upstream.failure_headers["Retry-After"] = "3600"
    with pytest.raises(ToolchainError, match=r"429 .*asks to wait 3600 s.*later.*TOOLCHAIN=source"):
        download(url, place, sha256=SHA256, part=part)


def test_a_server_that_limits_the_rate_for_ever_is_given_up(
    url: str, place: Path, part: Part, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolchain.releases.download._LONGEST_WAIT", 3.0)
    upstream.failures[PATH] = [429] * 100
    upstream.failure_headers["Retry-After"] = "1"
    with pytest.raises(ToolchainError, match="asks to wait 1 s"):
        download(url, place, sha256=SHA256, part=part)


def test_a_transfer_that_stalls_is_gone_on_with(
    url: str, place: Path, part: Part, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolchain.releases.download._SILENCE_SECONDS", 0.5)
    upstream.stalls[PATH] = [1_000_000]
    download(url, place, sha256=SHA256, part=part)
    assert place.read_bytes() == CONTENT
    assert upstream.ranges(PATH)[0] is None
    assert str(upstream.ranges(PATH)[1]).startswith("bytes=")


def test_a_redirect_to_a_signed_url_is_asked_for_anew_after_a_cut(
    url: str, place: Path, part: Part, upstream: Upstream
) -> None:
    upstream.redirects["release"] = url
    upstream.cuts[PATH] = [1_000_000]
    download(f"{upstream.base_url}/release", place, sha256=SHA256, part=part)
    assert place.read_bytes() == CONTENT
    assert [path for _, path, _ in upstream.asked] == ["release", PATH] * 2, "signatures expire"


def test_a_server_that_never_answers_is_given_up(place: Path, part: Part, url: str, upstream: Upstream) -> None:
    upstream.failures[PATH] = [503] * 1000
    with pytest.raises(ToolchainError, match="503") as failure:
        download(url, place, sha256=SHA256, part=part, timeout=1)
    assert url in str(failure.value)
    assert not place.exists()


def test_nobody_listening_is_one_clear_error(place: Path, part: Part) -> None:
    with pytest.raises(ToolchainError, match=r"http://127\.0\.0\.1:1/kubelet cannot be downloaded: .*refused"):
        download("http://127.0.0.1:1/kubelet", place, sha256=SHA256, part=part, timeout=0.5)


def test_a_part_of_another_file_is_not_gone_on_with(url: str, place: Path, part: Part, upstream: Upstream) -> None:
    place.parent.mkdir(parents=True)
    place.with_name("kubelet.partial").write_bytes(bytes(1_000_000))
    place.with_name("kubelet.validator").write_text('"of an earlier release"')
    download(url, place, sha256=SHA256, part=part)
    assert place.read_bytes() == CONTENT
    assert upstream.ranges(PATH) == ["bytes=1000000-"], "the server answers with the whole new file"


def test_a_spoiled_beginning_is_fetched_anew(url: str, place: Path, part: Part, upstream: Upstream) -> None:
    place.parent.mkdir(parents=True)
    tag = f'"{SHA256[:16]}"'
    place.with_name("kubelet.partial").write_bytes(bytes(1_000_000))
    place.with_name("kubelet.validator").write_text(tag)
    download(url, place, sha256=SHA256, part=part)
    assert place.read_bytes() == CONTENT
    assert upstream.ranges(PATH) == ["bytes=1000000-", None]


def test_a_whole_beginning_needs_no_more(url: str, place: Path, part: Part, upstream: Upstream) -> None:
    place.parent.mkdir(parents=True)
    place.with_name("kubelet.partial").write_bytes(CONTENT)
    place.with_name("kubelet.validator").write_text(f'"{SHA256[:16]}"')
    download(url, place, sha256=SHA256, part=part)
    assert place.read_bytes() == CONTENT
    assert upstream.ranges(PATH) == [f"bytes={len(CONTENT)}-"]
    assert left_in(place.parent) == ["kubelet"]


def test_the_published_sum_serves_where_none_is_pinned(url: str, place: Path, part: Part) -> None:
    assert download(url, place, sha256=None, part=part) == SHA256


def test_a_file_that_is_not_what_was_published_is_refused(
    url: str, place: Path, part: Part, upstream: Upstream
) -> None:
    upstream.files[f"{PATH}.sha256"] = b"1" * 64
    with pytest.raises(ToolchainError, match=f"{url}.sha256"):
        download(url, place, sha256=None, part=part)
    assert left_in(place.parent) == []


@pytest.mark.parametrize("published", [b"", b"<html>proxy</html>", b"abc123"])
def test_what_is_no_sum_is_not_taken_for_one(
    url: str, place: Path, part: Part, upstream: Upstream, published: bytes
) -> None:
    upstream.files[f"{PATH}.sha256"] = published
    with pytest.raises(ToolchainError, match="holds no sha256"):
        download(url, place, sha256=None, part=part)
    assert not place.exists()


def test_killed_at_any_moment_the_next_run_finishes(
    url: str, place: Path, part: Part, upstream: Upstream, start: Callable[[], "subprocess.Popen[str]"]
) -> None:
    upstream.seconds_per_piece = 0.01
    partial = place.with_name("kubelet.partial")
    killed = start()
    until(lambda: partial.exists() and partial.stat().st_size > 300_000)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not place.exists()
    upstream.seconds_per_piece = 0
    download(url, place, sha256=SHA256, part=part)
    assert place.read_bytes() == CONTENT
    assert left_in(place.parent) == ["kubelet"]
    first, second = upstream.ranges(PATH)
    assert first is None
    assert second is not None and int(second[6:-1]) > 300_000


def test_two_at_once_download_it_once(
    place: Path, upstream: Upstream, start: Callable[[], "subprocess.Popen[str]"]
) -> None:
    upstream.seconds_per_piece = 0.01
    both = [start(), start()]
    assert [one.wait(timeout=60) for one in both] == [0, 0]
    assert place.read_bytes() == CONTENT
    assert upstream.ranges(PATH) == [None]
    assert left_in(place.parent) == ["kubelet"]
