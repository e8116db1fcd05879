"""The benchmark's arithmetic and its table; nothing is timed here."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from benchmarks import files, program_lab, shell_lab, steal, workers
from benchmarks.commands import BenchmarkError, Ran
from benchmarks.figures import Bar, ProgramRound, Round, Row, ShellRound, document, rows, spread
from benchmarks.labs import LABS, MeasuredLab
from benchmarks.program_lab import with_workers
from benchmarks.table import number, table
from components.substrates.containers.substrate import create_container
from config import lab as config
from config import versions
from toolchain import paths

DEV, HA = LABS["dev"], LABS["ha"]
SHELL = ShellRound(phases={"machines": 1.0, "dns": 9.0}, memory=500.0)
PROGRAM = ProgramRound(
    up=14.0, second_up=3.0, changes=0, preview=2.0, destroy=4.0, memory=600.0, resources=93, remote_commands=21
)
ROUNDS = [
    Round(shell=SHELL, program=PROGRAM),
    # Another load on the machine: both are twice as slow, and the ratio is what it was.
    Round(shell=replace(SHELL, phases={"machines": 2.0, "dns": 18.0}), program=replace(PROGRAM, up=28.0)),
    Round(shell=SHELL, program=replace(PROGRAM, up=17.0, memory=700.0)),
]
GROWN = [
    Round(shell=SHELL, program=replace(PROGRAM, one_more_worker=3.5)),
    Round(shell=SHELL, program=replace(PROGRAM, up=28.0, one_more_worker=14.0)),
    Round(shell=SHELL, program=replace(PROGRAM, up=20.0, one_more_worker=2.5)),
]


def row(what: str, rounds: list[Round], bars: Mapping[str, Bar] = DEV.bars) -> Row:
    """The one row of this figure."""
    (found,) = (each for each in rows(rounds, bars) if each.what.strip() == what)
    return found


def shown(rounds: list[Round], bars: Mapping[str, Bar] = DEV.bars) -> dict[str, list[str]]:
    """The table as people see it: first cell -> the others."""
    console = Console(width=120)
    with console.capture() as printed:
        console.print(table(rows(rounds, bars), title="title"))
    lines = [line.split("│")[1:-1] for line in printed.get().splitlines() if line.startswith("│")]
    return {first.strip(): [cell.strip() for cell in rest] for first, *rest in lines}


def test_a_median_stands_between_the_least_and_the_most() -> None:
    three = spread([3.0, 1.0, 8.0])
    assert (three.median, three.least, three.most) == (3.0, 1.0, 8.0)
    assert spread([1.0, 2.0]).median == 1.5


def test_the_ratio_is_taken_within_each_round() -> None:
    ratio = row("ratio to plain shell", ROUNDS).program
    assert ratio is not None
    # The medians of both sides would make 17 / 10.
    assert (ratio.median, ratio.least, ratio.most) == (1.4, 1.4, 1.7)


def test_plain_shells_total_is_the_sum_of_its_phases() -> None:
    up = row("up", ROUNDS)
    assert up.shell == spread([10.0, 20.0, 10.0])
    assert up.program == spread([14.0, 28.0, 17.0])


def test_one_change_in_one_round_is_not_hidden_by_the_others() -> None:
    assert row("second up, changes", ROUNDS).met is True
    assert row("second up, changes", [*ROUNDS, replace(ROUNDS[0], program=replace(PROGRAM, changes=2))]).met is False


def test_the_share_of_one_more_worker_is_taken_within_each_round() -> None:
    share = row("one more worker, of the first up", GROWN, HA.bars)
    assert share.program is not None
    # The medians of both would make 3.5 / 20.
    assert (share.program.median, share.program.least, share.program.most) == (0.25, 0.125, 0.5)
    assert share.met is True


def test_one_more_worker_has_no_row_where_it_is_not_measured() -> None:
    assert [each.what for each in rows(ROUNDS, HA.bars) if "worker" in each.what] == []


EVERYWHERE = {
    "ratio to plain shell": Bar(limit=1.1, inclusive=True),
    "second up": Bar(limit=2.5, inclusive=False),
    "second up, changes": Bar(limit=0, inclusive=True),
    "preview": Bar(limit=2.5, inclusive=False),
    "destroy": Bar(limit=5, inclusive=False),
    "memory, of plain shell": Bar(limit=1.05, inclusive=True),
}


@pytest.mark.parametrize(
    ("lab", "bars"),
    [
        ("dev", EVERYWHERE),
        ("ha", EVERYWHERE | {"one more worker, of the first up": Bar(limit=0.25, inclusive=True)}),
        ("kubeadm", EVERYWHERE),
    ],
)
def test_every_bar_that_was_set_stands_beside_its_figure(lab: str, bars: Mapping[str, Bar]) -> None:
    beside = {each.what: each.bar for each in rows(GROWN, LABS[lab].bars) if each.bar}
    assert beside == bars


def test_at_most_includes_the_limit_and_less_than_does_not() -> None:
    assert Bar(limit=1.5, inclusive=True).met_by(1.5)
    assert not Bar(limit=1.5, inclusive=True).met_by(1.51)
    assert not Bar(limit=10, inclusive=False).met_by(10)
    assert Bar(limit=10, inclusive=False).met_by(9.99)


def test_the_table_has_medians_spreads_bars_and_whether_they_are_reached() -> None:
    cells = shown(ROUNDS)
    assert cells["machines (s)"] == ["1 (1-2)", "", "", ""]
    assert cells["up (s)"] == ["10 (10-20)", "17 (14-28)", "", ""]
    assert cells["ratio to plain shell"] == ["", "1.40 (1.40-1.70)", "<= 1.10", "no"]
    assert cells["memory, of plain shell"] == ["", "1.20 (1.20-1.40)", "<= 1.05", "no"]
    assert cells["resources"] == ["", "93", "", ""]
    fast = Round(shell=SHELL, program=replace(PROGRAM, up=11.0, memory=525.0))
    assert shown([fast])["ratio to plain shell"] == ["", "1.10", "<= 1.10", "yes"]
    assert shown([fast])["memory, of plain shell"] == ["", "1.05", "<= 1.05", "yes"]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (2.876, "2.88"), (18.163, "18.2"), (564.44, "564"), (20.0, "20")]
)
def test_numbers_have_the_digits_that_mean_something(value: float, text: str) -> None:
    assert number(value) == text


def test_the_document_holds_every_round_and_every_row_as_json() -> None:
    read = json.loads(json.dumps(document(ROUNDS, DEV.bars)))
    assert [each["ratio"] for each in read["rounds"]] == [1.4, 1.4, 1.7]
    assert read["rounds"][0]["shell"]["phases"] == {"machines": 1.0, "dns": 9.0}
    (ratio,) = (each for each in read["rows"] if each["what"] == "ratio to plain shell")
    assert (ratio["program"]["median"], ratio["bar"]["limit"], ratio["met"]) == (1.4, 1.1, False)


@pytest.mark.parametrize("trouble", [None, KeyboardInterrupt, BenchmarkError])
def test_the_settings_are_put_back_as_they_were(tmp_path: Path, trouble: type[BaseException] | None) -> None:
    file = tmp_path / "Pulumi.x.yaml"
    file.write_bytes(HA.settings_file.read_bytes())

    def grow() -> int:
        with with_workers(file, HA.settings["workers"] + 1):
            workers: int = yaml.safe_load(file.read_text())["config"]["hardway:lab"]["workers"]
            if trouble:
                raise trouble
            return workers

    if trouble:
        with pytest.raises(trouble):
            grow()
    else:
        assert grow() == HA.settings["workers"] + 1
    assert file.read_bytes() == HA.settings_file.read_bytes()


@pytest.mark.parametrize("measured", LABS.values(), ids=LABS.keys())
def test_both_ways_make_the_same_machines_in_ranges_of_their_own(measured: MeasuredLab) -> None:
    by_hand, by_program = files.lab(measured), config.parse(measured.stack, measured.settings)
    assert [machine.name for machine in by_hand.machines] == [machine.name for machine in by_program.machines]
    for ours in (by_hand.network.nodes, by_hand.network.pods):
        assert not any(ours.overlaps(theirs) for theirs in (by_program.network.nodes, by_program.network.pods))


def test_what_lies_ready_is_that_of_every_machine_of_the_lab(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.files", HA.name, str(tmp_path)]
    subprocess.run(command, cwd=paths.checkout(), check=True, timeout=120)
    names = [line.split()[2] for line in (tmp_path / "machines.txt").read_text().splitlines()]
    assert sorted(names) == sorted(machine.name for machine in files.lab(HA).machines)
    controllers = [name for name in names if name.startswith("controller")]
    haproxy = (tmp_path / "load-balancer-0/root/etc/haproxy/haproxy.cfg").read_text()
    assert len(controllers) == 3
    assert all(re.search(rf"server {name} \S+:6443$", haproxy, re.MULTILINE) for name in controllers)
    for name in controllers:
        assert {"etcd.service", "kube-apiserver.service"} <= set((tmp_path / name / "units.txt").read_text().split())
        unit = (tmp_path / name / "root/etc/systemd/system/etcd.service").read_text()
        (joins,) = re.findall(r"^EnvironmentFile=-(/\S+)$", unit, re.MULTILINE)
        # Which members found the cluster is not known before the machines are there: plain shell writes it.
        assert not (tmp_path / name / f"root{joins}").exists()
        assert joins.removeprefix("/etc/") in Path(shell_lab.__file__).with_name(HA.script).read_text()


def test_plain_shell_makes_its_machines_with_the_programs_own_flags() -> None:
    lab = files.lab(DEV)
    flags = set(re.findall(r"(?<= )--[a-z]+=\S+", create_container(lab, shell_lab.PREFIX, lab.machines[0])))
    own = {f"--{name}" for name in ("name", "hostname", "network", "ip", "volume")}
    script = Path(shell_lab.__file__).with_name("plain_machines.sh").read_text()
    assert len(flags) > 10
    assert [flag for flag in flags if flag.partition("=")[0] not in own and flag not in script] == []
    assert "--privileged" in script
    assert "--volume=/var/lib/containerd" in script


def test_more_and_more_workers_are_grown_to_and_then_made_from_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With stand-ins for the program and for podman: what is run with how many workers, and the table."""
    file = tmp_path / "Pulumi.bench.yaml"
    file.write_bytes(DEV.settings_file.read_bytes())
    monkeypatch.setattr(paths, "settings_file", lambda _: file)
    ran: list[tuple[str, int]] = []

    def run(command: list[str], **_: object) -> Ran:
        ran.append((command[-1], yaml.safe_load(file.read_text())["config"]["hardway:lab"]["workers"]))
        return Ran(output="", seconds=12.5)

    monkeypatch.setattr(workers, "run", run)
    monkeypatch.setattr(program_lab, "run", run)
    monkeypatch.setattr(workers, "groups", lambda _: ["one"])
    monkeypatch.setattr(workers, "working_set", lambda _: 640.0)
    monkeypatch.setattr(workers, "processor_seconds", lambda _: float(len(ran)))
    done = list(workers._measure(DEV, [10, 30], tmp_path))
    before = DEV.settings["workers"]
    assert ran == [
        ("setup", before),
        *(("up", 10), ("up", 10), ("preview", 10)),
        *(("up", 30), ("up", 30), ("preview", 30)),
        ("destroy", before),
        ("up", 30),
        ("destroy", before),
    ]
    assert [each.what for each in done if each.seconds and "up" in each.what][:3] == [
        "up from nothing",
        "up without a change",
        "up with 20 workers more",
    ]
    assert done[0].machines == 1.0 and done[0].memory == 640.0
    assert done[-1].machines == 0.0 and done[-1].memory is None
    console = Console(width=120)
    with console.capture() as printed:
        console.print(workers.table(done))
    assert "up with 20 workers more       30     12.5" in printed.get()


def test_the_file_of_workers_says_where_they_were_measured() -> None:
    up = workers.Measured(what="up", workers=10, seconds=1, program=2, machines=3, memory=None, load=4)
    figures = json.loads(json.dumps(workers.document(DEV, [up], load_before=(1.0, 2.0, 3.0))))
    assert (figures["lab"], figures["load_before"]) == ("dev", [1.0, 2.0, 3.0])
    assert figures["kubernetes"] == versions.pins().products["kubernetes"].default
    assert figures["workers"] == [asdict(up)]


def test_the_share_of_other_virtual_machines_is_that_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guest time, the last two numbers, is in the first two already."""
    stat = tmp_path / "stat"
    monkeypatch.setattr(steal, "_STAT", stat)
    stat.write_text("cpu  100 0 50 1000 0 0 0 7 90 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n")
    counted = steal.Steal()
    assert counted.share == 0
    stat.write_text("cpu  130 5 60 1020 5 4 1 32 95 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n")
    assert counted.share == 0.25
