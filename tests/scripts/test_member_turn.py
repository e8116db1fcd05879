"""The restart of an etcd member in the turn of the control plane on its machine (etcd.sh), by the two steps of both.

The steps run in a real bash with the real libraries; systemctl and etcdctl note what they were told, in one list.
"""

import subprocess
from pathlib import Path

import pytest

from scripts.test_etcd_verbs import ETCDCTL
from scripts.test_step_library import Machine, here
from toolchain import paths

COMPONENTS = paths.checkout() / "components"

SYSTEMCTL = """#!/bin/bash
# A unit runs while a file of its name is in $SYSTEMCTL_RUNNING.
words=()
for word; do case $word in -*) ;; *) words+=("$word") ;; esac; done
case ${words[0]} in
  is-active) [ -e "$SYSTEMCTL_RUNNING/${words[1]}" ]; exit ;;
  show)
    for word in "${words[@]:1}"; do
      [[ $word == *.* ]] || continue
      if [ -e "$SYSTEMCTL_RUNNING/$word" ]; then state=active; else state=inactive; fi
      printf 'NeedDaemonReload=no\\nFragmentPath=\\nActiveState=%s\\n\\n' $state
    done
    exit ;;
  stop) for unit in "${words[@]:1}"; do rm -f "$SYSTEMCTL_RUNNING/$unit"; done ;;
  start | restart) for unit in "${words[@]:1}"; do : >"$SYSTEMCTL_RUNNING/$unit"; done ;;
  *) exit 0 ;;
esac
echo "${words[*]}" >>"$SYSTEMCTL_LOG"
"""

# What both steps have of etcd.sh; member and API server answer.
ETCD = f"""
. {COMPONENTS / "etcd_health.sh"}
. {COMPONENTS / "etcd.sh"}
ETCD_CLIENT=$R/client.env
member_is_healthy() {{ [ ! -e "$R/broken" ]; }}
curl() {{ :; }}
sleep() {{ SECONDS=$((SECONDS + 20)); }}
nap() {{ sleep; }}
"""

ONE_TURN = [
    "lock /hardway/turn",
    "stop kube-apiserver.service",
    "restart etcd.service",
    "restart kube-apiserver.service",
    "restart kube-scheduler.service",
    "start kube-apiserver.service",
]


class Controller(Machine):
    """A machine with a member and a control plane."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        tools = directory / "bin"
        for name, text in (("systemctl", SYSTEMCTL), ("etcdctl", ETCDCTL)):
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        members = directory / "members"
        members.write_text("".join(f"id{each}, started, {each}, , , false\n" for each in "abc"))
        endpoints = ",".join(f"https://10.0.0.{number}:2379" for number in (1, 2, 3))
        (self.root / "client.env").write_text(f"export ETCDCTL_ENDPOINTS={endpoints}\n")
        self.environment |= {"MEMBERS": str(members), "ETCDCTL_LOG": str(self.log)}

    def etcd(self, keys: str, *, flags: str = "", before: str = "") -> subprocess.CompletedProcess[str]:
        """The step of etcd, with these keys and flags."""
        return self.step(
            f"{here('etcd-ca.crt', keys)}\n{here('units/etcd.service', f'[Service]{flags}')}\n{ETCD}\n"
            f"may_put_off '{keys}'\nunit etcd.service $R/etcd-ca.crt\nready etcd.service 5 serves member_is_healthy\n"
            f"{before}\nstart",
            name="etcd",
        )

    def control_plane(self, keys: str, *, before: str = "") -> subprocess.CompletedProcess[str]:
        """The step of the control plane, with these keys."""
        return self.bash(
            f"begin control-plane\n{here('apiserver-ca.crt', keys)}\n{ETCD}\n{before}\nrestart_member serves\n"
            "unit kube-apiserver.service $R/apiserver-ca.crt\nready kube-apiserver.service 5 serves true\nstart\n"
            "unit kube-scheduler.service $R/apiserver-ca.crt\nstart\n"
            f"finish\nend_member_turn '{keys}'"
        )

    def told(self) -> list[str]:
        """What systemctl and etcdctl were told to change since the last question."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [line for line in lines if line.split()[0] in ("lock", "start", "stop", "restart")]


