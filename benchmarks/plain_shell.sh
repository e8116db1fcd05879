#!/bin/bash
# The lab as a skilled person would build it after the tutorial, by shell, ssh and openssl: as many controllers and
# workers as machines.txt has, each beside the others, and a load balancer. What can lie ready before lies ready (see
# files.py).
#
# usage: plain_shell.sh FILES MIRROR IMAGE      (see plain_machines.sh)
here=$(dirname "$(realpath "$0")")
# shellcheck source-path=SCRIPTDIR source=plain_machines.sh
. "$here/plain_machines.sh"

# --- certificates

certificate() { # AUTHORITY NAME SUBJECT USES [SUBJECT-ALTERNATIVE-NAMES]
  openssl req -x509 -config openssl.cnf -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 365 \
    -CA "pki/$1.crt" -CAkey "pki/$1.key" -subj "$3" -keyout "pki/$2.key" -out "pki/$2.crt" \
    -addext basicConstraints=critical,CA:FALSE -addext keyUsage=critical,digitalSignature,keyEncipherment \
    -addext "extendedKeyUsage=$4" -addext subjectKeyIdentifier=hash ${5:+-addext "subjectAltName=$5"} 2>>openssl.log
}

api_server_names() { # and its addresses, as openssl takes them
  local name
  printf 'DNS:%s,' kubernetes kubernetes.default kubernetes.default.svc kubernetes.default.svc.cluster.local localhost
  for name in "${controllers[@]}" load-balancer-0; do
    printf 'DNS:%s,DNS:%s,IP:%s,' "$name" "${fqdn[$name]}" "${address[$name]}"
  done
  echo "IP:$api_service,IP:127.0.0.1"
}

make_certificates() {
  local name both=clientAuth,serverAuth loopback=IP:127.0.0.1
  mkdir -m 0700 pki
  printf '[req]\ndistinguished_name = name\n[name]\n' >openssl.cnf
  for name in kubernetes-ca etcd-ca front-proxy-ca; do begin authority "$name"; done
  together
  begin certificate kubernetes-ca admin /O=system:masters/CN=admin clientAuth
  begin certificate kubernetes-ca kube-proxy /O=system:node-proxier/CN=system:kube-proxy clientAuth
  for name in kube-scheduler kube-controller-manager; do
    begin certificate kubernetes-ca $name "/O=system:$name/CN=system:$name" $both $loopback
  done
  for name in "${workers[@]}"; do
    begin certificate kubernetes-ca "$name" "/O=system:nodes/CN=system:node:$name" $both \
      "DNS:$name,DNS:${fqdn[$name]},IP:${address[$name]},$loopback"
  done
  begin certificate kubernetes-ca kube-apiserver /CN=kubernetes serverAuth "$(api_server_names)"
  begin certificate kubernetes-ca apiserver-kubelet-client /CN=kube-apiserver-kubelet-client clientAuth
  begin certificate etcd-ca apiserver-etcd-client /CN=kube-apiserver-etcd-client clientAuth
  for name in "${controllers[@]}"; do
    begin certificate etcd-ca "etcd-$name" "/CN=$name" $both \
      "DNS:$name,DNS:localhost,IP:${address[$name]},$loopback"
  done
  begin certificate front-proxy-ca front-proxy-client /CN=front-proxy-client clientAuth
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out pki/service-accounts.key
  openssl pkey -in pki/service-accounts.key -pubout -out pki/service-accounts.pub
  together
}

kubeconfig() { # USER SERVER CERTIFICATE
  cat <<END
apiVersion: v1
kind: Config
clusters:
- name: hard-way
  cluster: {server: "https://$2:6443", certificate-authority-data: $(base64 -w0 pki/kubernetes-ca.crt)}
users:
- name: $1
  user: {client-certificate-data: $(base64 -w0 "pki/$3.crt"), client-key-data: $(base64 -w0 "pki/$3.key")}
contexts:
- name: hard-way
  context: {cluster: hard-way, user: $1}
current-context: hard-way
END
}

# Everything where it is to be on the machine, below the machine's root.
lay_out() {
  local name encryption_key
  encryption_key=$(head -c 32 /dev/urandom | base64)
  put 0644 pki/kubernetes-ca.crt load-balancer-0/root/etc/haproxy/kubernetes-ca.crt
  for name in "${controllers[@]}"; do begin lay_out_controller "$name"; done
  for name in "${workers[@]}"; do begin lay_out_worker "$name"; done
  together
}

