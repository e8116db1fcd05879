"""How each released file is built from its project's Go module: the same programs, with the same version stamps."""

from collections.abc import Mapping

from config.versions import pins
from toolchain.from_source.gomodule import Programs, SourceFile, Suites

_CALICO = "github.com/projectcalico/calico"


def recipe(product: str, version: str) -> Programs | SourceFile:
    """How a product of versions.yaml is made."""
    if product == "calico-crds":
        return SourceFile(module="calico", of=_CALICO, path="manifests/crds.yaml")
    return programs(product, version)


def programs(product: str, version: str) -> Programs:
    """The programs of a product of versions.yaml, or of an image."""
    match product:
        case "kubernetes":
            packages = {name: f"k8s.io/kubernetes/cmd/{name}" for name in pins().products[product].artifacts}
            return Programs(module=_module(product, version), packages=packages, linked=_kubernetes_stamps(version))
        case "etcd":
            return Programs(
                module=_module(product, version),
                packages={
                    "etcd": "go.etcd.io/etcd/server/v3",
                    "etcdctl": "go.etcd.io/etcd/etcdctl/v3",
                    "etcdutl": "go.etcd.io/etcd/etcdutl/v3",
                },
            )
        case "containerd":
            commands = ("containerd", "containerd-shim-runc-v2", "ctr")
            root = "github.com/containerd/containerd/v2"
            return Programs(
                module=_module(product, version),
                packages={name: f"{root}/cmd/{name}" for name in commands},
                linked=(f"-X {root}/version.Version=v{version}",),
                # Snapshotters that need C libraries; overlayfs is what labs use.
                tags=("no_btrfs", "no_devmapper", "no_zfs"),
            )
        case "runc":
            return Programs(
                module=_module(product, version),
                packages={"runc": "github.com/opencontainers/runc"},
                linked=("-linkmode external", "-extldflags -static", f"-X main.version={version}"),
                # Without seccomp every pod sandbox fails; libseccomp is why this one needs C.
                tags=("seccomp", "netgo", "osusergo"),
                cgo=True,
            )
        case "cni-plugins":
            root = "github.com/containernetworking/plugins"
            kinds = ("ipam/host-local", "main/bridge", "main/loopback", "meta/bandwidth", "meta/portmap")
            return Programs(
                module=_module(product, version),
                packages={kind.partition("/")[2]: f"{root}/plugins/{kind}" for kind in kinds},
                linked=(f"-X {root}/pkg/utils/buildversion.BuildVersion=v{version}",),
            )
        case "calicoctl":
            return calico({"calicoctl": "calicoctl/calicoctl"}, version)
        case "coredns":
            return Programs(module=product, packages={"coredns": "github.com/coredns/coredns"})
        case "sample-apiserver":
            return Programs(
                module=product,
                packages={product: "k8s.io/sample-apiserver"},
                linked=_kubernetes_stamps(version),
            )
        case _:
            raise ValueError(product)


def agnhost(version_of_image: str) -> Programs:
    """Kubernetes' own test server, out of the default version's sources."""
    version = pins().products["kubernetes"].default
    return Programs(
        module=_module("kubernetes", version),
        packages={"agnhost": "k8s.io/kubernetes/test/images/agnhost"},
        linked=(*_kubernetes_stamps(version), f"-X main.Version={version_of_image}"),
    )


def test_image(image: str, program: str, version: str) -> Programs:
    """The program of one of Kubernetes' small test images."""
    return Programs(module=_module("kubernetes", version), packages={program: f"k8s.io/kubernetes/test/images/{image}"})


def conformance(version: str) -> Suites:
    """Kubernetes' own e2e tests, and the program that runs them in several processes."""
    return Suites(
        module=_module("conformance", version),
        packages={"ginkgo": "github.com/onsi/ginkgo/v2/ginkgo"},
        tests={"e2e.test": "k8s.io/kubernetes/test/e2e"},
        linked=_kubernetes_stamps(version),
    )


def calico(packages: Mapping[str, str], version: str) -> Programs:
    """Some of Calico's programs.

    Args:
        packages: name -> package below Calico's root.
        version: which one they say that they are; calicoctl refuses a cluster of another.
    """
    stamped = (
        "main.VERSION",
        *(f"{_CALICO}/calicoctl/calicoctl/{package}.VERSION" for package in ("commands", "commands/common")),
        *(f"{_CALICO}/node/pkg/lifecycle/startup.VERSION", f"{_CALICO}/node/buildinfo.GitVersion"),
    )
    return Programs(
        module="calico",
        packages={name: f"{_CALICO}/{package}" for name, package in packages.items()},
        linked=tuple(f"-X {variable}=v{version}" for variable in stamped),
    )


def pulumi(version: str) -> Programs:
    """The Pulumi command."""
    return Programs(
        module="pulumi",
        packages={"pulumi": "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"},
        linked=(f"-X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=v{version}",),
    )


def _module(product: str, version: str) -> str:
    # modules/<product> is the default version; another one has its number in the name.
    default = pins().products["kubernetes" if product == "conformance" else product].default
    return product if version == default else f"{product}-{version}"


def _kubernetes_stamps(version: str) -> tuple[str, ...]:
    # Without them nodes report v0.0.0 and version skew cannot be judged.
    major, minor, _ = version.split(".")
    stamps = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    return tuple(
        f"-X {package}.{name}={value}"
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
        for name, value in stamps.items()
    )
