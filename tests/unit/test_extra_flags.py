"""`extra_flags`: what is refused, and what reaches a program's unit."""

from typing import Any

import pytest
import yaml

from config import extra_flags
from config.lab import parse
from config.problems import ConfigError
from config.versions import pins
from unit.mocked_engine import Run, run_program


def problems(flags: Any, **lab: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse("dev", {"extra_flags": flags, **lab})
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"kube-api": {"v": 1}}, "no such program"),
        ({"kubelet": {"--v": 1}}, "write v, without the dashes"),
        ({"kubelet": {"verbosity": 1}}, "has no such flag"),
        ({"kube-apiserver": {"audit-log-maxagee": 1}}, "did you mean audit-log-maxage?"),
        ({"kube-apiserver": {"request-timeout": "1 s"}}, "no value of a flag"),
        ({"kube-apiserver": {"request-timeout": "$(reboot)"}}, "no value of a flag"),
        ({"kube-apiserver": {"request-timeout": None}}, "no value of a flag"),
        ({"kube-apiserver": {"default-watch-cache-size": [1]}}, "no value of a flag"),
        ({"kube-apiserver": {"etcd-servers": "x"}}, "cannot be set: the lab makes its etcd members"),
        ({"kube-proxy": {"proxy-mode": "ipvs"}}, "ignores it beside its configuration file"),
        ({"kube-scheduler": {"kube-api-qps": 1}}, "ignores it beside its configuration file"),
        ({"kube-proxy": {"no-such-flag": "x"}}, "has no such flag"),
        ({"etcd": {"unsafe-no-fsync": True}}, "acknowledged writes are lost"),
    ],
)
def test_what_is_refused(flags: Any, words: str) -> None:
    (problem,) = problems(flags)
    assert words in problem


def test_all_of_it_is_one_report() -> None:
    assert len(problems({"kubelet": {"x": 1, "config": "y"}, "etcd": {"name": "z"}}, workers=0)) == 4


def test_kubeadm_has_no_place_for_the_flags_of_some_programs() -> None:
    found = problems({"etcd": {"max-wals": 7}, "kube-proxy": {"v": 1}}, bootstrap="kubeadm")
    assert [each.splitlines()[0].split(": ")[1] for each in found] == [
        "kubeadm changes the flags of a member only with its version",
        "kubeadm's DaemonSet has no place for flags",
    ]


def test_kubeadms_scheduler_has_flags_instead_of_a_configuration_file() -> None:
    parse("dev", {"bootstrap": "kubeadm", "extra_flags": {"kube-scheduler": {"kube-api-qps": 1}}})
    (problem,) = problems({"kube-scheduler": {"config": "x"}}, bootstrap="kubeadm")
    assert "cannot be set" in problem


def test_flags_reach_what_kubeadm_is_told() -> None:
    flags = {"kube-apiserver": {"profiling": True}, "kube-scheduler": {"v": 3}, "kubelet": {"v": 4}}
    before, after = (
        run_program("dev", {"bootstrap": "kubeadm", "controllers": 3, "extra_flags": each}) for each in ({}, flags)
    )
    changed = {
        name for name in {each.name for each in before.of_type(_STEP)} if before.script(name) != after.script(name)
    }
    machines = [each["name"] for each in before.outputs["machines"] if each["pod_cidr"]]
    assert changed == {
        *(f"kubeadm-controller-{number}" for number in range(3)),
        *(f"kubeadm-node-{machine}" for machine in machines),
        *(f"kubeadm-upgrade-kubelet-{machine}" for machine in machines),
    }
    for number in range(3):
        file = "kubeadm.yaml" if number == 0 else "kubeadm-control-plane.yaml"
        told = yaml.safe_load_all(after.file(f"kubeadm-controller-{number}", f"/etc/hardway/{file}"))
        cluster = next(each for each in told if each["kind"] == "ClusterConfiguration")
        assert {"name": "profiling", "value": "true"} in cluster["apiServer"]["extraArgs"]
        assert {"name": "v", "value": "3"} in cluster["scheduler"]["extraArgs"]
    drop_in = after.file("kubeadm-node-worker-0", "/etc/systemd/system/kubelet.service.d/20-hardway.conf")
    assert 'Environment="KUBELET_EXTRA_ARGS=--v=4"' in drop_in.splitlines()


