import hashlib
import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest

from toolchain.from_source.image_archive import File, Image, Link, copy_layer, write, write_layer

REFERENCE = "registry.k8s.io/coredns/coredns:v1.14.7"


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    program = tmp_path / "coredns"
    program.write_bytes(b"\x7fELF")
    layer = tmp_path / "layer.tar"
    write_layer(
        layer,
        {
            "/usr/bin/coredns": File(content=program, mode=0o755, capabilities=1 << 10),
            "/etc/passwd": File(content=b"root:x:0:0::/root:/bin/sh\n"),
            "/bin/dns": Link(target="../usr/bin/coredns"),
        },
    )
    return layer


@pytest.fixture
def archive(layer: Path, tmp_path: Path) -> Path:
    archive = tmp_path / "image.tar"
    write(
        archive,
        Image(
            reference=REFERENCE,
            arch="arm64",
            layers=(layer, layer),
            entrypoint=("/usr/bin/coredns",),
            command=("-conf", "/etc/Corefile"),
            user="65532:65532",
        ),
    )
    return archive


def blobs_of(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        names = [name for name in tar.getnames() if name.startswith("blobs/")]
        assert len(names) == len(set(names))
        read = {name: tar.extractfile(name) for name in names}
        return {name: stream.read() for name, stream in read.items() if stream}


def document(archive: Path, name: str) -> Any:
    with tarfile.open(archive) as tar:
        stream = tar.extractfile(name)
        assert stream
        return json.loads(stream.read())


def test_every_blob_is_named_by_its_own_digest(archive: Path) -> None:
    blobs = blobs_of(archive)
    assert {name: f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}" for name, blob in blobs.items()} == {
        name: name for name in blobs
    }


def test_the_index_names_the_image_for_containerd(archive: Path) -> None:
    (manifest,) = document(archive, "index.json")["manifests"]
    assert manifest["annotations"]["io.containerd.image.name"] == REFERENCE
    assert manifest["platform"] == {"architecture": "arm64", "os": "linux"}
    assert document(archive, "oci-layout") == {"imageLayoutVersion": "1.0.0"}


def test_index_manifest_config_and_layers_hold_together(archive: Path, layer: Path) -> None:
    blobs = blobs_of(archive)

    def follow(descriptor: dict[str, Any]) -> bytes:
        blob = blobs[f"blobs/{descriptor['digest'].replace(':', '/')}"]
        assert descriptor["size"] == len(blob)
        return blob

    (named,) = document(archive, "index.json")["manifests"]
    manifest = json.loads(follow(named))
    config = json.loads(follow(manifest["config"]))
    digest = f"sha256:{hashlib.sha256(layer.read_bytes()).hexdigest()}"
    assert [follow(entry) for entry in manifest["layers"]] == [layer.read_bytes()] * 2
    assert config["rootfs"] == {"type": "layers", "diff_ids": [digest, digest]}
    assert config["architecture"] == "arm64"
    assert config["config"]["Entrypoint"] == ["/usr/bin/coredns"]
    assert config["config"]["Cmd"] == ["-conf", "/etc/Corefile"]
    assert config["config"]["User"] == "65532:65532"


def test_a_layer_has_directories_modes_links_and_capabilities(layer: Path) -> None:
    with tarfile.open(layer) as tar:
        entries = {entry.name: entry for entry in tar}
        assert list(entries) == ["bin", "etc", "usr", "usr/bin", "bin/dns", "etc/passwd", "usr/bin/coredns"]
        assert all(entries[name].isdir() and entries[name].mode == 0o755 for name in ("bin", "etc", "usr/bin"))
        assert entries["bin/dns"].linkname == "../usr/bin/coredns"
        assert entries["etc/passwd"].mode == 0o644
        assert entries["usr/bin/coredns"].mode == 0o755
        assert {(entry.uid, entry.gid, entry.mtime) for entry in entries.values()} == {(0, 0, 0)}
        packed = entries["usr/bin/coredns"].pax_headers["SCHILY.xattr.security.capability"].encode()
    # CAP_NET_BIND_SERVICE is number 10; revision 2, effective.
    assert packed == bytes.fromhex("0100000200040000000000000000000000000000")


def test_the_same_files_make_the_same_bytes(archive: Path, layer: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.tar"
    (tmp_path / "coredns").touch()
    image = Image(
        reference=REFERENCE,
        arch="arm64",
        layers=(layer, layer),
        entrypoint=("/usr/bin/coredns",),
        command=("-conf", "/etc/Corefile"),
        user="65532:65532",
    )
    write(again, image)
    assert again.read_bytes() == archive.read_bytes()


def test_a_copied_layer_lacks_what_is_left_out_and_times(tmp_path: Path) -> None:
    source, copied = tmp_path / "source.tar", tmp_path / "copied.tar"
    with tarfile.open(source, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("./etc/passwd", "./usr/share/perl/strict.pm"):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = 4, 1234.5
            tar.addfile(entry, io.BytesIO(b"text"))
    copy_layer(source, copied, without=re.compile(r"\./usr/share/"))
    with tarfile.open(copied) as tar:
        (entry,) = tar.getmembers()
        assert (entry.name, entry.mtime, entry.pax_headers) == ("./etc/passwd", 0, {})
        content = tar.extractfile(entry)
        assert content and content.read() == b"text"
