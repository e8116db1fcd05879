"""`./hardway conformance`: Kubernetes' own conformance tests on a running lab, in groups, each with its results.

Results stay below .state/<stack>/conformance: e2e.log and junit_01.xml as a submission to upstream's programme has
them, and `groups/`, one directory for each group. The next call runs the tests that have no result yet.
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
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree.ElementTree import ParseError

from rich.console import Console
from rich.table import Table

from config.machines import Role
from config.versions import pins
from config.whole_file import write_whole
from live import workload_tools
from live.cluster import Cluster, LiveMachine
from live.conformance import images, results, suite
from live.conformance.results import Result
from live.conformance.suite import Group
from toolchain import access, conformance
from toolchain import images as image_archives
from toolchain.errors import ToolchainError
from toolchain.exclusive import HeldError, held_or_refused
from toolchain.progress import Part, Report

_LOG, _JUNIT = "e2e.log", "junit_01.xml"
_LOOK_EVERY = 0.5
# How long ginkgo may take to end its tests, and what they have made, after it is asked to.
_TO_END = 120
# How often the events of the cluster are asked for images that cannot be pulled.
_EVENTS_EVERY = 10
# With -v, ginkgo begins a line with a dot for each test that is over, however it ended.
_OVER = re.compile(rb"^\xe2\x80\xa2", re.MULTILINE)
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


def run(
    cluster: Cluster, sigs: Collection[str], *, processes: int, again: bool, failed: bool = False
) -> list[GroupResults]:
    """Run the tests that have no result of this lab yet, and write e2e.log and junit_01.xml of all of them.

    Args:
        cluster: the lab.
        sigs: sig-apps, ...; all where it is empty.
        processes: how many tests run at the same time, of those that may.
        again: discard the results that are there.
        failed: run the tests again that failed.

    Returns:
        The results of each group, also of an earlier call.

    Raises:
        ToolchainError: the tests cannot be had or do not start, the results are of another lab, or another run is at
            work.
    """
    # Whatever ends this ends the tests too: they would go on, and the next run would start others beside them.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    directory = directory_of(cluster)
    try:
        # A second run would take the namespaces of the first one's tests for those of a killed run.
        lock = cluster.stack.directory / "conformance.lock"
        with held_or_refused(lock, what=f"./hardway conformance, process {os.getpid()}"):
            return _run(cluster, directory, sigs, processes=processes, again=again, failed=failed)
    except HeldError as error:
        raise ToolchainError(f"Conformance tests run on {cluster.stack.name} already ({error}).") from None


def _run(
    cluster: Cluster, directory: Path, sigs: Collection[str], *, processes: int, again: bool, failed: bool
) -> list[GroupResults]:
    if again:
        shutil.rmtree(directory, ignore_errors=True)
    _check_same_lab(cluster, directory)
    with Report() as report:
        programs = conformance.ensure(report, cluster.stack.kubernetes)
        image_archives.ensure(report, [images.FEATURE])
        with report.part("images of the tests") as part:
            _import_images(cluster, part)
    for reference in images.unknown(programs):
        print(f"The tests list the image {reference}, which is not made here. Where nodes cannot pull it, tests fail.")
    groups = suite.groups(programs, sigs)
    done = []
    with Report() as report:
        for group in groups:
            with report.part(f"{group.name}: {len(group.tests)} tests") as part:
                found = _results_of(directory, group)
                rest = results.unfinished(group.tests, [each for each in found if not (failed and each.failure)])
                if not rest:
                    part.found()
                else:
                    _remove_rests(cluster, directory, part)
                    part_of_group = replace(group, tests=rest)
                    _run_group(cluster, programs, directory, part_of_group, 1 if group.is_serial else processes, part)
                    found = _results_of(directory, group)
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
            for image in result.not_pulled:
                print(f"  could not be pulled: {image}")
        for name in each.missing:
            print(f"\nnot run  {name}")
    tests = sum(len(each.results) for each in found)
    print(f"\n{tests} tests have a result: {directory / _JUNIT}, {directory / _LOG}")


def as_json(cluster: Cluster, found: Sequence[GroupResults]) -> str:
    """The lab and the results as JSON; docs/scorecard has such files."""
    groups = [
        {
            "group": each.group.name,
            "tests": len(each.group.tests),
            "failed": [
                {"name": result.name, "failure": result.failure, "not_pulled": list(result.not_pulled)}
                for result in each.failed
            ],
            "not_run": each.missing,
            "seconds": round(sum(result.seconds for result in each.results), 1),
        }
        for each in found
    ]
    return json.dumps(
        {
            "kubernetes": cluster.stack.kubernetes,
            "bootstrap": cluster.stack.bootstrap,
            "controllers": len(cluster.with_role(Role.CONTROLLER)),
            "workers": len(cluster.with_role(Role.WORKER)),
            "versions": dict(cluster.stack.versions or {}),
            "groups": groups,
        },
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
    names = pins().images_for([images.FEATURE])
    part.say(f"{len(names)} images")

    def on(node: LiveMachine) -> None:
        workload_tools.import_images(cluster, node, names, of="the tests")

    with ThreadPoolExecutor(max_workers=len(cluster.nodes)) as threads:
        list(threads.map(on, cluster.nodes))


def _place(directory: Path, group: Group) -> Path:
    return directory / "groups" / group.name


def _results_of(directory: Path, group: Group) -> list[Result]:
    """The results that are there of a group."""
    try:
        return results.read(_place(directory, group) / _JUNIT)
    except FileNotFoundError:
        return []


def _remove_rests(cluster: Cluster, directory: Path, part: Part) -> None:
    """Remove the namespaces that a killed run left: those with an identity that stands in its log."""
    logs = directory.glob(f"groups/*.running/{_LOG}")
    runs = {run for log in logs for run in _RUN.findall(log.read_text(errors="replace"))}
    if runs:
        part.say("removing what a killed run left")
        selector = f"--selector=e2e-run in ({','.join(sorted(runs))})"
        workload_tools.kubectl(cluster, "delete", "namespaces", selector, "--ignore-not-found", seconds=300)


def _run_group(cluster: Cluster, programs: Path, directory: Path, group: Group, processes: int, part: Part) -> None:
    """Run the tests of a group, and keep the results of those that came to their end."""
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
    try:
        _watch(cluster, process, work / _LOG, len(group.tests), part)
    finally:
        _end(process)
        # ginkgo also writes them where it was interrupted, and ends with 1 where tests failed.
        any_ran = _keep(work, place)
    if not any_ran:
        last = (work / _LOG).read_text(errors="replace").splitlines()[-20:]
        raise ToolchainError(f"The tests of {group.name} did not run:\n  " + "\n  ".join(last))
    shutil.rmtree(work)


def _watch(cluster: Cluster, process: "subprocess.Popen[bytes]", log: Path, tests: int, part: Part) -> None:
    """Show how far the tests are until they end, and the images that they wait for in vain."""
    over, rest, not_pulled = 0, b"", set[str]()
    next_events = time.monotonic()
    # Each line once: the log has many megabytes in the end.
    with log.open("rb") as written:
        while process.poll() is None:
            lines, _, rest = (rest + written.read()).rpartition(b"\n")
            over += len(_OVER.findall(lines))
            if time.monotonic() >= next_events:
                not_pulled |= _not_pulled(cluster)
                next_events = time.monotonic() + _EVENTS_EVERY
            part.say("; ".join([f"{over} of {tests} are over", *sorted(not_pulled)]))
            time.sleep(_LOOK_EVERY)


def _not_pulled(cluster: Cluster) -> set[str]:
    """The images that nodes cannot pull, with the namespaces of the tests that need them."""
    path = 'jsonpath={range .items[*]}{.metadata.namespace}{" "}{.message}{"\\n"}{end}'
    # Without an answer, as while a test stops an API server, the next question finds them.
    done = cluster.kubectl(
        "get", "events", "--all-namespaces", "--field-selector=reason=Failed,type=Warning", f"--output={path}"
    )
    found = re.findall(r'^(\S+) Failed to pull image "([^"]+)"', done.stdout, re.MULTILINE)
    return {
        f"{image} cannot be pulled, which a test in the namespace {namespace} needs"
        for namespace, image in found
        if not image.startswith(images.MUST_NOT_EXIST)
    }


def _keep(work: Path, place: Path) -> bool:
    """Add what ran in a directory to the results of its group.

    Returns:
        Whether any test has a result.
    """
    try:
        ran = results.read(work / _JUNIT)
    except (FileNotFoundError, ParseError):
        return False
    if ran:
        place.mkdir(exist_ok=True)
        # The log first: a run that is killed in between runs these tests again, and has both logs.
        with (place / _LOG).open("ab") as log:
            log.write((work / _LOG).read_bytes())
        before = [place / _JUNIT] if (place / _JUNIT).exists() else []
        results.merge([*before, work / _JUNIT], place / _JUNIT)
    return bool(ran)


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(_TO_END)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
