"""Where a lab has what on its machines and in etcd, as far as operations on a running lab need it, too."""

from pathlib import PurePosixPath

LIBRARY = "/usr/local/lib/hardway/step.sh"
"""The functions of every step."""
USE_ETCD = f". {PurePosixPath(LIBRARY).with_name('etcd.sh')}"
"""The shell line that brings etcd.sh into a script."""
LEFT_ASIDE = "/var/lib/etcd-restore"
"""Where `./hardway restore` works, and keeps the data that were there before."""

HOST_TABLE, HOSTS_UNIT = "/etc/hardway/hosts", "hardway-hosts.service"
"""The lab's entries of /etc/hosts, and the unit that writes them there."""
POD_ROUTES, MASQUERADE = "/etc/hardway/pod-routes", "/etc/hardway/masquerade.nft"
"""The routes to pods on other machines, and the rules for packets that leave the lab."""
POD_NETWORK_UNIT = "hardway-pod-network.service"
"""The unit that sets both."""

ADMIN_KUBECONFIG = "/etc/kubernetes/admin.kubeconfig"
"""On every controller, for root alone: a link to admin.conf, where the CIS Benchmark looks (1.1.13 and 1.1.14)."""
KUBECTL_CACHE = "/var/lib/hardway/kubectl"
"""On every controller: kubectl's cache, which would otherwise be in root's home."""
AWAIT_API = f"await_api \"$(sed -n 's/^ *server: //p' {ADMIN_KUBECONFIG})\" /etc/kubernetes/pki/ca.crt"
"""On a controller: wait for what kubectl asks, in a step that comes while the API server of a new lab starts."""
KUBECTL = f"kubectl --kubeconfig {ADMIN_KUBECONFIG} --cache-dir {KUBECTL_CACHE}"

IDENTITY_KEY = "/hardway/lab"
"""The key in etcd that says whose the data are: SHA-256 of the etcd CA's certificate (DER), in hexadecimal
digits. A lab that is destroyed and created again has another CA: it is another cluster."""

AUDIT_LOGS = "/var/log/kubernetes"
AUDIT_LOG = f"{AUDIT_LOGS}/audit.log"
"""Of the API server, on every controller, for root alone."""
