"""What Calico's programs may do in the API: upstream's own rules, those of the chosen datastore.

Source: https://github.com/projectcalico/calico/blob/v3.28.5/manifests/calico-vxlan.yaml and calico-etcd.yaml
"""

from typing import Any

from config.calico import CalicoSettings

NAMESPACE = "kube-system"
NODE = "calico-node"
CONTROLLERS = "calico-kube-controllers"
PLUGIN_USER = "calico-cni"
"""The name in the CNI plugin's certificate: it runs on the worker, not in a pod, and so has no service account."""
_GROUP = "crd.projectcalico.org"
_READ = ("get", "list", "watch")
_CHANGE = ("get", "list", "create", "update", "delete")
_IPAM = ("blockaffinities", "ipamblocks", "ipamhandles")


def rbac_objects(settings: CalicoSettings) -> list[dict[str, Any]]:
    """Service accounts, ClusterRoles and their bindings."""
    in_api = settings.datastore == "kubernetes"
    accounts = {name: {"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE} for name in (NODE, CONTROLLERS)}
    plugin = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": PLUGIN_USER}
    return [
        *(
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": NAMESPACE}}
            for name in accounts
        ),
        *_granted(NODE, [*_node(), *(_node_data() if in_api else ())], accounts[NODE]),
        *_granted("calico-cni-plugin", [*_plugin(), *(_plugin_data() if in_api else ())], plugin),
        *_granted(CONTROLLERS, _controllers_in_api() if in_api else _controllers_in_etcd(), accounts[CONTROLLERS]),
    ]


def _granted(name: str, rules: list[dict[str, Any]], subject: dict[str, str]) -> list[dict[str, Any]]:
    group = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
            "subjects": [subject],
        },
    ]


def _rule(group: str, resources: tuple[str, ...], verbs: tuple[str, ...]) -> dict[str, Any]:
    return {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)}


def _node() -> list[dict[str, Any]]:
    return [
        _rule("", ("pods", "nodes", "namespaces"), ("get",)),
        _rule("discovery.k8s.io", ("endpointslices",), ("watch", "list")),
        _rule("", ("endpoints", "services"), _READ),
        # Says that the network is available.
        _rule("", ("nodes/status",), ("patch", "update")),
    ]


def _node_data() -> list[dict[str, Any]]:
    return [
        _rule("networking.k8s.io", ("networkpolicies",), ("watch", "list")),
        _rule("", ("pods", "namespaces", "serviceaccounts"), ("list", "watch")),
        _rule("", ("nodes",), _READ),
        _rule("", ("pods/status",), ("patch",)),
        _rule(
            _GROUP,
            (
                *("globalfelixconfigs", "felixconfigurations", "bgppeers", "bgpfilters", "globalbgpconfigs"),
                *("bgpconfigurations", "ippools", "ipreservations", "ipamblocks", "globalnetworkpolicies"),
                *("globalnetworksets", "networkpolicies", "networksets", "clusterinformations", "hostendpoints"),
                *("blockaffinities", "caliconodestatuses"),
            ),
            _READ,
        ),
        _rule(_GROUP, ("ippools", "felixconfigurations", "clusterinformations"), ("create", "update")),
        _rule(_GROUP, ("caliconodestatuses",), ("update",)),
        # The address of the tunnel.
        _rule(_GROUP, _IPAM, _CHANGE),
        _rule(_GROUP, ("ipamconfigs",), ("get", "create")),
    ]


def _plugin() -> list[dict[str, Any]]:
    return [_rule("", ("pods", "nodes", "namespaces"), ("get",))]


def _plugin_data() -> list[dict[str, Any]]:
    return [
        _rule("", ("pods/status",), ("patch",)),
        _rule(_GROUP, (*_IPAM, "clusterinformations", "ippools", "ipreservations", "ipamconfigs"), _CHANGE),
    ]


def _controllers_in_api() -> list[dict[str, Any]]:
    return [
        _rule("", ("nodes", "pods"), _READ),
        _rule(_GROUP, ("ipreservations",), ("list",)),
        _rule(_GROUP, _IPAM, (*_CHANGE, "watch")),
        _rule(_GROUP, ("ippools",), ("list", "watch")),
        _rule(_GROUP, ("hostendpoints",), (*_CHANGE, "watch")),
        _rule(_GROUP, ("clusterinformations",), ("get", "list", "create", "update", "watch")),
        _rule(_GROUP, ("kubecontrollersconfigurations",), ("get", "list", "create", "update", "watch")),
    ]


def _controllers_in_etcd() -> list[dict[str, Any]]:
    return [
        _rule("", ("pods", "nodes", "namespaces", "serviceaccounts"), _READ),
        _rule("networking.k8s.io", ("networkpolicies",), ("watch", "list")),
    ]
