"""All drills, as data: what each does, what it measures, and the bars."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from config.machines import Role
from live.cluster import Cluster, LiveMachine
from live.drills import faults, leadership, measures
from live.drills.engine import Engine
from live.drills.faults import Fault
from live.drills.measures import Measure
from live.drills.workload import Workload
from toolchain.errors import ToolchainError

# The project's bars, in seconds: what losing one controller, or the balancer of two, may cost.
ETCD_WRITES, API_ERRORS, NEW_LEADER, ENDPOINTS, BALANCER = 3, 5, 20, 25, 3
# All machines at once.
API_BACK, NODES_AND_DNS_BACK = 60, 120


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Where a drill takes place.

    Args:
        cluster: the lab.
        engine: its machines' power switch.
        workload: the drills' pods.
    """

    cluster: Cluster
    engine: Engine
    workload: Workload


@dataclass(frozen=True, kw_only=True)
class Drill:
    """One drill.

    Args:
        name: as it is asked for.
        does: what it does, in a sentence.
        target: the machine that it hits, chosen when it begins; None stands for all machines.
        fault: what is done to it.
        measures: what is measured.
        lacks: why it cannot be done on a lab, or nothing where it can.
        quick: whether it belongs to the quick half: short, and part of the tests.
        holds: seconds that the fault lasts at least.
        well_within: seconds after the repair, within which the cluster must be healthy again.
    """

    name: str
    does: str
    target: Callable[[Scene], LiveMachine | None]
    fault: Callable[[Scene, LiveMachine | None], Fault]
    measures: tuple[Measure, ...]
    lacks: Callable[[Cluster], str]
    quick: bool = False
    holds: float = 5
    well_within: float = 90


def names_of(drills: Sequence[Drill]) -> str:
    """Their names, for a message."""
    return ", ".join(drill.name for drill in drills)


def choose(names: Sequence[str]) -> list[Drill]:
    """The drills of these names, in the catalogue's order; all, where none is named.

    Raises:
        ToolchainError: a name is not that of a drill.
    """
    if unknown := [name for name in names if name not in {drill.name for drill in DRILLS}]:
        raise ToolchainError(f"There is no drill {', '.join(unknown)}: it must be one or more of {names_of(DRILLS)}.")
    return [drill for drill in DRILLS if not names or drill.name in names]


def _ha(cluster: Cluster) -> str:
    controllers, members = len(cluster.with_role(Role.CONTROLLER)), len(cluster.etcd_members)
    if min(controllers, members) >= 3:
        return ""
    return f"three controllers and three etcd members at least; {cluster.stack.name} has {controllers} and {members}"


def _two(role: Role) -> Callable[[Cluster], str]:
    def lacks(cluster: Cluster) -> str:
        found = len(cluster.with_role(role))
        return "" if found >= 2 else f"two machines with the role {role} at least; {cluster.stack.name} has {found}"

    return lacks


def nothing(_: Cluster) -> str:
    """For what every lab can have."""
    return ""


def _switched(lacks: Callable[[Cluster], str] = nothing) -> Callable[[Cluster], str]:
    """For a drill that needs the machines' power switch, besides what else it needs."""
    return lambda cluster: lacks(cluster) or containers_lack(cluster)


def containers_lack(cluster: Cluster) -> str:
    """Why the machines have no power switch here; empty where they have."""
    return "" if cluster.stack.traits.on_engine else "machines that are containers"


def _worker_without_the_client(scene: Scene) -> LiveMachine:
    # One with a replica of DNS, where there is such a one: more is lost with it.
    others = [worker for worker in scene.cluster.with_role(Role.WORKER) if worker != scene.workload.client_on]
    return next((worker for worker in others if worker.name in leadership.dns_on(scene.cluster)), others[-1])


def _holder(program: str) -> Callable[[Scene], LiveMachine]:
    return lambda scene: leadership.holder(scene.cluster, program)


def _machine_fault(
    make: Callable[[Cluster, LiveMachine, Engine], Fault],
) -> Callable[[Scene, LiveMachine | None], Fault]:
    def fault(scene: Scene, machine: LiveMachine | None) -> Fault:
        assert machine is not None
        return make(scene.cluster, machine, scene.engine)

    return fault


def _kill(
    name: str,
    *,
    on: str,
    target: Callable[[Scene], LiveMachine],
    measures: tuple[Measure, ...],
    lacks: Callable[[Cluster], str] = nothing,
) -> Drill:
    return Drill(
        name=f"kill-{name}",
        does=f"kill -9 of {name} on {on}",
        target=target,
        fault=_machine_fault(lambda cluster, machine, _: faults.Kill(cluster, machine, name)),
        measures=measures,
        lacks=lacks,
        quick=True,
    )


def _one_controller_lost() -> tuple[Measure, ...]:
    return (
        measures.etcd_writes_again(ETCD_WRITES),
        measures.api_errors_for(API_ERRORS),
        measures.api_silent_for(),
        measures.api_writes_again(),
        measures.new_leader("kube-controller-manager", NEW_LEADER),
        measures.new_leader("kube-scheduler", NEW_LEADER),
        measures.out_of_endpoints(ENDPOINTS),
    )


def _everything_back() -> tuple[Measure, ...]:
    return (
        measures.back("API answers again in", measures.API_CLIENT, API_BACK),
        measures.all_nodes_ready(NODES_AND_DNS_BACK),
        measures.back("DNS answers in a pod in", measures.POD_DNS, NODES_AND_DNS_BACK),
        measures.back("a Service answers in a pod in", measures.POD_SERVICE, NODES_AND_DNS_BACK),
    )


