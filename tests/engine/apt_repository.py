"""A repository of Debian packages as upstream's for Kubernetes is laid out: flat, signed, with its key beside it.

The packages are made like upstream's (https://github.com/kubernetes/release, cmd/krel/templates/latest).
"""

import gzip
import hashlib
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from engine.artifact_server import Artifacts

_UNITS = "/lib/systemd/system"
_GNUPG = "/tmp/gnupg"
_PACKAGES = "dpkg-query -W -f '${Package}\\n' | sort"


@dataclass(frozen=True, kw_only=True)
class Package:
    """A Debian package.

    Args:
        name, version: its own.
        files: path -> content, or the file that has it; programs are executable.
        depends: on other packages.
        scripts: name of a maintainer's script -> its content.
        conffiles: those of its files that are a person's to change.
    """

    name: str
    version: str
    files: Mapping[str, str | Path]
    depends: Sequence[str] = ()
    scripts: Mapping[str, str] = field(default_factory=dict)
    conffiles: Sequence[str] = ()

    @property
    def control(self) -> str:
        """Its description."""
        return (
            f"Package: {self.name}\nVersion: {self.version}\nArchitecture: amd64\nMaintainer: nobody\n"
            + (f"Depends: {', '.join(self.depends)}\n" if self.depends else "")
            + f"Description: {self.name}\n"
        )


@dataclass(frozen=True, kw_only=True)
class Key:
    """One that signs.

    Args:
        fingerprint: its own.
        public: as a repository shows it.
    """

    fingerprint: str
    public: str


