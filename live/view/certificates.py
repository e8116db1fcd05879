"""The certificates on the page: what the state says of each, and what kubeadm issued; no key, no certificate itself."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from config.machines import Role
from live.background import Background
from live.cluster import Cluster
from live.probe import probe, questions
from live.status.certificates import CertificateStatus, certificate_status, issued
from toolchain import access
from toolchain.errors import ToolchainError

_LOOK_SECONDS = 2
_KUBEADM_SECONDS = 600
"""kubeadm is asked by a login of its own: not often."""


class Certificates(Background):
    """Reads them when the lab's files change, and asks kubeadm now and then."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__("view certificates")
        self._cluster = cluster
        self.known: Sequence[CertificateStatus] = ()
        self._stated: Sequence[CertificateStatus] = ()
        self._issued: Sequence[CertificateStatus] = ()

    def _work(self) -> None:
        read_at, asked_at = None, None
        file = self._cluster.stack.directory / "lab.json"
        while not self._over.is_set():
            try:
                changed = file.stat().st_mtime_ns
                if changed != read_at:
                    self._stated, read_at = self._read(), changed
                if self._cluster.by_kubeadm and (asked_at is None or time.monotonic() - asked_at > _KUBEADM_SECONDS):
                    self._issued, asked_at = self._ask(), time.monotonic()
            except (OSError, ValueError, KeyError, ToolchainError):
                # A lab that stops or is destroyed: the page says so by itself.
                pass
            self.known = sorted([*self._stated, *self._issued], key=lambda each: each.days_left)
            self._over.wait(_LOOK_SECONDS)

    @property
    def _renewal(self) -> timedelta:
        return timedelta(hours=self._cluster.stack.early_renewal_hours)

    def _read(self) -> list[CertificateStatus]:
        facts = access.read(self._cluster.stack)
        return [
            certificate_status(
                each["name"], each["subject"], each["not_after"], "./hardway up", datetime.now(UTC), self._renewal
            )
            for each in facts.get("certificates", [])
        ]

    def _ask(self) -> list[CertificateStatus]:
        found: list[CertificateStatus] = []
        for machine in self._cluster.with_role(Role.CONTROLLER):
            asked = {"certificates": questions(self._cluster, machine)["certificates"]}
            found += issued(probe(self._cluster, machine, asked), datetime.now(UTC), self._renewal)
        return found
