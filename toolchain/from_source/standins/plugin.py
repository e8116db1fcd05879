"""What every plugin owes the engine: its port on the first line of stdout, and an end when told or left."""

import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import grpc

# With this option a plugin serves on a port that was chosen for it: standin_servers.py. Otherwise the engine starts it,
# and gives its own address.
_PORT = "--port="
# The engine decides how much runs at once; a plugin must never be what queues.
_WORKERS = 64


def engine_address() -> str:
    """The address of the engine that started this plugin; empty if it was not started by one."""
    return "" if sys.argv[-1].startswith(_PORT) else sys.argv[-1]


def serve(
    register: Callable[[grpc.Server], None],
    *,
    work: Callable[[], object] = signal.pause,
    before_end: Callable[[], None] = lambda: None,
) -> NoReturn:
    """Serve on a local port, and say which, until the engine ends the process or is gone itself.

    Args:
        register: adds the plugin's service to the server.
        work: what the main thread does meanwhile, again and again.
        before_end: called once before the process ends, to end what the plugin started. Must not wait long:
            the engine kills after five seconds.
    """
    told = _wake_up_at_signals()
    threading.Thread(target=_end_when_told, args=(told, before_end), daemon=True).start()
    server = grpc.server(
        ThreadPoolExecutor(_WORKERS),
        options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
    )
    register(server)
    chosen = sys.argv[-1].removeprefix(_PORT) if sys.argv[-1].startswith(_PORT) else "0"
    port = server.add_insecure_port(f"127.0.0.1:{chosen}")
    server.start()
    print(port, flush=True)
    while True:
        work()


def _wake_up_at_signals() -> int:
    """Make the engine's signals readable, so that a main thread that is busy or deaf does not delay the end."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable)
    for told in (signal.SIGINT, signal.SIGTERM):
        signal.signal(told, lambda _signal, _frame: None)
    return readable


def _end_when_told(told: int, before_end: Callable[[], None]) -> None:
    # The engine holds the other end of stdin and never writes: that it can be read means end of file, and that the
    # engine is gone, also when it was killed with -9.
    select.select([told, sys.stdin], [], [])
    before_end()
    # Not sys.exit: there is nothing to save, and joining the workers would take time.
    os._exit(0)
