"""What the substrate `containers` runs on its host, for each container engine."""

import hashlib
import re
from dataclasses import replace

import pytest

from components.substrates.containers.substrate import close_firewall, create_container, firewall_script
from config.lab import Lab, parse
from lab.container_scripts import PREFIX, made, scripts
from toolchain import paths

# Of the scripts that made the labs which run today.
MADE_BY_PODMAN = "316645489830cb19"


def lab(engine: str) -> Lab:
    """The lab dev on an engine, on a host with cgroup v1, whatever this one has."""
    settings = {"controllers": 1, "workers": 2, "containers": {"engine": engine, "image": "the-image"}}
    return replace(parse("dev", settings), cgroup_v2=False)


def test_the_machines_of_a_running_lab_are_not_replaced() -> None:
    """Another text of these scripts is another machine: the next `up` would remove what runs."""
    text = "\n".join(made(lab("podman"))).replace(str(paths.mirror()), "MIRROR")
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == MADE_BY_PODMAN, text


@pytest.mark.parametrize("engine", ["podman", "docker"])
def test_with_cgroup_v2_the_engine_sets_no_limit_of_processes(engine: str) -> None:
    """podman's default is 2048, and there no machine can raise it for itself."""
    of_v2 = replace(lab(engine), cgroup_v2=True)
    for spec in of_v2.machines:
        text = create_container(of_v2, PREFIX, spec)
        assert text.count("--pids-limit=-1 ") == 1
        without = create_container(lab(engine), PREFIX, spec)
        assert text.replace("  --pids-limit=-1 \\\n", "") == without.replace("  --pids-limit=-1 \\\n", "")


@pytest.mark.parametrize("engine", ["podman", "docker"])
def test_a_machine_has_the_limits_of_the_settings_and_else_none(engine: str) -> None:
    settings = {"containers": {"engine": engine, "image": "the-image", "vcpus": 2, "memory_mib": 2048}}
    limited = replace(parse("dev", settings), cgroup_v2=False)
    text = create_container(limited, PREFIX, limited.machines[0])
    assert "  --cpus=2 \\\n  --memory=2048m \\\n  --memory-swap=2048m \\\n" in text
    without = create_container(lab(engine), PREFIX, lab(engine).machines[0])
    assert "--cpus" not in without and "--memory" not in without


@pytest.mark.parametrize(("engine", "other"), [("podman", "docker"), ("docker", "podman")])
def test_one_engine_is_not_asked_for_the_others_things(engine: str, other: str) -> None:
    asked = re.findall(rf"as_root {other} .*", scripts(lab(engine)))
    assert asked == []


def test_docker_is_not_asked_for_what_only_podman_or_later_versions_know() -> None:
    text = scripts(lab("docker"))
    assert " rm -f -t " not in text
    assert "network rm -f" not in text
    assert "--disable-dns" not in text
    assert "--systemd" not in text


def test_dockers_machines_see_the_hosts_resolvers() -> None:
    """docker's own, 127.0.0.11, is of no use to pods."""
    text = create_container(lab("docker"), PREFIX, lab("docker").machines[0])
    assert "--volume=/etc/resolv.conf:/etc/hardway/host-resolv.conf:ro" in text
    assert '"$@" \\\n  the-image' in text


def test_the_firewall_is_closed_by_a_script_that_does_not_need_the_installed_one() -> None:
    assert "as_root sh -s close" in close_firewall(PREFIX).splitlines()
    assert (paths.checkout() / "components/substrates/containers/firewall.sh").read_text() in firewall_script(
        "podman", PREFIX
    )
