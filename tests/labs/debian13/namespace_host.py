"""A Debian 13 host in namespaces of its own, with the project in an ordinary user's home directory."""

import subprocess
from pathlib import Path

from lab.commands import CHECKOUT
from lab.polling import eventually
from labs.debian13.debian_root import HERE, PROJECT, USER, copy_files, layers
from toolchain import node_image, paths

_SCRIPT = HERE / "namespace-host"
_SECONDS = 400


class NamespaceHost:
    """The host; all its processes end with `stop`.

    Args:
        directory: does not exist yet; for all that is written on the host.
    """

    def __init__(self, directory: Path) -> None:
        self._state = directory

    def start(self) -> None:
        """Have the host with the files of this checkout, as they are, and the cache of the host."""
        cache = f"/home/{USER}/.cache/hardway"
        subprocess.run([_SCRIPT, "start", layers(), self._state, paths.cache(), cache], check=True)
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=True,
        )
        names = [name for name in listed.stdout.split("\0") if name and (CHECKOUT / name).exists()]
        copy_files(self._state, PROJECT, CHECKOUT, names)
        # Only what is root's: a file of the layer below that gets the owner it has would be copied.
        self.run(f"chown {USER}:{USER} /home/{USER}/.cache && chown -R --from=root {USER}:{USER} {PROJECT}")

    def load_node_image(self) -> None:
        """Give podman the image that the host's podman has."""
        with subprocess.Popen(["podman", "save", node_image.reference()], stdout=subprocess.PIPE) as saved:
            load: list[str | Path] = [_SCRIPT, "run", self._state, "podman", "load", "--quiet"]
            subprocess.run(load, stdin=saved.stdout, stdout=subprocess.DEVNULL, check=True)
        assert saved.returncode == 0

    def start_docker(self) -> None:
        """Start Docker's daemon as a boot does: while nothing is forwarded, so that it sets the policy to DROP."""
        wrapper = f"{PROJECT}/tests/labs/docker/runc_within_bounds.py"
        self.run(
            f"""mkdir -p /opt/front && ln -s {wrapper} /opt/front/runc
            HARDWAY_RUNC=/usr/sbin/runc PATH=/opt/front:$PATH setsid dockerd </dev/null >/var/log/dockerd.log 2>&1 &"""
        )
        eventually(
            "the answer of dockerd",
            lambda: self.try_run("docker version").returncode == 0,
            seconds=60,
            report=lambda: self.run("tail -n 30 /var/log/dockerd.log"),
        )

    def stop(self) -> None:
        """End the host, with all that runs on it."""
        # Its processes end by themselves; the cgroups of containers would stay.
        self.try_run("podman rm --all --force --time 0; docker ps --all --quiet | xargs --no-run-if-empty docker rm -f")
        subprocess.run([_SCRIPT, "stop", self._state], check=True)

    def run(self, script: str, *, user: str = "root") -> str:
        """What a shell script prints, both streams.

        Raises:
            AssertionError: it failed.
        """
        done = self.try_run(script, user=user)
        assert done.returncode == 0, f"{script}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def try_run(self, script: str, *, user: str = "root") -> subprocess.CompletedProcess[str]:
        """Run a shell script in the project's directory, however it ends."""
        shell = ["sh", "-c"] if user == "root" else ["su", "--login", user, "--command"]
        return subprocess.run(
            [_SCRIPT, "run", self._state, *shell, f"cd {PROJECT} && {{ {script}\n}}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
