"""Work that goes on in a thread for as long as a `with` block runs."""

import threading
from typing import ClassVar, Self


class Background:
    """Begins at the start of the block, and is over at its end.

    A subclass works in `_work` until `_over` is set.
    """

    _END_SECONDS: ClassVar[float | None] = None
    """How long the end of the block waits for the thread; None: until it has ended."""

    def __init__(self, name: str) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def tell_to_end(self) -> None:
        """End soon; the end of the block waits for it. Of many, all can be told before the first is waited for."""
        self._over.set()
        self._end()

    def __exit__(self, *_: object) -> None:
        self.tell_to_end()
        self._thread.join(self._END_SECONDS)

    def _work(self) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        """End what the thread waits for."""
