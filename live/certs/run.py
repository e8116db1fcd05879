"""`./hardway certs` as a whole: the state, the machines, and where they differ."""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from live import cluster
from live.certs.found import Certificate, in_text, of_der, reads_by_path
from live.cluster import Cluster, LiveMachine
from live.drift import recorded
from live.drift.look import answer
from live.drift.recorded import Recorded
from live.drift.run import FOUND, NONE, NOT_ASKED, state_of
from toolchain.stack import Stack

_LOOK = Path(__file__).with_name("look.sh")
SAME, DIFFERS, ONLY_STATE, ONLY_MACHINE = "", "differs from the state", "not on the machine", "not in the state"

Place = tuple[str, str, int]
"""Path, field of a kubeconfig, and which one there: a bundle has several."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One certificate in one file of one machine.

    Args:
        machine, file: where.
        field: client-certificate-data or certificate-authority-data of a kubeconfig; empty for a certificate file.
        used_by: the units or programs that read the file.
        subject, issuer, issuer_key, not_after, fingerprint, is_ca: of the certificate, as `Certificate` has them.
        days_left: until its end; negative once it has expired.
        renewal_due: whether `up` renews it now, or it has expired.
        difference: how machine and state differ; empty where they do not. What kubeadm issued is in no state.
    """

    machine: str
    file: str
    field: str
    used_by: list[str]
    subject: str
    issuer: str
    issuer_key: str
    not_after: str
    days_left: float
    renewal_due: bool
    fingerprint: str
    is_ca: bool
    difference: str

    @property
    def is_wrong(self) -> bool:
        """Whether something is to be done."""
        return bool(self.difference) or self.renewal_due


@dataclass(frozen=True, kw_only=True)
class Certificates:
    """All certificates of a lab.

    Args:
        stack: which lab.
        certificates: by machines in the order of the lab.
        not_asked: machine -> why it could not be asked: what it has is not known.
    """

    stack: str
    certificates: list[Row]
    not_asked: dict[str, str]

    @property
    def exit_code(self) -> int:
        """As `drift` has them: what is not known counts more than what is wrong."""
        if self.not_asked:
            return NOT_ASKED
        return FOUND if any(row.is_wrong for row in self.certificates) else NONE

    def json(self) -> str:
        """For programs."""
        return json.dumps(asdict(self), indent=2)


def find(stack: Stack) -> Certificates:
    """All certificates of a lab: from its state and, by one SSH connection each, from its machines.

    Raises:
        ToolchainError: the lab is not up, or its state cannot be read.
    """
    lab = cluster.find(stack, part_too=True)
    said = recorded.read(recorded.steps(state_of(stack)))
    with ThreadPoolExecutor(max_workers=len(lab.machines)) as threads:
        answers = list(threads.map(lambda machine: ask(lab, machine, said.get(machine.name)), lab.machines))
    rows: list[Row] = []
    not_asked: dict[str, str] = {}
    for machine, found in zip(lab.machines, answers, strict=True):
        if isinstance(found, str):
            not_asked[machine.name] = found
            continue
        rows += compare(
            said[machine.name],
            found,
            issued_there=lab.by_kubeadm,
            renewal=timedelta(hours=stack.early_renewal_hours),
            now=datetime.now(UTC),
        )
    return Certificates(stack=stack.name, certificates=rows, not_asked=not_asked)


def ask(lab: Cluster, machine: LiveMachine, said: Recorded | None) -> dict[Place, Certificate] | str:
    """The certificates on a machine, or why it could not be asked."""
    if said is None:
        return "the state has no steps of this machine: run `./hardway up`"
    paths = "".join(f"{path}\n" for path, _ in _with_certificates(said))
    found = answer(lab, machine, _LOOK.read_text(), paths)
    if isinstance(found, str):
        return found
    try:
        return parse(found)
    except ValueError as error:
        return f"its answer cannot be read: {error}"


def parse(lines: Iterable[str]) -> dict[Place, Certificate]:
    """What look.sh has printed.

    Raises:
        ValueError: a line is none of its lines, or what it names is no certificate.
    """
    found = []
    for line in lines:
        path, field, data = line.split("\t")
        try:
            found.append((path, field, of_der(base64.b64decode(data))))
        except ValueError:
            raise ValueError(f"{path} has a block that is no certificate") from None
    return _numbered(found)


