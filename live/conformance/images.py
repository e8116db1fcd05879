"""The images of Kubernetes' tests: those that the tool chain makes, and those that it does not, each with the reason.

A node pulls what it does not have. Where it can reach no registry, a test that needs such an image waits for it, up to
ten minutes, and then fails.
"""

from pathlib import Path

from config.versions import pins
from toolchain import conformance
from toolchain.command import ask
from toolchain.errors import ToolchainError

FEATURE = "conformance"
"""Of the images, in versions.yaml."""
_SECONDS = 60
_TESTS = "registry.k8s.io/e2e-test-images"
MUST_NOT_EXIST = ("invalid.registry.k8s.io/", "gcr.io/google_samples/gb-redisslave:nonexistent", "webserver:404")
NOT_MADE = {
    **dict.fromkeys(MUST_NOT_EXIST, "must not exist: tests check how a failed pull is reported"),
    "gcr.io/k8s-authenticated-test/": "needs upstream's own credentials; no conformance test uses it",
    "registry.k8s.io/sig-storage/": "parts of CSI drivers, which no conformance test installs",
    "registry.k8s.io/cloud-provider-gcp/": "a CSI driver, which no conformance test installs",
    f"{_TESTS}/busybox:1.36.1-1": "a part of a CSI driver, which no conformance test installs",
    **dict.fromkeys(
        (
            "registry.k8s.io/build-image/distroless-iptables:",
            f"{_TESTS}/apparmor-loader:",
            f"{_TESTS}/ipc-utils:",
            f"{_TESTS}/node-perf/",
            f"{_TESTS}/nonroot:",
            f"{_TESTS}/perl:",
            f"{_TESTS}/regression-issue-74839:",
            f"{_TESTS}/resource-consumer:",
            f"{_TESTS}/volume/",
        ),
        "no conformance test uses it",
    ),
}
"""How the name of an image begins -> why the tool chain does not make it."""


def unknown(programs: Path) -> list[str]:
    """The images that the tests list and that are neither made nor known to be needless.

    Args:
        programs: the directory of the test binary.

    Raises:
        ToolchainError: the binary does not list its images.
    """
    done = ask(programs / conformance.SUITE, "--list-images", timeout=_SECONDS)
    if done.returncode != 0:
        raise ToolchainError(f"The test binary does not list its images: {(done.stderr or done.stdout).strip()[-500:]}")
    made = {image.reference for image in pins().images.values()}
    return sorted(
        reference
        for reference in set(done.stdout.split()) - made
        if not any(reference.startswith(beginning) for beginning in NOT_MADE)
    )
