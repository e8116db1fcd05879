"""A host that reaches the imitation of upstream and nothing else: namespaces, a CA, storage of its own for podman."""

import datetime
import ipaddress
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lab.commands import CHECKOUT
from labs.upstream.imitation import ADDRESS, HOSTS, Content

STACK = "upstream-test"
_SECONDS = 400
_SETTINGS: dict[str, Any] = {"containers": {"engine": "podman"}, "controllers": 1, "workers": 1}
_STORAGE = """[storage]
driver = "overlay"
graphroot = "{directory}/images"
runroot = "{directory}/run"
[storage.options]
"""
_SHARED_IMAGES = 'additionalimagestores = ["/var/lib/containers/storage"]\n'
_ENGINE = """[engine]
tmp_dir = "{directory}/libpod"
[network]
network_config_dir = "{directory}/networks"
"""


class UpstreamHost:
    """A fresh copy of this checkout on a host of its own; all of it ends with `stop`.

    Args:
        directory: where everything of it is.
        bare: whether it has no virtual environment and no container images; otherwise it uses those of the host.

    Attributes:
        directory: where everything of it is.
        checkout: the copy.
        cache: what set-up fills, empty at first.
        environment: that commands run in.
    """

    def __init__(self, directory: Path, *, bare: bool = False) -> None:
        self.directory = directory
        self._bare = bare
        self.checkout = directory / "checkout"
        self.cache = directory / "cache"
        self._server: subprocess.Popen[bytes] | None = None
        self._host = _hold("unshare", "--mount", "--net", "--propagation", "private")
        home = directory / "home"
        home.mkdir()
        self.environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "TOOLCHAIN": "upstream",
            "HARDWAY_CACHE": str(self.cache),
            # Pulumi does not look at HOME, but into the list of users.
            "PULUMI_HOME": str(home / ".pulumi"),
            # The one CA that anything here trusts.
            "SSL_CERT_FILE": str(directory / "ca.pem"),
            "SSL_CERT_DIR": "/nonexistent",
            "CONTAINERS_STORAGE_CONF": str(directory / "storage.conf"),
            "CONTAINERS_CONF": str(directory / "containers.conf"),
        }
        self._copy_checkout()

    def start(self, content: Content, *, names: Sequence[str] = ()) -> None:
        """Have the network, the engine's settings and the server; `names` lead there, too."""
        content.write(self.directory)
        _write_certificates(self.directory)
        storage = _STORAGE + ("" if self._bare else _SHARED_IMAGES)
        for name, text in (("storage.conf", storage), ("containers.conf", _ENGINE)):
            (self.directory / name).write_text(text.format(directory=self.directory / "podman"))
        known = "".join(f"{ADDRESS} {name}\n" for name in (*HOSTS, *names))
        self._mounted("/etc/hosts", f"127.0.0.1 localhost\n{known}")
        self._mounted("/etc/resolv.conf", f"nameserver {ADDRESS}\n")
        # Namespaces of other labs' containers are mounted there.
        self.run("mount", "-t", "tmpfs", "tmpfs", "/run/netns")
        for words in ("link set lo up", "link add upstream type bridge", f"address add {ADDRESS}/24 dev upstream"):
            self.run("ip", *words.split())
        self.run("ip", "link", "set", "upstream", "up")
        program = Path(__file__).with_name("imitation.py")
        self._server = subprocess.Popen(
            [*self.enter(), sys.executable, program, self.directory], stdout=subprocess.PIPE
        )
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == b"ready\n"

    def stop(self) -> None:
        """End all of it, with the machines that failed tests have left."""
        try:
            if self._server:
                self.run("podman", "rm", "--all", "--force", "--volumes")
        finally:
            self._end_processes()

    def _end_processes(self) -> None:
        for process in (self._server, self._host):
            if process:
                process.terminate()
                process.wait(timeout=30)

    def run(self, *command: str) -> str:
        """What a command prints on the host, both streams.

        Raises:
            AssertionError: it failed.
        """
        done = subprocess.run(
            [*self.enter(), *command],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def toolchain(self, *arguments: str) -> str:
        """What a command of the project prints."""
        # `hardway` would make an environment by the host's own Python; the linked one may be another's.
        program = ("./hardway",) if self._bare else (".venv/bin/python", "-m", "cli")
        return self.run(*program, "--stack", STACK, *arguments)

    def requests(self) -> list[dict[str, Any]]:
        """All that the server was asked for, in order."""
        log = self.directory / "requests"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def names(self) -> list[str]:
        """The names that were asked for and are not upstream's."""
        log = self.directory / "names"
        return log.read_text().split() if log.exists() else []

    def _copy_checkout(self) -> None:
        listing = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=CHECKOUT,
            capture_output=True,
            check=True,
        )
        for name in listing.stdout.decode().split("\0"):
            if name and (CHECKOUT / name).is_file():
                (self.checkout / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(CHECKOUT / name, self.checkout / name)
        if not self._bare:
            (self.checkout / ".venv").symlink_to(CHECKOUT / ".venv")
        settings = self.checkout / f"Pulumi.{STACK}.yaml"
        settings.write_text(yaml.safe_dump({"config": {"hardway:lab": _SETTINGS}}))

    def _mounted(self, path: str, text: str) -> None:
        file = self.directory / Path(path).name
        file.write_text(text)
        self.run("mount", "--bind", str(file), path)

    def enter(self) -> list[str]:
        """The words before a command that run it on the host."""
        # Not --wd: nsenter would enter the directory of the other mount namespace, which has no path here.
        return ["nsenter", f"--target={self._host.pid}", "--mount", "--net", "env", f"--chdir={self.checkout}"]


@contextmanager
def upstream_host(name: str, *, bare: bool = False) -> Iterator[UpstreamHost]:
    """A host that is not started yet, in a directory of its own; all of it goes in the end."""
    directory = Path(tempfile.mkdtemp(prefix=f"hardway-{name}-", dir="/var/tmp"))
    host = UpstreamHost(directory, bare=bare)
    try:
        yield host
    finally:
        try:
            host.stop()
        finally:
            shutil.rmtree(directory)


def _hold(*unshare: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([*unshare, "sh", "-c", "echo here; exec sleep infinity"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"here\n"
    return process


def _write_certificates(directory: Path) -> None:
    """`ca.pem`, and `server.pem` with the key and the certificate for all names."""
    now = datetime.datetime.now(datetime.UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "imitation of upstream")])
    begin, end = now - datetime.timedelta(hours=1), now + datetime.timedelta(days=1)

    def builder(name: x509.Name, of: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        made = x509.CertificateBuilder().subject_name(name).issuer_name(ca_name).public_key(of.public_key())
        return made.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end)

    ca = builder(ca_name, ca_key).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    names = [x509.DNSName(name) for name in HOSTS] + [x509.IPAddress(ipaddress.ip_address(ADDRESS))]
    server = builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "upstream")]), key).add_extension(
        x509.SubjectAlternativeName(names), critical=False
    )
    encoding = serialization.Encoding.PEM
    (directory / "ca.pem").write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(encoding))
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "server.pem").write_bytes(private + server.sign(ca_key, hashes.SHA256()).public_bytes(encoding))
