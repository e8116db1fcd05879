# What a person who builds a lab by hand does whichever way it is built: machines, an authority, a load balancer, and the
# checks at the end. Sourced by plain_shell.sh and plain_kubeadm.sh, with the arguments of these:
#   FILES   the directory that files.py wrote; keys, certificates and everything else are made in it, too
#   MIRROR  the artifact mirror
#   IMAGE   the node image
# Both print the name of each phase and the seconds that it took.
# shellcheck disable=SC2034,SC2154  # some of it is for them only
set -euo pipefail
umask 022

cd "$1"
mirror=$2 image=$3
api_service=10.46.0.1 dns_service=10.46.0.10
machines=() controllers=() workers=()
declare -A address=() fqdn=() pods=() # by machine
declare -A jobs=()                    # process -> what it does

read_machines() {
  local at full name range
  while read -r at full name range; do
    machines+=("$name") address[$name]=$at fqdn[$name]=$full pods[$name]=$range
    case $name in controller-*) controllers+=("$name") ;; worker-*) workers+=("$name") ;; esac
  done <machines.txt
  balancer=${address[load-balancer-0]}
}

phase() { # NAME: end the phase of this name
  local now=${EPOCHREALTIME/./}
  printf '%s %d.%03d\n' "$1" $(((now - since) / 1000000)) $(((now - since) / 1000 % 1000))
  since=$now
}

begin() { "$@" & jobs[$!]="$*"; } # COMMAND...: in the background

together() { # wait for all that was begun
  local job
  for job in "${!jobs[@]}"; do wait "$job" || { echo "failed: ${jobs[$job]}" >&2; exit 1; }; done
  jobs=()
}

await() { # SECONDS COMMAND: repeat the command until it succeeds
  local end=$((SECONDS + $1))
  until eval "$2" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { echo "on $(hostname), not within $1 s: $2" >&2; exit 1; }
    sleep 0.1
  done
}

on() { # MACHINE FUNCTION ARGUMENT...: run one of these functions there
  {
    echo 'set -euo pipefail; umask 022; export KUBECONFIG=/etc/kubernetes/admin.kubeconfig SYSTEMCTL_SKIP_SYSV=1'
    declare -f await download "$2"
    echo "${*:2}"
  } | ssh -F ssh_config "$1" bash -s
}

# --- machines

make_network() {
  modprobe -a overlay br_netfilter nf_conntrack nf_tables 2>/dev/null || true
  # Restored when the last lab on the host is removed, as by the program.
  [ -e /run/hardway-sysctls ] || sysctl fs.inotify.max_user_instances kernel.keys.root_maxbytes \
    kernel.keys.root_maxkeys kernel.panic kernel.panic_on_oops vm.overcommit_memory vm.panic_on_oom >/run/hardway-sysctls
  sysctl -q -w fs.inotify.max_user_instances=8192
  podman network create --disable-dns --label hardway.lab=shell --subnet 10.246.0.0/24 --gateway 10.246.0.1 hw-bench \
    >/dev/null
}

make_machine() { # ADDRESS NAME
  podman run --detach --name="hw-bench-$2" --hostname="$2" --label=hardway.lab=shell \
    --privileged --cgroupns=private --systemd=false --runtime=runc --env=container=podman \
    --ulimit=nofile=20000:20000 --ulimit=nproc=4096:4096 --pids-limit=-1 --network=hw-bench --ip="$1" \
    --tmpfs=/run --tmpfs=/tmp --volume=/var/lib/containerd --volume="$mirror:/opt/mirror:ro" \
    --volume="$PWD/ssh/user.pub:/root/.ssh/authorized_keys:ro" \
    --volume="$PWD/ssh/$2:/etc/ssh/ssh_host_ed25519_key:ro" "$image" >/dev/null
  await 60 "(exec 3<>/dev/tcp/$1/22)"
}

make_machines() {
  local name
  mkdir -m 0700 ssh
  for name in user "${machines[@]}"; do ssh-keygen -q -t ed25519 -N '' -C "$name" -f "ssh/$name"; done
  for name in "${machines[@]}"; do
    printf 'Host %s\n  HostName %s\n' "$name" "${address[$name]}" >>ssh_config
    printf '%s %s\n' "${address[$name]}" "$(cat "ssh/$name.pub")" >>ssh/known_hosts
    begin make_machine "${address[$name]}" "$name"
  done
  cat >>ssh_config <<END
Host *
  User root
  IdentityFile $PWD/ssh/user
  UserKnownHostsFile $PWD/ssh/known_hosts
  StrictHostKeyChecking yes
  LogLevel ERROR
  ControlMaster auto
  ControlPath $PWD/ssh/to-%n
  ControlPersist 30
END
  together
}

