"""A Debian 13 virtual machine, emulated, with the project in an ordinary user's home directory."""

import shlex
import shutil
import subprocess
from pathlib import Path

from lab.commands import CHECKOUT
from lab.polling import eventually
from labs.debian13.debian_root import HERE, USER, layers, place
from toolchain import node_image, paths

_SCRIPT = HERE / "boot-vm"
_PORT = 10222
_BOOT_SECONDS = 1200
_NODE_IMAGE = "/var/lib/node-image.tar"
_NETWORK = "[Match]\nName=en* eth*\n[Network]\nDHCP=yes\n"


class VirtualMachine:
    """The machine, and the directory with its disk.

    Args:
        directory: for the disk, some 8 GB; below the cache directory, never in the checkout.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory or place() / "vm"
        self._key = self._directory / "key"

    def make_disk(self, settings: dict[str, str]) -> None:
        """Make the disk new.

        Args:
            settings: name of a stack -> its settings file.
        """
        shutil.rmtree(self._directory, ignore_errors=True)
        layer = self._directory / "layer"
        home = layer / "home" / USER
        project = home / "hardway"
        project.mkdir(parents=True)
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout.split("\0")
        for name in names:
            if name and (CHECKOUT / name).is_file():
                (project / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(CHECKOUT / name, project / name)
        for stack, text in settings.items():
            (project / f"Pulumi.{stack}.yaml").write_text(text)
        (home / ".cache" / "hardway").mkdir(parents=True)
        for part in ("bin", "mirror", "pulumi"):
            source = paths.cache() / part
            subprocess.run(["cp", "-a", "--reflink=auto", source, home / ".cache" / "hardway"], check=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self._key], check=True)
        for file, mode, text in (
            ("root/.ssh/authorized_keys", 0o600, self._key.with_suffix(".pub").read_text()),
            ("etc/systemd/network/10-all.network", 0o644, _NETWORK),
            ("etc/fstab", 0o644, "/dev/vda / ext4 defaults 0 1\n"),
        ):
            at = layer / file
            at.parent.mkdir(parents=True, exist_ok=True)
            at.write_text(text)
            at.chmod(mode)
        (layer / "root").chmod(0o700)
        wanted = layer / "etc/systemd/system/multi-user.target.wants"
        wanted.mkdir(parents=True)
        (wanted / "systemd-networkd.service").symlink_to("/usr/lib/systemd/system/systemd-networkd.service")
        archive = layer / _NODE_IMAGE.lstrip("/")
        archive.parent.mkdir(parents=True)
        subprocess.run(["podman", "save", "--output", archive, node_image.reference()], check=True)
        # The user of `layers`: the first ordinary one.
        subprocess.run(["chown", "-R", "1000:1000", home], check=True)
        subprocess.run([_SCRIPT, "disk", self._directory, f"{layer}:{layers()}"], check=True)
        shutil.rmtree(layer)

    def start(self) -> None:
        """Boot it, and wait until it lets root in."""
        subprocess.run([_SCRIPT, "start", self._directory, str(_PORT)], check=True)
        self.wait_until_booted("")

    def stop(self) -> None:
        """End it as a power cut does."""
        subprocess.run([_SCRIPT, "stop", self._directory], check=True)

    def reboot(self) -> None:
        """Restart it in order, and wait until it is there again."""
        boot = self.run("cat /proc/sys/kernel/random/boot_id")
        self.try_run("systemctl reboot")
        self.wait_until_booted(boot)

    def wait_until_booted(self, earlier: str) -> None:
        """Wait until systemd has started everything, in another boot than the earlier one."""

        def booted() -> bool:
            said = self.try_run("cat /proc/sys/kernel/random/boot_id; systemctl is-system-running --wait")
            boot, _, state = said.stdout.partition("\n")
            return bool(boot) and boot + "\n" != earlier and state.strip() in ("running", "degraded")

        eventually("the virtual machine's boot", booted, seconds=_BOOT_SECONDS, pause=5, report=self._console)

    def run(self, script: str, *, user: str = "root", seconds: float = 3600) -> str:
        """What a shell script prints, both streams.

        Raises:
            AssertionError: it failed.
        """
        done = self.try_run(script, user=user, seconds=seconds)
        assert done.returncode == 0, f"{script}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def try_run(self, script: str, *, user: str = "root", seconds: float = 3600) -> subprocess.CompletedProcess[str]:
        """Run a shell script, however it ends."""
        command = script if user == "root" else f"su --login {user} --command {shlex.quote(script)}"
        options = ("BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=30")
        ssh = ["ssh", "-F", "none", "-q", "-i", str(self._key), "-p", str(_PORT), *(f"-o{each}" for each in options)]
        return subprocess.run(
            [*ssh, "root@127.0.0.1", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=seconds,
        )

    def load_node_image(self, engine: str) -> None:
        """Give a container engine the node image."""
        self.run(f"{engine} load --input {_NODE_IMAGE}")

    def _console(self) -> str:
        return (self._directory / "console.log").read_text(errors="replace")[-3000:]