_POD_CALLS = (
    measures.failures_for("Service fails in a pod for", measures.POD_SERVICE),
    measures.failures_for("DNS fails in a pod for", measures.POD_DNS),
)

DRILLS: tuple[Drill, ...] = (
    _kill(
        "etcd",
        on="the machine of etcd's leader",
        target=lambda scene: leadership.etcd_leader(scene.cluster),
        measures=(
            measures.served_again(15),
            measures.etcd_writes_again(ETCD_WRITES),
            measures.api_errors_for(API_ERRORS),
            measures.api_writes_again(),
        ),
        lacks=_ha,
    ),
    _kill(
        "kube-apiserver",
        on="the machine where the controller manager leads",
        target=_holder("kube-controller-manager"),
        measures=(
            measures.served_again(30),
            measures.api_errors_for(API_ERRORS),
            measures.api_silent_for(),
            measures.api_writes_again(),
        ),
        lacks=_ha,
    ),
    _kill(
        "kube-controller-manager",
        on="the machine where it leads",
        target=_holder("kube-controller-manager"),
        measures=(measures.served_again(15), measures.new_leader("kube-controller-manager", NEW_LEADER)),
        lacks=_ha,
    ),
    _kill(
        "kube-scheduler",
        on="the machine where it leads",
        target=_holder("kube-scheduler"),
        measures=(measures.served_again(15), measures.new_leader("kube-scheduler", NEW_LEADER)),
        lacks=_ha,
    ),
    *(
        _kill(
            name,
            on="the worker of the pod that calls a Service",
            target=lambda scene: scene.workload.client_on,
            measures=(measures.served_again(15), *_POD_CALLS),
        )
        for name in ("kubelet", "containerd", "kube-proxy")
    ),
    _kill(
        "haproxy",
        on="the balancer that has the API's address",
        target=lambda scene: leadership.balancer_in_front(scene.cluster),
        measures=(measures.served_again(15), measures.api_errors_for(API_ERRORS), measures.api_silent_for()),
    ),
    Drill(
        name="stop-leader",
        does="cuts the power of the controller that leads in etcd, as controller manager and as scheduler",
        target=lambda scene: leadership.most_leading(scene.cluster),
        fault=_machine_fault(faults.LeadersPowerCut),
        measures=_one_controller_lost(),
        lacks=_switched(_ha),
        holds=15,
    ),
    Drill(
        name="partition",
        does="cuts the controller that leads in everything off from all other machines, by rules inside of it",
        target=lambda scene: leadership.most_leading(scene.cluster),
        fault=_machine_fault(lambda cluster, machine, _: faults.Partition(cluster, machine)),
        measures=_one_controller_lost(),
        lacks=_ha,
        holds=15,
    ),
    Drill(
        name="fill-quota",
        does="fills one etcd member's database up to its quota, so that all members refuse to write",
        target=lambda scene: leadership.etcd_follower(scene.cluster),
        fault=_machine_fault(lambda cluster, machine, _: faults.FullQuota(cluster, machine)),
        measures=(
            measures.refused_clearly(1),
            measures.api_errors_for(API_ERRORS),
            measures.api_silent_for(),
            measures.writes_after_remedy(15),
        ),
        lacks=_ha,
    ),
    Drill(
        name="stop-worker",
        does="cuts the power of a worker with a backend of the Service that a pod elsewhere calls, and maybe DNS",
        target=_worker_without_the_client,
        fault=_machine_fault(faults.LeadersPowerCut),
        measures=(
            # 50 s without news of it, the controller manager's default, and its look every 5 s.
            measures.not_ready(60),
            measures.failures_for("Service sends to it for", measures.POD_SERVICE, 65),
            measures.failures_for("DNS fails in a pod for", measures.POD_DNS, 65),
            measures.api_errors_for(API_ERRORS),
        ),
        lacks=_switched(_two(Role.WORKER)),
        holds=15,
    ),
    Drill(
        name="stop-balancer",
        does="cuts the power of the balancer that holds the shared address",
        target=lambda scene: leadership.balancer_in_front(scene.cluster),
        fault=_machine_fault(faults.LeadersPowerCut),
        measures=(measures.api_silent_for(BALANCER), measures.api_errors_for(), measures.api_writes_again()),
        lacks=_switched(_two(Role.LOAD_BALANCER)),
        holds=10,
    ),
    Drill(
        name="restart-all",
        does="cuts the power of every machine at once, and starts all as the host does at boot",
        target=lambda scene: None,
        fault=lambda scene, machine: faults.PowerCutForAll(scene.cluster, scene.engine),
        measures=_everything_back(),
        lacks=_switched(),
    ),
    Drill(
        name="restart-engine",
        does="restarts the host's container engine: docker's daemon; podman has none, so all its containers stop in "
        "order and are started as at boot",
        target=lambda scene: None,
        fault=lambda scene, machine: faults.EngineRestart(scene.cluster, scene.engine),
        measures=_everything_back(),
        lacks=_switched(),
    ),
)


def split(drills: Sequence[Drill], cluster: Cluster) -> tuple[list[Drill], Mapping[str, str]]:
    """The drills that can be done on a lab; and the others: name -> what it would need."""
    lacking = {drill.name: lack for drill in drills if (lack := drill.lacks(cluster))}
    return [drill for drill in drills if drill.name not in lacking], lacking
