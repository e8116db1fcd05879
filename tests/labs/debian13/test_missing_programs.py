"""A Debian 13 host without nft, which netavark needs there, and without a registry of packages."""

from labs.debian13.debian_root import USER
from labs.debian13.namespace_host import NamespaceHost


def test_a_missing_nft_is_named_and_nothing_is_left(host: NamespaceHost) -> None:
    host.run("dpkg --remove --force-depends nftables && ! command -v nft")
    # No repository is in reach: apt's pauses between its attempts change nothing but the time.
    host.run("""echo 'Acquire::Retries "0";' >/etc/apt/apt.conf.d/no-retries""")
    bridges = "ip -o link show type bridge; podman network ls --format '{{.Name}}'"
    before = host.run(bridges)
    done = host.try_run("sudo make up STACK=dev", user=USER)
    assert done.returncode != 0
    assert "nftables" in done.stdout
    assert "Traceback" not in done.stdout
    assert host.run(bridges) == before
