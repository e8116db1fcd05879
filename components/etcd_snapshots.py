"""Snapshots of etcd, taken by every member of itself, hour by hour.

Made on each member's machine: the script etcd-snapshot, its unit and the timer that starts it. The last 24 are in
/var/lib/etcd-snapshots, readable by root only: each has the whole content of the cluster. `./hardway restore` takes any
of them.
A member that does not answer when the timer elapses is waited for (a reboot, a restore).
On a disk that is nearly full there are fewer, at least 3, and then none is taken: the unit fails, which status shows.

Source: https://etcd.io/docs/v3.6/op-guide/recovery/
"""

from collections.abc import Sequence
from pathlib import Path

import pulumi

from components.component import Component
from components.machine import Machine
from components.step import File, Step, StepArgs, Unit
from components.systemd import timed_service, timer_unit
from config.machine_paths import IDENTITY_KEY

DIRECTORY = "/var/lib/etcd-snapshots"
_SCRIPT = "/usr/local/lib/hardway/etcd-snapshot"
_SERVICE = "etcd-snapshot.service"
_TIMER = "etcd-snapshot.timer"
_STAMPS = "/var/lib/systemd/timers"
_SECONDS = 600
# Longer than a reboot or a restore of the cluster; a snapshot then has the other half.
_WAIT = _SECONDS // 2
# So that a snapshot says by itself whose it is.
_MARK = f"""\
. /etc/etcd/etcdctl.env
lab=$(openssl x509 -in "$ETCDCTL_CACERT" -outform der | sha256sum | cut -d ' ' -f 1)
[ "$(etcdctl get --print-value-only {IDENTITY_KEY})" = "$lab" ] || etcdctl put {IDENTITY_KEY} "$lab" >/dev/null"""


class EtcdSnapshots(Component):
    """The timer on every member; nothing waits for it."""

    def __init__(self, name: str, members: Sequence[Machine], opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("EtcdSnapshots", name, opts)
        files = [
            File(path=_SCRIPT, content=Path(__file__).with_name("etcd_snapshot.sh").read_text(), mode="0700"),
            File(
                path=f"/etc/systemd/system/{_SERVICE}",
                content=timed_service(
                    description="A snapshot of this etcd member",
                    program=f"{_SCRIPT} {DIRECTORY} {_WAIT * members[0].timeout_factor}",
                    # Whichever runs the member.
                    after=("etcd.service", "kubelet.service"),
                    seconds=_SECONDS * members[0].timeout_factor,
                ),
                mode="0600",
            ),
        ]
        for member in members:
            Step(
                f"{name}-{member.name}",
                StepArgs(
                    machine=member,
                    name="etcd-snapshots",
                    prepare=f"data {DIRECTORY}\ninstall -d -m 0700 {DIRECTORY}",
                    files=files,
                    units=[
                        Unit(
                            name=_TIMER,
                            # The members' snapshots are spread over a quarter of an hour.
                            content=timer_unit(
                                description="Snapshots of this etcd member", calendar="hourly", spread="15min"
                            ),
                            restarts_on=[file.path for file in files],
                        )
                    ],
                    run=_MARK,
                    # One that is at work would write into what is being removed.
                    undo="\n".join(
                        [
                            f"systemctl -q stop {_TIMER} {_SERVICE} 2>/dev/null || true",
                            # When it last went off: systemd keeps that beyond the timer.
                            f"rm -f {_STAMPS}/stamp-{_TIMER}",
                            f"rmdir {_STAMPS} 2>/dev/null || true",
                        ]
                    ),
                ),
                self.child(),
            )
        self.register_outputs({})