@pytest.fixture
def controller(tmp_path: Path) -> Controller:
    """One that is up, with the keys `old`."""
    made = Controller(tmp_path)
    for done in (made.etcd("old"), made.control_plane("old")):
        assert done.returncode == 0, done.stderr
    assert made.told() == [f"restart {each}.service" for each in ("etcd", "kube-apiserver", "kube-scheduler")]
    return made


def done(result: subprocess.CompletedProcess[str]) -> None:
    assert result.returncode == 0, result.stderr


def test_new_keys_restart_member_and_control_plane_once_in_one_turn(controller: Controller) -> None:
    done(controller.etcd("new"))
    assert controller.told() == [], "the member restarts with the API server"
    done(controller.control_plane("new"))
    assert controller.told() == ONE_TURN
    for step in (controller.etcd, controller.control_plane):
        done(step("new"))
    assert controller.told() == []


def test_other_changes_of_the_member_restart_it_in_its_own_step(controller: Controller) -> None:
    """The step of the control plane has not changed: Pulumi does not run it."""
    done(controller.etcd("old", flags=" --max-wals=7"))
    assert "restart etcd.service" in controller.told()
    done(controller.control_plane("old"))
    assert controller.told() == []


def test_member_that_does_not_serve_restarts_at_once(controller: Controller) -> None:
    (controller.root / "broken").touch()
    repaired = 'systemctl() { command systemctl "$@"; [ "$1" != restart ] || rm -f "$R/broken"; }'
    done(controller.etcd("new", before=repaired))
    assert "restart etcd.service" in controller.told()


def test_member_of_another_version_restarts_at_once(controller: Controller) -> None:
    """Its own step has the version before, and puts it back where the new one does not serve."""
    earlier = "mkdir -p $step/earlier/usr/local/bin; ln -s /x $step/earlier/usr/local/bin/etcd"
    done(controller.etcd("new", before=earlier))
    assert "restart etcd.service" in controller.told()
    done(controller.control_plane("new"))
    told = controller.told()
    assert "restart etcd.service" not in told and "restart kube-apiserver.service" in told


def test_member_that_repair_restarts_is_restarted_at_once(controller: Controller) -> None:
    """No step comes after it: `repair` runs only those with a difference."""
    done(controller.etcd("new", before='rm "$step/started/etcd.service"'))
    assert "restart etcd.service" in controller.told()


def test_lab_of_an_earlier_version_puts_nothing_off(controller: Controller) -> None:
    (controller.hardway / "steps/control-plane/member-keys").unlink()
    done(controller.etcd("new"))
    assert "restart etcd.service" in controller.told()


@pytest.mark.parametrize(
    "killed",
    [
        "take_turn() { kill -KILL $$; }",
        'systemctl() { command systemctl "$@"; [ "$1 ${*: -1}" != "stop kube-apiserver.service" ] || kill -KILL $$; }',
        'systemctl() { command systemctl "$@"; [ "$1 ${*: -1}" != "restart etcd.service" ] || kill -KILL $$; }',
    ],
    ids=["before its turn", "the API server stopped", "the member restarted"],
)
def test_killed_run_is_finished_by_the_next(controller: Controller, killed: str) -> None:
    """The member restarts although its own step may not run again, and the API server is not left stopped."""
    done(controller.etcd("new"))
    assert controller.control_plane("new", before=killed).returncode == -9
    controller.told()
    # With or without the step of etcd in front.
    done(controller.control_plane("new"))
    told = controller.told()
    assert told.count("restart etcd.service") == 1 and "restart kube-apiserver.service" in told
    assert told.count("lock /hardway/turn") == 1
    done(controller.etcd("new"))
    assert controller.told() == []


def test_member_that_does_not_serve_with_new_keys_is_reported_and_starts_no_other(controller: Controller) -> None:
    done(controller.etcd("new"))
    broken = 'systemctl() { command systemctl "$@"; [ "$1 ${*: -1}" != "restart etcd.service" ] || : >"$R/broken"; }'
    failed = controller.control_plane("new", before=broken)
    assert failed.returncode == 1
    assert "etcd.service on " in failed.stderr and "serves not seen within 60 s" in failed.stderr
    told = controller.told()
    assert "restart kube-apiserver.service" not in told
    assert told[-1] == "start kube-apiserver.service", "the API server is not left stopped"
    assert "does not serve" in Path(f"{controller.environment['MEMBERS']}.failed").read_text()
    (controller.root / "broken").unlink()
    done(controller.control_plane("new"))
    assert "restart etcd.service" in controller.told()