def compare(
    said: Recorded, there: Mapping[Place, Certificate], *, issued_there: bool, renewal: timedelta, now: datetime
) -> list[Row]:
    """The certificates of one machine, with what differs.

    Args:
        said: what the state says of it.
        there: what it has.
        issued_there: whether kubeadm issues certificates there, which the state does not have.
        renewal: how long before its end a certificate is to be renewed.
        now: the time.
    """
    wanted = _numbered(
        [(path, field, each) for path, text in _with_certificates(said) for field, each in in_text(text)]
    )
    rows = []
    for place in sorted({*wanted, *there}):
        known, seen = wanted.get(place), there.get(place)
        if known and seen:
            difference = SAME if known.fingerprint == seen.fingerprint else DIFFERS
        elif known:
            difference = ONLY_STATE
        else:
            difference = SAME if issued_there else ONLY_MACHINE
        shown = seen or known
        assert shown is not None
        left = shown.not_after - now
        rows.append(
            Row(
                machine=said.name,
                file=place[0],
                field=place[1],
                used_by=_users(said, place[0]),
                subject=shown.subject,
                issuer=shown.issuer,
                issuer_key=shown.issuer_key,
                not_after=shown.not_after.isoformat(),
                days_left=round(left / timedelta(days=1), 2),
                renewal_due=left <= (timedelta(0) if shown.is_ca else renewal),
                fingerprint=shown.fingerprint,
                is_ca=shown.is_ca,
                difference=difference,
            )
        )
    return rows


def _with_certificates(said: Recorded) -> Iterator[tuple[str, str]]:
    """Path and text of the files in which a certificate can be; no other content is looked at."""
    for path, file in said.files.items():
        text = (file.content or b"").decode(errors="replace")
        if "-----BEGIN CERTIFICATE-----" in text or "certificate-data: " in text or "authority-data: " in text:
            yield path, text


def _numbered(found: Sequence[tuple[str, str, Certificate]]) -> dict[Place, Certificate]:
    numbers: dict[tuple[str, str], int] = {}
    places = {}
    for path, field, certificate in found:
        number = numbers[path, field] = numbers.get((path, field), -1) + 1
        places[path, field, number] = certificate
    return places


def _users(said: Recorded, path: str) -> list[str]:
    units = [name for name, unit in said.units.items() if path in unit.reads]
    by_path = reads_by_path(path)
    return units or ([by_path] if by_path else [])


def lines(found: Certificates) -> list[str]:
    """The report for a person: a table, what could not be asked, and a verdict."""
    rows: list[tuple[str, ...]] = [("machine", "file", "subject", "issued by", "expires", "used by", "problem")]
    rows += [_cells(each) for each in found.certificates]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    said = ["  ".join([*(f"{row[i]:{widths[i]}}" for i in range(6)), row[6]]).rstrip() for row in rows]
    said += [f"{name} could not be asked: {why}" for name, why in found.not_asked.items()]
    differ = sum(bool(row.difference) for row in found.certificates)
    due = sum(row.renewal_due for row in found.certificates)
    if differ:
        said.append(f"{differ} not as in the state. `./hardway repair -s {found.stack}` puts back what the state says.")
    if due:
        said.append(f"{due} expired or due for renewal. `./hardway up -s {found.stack}` renews what the lab issued.")
    if not (differ or due or found.not_asked):
        first = min(found.certificates, key=lambda row: row.not_after, default=None)
        said.append(f"All are as the state says. The first expires on {first.not_after[:10]}." if first else "None.")
    return said


def _cells(row: Row) -> tuple[str, ...]:
    field = f" ({row.field.removesuffix('-data')})" if row.field else ""
    problems = [row.difference] if row.difference else []
    problems += (["expired"] if row.days_left <= 0 else ["renewal is due"]) if row.renewal_due else []
    return (
        row.machine,
        row.file + field,
        row.subject,
        row.issuer + (f" {row.issuer_key}" if row.issuer_key else ""),
        row.not_after[:16].replace("T", " "),
        " ".join(unit.removesuffix(".service") for unit in row.used_by),
        "; ".join(problems),
    )
