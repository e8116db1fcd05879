"""The order of one drill: check health; prepare, probe, inject, watch, repair; check health again; what was lost."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from config.machines import Role
from live.drills import measures, probes
from live.drills.catalogue import DRILLS, Drill, Scene
from live.drills.faults import Fault
from live.drills.health import wait_until_well
from live.drills.measures import Measure, Observed
from live.drills.probes import ApiClient, ApiWriter, EtcdWriter, PodClient, View, Watcher
from live.drills.samples import Sample
from live.https_api import Api
from live.waiting import still_missing
from toolchain.errors import ToolchainError

_WELL_BEFORE = 60
"""Seconds until a cluster must be healthy before a drill: a lease may be late, a machine may have just booted."""
_FIRST_ANSWERS = 60
"""Seconds until each probe has had its first good answers: after an outage CoreDNS hears of new Services only when its
client tries again, which may be 30 s later."""
_CALM = 2.0
"""Seconds of good answers before the fault, and after it."""
_LATE = 15
"""Seconds beyond the last bar, for which a number that misses its bar is still waited for."""
_LOOK_EVERY = 0.5


@dataclass(frozen=True, kw_only=True)
class Result:
    """One number of one drill.

    Args:
        what: as in `Measure`.
        seconds: None where it did not come.
        bar: in seconds; None where it is only shown.
    """

    what: str
    seconds: float | None
    bar: float | None

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None where there is none."""
        return None if self.bar is None else self.seconds is not None and self.seconds <= self.bar


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a drill went.

    Args:
        name: the drill's.
        hit: the machine, or "every machine".
        results: its numbers.
        acknowledged: probe -> acknowledged writes, all of them looked for afterwards.
        lost: probe -> those that were not there.
        tries: probe -> how often it tried, from the fault until all was well again.
        errors: probe -> what went wrong -> how often, in the same time.
        well_again: seconds from the repair until the lab was healthy.
        failure: what else went wrong; empty where nothing did.
    """

    name: str
    hit: str
    results: Sequence[Result] = ()
    acknowledged: Mapping[str, int] = field(default_factory=dict)
    lost: Mapping[str, Sequence[str]] = field(default_factory=dict)
    tries: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    well_again: float | None = None
    failure: str = ""

    @property
    def passed(self) -> bool:
        """Every bar met, nothing lost, nothing wrong."""
        return not self.failure and not any(self.lost.values()) and all(each.met is not False for each in self.results)


class Probes:
    """All probes at work, as long as the `with` block runs."""

    def __init__(self, scene: Scene, api: Api, fault: Fault) -> None:
        # Every drill's writes have a name of their own: nothing of an earlier one is counted.
        run = f"run-{time.time_ns():x}"
        member = probes.surviving_member(scene.cluster, fault.hits)
        self.writers = (ApiWriter(api, run), EtcdWriter(scene.cluster, member, run))
        self._client = ApiClient(api)
        self._pod = PodClient(scene.cluster, scene.workload.client_on, scene.workload.log())
        self._watcher = Watcher(api, [each.name for each in scene.cluster.with_role(Role.WORKER)])
        self._first_answers = scene.cluster.allowed(_FIRST_ANSWERS)
        self._all = (*self.writers, self._client, self._pod, self._watcher)
        self._running = ExitStack()

    def __enter__(self) -> "Probes":
        for probe in self._all:
            self._running.enter_context(probe)
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    @property
    def samples(self) -> dict[str, list[Sample]]:
        """What each has seen."""
        api, etcd = self.writers
        return {
            measures.API_WRITER: api.samples,
            measures.ETCD_WRITER: etcd.samples,
            measures.API_CLIENT: self._client.samples,
            measures.POD_SERVICE: self._pod.samples,
            measures.POD_DNS: self._pod.dns,
        }

    @property
    def views(self) -> list[View]:
        """What the API said."""
        return self._watcher.views

    def wait_until_calm(self) -> None:
        """Wait until each has had nothing but good answers for a while.

        Raises:
            ToolchainError: one has not.
        """
        began = time.time()

        def restless() -> list[str]:
            return [name for name, seen in self.samples.items() if not is_calm(seen, began, time.time())]

        if left := still_missing(restless, self._first_answers, every=_LOOK_EVERY):
            last = [f"{name}: {_last_word(self.samples[name])}" for name in left]
            raise ToolchainError(f"Before anything was broken, there was no good answer to {'; '.join(last)}.")


def is_calm(seen: Sequence[Sample], began: float, now: float) -> bool:
    """Whether the last seconds had good answers, and no others."""
    recent = [sample for sample in seen if sample.ended > now - _CALM]
    return now - began >= _CALM and bool(recent) and not any(sample.error for sample in recent)


def run(drill: Drill, scene: Scene, api: Api, say: Callable[[str], None]) -> Outcome:
    """Do a drill and repair what it broke, also after a failure.

    Raises:
        ToolchainError: the cluster is not healthy before the fault, or what was broken cannot be repaired.
    """
    wait_until_well(scene.cluster, api, scene.workload, seconds=_WELL_BEFORE)
    target, workers = drill.target(scene), scene.cluster.with_role(Role.WORKER)
    hit = target.name if target else "every machine"
    fault = drill.fault(scene, target)
    say(f"{drill.name}: {drill.does}; hits {hit}")
    failure, injected_at, repairing_at, well = "", None, None, None
    with _mended(scene, drill, fault, hit):
        fault.prepare()
        before = probes.look(api.get, [worker.name for worker in workers])
        with Probes(scene, api, fault) as at_work:
            at_work.wait_until_calm()

            def seen() -> Observed:
                now = time.time()
                assert injected_at is not None
                return Observed(
                    target=target,
                    workers=[worker.name for worker in workers],
                    before=before,
                    injected_at=injected_at,
                    until=repairing_at or now,
                    served=fault.served,
                    samples=at_work.samples,
                    views=at_work.views,
                )

            injected_at = fault.inject()
            _watch(drill, seen, late=scene.cluster.allowed(_LATE))
            repairing_at = time.time()
            say(f"  injected, and watched for {repairing_at - injected_at:.0f} s; repairing")
            with undisturbed():
                fault.recover()
            try:
                # A kubelet without a fault does not have to report again.
                heard_since = injected_at if target is None or target in workers else None
                wait_until_well(scene.cluster, api, scene.workload, seconds=drill.well_within, heard_since=heard_since)
                at_work.wait_until_calm()
                well = time.time()
                say(f"  healthy again after {well - repairing_at:.1f} s")
            except ToolchainError as error:
                failure = str(error)
        observed = seen()
    lost = {writer.name: writer.lost() for writer in at_work.writers}
    since = {
        name: [sample for sample in samples if sample.ended >= injected_at]
        for name, samples in observed.samples.items()
    }
    return Outcome(
        name=drill.name,
        hit=hit,
        results=[
            Result(what=measure.what, seconds=measure.seconds(observed), bar=measure.bar)
            for measure in drill.measures
            if measure.applies(observed)
        ],
        acknowledged={writer.name: len(writer.acknowledged) for writer in at_work.writers},
        lost=lost,
        tries={name: len(samples) for name, samples in since.items()},
        errors={name: measures.errors(samples) for name, samples in since.items()},
        well_again=None if well is None else well - repairing_at,
        failure=failure,
    )


def repair_what_is_left(scene: Scene, say: Callable[[str], None]) -> None:
    """Repair what a killed run has broken.

    Raises:
        ToolchainError: it cannot be repaired.
    """
    file = _mark(scene)
    if not file.exists():
        return
    left = json.loads(file.read_text())
    drill = next((drill for drill in DRILLS if drill.name == left["drill"]), None)
    if drill is not None:
        say(f"Repairing what the drill {drill.name} left on {left['hit']}: it was killed.")
        named = [machine for machine in scene.cluster.machines if machine.name == left["hit"]]
        drill.fault(scene, named[0] if named else None).recover()
    file.unlink()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore signals here and in the programs that it starts: a second Ctrl-C would leave things broken."""
    before = {
        ending: signal.signal(ending, signal.SIG_IGN) for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for ending, handler in before.items():
            signal.signal(ending, handler)


def _watch(drill: Drill, seen: Callable[[], Observed], *, late: float) -> None:
    """Look on until everything that is to come has come, and who reads has good answers again, or it is too late."""
    latest = max((measure.bar or 0 for measure in drill.measures if not measure.after_relief), default=0) + late
    while True:
        now = seen()
        passed = now.until - now.injected_at
        if passed >= max(drill.holds, latest) or (passed >= drill.holds and _is_over(drill.measures, now)):
            return
        time.sleep(_LOOK_EVERY)


def _is_over(wanted: Sequence[Measure], seen: Observed) -> bool:
    # Errors that go on would be cut short. Writers need no look: that they write again is a number that is waited for.
    calm = all(is_calm(seen.samples[reader], seen.injected_at, seen.until) for reader in measures.READERS)
    return calm and all(
        measure.seconds(seen) is not None for measure in wanted if not measure.after_relief and measure.applies(seen)
    )


@contextmanager
def _mended(scene: Scene, drill: Drill, fault: Fault, hit: str) -> Iterator[None]:
    """Repair the fault in the end; a mark lets the next run do it if this one is killed."""
    file = _mark(scene)
    file.write_text(json.dumps({"drill": drill.name, "hit": hit, "process": os.getpid()}))
    try:
        yield
    finally:
        with undisturbed():
            fault.recover()
        file.unlink()


def _mark(scene: Scene) -> Path:
    return scene.cluster.stack.directory / "drill.json"


def _last_word(seen: Sequence[Sample]) -> str:
    return (seen[-1].error or "not calm yet") if seen else "nothing was seen"
