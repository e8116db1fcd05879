"""At the very end of a run: the last lines of its first failures once more.

What a lab test says can have hundreds of lines, and later tests on the same lab fail with it. A reader who has only the
end of the output, as some CI services show it, sees what failed first.
"""

from collections.abc import Generator

import pytest

FAILURES = 2
LINES = 30


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, None, None]:
    """After pytest's own summary."""
    yield
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    # The processes that xdist starts have none.
    if terminal is None:
        return
    for report in first([*terminal.stats.get("failed", []), *terminal.stats.get("error", [])]):
        terminal.write_line(f"the last lines of {report.nodeid}:")
        for line in last_lines(report.longreprtext):
            terminal.write_line(f"  {line}")


def first(reports: list[pytest.TestReport]) -> list[pytest.TestReport]:
    """Those of the tests that failed first."""
    return sorted(reports, key=lambda report: report.stop)[:FAILURES]


def last_lines(text: str) -> list[str]:
    """The end of the error's own lines, which pytest marks with an E; of all lines where it has none."""
    lines = text.splitlines()
    own = [line for line in lines if line.startswith("E ")]
    return (own or lines)[-LINES:]
