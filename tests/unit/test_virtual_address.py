"""The configuration of the address that two balancers share, read by keepalived itself."""

import re
from pathlib import Path

import pytest

from components.virtual_address import config_test
from unit.mocked_engine import Run
from unit.node_tools import NodeTools

CONFIGURATION = "/etc/keepalived/keepalived.conf"
BALANCERS = {"load-balancer-0": "10.240.0.5", "load-balancer-1": "10.240.0.6"}


def configuration(run: Run, balancer: str) -> str:
    return run.file(f"virtual-address-{balancer}", CONFIGURATION)


def checked(text: str, directory: Path, tools: NodeTools) -> tuple[int, str]:
    """What keepalived says about a configuration, on a machine that has its interface."""
    file = directory / "keepalived.conf"
    file.write_text(text)
    interface = "ip link show eth0 >/dev/null 2>&1 || ip link add eth0 type veth peer name eth1; ip link set eth0 up"
    result = tools.run("bash", "-c", f"{interface}; timeout 20 {config_test(str(file))}")
    return result.returncode, result.stdout + result.stderr


@pytest.mark.parametrize("balancer", BALANCERS)
def test_keepalived_takes_it_without_a_word(shared: Run, balancer: str, tmp_path: Path, tools: NodeTools) -> None:
    assert checked(configuration(shared, balancer), tmp_path, tools) == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("nopreempt", "nopremt"),
        ("interval 1", "interval 0.5"),
        ("advert_int 0.25", "advert_int 250"),
        ("script_user nobody nogroup", "script_user unknown"),
        ("/usr/bin/curl", "/usr/bin/absent"),
    ],
)
def test_what_is_wrong_would_be_found(shared: Run, right: str, wrong: str, tmp_path: Path, tools: NodeTools) -> None:
    text = configuration(shared, "load-balancer-0")
    assert right in text
    code, said = checked(text.replace(right, wrong), tmp_path, tools)
    assert code != 0
    assert said


def test_each_speaks_with_the_other_alone_and_they_agree_on_the_rest(shared: Run) -> None:
    texts = {balancer: configuration(shared, balancer) for balancer in BALANCERS}
    for balancer, text in texts.items():
        (peer,) = (address for other, address in BALANCERS.items() if other != balancer)
        assert f"unicast_src_ip {BALANCERS[balancer]}\n" in text
        assert re.search(rf"unicast_peer {{\n\s+{peer} min_ttl 255\n\s+}}", text)
        assert re.search(r"virtual_ipaddress {\n\s+10.240.0.4/32 dev eth0\n\s+}", text)
    for word in ("virtual_router_id", "advert_int", "version"):
        assert len({re.search(rf"^\s+{word} (\S+)$", text, re.M)[1] for text in texts.values()}) == 1  # type: ignore[index]


def test_one_is_preferred_and_none_takes_the_address_from_the_other(shared: Run) -> None:
    texts = [configuration(shared, balancer) for balancer in BALANCERS]
    assert [re.findall(r"^\s+priority (\d+)$", text, re.M) for text in texts] == [["101"], ["100"]]
    for text in texts:
        assert re.search(r"^\s+nopreempt$", text, re.M)
        # keepalived ignores nopreempt in one that begins as MASTER.
        assert re.search(r"^\s+state BACKUP$", text, re.M)


def test_the_other_one_takes_over_within_a_second(shared: Run) -> None:
    text = configuration(shared, "load-balancer-1")
    (interval,), (priority,) = (re.findall(rf"^\s+{word} (\S+)$", text, re.M) for word in ("advert_int", "priority"))
    # RFC 5798, 6.1: three adverts, and a part of one that is larger the lower the priority.
    assert (3 + (256 - int(priority)) / 256) * float(interval) < 1


def test_it_follows_haproxy_itself_by_a_check_that_only_root_could_change(shared: Run) -> None:
    text = configuration(shared, "load-balancer-0")
    (check,) = re.findall(r'^\s+script "(.*)"$', text, re.M)
    assert check.startswith("/usr/bin/curl --silent --fail ") and check.endswith(" http://127.0.0.1/balancer")
    assert "monitor-uri /balancer\n" in shared.file("load-balancer-0", "/etc/haproxy/haproxy.cfg")
    assert "enable_script_security" in text
    assert "script_user nobody" in text
    assert "auth_pass" not in text


def test_a_change_of_it_is_checked_and_does_not_move_the_address(shared: Run) -> None:
    script = shared.script("virtual-address-load-balancer-0")
    assert "\nunit keepalived.service\n" in script
    assert f"\nreloads keepalived.service {CONFIGURATION}\n" in script
    assert f"\nvalid keepalived.service '{config_test(CONFIGURATION)}'\n" in script
