"""A snapshot of etcd as a file on the Pulumi host: its format, the lab that it belongs to, and its sidecar file.

etcd writes its database (a bbolt file) and appends the SHA-256 of it. `./hardway snapshot` writes a sidecar, FILE.json.
A file copied from a member's /var/lib/etcd-snapshots has no sidecar and is accepted, too: the database names the lab.
"""

import hashlib
import json
import mmap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

_DIGEST = 32
_PAGE = 512
# The first page of a bbolt file is a meta page: 16 bytes of header, then this.
_MAGIC_AT, _MAGIC = 16, 0xED0CDAED.to_bytes(4, "little")


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """What is known about a snapshot; stands beside it as JSON.

    Args:
        sha256: of the file.
        etcd_hash: as `etcdutl snapshot status` computes it, in hexadecimal digits.
        revision: the last one in it.
        keys: how many, all revisions counted.
        size: bytes of the file.
        time: when it was taken, RFC 3339.
        member: the machine that it was taken from.
        etcd: version of etcd.
        kubernetes: version of the API server; null where none answered.
        lab: the identity, see config/machine_paths.py, IDENTITY_KEY.
        stack: the lab's name.
    """

    sha256: str
    etcd_hash: str
    revision: int
    keys: int
    size: int
    time: str
    member: str
    etcd: str
    kubernetes: str | None
    lab: str
    stack: str

    def json(self) -> str:
        """As it stands in its file."""
        return json.dumps(asdict(self), indent=2) + "\n"


def sidecar_of(file: Path) -> Path:
    """Where a snapshot's sidecar stands."""
    return file.with_name(f"{file.name}.json")


def problems_of(file: Path) -> Iterator[str]:
    """What is wrong with a file that is to be a snapshot, as far as the file and its sidecar tell."""
    if not file.exists():
        yield f"{file} does not exist"
        return
    if not file.is_file():
        yield f"{file} is no file"
        return
    with file.open("rb") as content:
        content.seek(_MAGIC_AT)
        magic = content.read(len(_MAGIC))
    if magic != _MAGIC:
        yield f"{file} is no etcd snapshot: it does not have the header of a snapshot"
        return
    if file.stat().st_size % _PAGE != _DIGEST:
        yield (
            f"{file} is not whole, or no `snapshot save`: of {file.stat().st_size} bytes the last {_DIGEST} should "
            f"be a checksum after full pages of {_PAGE}"
        )
    elif not _own_checksum_fits(file):
        yield f"{file} is not what etcd wrote: its content does not match the checksum at its end"
    yield from _sidecar_problems(file)


def is_of(file: Path, identity: str) -> bool:
    """Whether a snapshot is of the lab with this identity: the database in it says so, or else its sidecar."""
    sidecar = sidecar_of(file)
    if sidecar.exists() and json.loads(sidecar.read_text()).get("lab") == identity:
        return True
    with file.open("rb") as content, mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(identity.encode()) >= 0


def sha256(file: Path, *, without_last: int = 0) -> str:
    """The SHA-256 of a file, or of all but its last bytes, in hexadecimal digits."""
    digest = hashlib.sha256()
    left = file.stat().st_size - without_last
    with file.open("rb") as content:
        while left > 0 and (block := content.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


def _own_checksum_fits(file: Path) -> bool:
    with file.open("rb") as content:
        content.seek(-_DIGEST, 2)
        kept = content.read().hex()
    return sha256(file, without_last=_DIGEST) == kept


def _sidecar_problems(file: Path) -> Iterator[str]:
    sidecar = sidecar_of(file)
    if not sidecar.exists():
        return
    try:
        kept = json.loads(sidecar.read_text())["sha256"]
    except (ValueError, KeyError, TypeError, UnicodeDecodeError):
        yield f"{sidecar} is no sidecar of a snapshot: if it is another file, remove it: a snapshot needs no sidecar"
        return
    if sha256(file) != kept:
        yield f"{file} is not the file that {sidecar.name} was written for: its sha256 is another"
