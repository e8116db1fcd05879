"""A real Chromium: from the host's distribution, unpacked and not installed, driven by its DevTools protocol.

The protocol is spoken over two pipes (--remote-debugging-pipe): JSON, each message with a zero byte behind it.
"""

import base64
import fcntl
import json
import os
import queue
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolchain import paths

_PACKAGES = ("chromium-headless-shell", "fonts-dejavu-core")
_SECONDS = 60
# Pages of the tests alone are opened; as root, Chromium has no sandbox.
_FLAGS = (
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
)


def program() -> tuple[Path, str]:
    """The browser, and the directories of the libraries that the host lacks, as LD_LIBRARY_PATH; fetched once."""
    place = paths.cache() / "browser-for-tests"
    root = place / "root"
    if not root.exists():
        shutil.rmtree(place, ignore_errors=True)
        (place / "packages").mkdir(parents=True)
        if (fetched := _download(place / "packages")).returncode != 0:
            _run("apt-get", "-q", "update")
            fetched = _download(place / "packages")
        assert fetched.returncode == 0, fetched.stderr
        for package in (place / "packages").glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, place / "unfinished"], check=True)
        shutil.rmtree(place / "packages")
        (place / "unfinished").rename(root)
    (libraries,) = (root / "usr" / "lib").glob("*-linux-gnu")
    # Pulse's own library is looked for there by the one that the browser is linked to.
    found = f"{libraries}:{libraries / 'pulseaudio'}"
    return root / "usr" / "lib" / "chromium" / "chromium-headless-shell", found


def _download(place: Path) -> subprocess.CompletedProcess[str]:
    """What the host lacks of the packages and of all that they need, as apt finds it; apt checks the signed index."""
    said = _run("apt-get", "-q", "install", "--print-uris", "--yes", "--no-install-recommends", *_PACKAGES)
    names = re.findall(r"^'[^']*' ([^_]*)_", said.stdout, re.M)
    return _run("apt-get", "-q", "download", *names, cwd=place) if names else said


def _run(*command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)


class Tab:
    """One page in the browser."""

    def __init__(self, browser: "_Browser", session: str) -> None:
        self._browser, self._session = browser, session
        self.requests: list[str] = []
        """The URLs that it has asked for."""
        self.complaints: list[str] = []
        """What the browser has logged: errors, and what the page's policy forbids."""
        browser.listeners[session] = self._hear
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One call of the protocol."""
        return self._browser.call(method, parameters, self._session)

    def open(self, url: str, *, javascript: bool = True) -> None:
        """Go to a page."""
        self.call("Emulation.setScriptExecutionDisabled", value=not javascript)
        assert "errorText" not in self.call("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression, also on a page without JavaScript."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def text(self, selector: str = "body") -> str:
        """What a person reads in an element; empty if there is none."""
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def screenshot(self, file: Path, *, width: int, height: int) -> None:
        """Draw the page."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def _hear(self, method: str, parameters: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Log.entryAdded":
            entry = parameters["entry"]
            self.complaints.append(f"{entry['level']}: {entry['text']} {entry.get('url', '')}")
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(parameters["exceptionDetails"]))


class _Browser:
    def __init__(self, process: "subprocess.Popen[bytes]", to_it: int, from_it: int) -> None:
        self._process, self._to, self._from = process, to_it, from_it
        self._number = 0
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self.listeners: dict[str, Any] = {}
        threading.Thread(target=self._read, daemon=True).start()

    def call(self, method: str, parameters: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        text = json.dumps(message | ({"sessionId": session} if session else {}))
        os.write(self._to, text.encode() + b"\0")
        while True:
            answer = self._answers.get(timeout=_SECONDS)
            assert answer, "the browser has ended: see browser.log"
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer)
                return dict(answer["result"])

    def tab(self) -> Tab:
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        return Tab(self, self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"])

    def _read(self) -> None:
        rest = b""
        while piece := os.read(self._from, 1 << 16):
            *messages, rest = (rest + piece).split(b"\0")
            for text in messages:
                message = json.loads(text)
                if "id" in message:
                    self._answers.put(message)
                elif listener := self.listeners.get(message.get("sessionId", "")):
                    listener(message["method"], message["params"])
        self._answers.put({})


@contextmanager
def opened(directory: Path) -> Iterator[Tab]:
    """A browser with one page.

    Args:
        directory: for its profile; it is used by no other.
    """
    chromium, libraries = program()
    its_in, to_it = os.pipe()
    from_it, its_out = os.pipe()
    # The shell moves them to 3 and 4, so they must be neither.
    high = [fcntl.fcntl(each, fcntl.F_DUPFD, 10) for each in (its_in, its_out)]
    os.close(its_in)
    os.close(its_out)
    with subprocess.Popen(
        [
            "bash",
            "-c",
            f'exec "$@" 3<&{high[0]} 4>&{high[1]}',
            "bash",
            chromium,
            *_FLAGS,
            f"--user-data-dir={directory}",
        ],
        pass_fds=high,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=(directory / "browser.log").open("wb"),
        env=os.environ | {"LD_LIBRARY_PATH": libraries, "HOME": str(directory)},
    ) as process:
        for each in high:
            os.close(each)
        try:
            yield _Browser(process, to_it, from_it).tab()
        finally:
            process.kill()
            process.wait()
            os.close(to_it)
            os.close(from_it)