class Signer:
    """gpg, on a machine that has it for that long.

    Args:
        bash: runs a script there.
    """

    def __init__(self, bash: Callable[[str], str]) -> None:
        self._bash = bash

    def __enter__(self) -> "Signer":
        self._bash(
            f"install -d -m 0700 {_GNUPG}; {_PACKAGES} >{_GNUPG}/packages\n"
            "apt-get -qq update; apt-get -qq install -y --no-install-recommends gpg gpg-agent >/dev/null 2>&1"
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bash(
            f"gpgconf --homedir {_GNUPG} --kill gpg-agent\n"
            f"{_PACKAGES} | comm -13 {_GNUPG}/packages - | xargs apt-get -qq -y purge >/dev/null 2>&1\n"
            f"rm -r {_GNUPG}"
        )

    def key(self, name: str) -> Key:
        """A new one."""
        self._gpg(f"--passphrase '' --quick-generate-key {name} rsa2048 sign never")
        listed = self._gpg(f"--list-keys --with-colons {name}").splitlines()
        fingerprint = next(line.split(":")[9] for line in listed if line.startswith("fpr:"))
        return Key(fingerprint=fingerprint, public=self.public(fingerprint))

    def public(self, *fingerprints: str) -> str:
        """Some keys, as a repository shows them."""
        return self._gpg(f"--armor --export {' '.join(fingerprints)}")

    def signed(self, text: str, key: Key, how: str) -> bytes:
        """A text and its signature, or the signature alone; `how` is an option of gpg's."""
        return self._gpg(f"--armor --local-user {key.fingerprint} {how} <<'END'\n{text}END").encode()

    def _gpg(self, arguments: str) -> str:
        return self._bash(f"gpg --homedir {_GNUPG} --batch --quiet --pinentry-mode loopback {arguments}")


def publish(server: Artifacts, path: str, packages: Sequence[Package], signer: Signer, key: Key, work: Path) -> str:
    """Have a server serve a repository below a path; returns its URL."""
    index = ""
    for package in packages:
        content = _deb(package, work)
        place = f"amd64/{package.name}_{package.version}_amd64.deb"
        server.files[f"{path}/{place}"] = content
        sha256 = hashlib.sha256(content).hexdigest()
        index += f"{package.control}Filename: {place}\nSize: {len(content)}\nSHA256: {sha256}\n\n"
    files = {"Packages": index.encode(), "Packages.gz": gzip.compress(index.encode())}
    sums = "".join(f" {hashlib.sha256(text).hexdigest()} {len(text)} {name}\n" for name, text in files.items())
    release = f"Origin: test\nArchitectures: amd64\nDate: Sat, 01 Jan 2022 00:00:00 UTC\nSHA256:\n{sums}"
    files |= {
        "Release": release.encode(),
        "InRelease": signer.signed(release, key, "--clearsign"),
        "Release.gpg": signer.signed(release, key, "--detach-sign"),
        "Release.key": key.public.encode(),
    }
    server.files |= {f"{path}/{name}": content for name, content in files.items()}
    return f"{server.url}{path}"


def kubernetes(version: str, programs: Mapping[str, str | Path]) -> list[Package]:
    """Upstream's packages of one version, with these programs: kubelet, kubeadm and kubectl."""
    # From systemd_post and systemd_preun of https://github.com/debbuild/debbuild-macros, which upstream builds with. A
    # test may hold the package back.
    scripts = {
        "postinst": "while [ -e /run/packages-wait ]; do sleep 0.1; done\n"
        '[ "$1" != configure ] || systemctl preset kubelet.service >/dev/null 2>&1 || :',
        "prerm": '[ "$1" != remove ] || { systemctl --no-reload disable kubelet.service; '
        "systemctl stop kubelet.service; } >/dev/null 2>&1 || :",
        "postrm": "systemctl daemon-reload >/dev/null 2>&1 || :",
    }
    kubelet = {
        "/usr/bin/kubelet": programs["kubelet"],
        f"{_UNITS}/kubelet.service": _KUBELET,
        "/etc/default/kubelet": "KUBELET_EXTRA_ARGS=\n",
        "/etc/kubernetes/manifests/.kubelet-keep": "",
        "/var/lib/kubelet/.kubelet-keep": "",
    }
    kubeadm = {
        "/usr/bin/kubeadm": programs["kubeadm"],
        f"{_UNITS}/kubelet.service.d/10-kubeadm.conf": _KUBEADM_DROP_IN,
    }
    depends = ["iptables (>= 1.4.21)", "kubernetes-cni (>= 1.2.0)", "mount", "util-linux"]
    return [
        Package(
            name="kubelet",
            version=version,
            files=kubelet,
            depends=depends,
            scripts=scripts,
            conffiles=["/etc/default/kubelet"],
        ),
        Package(name="kubeadm", version=version, files=kubeadm),
        Package(name="kubectl", version=version, files={"/usr/bin/kubectl": programs["kubectl"]}),
    ]


def cni_plugins(version: str) -> Package:
    """Upstream's package of the CNI plugins, with two that are none."""
    files = {f"/opt/cni/bin/{name}": "#!/bin/sh\necho from the package\n" for name in ("loopback", "portmap")}
    return Package(name="kubernetes-cni", version=version, files=files | {"/etc/cni/net.d/.kubernetes-cni-keep": ""})


def program(version: str) -> str:
    """One that can only say its version."""
    return f"#!/bin/sh\necho Kubernetes v{version}\n"


def _deb(package: Package, work: Path) -> bytes:
    root, deb = work / "root", work / "package.deb"
    control = root / "DEBIAN"
    control.mkdir(parents=True)
    (control / "control").write_text(package.control)
    for name, text in package.scripts.items():
        (control / name).write_text(f"#!/bin/sh\n{text}\n")
        (control / name).chmod(0o755)
    if package.conffiles:
        (control / "conffiles").write_text("".join(f"{path}\n" for path in package.conffiles))
    for path, content in package.files.items():
        at = root / path.removeprefix("/")
        at.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copy(content, at)
        else:
            at.write_text(content)
        at.chmod(0o755 if "/bin/" in path else 0o644)
    build = ["dpkg-deb", "--root-owner-group", "-Znone", "-b", str(root), str(deb)]
    subprocess.run(build, check=True, capture_output=True)
    shutil.rmtree(root)
    return deb.read_bytes()


_KUBELET = """\
[Unit]
Description=kubelet: The Kubernetes Node Agent
Documentation=https://kubernetes.io/docs/
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/usr/bin/kubelet
Restart=always
StartLimitInterval=0
RestartSec=10

[Install]
WantedBy=multi-user.target
"""
_KUBEADM_DROP_IN = """\
[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf \
--kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
"""
