"""What a command says: kept for its outputs and its error, and shown line by line while it runs."""

from codecs import getincrementaldecoder
from collections.abc import Callable

_DECODER = getincrementaldecoder("utf-8")


class Transcript:
    """Takes a command's stdout and stderr as they come.

    Args:
        show: shows one line to the user.
        logging: which streams are shown: `stdout`, `stderr`, `stdoutAndStderr` or `none`.
    """

    def __init__(self, show: Callable[[str], None], logging: str) -> None:
        self._show = show
        self._shown = {"stdout", "stderr"} if logging == "stdoutAndStderr" else {logging}
        self._decoders = {name: _DECODER(errors="replace") for name in ("stdout", "stderr")}
        self._texts: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._both: list[str] = []
        self._line = ""

    def write(self, stream: str, data: bytes) -> None:
        """Take what came next on `stdout` or `stderr`."""
        text = self._decoders[stream].decode(data)
        self._texts[stream].append(text)
        self._both.append(text)
        if stream in self._shown:
            *lines, self._line = (self._line + text).split("\n")
            for line in lines:
                self._show(line)

    def close(self) -> None:
        """Show a last line that has no end."""
        if self._line:
            self._show(self._line)

    def text(self, stream: str) -> str:
        """All of one stream, without its last newline."""
        return "".join(self._texts[stream]).removesuffix("\n")

    @property
    def both(self) -> str:
        """Both streams in the order in which they came."""
        return "".join(self._both)