# --- certificates

authority() { # NAME
  openssl req -x509 -config openssl.cnf -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 1825 \
    -subj "/O=Kubernetes The Hard Way/CN=$1" -keyout "pki/$1.key" -out "pki/$1.crt" \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature \
    -addext subjectKeyIdentifier=hash 2>>openssl.log
}

put() { install -D -m "$1" "$2" "$3"; } # MODE FILE DESTINATION

# --- on the machines

copy() { # MACHINE: its files
  tar -C "$1/root" -c . | ssh -F ssh_config "$1" tar -x -C / --no-overwrite-dir --no-same-owner
}

prepare() { # PACKAGE...: what every machine needs
  local package
  for package in ca-certificates curl openssl iproute2 procps kmod "$@"; do
    dpkg-query -W -f '${Status}\n' "$package" | grep -q ' installed$'
  done
  sysctl -q -w net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1
  systemctl daemon-reload
  systemctl -q enable --now hardway-hosts hardway-pod-network hardway-processes
}

download() { # PATTERN: check and install what matches, side by side
  local sum path destination members member unpacked process processes=()
  while read -r sum path destination members; do
    unpacked=/opt/mirror/unpacked/${path#/opt/mirror/}
    {
      # shellcheck disable=SC2086
      if [ -n "$members" ] && [ -d "$unpacked" ]; then
        # Of an archive that lies there unpacked, each program is checked.
        mkdir -p "$destination"
        for member in $members; do
          cp "$unpacked/$member" "$destination/"
          sum=$(awk -v path="${path#/opt/mirror/}/$member" '$2 == path { print $1 }' /opt/mirror/unpacked/SHA256SUMS)
          [ "$(openssl dgst -sha256 -r "$destination/${member##*/}" | cut -d ' ' -f 1)" = "$sum" ]
        done
      else
        [ "$(openssl dgst -sha256 -r "$path" | cut -d ' ' -f 1)" = "$sum" ]
        if [ -z "$members" ]; then
          ln -s "$path" "$destination"
        else
          mkdir -p "$destination"
          tar -xf "$path" -C "$destination" --no-same-owner --no-anchored --transform 's,.*/,,' $members
        fi
      fi
    } &
    processes+=($!)
  done < <(grep -E "$1" downloads.txt)
  for process in "${processes[@]}"; do
    wait "$process" || { echo "a download failed on $(hostname)" >&2; exit 1; }
  done
}

load_balancer() {
  haproxy -c -q -f /etc/haproxy/haproxy.cfg
  systemctl -q enable --now haproxy
  await 60 "(exec 3<>/dev/tcp/127.0.0.1/6443)"
}

# --- at the end

node_in_api() { # NAME PODS
  await 90 "kubectl get node/$1"
  kubectl patch "node/$1" -p "{\"spec\":{\"podCIDR\":\"$2\",\"podCIDRs\":[\"$2\"]}}" >/dev/null
  kubectl wait --for=condition=Ready "node/$1" --timeout=90s >/dev/null
}

cluster_checks() { # WORKERS API-SERVER...
  local address
  for address in "${@:2}"; do await 60 "curl -sf --cacert /etc/kubernetes/pki/ca.crt https://$address:6443/readyz"; done
  # shellcheck disable=SC1091
  . /etc/etcd/etcdctl.env
  await 60 'etcdctl endpoint health --cluster'
  kubectl wait --for=condition=Ready nodes --all --timeout=60s >/dev/null
  [ "$(kubectl get nodes -o name | wc -l)" = "$1" ]
  kubectl -n kube-system rollout status deployment/coredns --timeout=120s >/dev/null
}

dns_check() { # SERVER ANSWER
  await 120 "[ \"\$(dig +short +time=1 +tries=1 @$1 kubernetes.default.svc.cluster.local)\" = $2 ]"
}

set_up_load_balancer() {
  copy load-balancer-0
  on load-balancer-0 prepare haproxy socat
  on load-balancer-0 load_balancer
}

trap 'for name in "${machines[@]}"; do ssh -F ssh_config -O exit "$name" 2>/dev/null || true; done' EXIT
read_machines
since=${EPOCHREALTIME/./}
