#!/bin/bash
# The lab as a skilled person would build it with kubeadm, by shell and ssh: one controller, as many workers as
# machines.txt has, each beside the others, and a load balancer. What can lie ready before lies ready (see files.py),
# kubeadm's configuration files among it.
#
# usage: plain_kubeadm.sh FILES MIRROR IMAGE      (see plain_machines.sh)
here=$(dirname "$(realpath "$0")")
# shellcheck source-path=SCRIPTDIR source=plain_machines.sh
. "$here/plain_machines.sh"

# The balancer verifies the API server by it, so it is there before kubeadm, which makes all others.
make_authority() {
  mkdir -m 0700 pki
  printf '[req]\ndistinguished_name = name\n[name]\n' >openssl.cnf
  authority kubernetes-ca
  put 0644 pki/kubernetes-ca.crt load-balancer-0/root/etc/haproxy/kubernetes-ca.crt
  put 0644 pki/kubernetes-ca.crt controller-0/root/etc/kubernetes/pki/ca.crt
  put 0600 pki/kubernetes-ca.key controller-0/root/etc/kubernetes/pki/ca.key
}

container_runtime() {
  local sum path process processes=()
  download 'containerd|runc|cni'
  systemctl -q enable --now containerd
  await 60 'ctr version'
  while read -r sum path _; do
    { [ "$(openssl dgst -sha256 -r "$path" | cut -d ' ' -f 1)" = "$sum" ] && ctr -n k8s.io images import "$path" >/dev/null; } &
    processes+=($!)
  done <images.txt
  for process in "${processes[@]}"; do wait "$process" || { echo "an import failed on $(hostname)" >&2; exit 1; }; done
}

init() {
  download etcd
  systemctl -q enable kubelet
  kubeadm init --config /root/kubeadm.yaml --skip-token-print >/var/log/kubeadm.log 2>&1 || { tail -n 25 /var/log/kubeadm.log >&2; exit 1; }
  ln -s admin.conf /etc/kubernetes/admin.kubeconfig
  install -d -m 0700 /var/lib/etcd-snapshots
  systemctl -q enable --now etcd-snapshot.timer
}

token() { kubeadm token create --ttl 15m --kubeconfig "$KUBECONFIG"; }

join() { # SERVER AUTHORITY TOKEN: the authority's certificate in base64
  install -D -m 0600 /dev/stdin /etc/hardway/discovery.conf <<END
apiVersion: v1
kind: Config
clusters:
- name: kubernetes
  cluster: {server: "$1", certificate-authority-data: $2}
users:
- name: joining
  user: {token: $3}
contexts:
- name: joining
  context: {cluster: kubernetes, user: joining}
current-context: joining
END
  systemctl -q enable kubelet
  kubeadm join --config /root/kubeadm.yaml >/var/log/kubeadm.log 2>&1 || { tail -n 25 /var/log/kubeadm.log >&2; exit 1; }
  rm /etc/hardway/discovery.conf
}

set_up_node() { # NAME
  # The kubelet's unit writes there, whenever it starts.
  mkdir -p "$1/root/etc/kubernetes/config"
  copy "$1"
  on "$1" prepare socat conntrack ipset iptables nftables
  on "$1" container_runtime
  on "$1" download kube
}

start_nodes() {
  local name with
  with=$(on controller-0 token)
  for name in controller-0 "${workers[@]}"; do ip route replace "${pods[$name]}" via "${address[$name]}"; done
  begin on controller-0 node_in_api controller-0 "${pods[controller-0]}"
  for name in "${workers[@]}"; do
    begin on "$name" join "https://$balancer:6443" "$(base64 -w0 pki/kubernetes-ca.crt)" "$with"
    begin on controller-0 node_in_api "$name" "${pods[$name]}"
  done
  together
}

make_network
make_machines
phase machines
make_authority
phase certificates
for name in controller-0 "${workers[@]}"; do begin set_up_node "$name"; done
begin set_up_load_balancer
together
on controller-0 init
phase control-plane
start_nodes
phase nodes
on controller-0 cluster_checks $((${#workers[@]} + 1)) "$balancer" "${address[controller-0]}"
on worker-0 dns_check "$dns_service" "$api_service"
phase dns