lay_out_controller() { # NAME
  local name root=$1/root/etc
  for name in etcd-ca front-proxy-ca; do put 0644 pki/$name.crt "$root/kubernetes/pki/$name.crt"; done
  for name in kube-apiserver apiserver-kubelet-client apiserver-etcd-client front-proxy-client kube-controller-manager \
    kube-scheduler; do
    put 0644 pki/$name.crt "$root/kubernetes/pki/$name.crt"
    put 0600 pki/$name.key "$root/kubernetes/pki/$name.key"
  done
  put 0644 pki/kubernetes-ca.crt "$root/kubernetes/pki/ca.crt"
  put 0600 pki/kubernetes-ca.key "$root/kubernetes/pki/ca.key"
  put 0600 pki/service-accounts.key "$root/kubernetes/pki/service-accounts.key"
  put 0644 pki/service-accounts.pub "$root/kubernetes/pki/service-accounts.pub"
  put 0644 pki/etcd-ca.crt "$root/etcd/pki/ca.crt"
  put 0644 "pki/etcd-$1.crt" "$root/etcd/pki/member.crt"
  put 0600 "pki/etcd-$1.key" "$root/etcd/pki/member.key"
  put 0600 <(etcd_cluster) "$root/etcd/join.env"
  for name in kube-controller-manager kube-scheduler; do
    put 0600 <(kubeconfig "system:$name" 127.0.0.1 $name) "$root/kubernetes/$name.kubeconfig"
  done
  put 0600 <(kubeconfig admin "$balancer" admin) "$root/kubernetes/admin.conf"
  ln -s admin.conf "$root/kubernetes/admin.kubeconfig"
  put 0600 /dev/stdin "$root/kubernetes/config/encryption.yaml" <<END
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - secretbox: {keys: [{name: key1, secret: $encryption_key}]}
  - identity: {}
END
}

etcd_cluster() { # which members found it
  local name separator=ETCD_INITIAL_CLUSTER=
  echo ETCD_INITIAL_CLUSTER_STATE=new
  for name in "${controllers[@]}"; do
    printf '%s%s=https://%s:2380' "$separator" "$name" "${address[$name]}"
    separator=,
  done
  echo
}

lay_out_worker() { # NAME
  put 0644 pki/kubernetes-ca.crt "$1/root/var/lib/kubelet/pki/ca.crt"
  put 0644 "pki/$1.crt" "$1/root/var/lib/kubelet/pki/kubelet.crt"
  put 0600 "pki/$1.key" "$1/root/var/lib/kubelet/pki/kubelet.key"
  put 0600 <(kubeconfig "system:node:$1" "$balancer" "$1") "$1/root/etc/kubernetes/kubelet.kubeconfig"
  put 0600 <(kubeconfig system:kube-proxy "$balancer" kube-proxy) "$1/root/etc/kubernetes/kube-proxy.kubeconfig"
}

# --- on the machines

control_plane() {
  local pki=/etc/kubernetes/pki
  useradd --system --home-dir /var/lib/etcd --no-create-home --shell /usr/sbin/nologin etcd
  install -d -m 0700 -o etcd -g etcd /var/lib/etcd
  install -d -m 0700 /var/log/kubernetes
  chown etcd:etcd /etc/etcd/pki/*
  download etcd
  systemctl -q enable --now etcd
  await 60 "curl -sf --cacert /etc/etcd/pki/ca.crt --cert /etc/etcd/pki/member.crt --key /etc/etcd/pki/member.key \
    https://127.0.0.1:2379/health | grep -q '\"health\":\"true\"'"
  install -d -m 0700 /var/lib/etcd-snapshots
  systemctl -q enable --now etcd-snapshot.timer
  download kube
  systemctl -q enable --now kube-apiserver
  await 120 "curl -sf --cacert $pki/ca.crt https://127.0.0.1:6443/readyz"
  systemctl -q enable --now kube-controller-manager kube-scheduler nginx
  await 120 "curl -sf --cacert $pki/ca.crt https://127.0.0.1:10257/healthz"
  await 120 "curl -sf --cacert $pki/ca.crt https://127.0.0.1:10259/healthz"
  await 60 "curl -sf http://127.0.0.1/healthz"
}

container_runtime() {
  local sum path
  download 'containerd|runc|cni'
  systemctl -q enable --now containerd
  await 60 'ctr version'
  while read -r sum path _; do
    [ "$(openssl dgst -sha256 -r "$path" | cut -d ' ' -f 1)" = "$sum" ]
    ctr -n k8s.io images import "$path" >/dev/null
  done <images.txt
}

node() { # ADDRESS
  chmod 0750 /var/lib/kubelet
  systemctl -q enable --now kubelet kube-proxy
  await 60 'curl -sf http://127.0.0.1:10248/healthz'
  await 60 "curl -sf http://$1:10256/livez"
}

manifests() {
  local name
  for name in kubelet-access dns; do
    await 60 "kubectl apply --server-side --force-conflicts -f /etc/kubernetes/manifests/$name.yaml"
  done
}

# --- the machines' ways, each beside the others

set_up_controller() { # NAME
  copy "$1"
  on "$1" prepare nginx
  on "$1" control_plane
}

set_up_worker() { # NAME
  copy "$1"
  on "$1" prepare socat conntrack ipset iptables nftables dnsutils
  on "$1" container_runtime
  on "$1" download kube
}

start_nodes() {
  local name
  for name in "${workers[@]}"; do
    ip route replace "${pods[$name]}" via "${address[$name]}"
    begin on "$name" node "${address[$name]}"
    begin on controller-0 node_in_api "$name" "${pods[$name]}"
  done
  begin on controller-0 manifests
  together
}

make_network
make_machines
phase machines
make_certificates
lay_out
phase certificates
for name in "${workers[@]}"; do begin set_up_worker "$name"; done
begin set_up_load_balancer
for name in "${controllers[@]}"; do begin set_up_controller "$name"; done
together
phase control-plane
start_nodes
phase nodes
api_servers=("$balancer")
for name in "${controllers[@]}"; do api_servers+=("${address[$name]}"); done
on controller-0 cluster_checks "${#workers[@]}" "${api_servers[@]}"
on worker-0 dns_check "$dns_service" "$api_service"
phase dns