@pytest.mark.parametrize("product", ["kubernetes", "etcd"])
def test_every_pinned_version_has_a_list(product: str) -> None:
    programs = ["etcd"] if product == "etcd" else [each for each in extra_flags.PROGRAMS if each != "etcd"]
    for version in pins().products[product].versions:
        for program in programs:
            assert extra_flags.lists()[program][version.rpartition(".")[0]]


def test_what_is_refused_is_a_flag_of_some_version() -> None:
    """A spelling mistake in the table would refuse nothing."""
    minors = {
        each.rpartition(".")[0] for product in ("kubernetes", "etcd") for each in pins().products[product].versions
    }
    for program, reasons in extra_flags.REFUSED.items():
        known = {name for minor in minors for name in extra_flags.lists()[program].get(minor, ())}
        assert reasons.keys() <= known, program


_STEP = "command:remote:Command"
STEPS = {
    "kube-apiserver": "control-plane-controller-0",
    "kube-controller-manager": "control-plane-controller-0",
    "kube-scheduler": "control-plane-controller-0",
    "kubelet": "worker-0-node",
    "kube-proxy": "worker-0-node",
    "etcd": "etcd-controller-0",
}


def test_flags_reach_the_units_and_change_nothing_else(dev: Run) -> None:
    before, after = dev, run_program("dev", {"extra_flags": {"kubelet": {"v": 3}, "etcd": {"max-wals": 7}}})
    for program, step in STEPS.items():
        new = {"kubelet": {"v": "3"}, "etcd": {"max-wals": "7"}}.get(program, {})
        assert after.flags(step, program) == {**before.flags(step, program), **new}
    changed = {
        name for name in {each.name for each in before.of_type(_STEP)} if before.script(name) != after.script(name)
    }
    assert changed == {"etcd-controller-0", "worker-0-node", "worker-1-node"}


def test_a_flag_of_the_lab_is_changed_in_its_place(dev: Run) -> None:
    lab = {"extra_flags": {"kube-apiserver": {"profiling": True}}}
    flags = run_program("dev", lab).flags(STEPS["kube-apiserver"], "kube-apiserver")
    assert flags["profiling"] == "true"
    assert list(flags) == list(dev.flags(STEPS["kube-apiserver"], "kube-apiserver"))


def test_flags_that_the_lab_sets_are_refused_or_may_be_changed(dev: Run) -> None:
    """A new flag of the lab's own belongs to the table of refused flags, or to this list."""
    may_be_changed = {
        "kube-apiserver": {
            "allow-privileged",
            "audit-log-maxage",
            "audit-log-maxbackup",
            "audit-log-maxsize",
            "enable-admission-plugins",
            "kubelet-preferred-address-types",
            "profiling",
            "requestheader-extra-headers-prefix",
            "requestheader-group-headers",
            "requestheader-username-headers",
            "service-account-extend-token-expiration",
            "service-node-port-range",
            "shutdown-watch-termination-grace-period",
        },
        "kube-controller-manager": {
            "kube-api-burst",
            "kube-api-qps",
            "leader-elect-retry-period",
            "profiling",
            "terminated-pod-gc-threshold",
        },
        "kube-scheduler": {"profiling"},
        "etcd": {"watch-progress-notify-interval"},
    }
    for program, step in STEPS.items():
        flags = dev.flags(step, program).keys()
        free = may_be_changed.get(program, set()) | {"tls-min-version", "tls-cipher-suites", "cipher-suites"}
        assert flags - extra_flags.REFUSED[program].keys() - free == set(), program
