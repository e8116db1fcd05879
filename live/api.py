"""What the API says, asked by the lab's kubectl."""

from subprocess import TimeoutExpired

from live.cluster import Cluster


def ask_api(cluster: Cluster, *what: str) -> tuple[str, str]:
    """What `kubectl get` prints through the endpoint; or nothing, and why it failed.

    Args:
        cluster: the lab.
        what: its arguments.
    """
    seconds = 5
    try:
        request = f"--request-timeout={cluster.allowed(seconds):.0f}s"
        done = cluster.kubectl("get", *what, request, seconds=2 * seconds)
    except TimeoutExpired:
        return "", f"no answer within {cluster.allowed(2 * seconds):.0f} s"
    if done.returncode == 0:
        return done.stdout, ""
    return "", (done.stderr.strip().splitlines() or ["kubectl failed"])[-1]
