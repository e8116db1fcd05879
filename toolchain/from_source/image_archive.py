"""Writing container images as OCI archives, byte for byte the same from the same files.

Layers are not compressed: an archive never leaves the host, and importing it is on a lab's critical path.
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_EPOCH = "1970-01-01T00:00:00Z"


@dataclass(frozen=True, kw_only=True)
class Image:
    """A container image that is written to an archive."""

    reference: str
    """As containerd names it, e.g. registry.k8s.io/pause:3.10.2."""
    arch: str
    layers: tuple[Path, ...]
    """Tar files, the lowest first."""
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    user: str = ""
    environment: Mapping[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    )


@dataclass(frozen=True, kw_only=True)
class File:
    """A regular file of a layer."""

    content: bytes | Path
    mode: int = 0o644
    capabilities: int = 0
    """File capabilities as a bit mask, permitted and effective."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """A symbolic link of a layer."""

    target: str


def write_layer(layer: Path, entries: Mapping[str, File | Link]) -> None:
    """Write a layer of a few files, all root's; directories above them are made.

    Args:
        layer: the tar file to write.
        entries: absolute path in the image -> file or link.
    """
    with tarfile.open(layer, "w", format=tarfile.PAX_FORMAT) as tar:
        for directory in _directories(entries):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for path, member in sorted(entries.items()):
            entry = tarfile.TarInfo(path.lstrip("/"))
            if isinstance(member, Link):
                entry.type, entry.linkname = tarfile.SYMTYPE, member.target
                tar.addfile(entry)
            else:
                _add_file(tar, entry, member)


def copy_layer(source: Path, layer: Path, *, without: re.Pattern[str]) -> None:
    """Write a layer from another tar file.

    Args:
        source: the other tar file; its times are dropped.
        layer: the tar file to write.
        without: matches the start of the names that are left out.
    """
    with tarfile.open(source) as original, tarfile.open(layer, "w", format=tarfile.PAX_FORMAT) as tar:
        for entry in original:
            if not without.match(entry.name):
                entry.mtime, entry.pax_headers = 0, {}
                tar.addfile(entry, original.extractfile(entry) if entry.isreg() else None)


def write(archive: Path, image: Image) -> None:
    """Write an image as an OCI archive that `ctr images import` names by its reference.

    Args:
        archive: the tar file to write.
        image: what goes into it.
    """
    layers = [(_digest(layer), layer) for layer in image.layers]
    config = _json(_config(image, [digest for digest, _ in layers]))
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [
                {
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": f"sha256:{digest}",
                    "size": layer.stat().st_size,
                }
                for digest, layer in layers
            ],
        }
    )
    index = _json({"schemaVersion": 2, "manifests": [_named(manifest, image)]})
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as tar:
        _add(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(tar, "index.json", index)
        _add(tar, f"blobs/sha256/{hashlib.sha256(manifest).hexdigest()}", manifest)
        _add(tar, f"blobs/sha256/{hashlib.sha256(config).hexdigest()}", config)
        for digest, layer in dict(layers).items():
            _add(tar, f"blobs/sha256/{digest}", layer)


def _config(image: Image, digests: list[str]) -> dict[str, Any]:
    run: dict[str, Any] = {"Env": [f"{name}={value}" for name, value in image.environment.items()]}
    run["WorkingDir"] = "/"
    if image.entrypoint:
        run["Entrypoint"] = list(image.entrypoint)
    if image.command:
        run["Cmd"] = list(image.command)
    if image.user:
        run["User"] = image.user
    return {
        "created": _EPOCH,
        "architecture": image.arch,
        "os": "linux",
        "config": run,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
    }


def _named(manifest: bytes, image: Image) -> dict[str, Any]:
    return _descriptor("application/vnd.oci.image.manifest.v1+json", manifest) | {
        "platform": {"architecture": image.arch, "os": "linux"},
        "annotations": {
            "io.containerd.image.name": image.reference,
            "org.opencontainers.image.ref.name": image.reference.rpartition(":")[2],
        },
    }


def _descriptor(media_type: str, blob: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(blob).hexdigest()
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(blob)}


def _directories(entries: Mapping[str, File | Link]) -> list[str]:
    above = {str(parent).lstrip("/") for path in entries for parent in Path(path).parents}
    return sorted(above - {""})


def _add_file(tar: tarfile.TarFile, entry: tarfile.TarInfo, file: File) -> None:
    entry.mode = file.mode
    if file.capabilities:
        # struct vfs_cap_data, revision 2, with the effective bit.
        words = (0x02000001, file.capabilities, 0, 0, 0)
        packed = b"".join(word.to_bytes(4, "little") for word in words)
        entry.pax_headers = {"SCHILY.xattr.security.capability": packed.decode("ascii")}
    _add_content(tar, entry, file.content)


def _add(tar: tarfile.TarFile, name: str, content: bytes | Path) -> None:
    entry = tarfile.TarInfo(name)
    entry.mode = 0o644
    _add_content(tar, entry, content)


def _add_content(tar: tarfile.TarFile, entry: tarfile.TarInfo, content: bytes | Path) -> None:
    if isinstance(content, bytes):
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
        return
    entry.size = content.stat().st_size
    with content.open("rb") as stream:
        tar.addfile(entry, stream)


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
