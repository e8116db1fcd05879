"""systemd units, from data: a flag of a program is one line of Python."""

from collections.abc import Mapping, Sequence

Flags = Mapping[str, str | int | bool]


def systemd_unit(
    *,
    description: str,
    documentation: str,
    program: str,
    flags: Flags | None = None,
    after: Sequence[str] = ("network-online.target",),
    service: Mapping[str, str | int] | None = None,
) -> str:
    """A service that is started at boot and again whenever it ends.

    Args:
        description: what it is.
        documentation: the page its flags stand on.
        program: absolute path, with arguments that are no flags.
        flags: name without dashes -> value, in the order they are to stand in; True is `=true`.
        after: units that are started first, where they are started at all.
        service: further lines of the section [Service].

    Source: systemd.service(5).
    """
    lines = [program, *(f"--{name}={flag_value(value)}" for name, value in (flags or {}).items())]
    section = {
        "ExecStart": " \\\n  ".join(lines),
        "Restart": "always",
        # Lost peers are waited for by trying again, as often as it takes: no start limit.
        "RestartSec": "1",
        **(service or {}),
    }
    return "\n".join(
        [
            "[Unit]",
            f"Description={description}",
            f"Documentation={documentation}",
            f"Wants={' '.join(after)}",
            f"After={' '.join(after)}",
            "StartLimitIntervalSec=0",
            "",
            "[Service]",
            *(f"{key}={value}" for key, value in section.items()),
            "",
            "[Install]",
            "WantedBy=multi-user.target",
        ]
    )


def oneshot_unit(
    *,
    description: str,
    start: Sequence[str],
    stop: Sequence[str] = (),
    reloads: bool = False,
    after: Sequence[str] = (),
) -> str:
    """Commands that are run once at boot, and others when the unit is stopped.

    Args:
        description: what they do.
        start: commands, absolute paths; one that starts with "-" may fail.
        stop: likewise.
        reloads: whether it may be told to start once more without being stopped.
        after: services that it comes after, and is started with whenever they are.
    """
    return "\n".join(
        [
            "[Unit]",
            f"Description={description}",
            "Wants=network-online.target",
            f"After={' '.join(('network-online.target', *after))}",
            *([f"PartOf={' '.join(after)}"] if after else []),
            "",
            "[Service]",
            "Type=oneshot",
            "RemainAfterExit=yes",
            *(f"ExecStart={command}" for command in start),
            *(f"ExecReload={command}" for command in (start if reloads else ())),
            *(f"ExecStop={command}" for command in stop),
            "",
            "[Install]",
            f"WantedBy={' '.join(('multi-user.target', *after))}",
        ]
    )


def timed_service(*, description: str, program: str, after: Sequence[str], seconds: int) -> str:
    """A program that a timer of the same name starts, runs to its end, and starts again.

    Args:
        description: what it does.
        program: absolute path, with arguments.
        after: units that are started first, where they are started at all.
        seconds: how long it may take; then it is ended and has failed.
    """
    return "\n".join(
        [
            "[Unit]",
            f"Description={description}",
            f"After={' '.join(after)}",
            "",
            "[Service]",
            "Type=oneshot",
            # Without this there is no limit: one that hangs keeps the timer from ever starting the next.
            f"TimeoutStartSec={seconds}",
            f"ExecStart={program}",
        ]
    )


def timer_unit(*, description: str, calendar: str, spread: str) -> str:
    """A timer; what it starts has its name, as a service.

    Args:
        description: what for.
        calendar: when, see systemd.time(7).
        spread: each time it waits for a random while up to this long, so that machines do not all do it at once.
    """
    return "\n".join(
        [
            "[Unit]",
            f"Description={description}",
            "",
            "[Timer]",
            f"OnCalendar={calendar}",
            f"RandomizedDelaySec={spread}",
            # What was missed while the machine was down is done at its start.
            "Persistent=true",
            "",
            "[Install]",
            "WantedBy=timers.target",
        ]
    )


def flag_value(value: str | int | bool) -> str:
    """A value as it stands behind `=`."""
    return str(value).lower() if isinstance(value, bool) else str(value)
