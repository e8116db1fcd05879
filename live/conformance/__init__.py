"""`./hardway conformance`: Kubernetes' own conformance tests on a running lab, in groups, each with its results.

Results stay below .state/<stack>/conformance: e2e.log and junit_01.xml as a submission to upstream's programme has
them, and `groups/`, one directory for each group that came to its end. The next call runs what has no results yet.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import ParseError

from rich.console import Console
from rich.table import Table

from config.versions import pins
from config.whole_file import write_whole
from live import workload_tools
from live.cluster import Cluster, LiveMachine
from live.conformance import results, suite
from live.conformance.results import Result
from live.conformance.suite import Group
from toolchain import access, conformance, images
from toolchain.errors import ToolchainError
from toolchain.progress import Part, Report

FEATURE = "conformance"
"""Of the images, in versions.yaml."""
_LOG, _JUNIT = "e2e.log", "junit_01.xml"
_LOOK_EVERY = 0.5
# How long ginkgo may take to end its tests, and what they have made, after it is asked to.
_TO_END = 120
# What ginkgo prints for a test that is over: a dot, or a line of its failure.
_OVER = re.compile(rb"\xe2\x80\xa2|\[FAILED\] \[")
_RUN = re.compile(r'Starting e2e run "([0-9a-f-]{36})"')


@dataclass(frozen=True, kw_only=True)
class GroupResults:
    """What came of one group.

    Args:
        group: its tests.
        results: of those that ran.
    """

    group: Group
    results: Sequence[Result]

    @property
    def failed(self) -> list[Result]:
        """Those that failed."""
        return [each for each in self.results if each.failure is not None]

    @property
    def missing(self) -> list[str]:
        """The tests without a result."""
        return results.unfinished(self.group.tests, self.results)


def run(cluster: Cluster, sigs: Collection[str], *, processes: int, again: bool) -> list[GroupResults]:
    """Run the groups that have no results of this lab yet, and write e2e.log and junit_01.xml of all of them.

    Args:
        cluster: the lab.
        sigs: sig-apps, ...; all where it is empty.
        processes: how many tests run at the same time, of those that may.
        again: discard the results that are there.

    Returns:
        The results of each group, also of an earlier call.

    Raises:
        ToolchainError: the tests cannot be had or do not start, or the results are of another lab.
    """
    # Whatever ends this ends the tests too: they would go on, and the next run would start others beside them.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    directory = directory_of(cluster)
    if again:
        shutil.rmtree(directory, ignore_errors=True)
    _check_same_lab(cluster, directory)
    with Report() as report:
        programs = conformance.ensure(report, cluster.stack.kubernetes)
        images.ensure(report, [FEATURE])
        groups = suite.groups(programs, sigs)
        with report.part("images of the tests") as part:
            _import_images(cluster, part)
        done = []
        for group in groups:
            with report.part(f"{group.name}: {len(group.tests)} tests") as part:
                found = _results_of(directory, group)
                if found is not None:
                    part.found()
                else:
                    _remove_rests(cluster, directory, part)
                    found = _run_group(cluster, programs, directory, group, 1 if group.is_serial else processes, part)
            done.append(GroupResults(group=group, results=found))
    results.merge([_place(directory, group) / _JUNIT for group in groups], directory / _JUNIT)
    with (directory / _LOG).open("wb") as log:
        for group in groups:
            log.write((_place(directory, group) / _LOG).read_bytes())
    return done


def passes(found: Sequence[GroupResults]) -> bool:
    """Whether each test has a result, and none failed."""
    return not any(each.failed or each.missing for each in found)


def show(found: Sequence[GroupResults], directory: Path) -> None:
    """Print the results, and why tests failed."""
    table = Table(box=None, pad_edge=False)
    for title in ("GROUP", "TESTS", "PASSED", "FAILED", "NOT RUN", "SECONDS"):
        table.add_column(title, justify="left" if title == "GROUP" else "right", no_wrap=True)
    for each in found:
        passed = len(each.results) - len(each.failed)
        seconds = sum(result.seconds for result in each.results)
        numbers = (len(each.group.tests), passed, len(each.failed), len(each.missing), round(seconds))
        table.add_row(each.group.name, *map(str, numbers))
    Console(highlight=False, soft_wrap=True).print(table)
    for each in found:
        for result in each.failed:
            print(f"\nfailed   {result.name}\n  {(result.failure or '').splitlines()[0]}")
        for name in each.missing:
            print(f"\nnot run  {name}")
    tests = sum(len(each.results) for each in found)
    print(f"\n{tests} tests have a result: {directory / _JUNIT}, {directory / _LOG}")


def as_json(found: Sequence[GroupResults]) -> str:
    """The results as JSON."""
    return json.dumps(
        [
            {
                "group": each.group.name,
                "tests": len(each.group.tests),
                "failed": [{"name": result.name, "failure": result.failure} for result in each.failed],
                "not_run": each.missing,
                "seconds": round(sum(result.seconds for result in each.results), 1),
            }
            for each in found
        ],
        indent=2,
    )


def directory_of(cluster: Cluster) -> Path:
    """Where the results of a lab are."""
    return cluster.stack.directory / "conformance"


def _check_same_lab(cluster: Cluster, directory: Path) -> None:
    uid = workload_tools.kubectl(cluster, "get", "namespace", "kube-system", "--output=jsonpath={.metadata.uid}")
    this = {"version": cluster.stack.kubernetes, "cluster": uid}
    record = directory / "lab.json"
    try:
        recorded = json.loads(record.read_text())
    except FileNotFoundError:
        directory.mkdir(parents=True, exist_ok=True)
        write_whole(record, json.dumps(this) + "\n")
        return
    if recorded != this:
        raise ToolchainError(
            f"The results in {directory} are of another cluster, or of another version ({recorded['version']}): move "
            "them away, or discard them with --again."
        )


def _import_images(cluster: Cluster, part: Part) -> None:
    """Have the images on each node, from the mirror where the machine has it; elsewhere the kubelet pulls them."""
    names = pins().images_for([FEATURE])
    part.say(f"{len(names)} images")

    def on(node: LiveMachine) -> None:
        for name in names:
            workload_tools.import_image(cluster, node, of="the tests", name=name)

    with ThreadPoolExecutor(max_workers=len(cluster.nodes)) as threads:
        list(threads.map(on, cluster.nodes))


def _place(directory: Path, group: Group) -> Path:
    return directory / "groups" / group.name


def _results_of(directory: Path, group: Group) -> list[Result] | None:
    """The results of a group that came to its end; None where it did not."""
    try:
        return results.read(_place(directory, group) / _JUNIT)
    except (FileNotFoundError, ParseError):
        return None


def _remove_rests(cluster: Cluster, directory: Path, part: Part) -> None:
    """Remove the namespaces that a killed run left: those with an identity that stands in its log."""
    logs = directory.glob(f"groups/*.running/{_LOG}")
    runs = {run for log in logs for run in _RUN.findall(log.read_text(errors="replace"))}
    if runs:
        part.say("removing what a killed run left")
        selector = f"--selector=e2e-run in ({','.join(sorted(runs))})"
        workload_tools.kubectl(cluster, "delete", "namespaces", selector, "--ignore-not-found", seconds=300)


def _run_group(
    cluster: Cluster, programs: Path, directory: Path, group: Group, processes: int, part: Part
) -> list[Result]:
    place = _place(directory, group)
    work = place.with_name(f"{group.name}.running")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    kubectl = access.kubectl_command(cluster.stack)[0]
    command = [
        str(programs / conformance.RUNNER),
        # -v: what the tests do stands in the log, and the identity of the run, by which its namespaces are found.
        *(f"--procs={processes}", "-v", "--no-color", "--timeout=24h", *group.selection),
        *(str(programs / conformance.SUITE), "--"),
        *("--provider=skeleton", f"--kubeconfig={cluster.stack.directory / 'kubeconfig'}", f"--kubectl-path={kubectl}"),
        *(f"--report-dir={work}", "--disable-log-dump=true"),
    ]
    with (work / _LOG).open("wb") as log:
        # A group of its own: a terminal's Ctrl-C reaches this process alone, which then asks ginkgo once.
        process = subprocess.Popen(
            command,
            cwd=work,
            env=access.kubectl_environment(cluster.stack),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    over, rest = 0, b""
    try:
        # Each line once: the log has many megabytes in the end.
        with (work / _LOG).open("rb") as written:
            while process.poll() is None:
                lines, _, rest = (rest + written.read()).rpartition(b"\n")
                over += len(_OVER.findall(lines))
                part.say(f"{over} of {len(group.tests)} are over")
                time.sleep(_LOOK_EVERY)
    finally:
        _end(process)
    found = results.read(work / _JUNIT) if (work / _JUNIT).exists() else []
    # ginkgo also ends with 1 where tests failed; then there is a report of them.
    if not found:
        last = (work / _LOG).read_text(errors="replace").splitlines()[-20:]
        raise ToolchainError(f"The tests of {group.name} did not run:\n  " + "\n  ".join(last))
    shutil.rmtree(place, ignore_errors=True)
    work.replace(place)
    return found


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(_TO_END)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
