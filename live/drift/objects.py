"""What the lab has put into the API, and what is there: asked of the API itself, which changes nothing (dry run)."""

import re
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from live.api import ask_nodes
from live.cluster import Cluster
from live.drift import nodes
from live.drift.compare import API, Difference
from live.drift.recorded import Recorded, Setting

_SECONDS = 30
# Of `kubectl diff`: each object is a file of this name, in two directories.
_OBJECT = re.compile(r"^diff .* \S*/MERGED-\d+/(\S+)$")
_SERVERS_OWN = re.compile(r"[+-]\s+(generation|resourceVersion|uid|creationTimestamp):")
_SHOWN_LINES = 4


def ask(cluster: Cluster, recorded: Mapping[str, Recorded]) -> tuple[list[Difference], str]:
    """What differs in the API; and why it could not be asked, if so."""
    objects = [each for machine in recorded.values() for each in machine.objects.values()]
    registered = nodes.expected(cluster, recorded)
    with ThreadPoolExecutor(max_workers=len(objects) + 1) as threads:
        listed = threads.submit(ask_nodes, cluster, list(registered)) if registered else None
        answers = list(threads.map(lambda each: _diff(cluster, each), objects))
        items, why = listed.result() if listed else ([], "")
    differences = [each for found, _ in answers for each in found]
    reasons = [reason for _, reason in answers if reason] + ([why] if why else [])
    if registered and not why:
        differences += nodes.differences(registered, items)
    return differences, "; ".join(dict.fromkeys(reasons))


def _diff(cluster: Cluster, applied: Setting) -> tuple[list[Difference], str]:
    arguments = ("diff", "--server-side", "--force-conflicts", "--field-manager=kubectl", "-f", "-")
    try:
        done = cluster.kubectl(*arguments, stdin=applied.value, seconds=_SECONDS)
    except subprocess.TimeoutExpired:
        return [], f"no answer within {cluster.allowed(_SECONDS):.0f} s"
    # 1 is a difference, and more than that an error.
    if done.returncode > 1 or (done.returncode == 1 and "diff " not in done.stdout):
        return [], (done.stderr.strip().splitlines() or [f"kubectl ended with status {done.returncode}"])[-1]
    return list(object_differences(done.stdout, applied.step)), ""


def object_differences(printed: str, step: str) -> Iterator[Difference]:
    """The objects in what `kubectl diff` prints, with the first lines that differ; values of Secrets are masked."""
    for part in re.split(r"^(?=diff )", printed, flags=re.M):
        head, _, body = part.partition("\n")
        if not (name := _OBJECT.match(head)):
            continue
        lines = [line for line in body.splitlines() if re.match(r"[+-](?!--|\+\+)\s*\S", line)]
        lines = [line for line in lines if not _SERVERS_OWN.match(line)]
        if all(line.startswith("+") for line in lines) and any("+kind:" in line for line in lines):
            problems = {"missing": "missing"}
        else:
            shown = [f"{line[0]} {line[1:].strip()}" for line in lines[:_SHOWN_LINES]]
            more = ", ..." if len(lines) > _SHOWN_LINES else ""
            problems = {"content": f"differs (- there, + expected): {', '.join(shown)}{more}"}
        yield Difference(machine=API, kind="object", name=name[1], problems=problems, step=step)
