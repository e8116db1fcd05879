"""The content of the imitation: what set-up has built on the host, packed as upstream packs it, and its pins."""

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from config.versions import pins
from labs.upstream.imitation import INDEX, MANIFEST, Content
from toolchain import artifacts, plugins
from toolchain.versions import architecture, tools

_OTHER = {"amd64": "arm64", "arm64": "amd64"}
_PULUMI_NAMES = {"amd64": "x64", "arm64": "arm64"}
# The plugins are the stand-ins of the project that is set up, whose place is known here.
_PLUGIN = """#!/bin/sh
exec "{python}" -c '
import sys
sys.path[0] = "{checkout}"
from toolchain.from_source.standins.{module} import main
main()' "$@"
"""


class Releases:
    """Files and images of one lab, and the versions file whose pins are theirs.

    Args:
        mirror: what set-up has made on the host.
        pulumi: the Pulumi CLI that it has made.
        checkout: the project that the lab is to be made with.
        python: the interpreter that has its requirements.
        directory: where to write.
    """

    def __init__(self, mirror: Path, pulumi: Path, checkout: Path, python: str, directory: Path) -> None:
        self._mirror = mirror
        self._checkout = checkout
        self._python = python
        self._directory = directory
        self._arch = architecture()
        self.content = Content()
        self.versions: dict[str, Any] = yaml.safe_load((checkout / "config" / "versions.yaml").read_text())
        (directory / "blobs").mkdir(parents=True)
        (directory / "files").mkdir()
        self._files()
        for name in pins().images_for(()):
            self._image(name)
        self._pulumi(pulumi)
        for name in ("command", "tls"):
            self._plugin(name, tools().plugins[name].version)

    def write_versions(self) -> None:
        """Have the project pin what is served."""
        (self._checkout / "config" / "versions.yaml").write_text(yaml.safe_dump(self.versions, sort_keys=False))

    def _files(self) -> None:
        for file in artifacts.plan(pins().products["kubernetes"].default, self._arch):
            # A release has no permission to be executed; that the server reads these is no such permission.
            place = self._mirror / file.path
            sha256 = _sum(place)
            self.content.files[file.path] = str(place)
            self._serve(f"{file.path}.sha256", sha256.encode())
            version = self.versions[file.product]["versions"][file.version]
            version.setdefault(file.artifact, {})[self._arch] = sha256

    def _image(self, name: str) -> None:
        image = pins().images[name]
        with tarfile.open(self._mirror / image.archive_path(self._arch)) as tar:
            for member in tar:
                if member.isfile() and member.name.startswith("blobs/sha256/"):
                    stream = tar.extractfile(member)
                    assert stream is not None
                    blob = self._directory / "blobs" / Path(member.name).name
                    with blob.open("wb") as file:
                        shutil.copyfileobj(stream, file)
                    self.content.blobs[blob.name] = str(blob)
            index = tar.extractfile("index.json")
            assert index is not None
            (manifest,) = json.loads(index.read())["manifests"]
        self.content.types[manifest["digest"].removeprefix("sha256:")] = MANIFEST
        others = {"mediaType": MANIFEST, "digest": f"sha256:{'0' * 64}", "size": 400}
        document = {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [
                {**others, "platform": {"architecture": _OTHER[self._arch], "os": "linux"}},
                {
                    "mediaType": MANIFEST,
                    "digest": manifest["digest"],
                    "size": manifest["size"],
                    "platform": {"architecture": self._arch, "os": "linux"},
                },
            ],
        }
        content = json.dumps(document).encode()
        sha256 = hashlib.sha256(content).hexdigest()
        blob = self._directory / "blobs" / sha256
        blob.write_bytes(content)
        self.content.blobs[sha256] = str(blob)
        self.content.types[sha256] = INDEX
        self.content.tags[image.reference] = sha256
        if "digest" in self.versions["images"][name]:
            self.versions["images"][name]["digest"] = f"sha256:{sha256}"

    def _pulumi(self, command: Path) -> None:
        version = tools().pulumi
        base = f"github.com/pulumi/pulumi/releases/download/v{version}"
        name = f"pulumi-v{version}-linux-{_PULUMI_NAMES[self._arch]}.tar.gz"
        archive = self._directory / "files" / name
        _pack(archive, {"pulumi/pulumi": command, "pulumi/pulumi-language-python": self._program("language")})
        self.content.files[f"{base}/{name}"] = str(archive)
        self.versions["tools"]["pulumi"]["archive"][self._arch] = _sum(archive)

    def _plugin(self, name: str, version: str) -> None:
        file = plugins.archive_name(name, version, self._arch)
        archive = self._directory / "files" / file
        _pack(archive, {f"pulumi-resource-{name}": self._program(name)})
        release = plugins.release_of(name, version).removeprefix("https://")
        self.content.files[f"{release}/{file}"] = str(archive)
        # One is pinned, the other one is locked.
        if name == "tls":
            self.versions["tools"]["plugins"][name]["archive"] = {self._arch: _sum(archive)}

    def _program(self, module: str) -> bytes:
        return _PLUGIN.format(python=self._python, checkout=self._checkout, module=module).encode()

    def _serve(self, name: str, content: bytes) -> None:
        file = self._directory / "files" / hashlib.sha256(name.encode()).hexdigest()
        file.write_bytes(content)
        self.content.files[name] = str(file)


def _sum(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _pack(archive: Path, programs: Mapping[str, Path | bytes]) -> None:
    with gzip.open(archive, "wb", compresslevel=1) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for name, program in programs.items():
            content = program.read_bytes() if isinstance(program, Path) else program
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
