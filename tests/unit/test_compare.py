"""What `./hardway compare` reads out of what machines say."""

import subprocess
from pathlib import Path

from benchmarks import compare

SAID = {
    "controller-0": "process 2048 etcd\nprocess 1024 sshd\nfile keys /etc/etcd/pki/member.key\n",
    "worker-0": "process 1024 kubelet\nfile keys /var/lib/kubelet/pki/kubelet.key\nfile static-pods /x y.yaml\n",
}


def test_what_every_machine_has_does_not_count() -> None:
    processes, resident, files = compare.read(SAID)
    assert processes == {"etcd": 1, "kubelet": 1}
    assert resident == 3.0
    assert files["keys"] == ["controller-0:/etc/etcd/pki/member.key", "worker-0:/var/lib/kubelet/pki/kubelet.key"]
    assert files["static pods"] == ["worker-0:/x y.yaml"]


def test_a_machine_without_any_of_it_says_so_without_an_error(tmp_path: Path) -> None:
    done = subprocess.run(["bash", "-c", compare._LOOK], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert all(line.startswith(("process ", "file ")) for line in done.stdout.splitlines())
    assert any(line.startswith("process ") and line.endswith(" ps") for line in done.stdout.splitlines())


def test_the_table_has_a_column_for_each_way() -> None:
    cost = compare.Cost(
        up=17, second_up=3, destroy=4, working_set=600, resident=500, processes={"etcd": 1}, files=compare.read(SAID)[2]
    )
    shown = compare.table({"hard way": [cost], "kubeadm": [cost, cost]})
    assert [str(column.header) for column in shown.columns] == ["", "hard way", "kubeadm"]


def test_both_ways_have_the_same_machines() -> None:
    counts = [
        {key: lab.settings.get(key) for key in ("controllers", "workers", "load_balancers")}
        for lab in compare.WAYS.values()
    ]
    assert counts[0] == counts[1]
