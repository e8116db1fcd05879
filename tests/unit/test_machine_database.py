"""machines.txt: what a line says, and what is said about a line that makes no sense."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.lab import Lab, parse
from config.machine_database import parse as read
from config.machines import Role
from config.problems import ConfigError
from toolchain import paths

LAB_5 = """\
# as lab 5 has it: a server without a pod subnet, two nodes with one
192.168.1.10 server.kubernetes.local server
192.168.1.20 node-0.kubernetes.local node-0 10.200.0.0/24
192.168.1.21 node-1.kubernetes.local node-1 10.200.1.0/24
"""
BALANCER = "192.168.1.5 balancer.kubernetes.local balancer - role=load-balancer\n"


def lab(text: str, directory: Path, **keys: Any) -> Lab:
    file = directory / "machines.txt"
    file.write_text(text)
    return parse("own", {"substrate": "machines", "machines": {"database": str(file)}, **keys})


def problems(text: str, directory: Path, **keys: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        lab(text, directory, **keys)
    return [str(problem).replace(f"{directory}/", "") for problem in caught.value.problems]


def test_the_labs_own_columns_are_enough(tmp_path: Path) -> None:
    found = lab(LAB_5 + BALANCER, tmp_path)
    assert [(m.name, m.fqdn, str(m.address), *m.roles, str(m.pod_cidr)) for m in found.machines] == [
        ("balancer", "balancer.kubernetes.local", "192.168.1.5", Role.LOAD_BALANCER, "None"),
        ("server", "server.kubernetes.local", "192.168.1.10", Role.CONTROLLER, "None"),
        ("node-0", "node-0.kubernetes.local", "192.168.1.20", Role.WORKER, "10.200.0.0/24"),
        ("node-1", "node-1.kubernetes.local", "192.168.1.21", Role.WORKER, "10.200.1.0/24"),
    ]


def test_options_stand_behind_the_columns(tmp_path: Path) -> None:
    line = (
        "192.168.1.5 b.x b - role=load-balancer user=me port=2222 jumpbox=you@gate.x:2200 arch=arm64 interface=ens3\n"
    )
    machine = lab(LAB_5 + line, tmp_path).own_machines["b"]
    assert (machine.user, machine.port, machine.jumpbox) == ("me", 2222, "you@gate.x:2200")
    assert (machine.arch, machine.interface) == ("arm64", "ens3")


def test_a_list_in_the_settings_says_the_same() -> None:
    database = [
        {"address": "192.168.1.5", "fqdn": "b.x", "name": "b", "role": "load-balancer"},
        {"address": "192.168.1.10", "fqdn": "s.x", "name": "s"},
        {"address": "192.168.1.20", "fqdn": "n.x", "name": "n", "pod_cidr": "10.200.0.0/24", "port": 2222},
    ]
    found = parse("own", {"substrate": "machines", "machines": {"database": database}})
    assert [machine.name for machine in found.machines] == ["b", "s", "n"]
    assert found.own_machines["n"].port == 2222


def test_the_example_is_a_lab() -> None:
    text = (paths.checkout() / "config" / "machines.example.txt").read_text()
    machines, wrong = read("machines.example.txt", text)
    assert len(machines) == 4 and not wrong


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("192.168.1.300 a.x a -", "address: no IPv4 address ('192.168.1.300')"),
        ("192.168.1.9 a_x a -", "fqdn: "),
        ("192.168.1.9 a.x A -", "name: "),
        ("192.168.1.9 a.x a 10.200.9.0/33", "pod_cidr: no IPv4 range"),
        ("192.168.1.9 a.x", "2 columns"),
        ("192.168.1.9 a.x a - more", "5 columns"),
        ("192.168.1.9 a.x port=22 a -", "a column after the options"),
        ("192.168.1.9 a.x a - port=ssh", "port: "),
        ("192.168.1.9 a.x a - port=0", "port: "),
        ("192.168.1.9 a.x a - port=22 port=23", "the option port stands there twice"),
        ("192.168.1.9 a.x a - colour=red", "unknown option colour"),
        ("192.168.1.9 a.x a - role=master", "role: "),
        ("192.168.1.9 a.x a - user=a;reboot", "user: "),
        ("192.168.1.9 a.x a - jumpbox=a@b@c:d", "jumpbox: "),
        ("192.168.1.9 a.x a - arch=mips", "arch: "),
    ],
)
def test_every_malformed_line_is_reported_with_its_number(line: str, said: str, tmp_path: Path) -> None:
    found = problems(LAB_5 + line + "\n" + BALANCER, tmp_path)
    assert all(each.startswith("machines.txt, line 5: ") for each in found), found
    assert any(each.startswith(f"machines.txt, line 5: {said}") for each in found), found


def test_all_lines_are_reported_at_once_and_no_more_is_made_of_them(tmp_path: Path) -> None:
    found = problems("a\n192.168.1.9 a.x a - colour=red\n", tmp_path)
    assert {each.split(":")[0] for each in found} == {"machines.txt, line 1", "machines.txt, line 2"}, found


@pytest.mark.parametrize(
    ("text", "keys", "said"),
    [
        (LAB_5, {}, "lab.machines.database: 0 load balancers are too few"),
        (LAB_5 + BALANCER, {"workers": 3}, "lab.workers: the machine database says which machines there are"),
        (LAB_5 + BALANCER + BALANCER, {}, "machines.txt, line 6: the name balancer is machines.txt, line 5's, too"),
        (
            LAB_5 + BALANCER + "192.168.1.9 a.x a - role=worker\n",
            {},
            "machines.txt, line 6: a is a worker without a pod",
        ),
        (LAB_5 + BALANCER + "192.168.1.9 a.x a 10.200.3.0/24 role=etcd\n", {}, "machines.txt, line 6: a is no worker"),
        (
            LAB_5 + BALANCER + "10.32.0.9 a.x a 10.200.3.0/24\n",
            {},
            "machines.txt, line 6: a's address 10.32.0.9 is part",
        ),
        (LAB_5 + BALANCER + "192.168.1.9 a.x a 10.9.0.0/24\n", {}, "machines.txt, line 6: a's pod range 10.9.0.0/24"),
        (LAB_5 + BALANCER, {"network": {"nodes": "10.1.0.0/24"}}, "machines.txt, line 5: balancer's address"),
        (
            LAB_5 + BALANCER + "192.168.1.6 c.x c - role=load-balancer\n",
            {},
            "lab.network.nodes: is missing, and the two",
        ),
        ("# nobody\n", {}, "machines.txt: there is no host in it"),
    ],
)
def test_hosts_that_make_no_lab_are_reported(text: str, keys: dict[str, Any], said: str, tmp_path: Path) -> None:
    found = problems(text, tmp_path, **keys)
    assert any(each.startswith(said) for each in found), found


def test_a_file_that_is_not_there_is_one_problem() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("own", {"substrate": "machines", "machines": {"database": "/no/such/file"}})
    (problem,) = caught.value.problems
    assert str(problem).startswith("lab.machines.database: /no/such/file cannot be read: No such file or directory")


def test_a_wrong_entry_of_the_list_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(
            "own", {"substrate": "machines", "machines": {"database": [{"address": "x", "fqdn": "a.x", "name": "a"}]}}
        )
    assert [problem.keys[0] for problem in caught.value.problems] == ["lab.machines.database[0].address"]


@given(st.text(max_size=200))
def test_no_text_is_more_than_it_can_bear(text: str) -> None:
    machines, wrong = read("machines.txt", text)
    assert machines or wrong
