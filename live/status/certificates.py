"""Certificates in a lab's status: when each ends, and which command renews it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from live.probe import Probe


@dataclass(frozen=True, kw_only=True)
class CertificateStatus:
    """One certificate of the lab.

    Args:
        name, subject: as in the program's output; of what kubeadm issued its name for it and the machine, and null.
        not_after: its end.
        days_left: until then.
        ends_soon: whether that is within `renewal_days`.
        renewed_by: the command; where it is kubeadm's, on that machine.
    """

    name: str
    subject: str | None
    not_after: str
    days_left: float
    ends_soon: bool
    renewed_by: str


def issued(probe: Probe, now: datetime, renewal: timedelta) -> Iterator[CertificateStatus]:
    """The certificates that kubeadm issued on a controller, which the stack does not know."""
    found = probe.json("certificates")
    for each in found.get("certificates", []):
        if not each["missing"]:
            name = f"{each['name']} of {probe.machine.name}"
            yield certificate_status(name, None, each["expirationDate"], "kubeadm certs renew all", now, renewal)


def certificate_status(
    name: str, subject: str | None, not_after: str, renewed_by: str, now: datetime, renewal: timedelta
) -> CertificateStatus:
    left = datetime.fromisoformat(not_after) - now
    return CertificateStatus(
        name=name,
        subject=subject,
        not_after=not_after,
        days_left=round(left / timedelta(days=1), 1),
        ends_soon=left <= renewal,
        renewed_by=renewed_by,
    )


def certificate_problems(probes: Sequence[Probe], ends: Sequence[CertificateStatus]) -> Iterator[str]:
    for probe in probes:
        if "certificates" in probe.answers and probe.answer("certificates").status != 0:
            why = probe.answer("certificates").why
            yield f"kubeadm on {probe.machine.name} does not report its certificates: {why}"
    for each in ends:
        if each.ends_soon:
            ending = "ends" if each.days_left > 0 else "ended"
            yield f"the certificate {each.name} {ending} on {each.not_after}: `{each.renewed_by}` renews it"
