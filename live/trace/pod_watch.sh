# shellcheck shell=bash disable=SC2154
# The side of `hardway trace pod` on a machine: one login for the whole life of a Pod. bash, as root.
#
# Before it, pod_machines.py sets: namespace, name (of the Pod), followed (yes: the Pod exists already), since (seconds
# since 1970, where followed), etcd, controller, node (yes or no: what this machine is), audit (the file).
#
# It reads commands, one on a line, and answers each with lines of fields with tabs between them; the last line is "done".
# Programs that run meanwhile write to files, each line with its time in front. All of it ends with the connection.
export LC_ALL=C TZ=UTC0
shopt -s nullglob
work=$(mktemp -d) || exit 1
mkfifo "$work/pause"
exec 9<>"$work/pause"
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$work"' EXIT
began=${since:-${EPOCHREALTIME%.*}}
sandbox='' ids=("$name") tasks=/run/containerd/io.containerd.runtime.v2.task/k8s.io

# A pause without a new process.
pause() { read -r -t "$1" -u 9 || true; }
stamp() { while IFS= read -r line; do printf '%s\t%s\n' "$EPOCHREALTIME" "$line"; done; }
# Standard input, each line with a word in front.
tell() { sed "s/^/$1\t/"; }
# subscribed PROGRAM PROTOCOL: wait until the newest process of this shell of that name receives events of the kernel.
subscribed() {
  local end=$((SECONDS + 5)) pid
  until pid=$(pgrep -n -P "$$" -x "$1") && awk -v p="$2" -v i="$pid" '$2 == p && $3 == i && $4 !~ /^0+$/ { found = 1 }
      END { exit !found }' /proc/net/netlink; do
    [ "$SECONDS" -lt "$end" ] || return 1
    pause 0.02
  done
}
# etcd's answers have the objects themselves: they stay on the machine.
without_values() { sed -u -E 's/"value":"[^"]*"/"value":""/g'; }
etcd_get() { etcdctl --command-timeout=5s -w json "$@"; }
metrics() {
  local conf=/etc/kubernetes/admin.conf
  # On loopback, where kubeadm's scheduler has a certificate of its own making. A client certificate does not reveal its
  # key to a server.
  curl -sk --max-time 3 --cert <(sed -n 's/^ *client-certificate-data: //p' "$conf" | base64 -d) \
    --key <(sed -n 's/^ *client-key-data: //p' "$conf" | base64 -d) https://127.0.0.1:10259/metrics |
    grep -E '^scheduler_(plugin_evaluation_total|schedule_attempts_total|framework_extension_point_duration_seconds_(count|sum))\{'
}

begin() {
  if [ "$etcd" = yes ]; then
    # shellcheck source=/dev/null
    . /etc/etcd/etcdctl.env
    export ETCDCTL_ENDPOINTS=https://127.0.0.1:2379
    status=$(etcd_get endpoint status) && tell etcd-status <<<"$status"
    revision=$(grep -o '"revision":[0-9]*' <<<"$status" | head -n 1)
    if [ "$followed" = no ]; then
      for kind in pods endpointslices; do
        # From a revision: nothing is missed, whenever the watch begins.
        etcdctl watch -w json --prefix --rev $((${revision#*:} + 1)) "/registry/$kind/$namespace/$name" 2>/dev/null |
          without_values | stamp >"$work/etcd-$kind" &
      done
    fi
  fi
  if [ "$controller" = yes ]; then
    metrics | tell metrics-before
    if [ "$followed" = no ] && [ -r "$audit" ]; then
      # Open, so that it is still there when it has been rotated.
      exec 5<"$audit"
      audit_size=$(stat -L -c %s /proc/self/fd/5)
    fi
  fi
  if [ "$node" = yes ] && [ "$followed" = no ]; then
    ip -ts -o monitor link >"$work/links" 2>/dev/null &
    subscribed ip 0
    nft monitor 2>/dev/null > >(stamp >"$work/rules") &
    subscribed nft 12
  fi
}

# container KIND ID: what runs in a container of containerd's.
container() {
  local bundle=$tasks/$2 pid space
  pid=$(cat "$bundle/init.pid" 2>/dev/null) || return 0
  printf 'process\t%s\t%s\t%s\t%s\t%s\n' "$1" "$2" "$pid" "$(stat -c %.6Y "$bundle/init.pid")" "$(cat "/proc/$pid/comm")"
  printf 'runc\t%s\t%s\n' "$1" "$(runc --root /run/containerd/runc/k8s.io state "$2" 2>&1 | grep -E '"(pid|status|created)"' | tr -d ' \n')"
  for space in cgroup ipc mnt net pid uts user; do printf 'namespace\t%s\t%s\n' "$1" "$(readlink "/proc/$pid/ns/$space")"; done
  # cgroup v2, else the hierarchy of v1 that counts processes.
  group=$(sed -n 's/^0:://p' "/proc/$pid/cgroup") base=/sys/fs/cgroup
  [ -d "$base/$group" ] && [ "$group" != / ] || { group=$(sed -nE 's/^[0-9]+:pids:(.*)/\1/p' "/proc/$pid/cgroup") base=/sys/fs/cgroup/pids; }
  printf 'cgroup\t%s\t%s\t%s\n' "$1" "$base$group" "$(stat -c %.6W "$base$group" 2>/dev/null)"
  paths[$1-process]=/proc/$pid
  paths[$1-cgroup]=$base$group
  paths[$1-bundle]=$bundle
  paths[pod-cgroup]=${base}${group%/*}
  [ "$1" != sandbox ] || pause_pid=$pid
}

# look UID ADDRESS IMAGE: the Pod as this machine has it.
look() {
  local filter='labels."io.kubernetes.pod.uid"' id link result file
  declare -gA paths=()
  uid=$1 address=$2 pause_pid=''
  ids+=("$uid" "${uid//-/_}")
  # After a restart of the machine the old ones are still there: the one that runs counts.
  for id in $(ctr -n k8s.io containers ls -q "$filter==$1,labels.\"io.cri-containerd.kind\"==sandbox"); do
    [ -n "$sandbox" ] && [ ! -e "$tasks/$id" ] || sandbox=$id
  done
  [ -z "$sandbox" ] || { ids+=("$sandbox"); container sandbox "$sandbox"; }
  for id in $(ctr -n k8s.io containers ls -q "$filter==$1,labels.\"io.cri-containerd.kind\"==container"); do
    ids+=("$id")
    container container "$id"
  done
  ctr -n k8s.io images ls "name==$3" | tail -n +2 | tell image
  file=/var/lib/kubelet/pods/$uid
  [ ! -d "$file" ] || { printf 'directory\t%s\t%s\n' "$file" "$(stat -c %.6W "$file")"; }
  [ -n "$sandbox" ] || return 0
  for file in /var/lib/cni/results/*-"$sandbox"-*; do
    # Its result alone: the plugins' configuration and the Pod's annotations are before it.
    printf 'cni-result\t%s\t%s\t%s\n' "$file" "$(stat -c %.6Y "$file")" "$(tr -d '\n' <"$file" | sed -E 's/.*"result":/{"result":/')"
    grep -o '"kubernetes.io/config.seen":"[^"]*"' "$file" | cut -d '"' -f 4 | head -n 1 | tell seen
    [[ $file == *-lo ]] || paths[cni-result]=$file
  done
  for file in $(grep -l -s -r -F "$sandbox" /var/lib/cni/networks/ || true); do
    printf 'host-local\t%s\t%s\t%s\n' "$file" "$(stat -c %.6Y "$file")" "$(tr -d '\r' <"$file" | tr '\n' ' ')"
    paths[host-local]=$file
  done
  if [ -n "$pause_pid" ] && [ "$(readlink "/proc/$pause_pid/ns/net")" != "$(readlink /proc/self/ns/net)" ]; then
    nsenter -t "$pause_pid" -n ip -o link show eth0 | tell pod-link
    nsenter -t "$pause_pid" -n ip -o -4 address show eth0 | tell pod-address
    nsenter -t "$pause_pid" -n ip route | tell pod-route
    # eth0@if5: the other end is the fifth interface of the machine.
    link=$(nsenter -t "$pause_pid" -n ip -o link show eth0 | sed -nE 's/^[0-9]+: eth0@if([0-9]+):.*/\1/p')
    result=$(ip -o link | grep "^$link: ")
    tell host-link <<<"$result"
    link=$(sed -E 's/^[0-9]+: ([^@:]+).*/\1/' <<<"$result")
    [ -z "$link" ] || paths[host-link]=/sys/class/net/$link
    ip route get "$address" 2>/dev/null | head -n 1 | tell host-route
  fi
  [ "$followed" = no ] || return 0
  # Of the trace's own Pod. It stays readable when the kubelet has removed it.
  for file in /var/log/pods/"${namespace}_${name}_$uid"/*/0.log; do exec 8<"$file"; done
  vanish >"$work/gone" &
  vanishing=$!
}

# When what the Pod had here is gone: a look every 20 ms.
vanish() {
  local each
  while [ ${#paths[@]} -gt 0 ]; do
    for each in "${!paths[@]}"; do
      [ -e "${paths[$each]}" ] || { printf '%s\t%s\t%s\n' "$EPOCHREALTIME" "$each" "${paths[$each]}"; unset "paths[$each]"; }
    done
    pause 0.02
  done
}

# gone SECONDS: wait for that.
gone() {
  local end=$((SECONDS + $1))
  while kill -0 "$vanishing" 2>/dev/null && [ "$SECONDS" -lt "$end" ]; do pause 0.05; done
}

# rules CLUSTER-ADDRESS ADDRESS: what kube-proxy has written for them, behind the name of the chain or map.
rules() {
  nft list table ip kube-proxy 2>/dev/null | awk -v cluster=" $1 . " -v pod=" $2 . " -v other=" $2:" '
    { gsub(/\t/, " ") }
    $1 ~ /^(chain|map|set)$/ { where = $1 " " $2 }
    index($0, cluster) || index($0, pod) || index($0, other) { print where ": " $0 }' | tell rule-nftables
  iptables-save -t nat 2>/dev/null | grep -F -e "-d $1/32" -e " $2:" -e " $2/32" | tell rule-iptables
}

# no_rule ADDRESS SECONDS: wait until no rule sends packets to an address.
no_rule() {
  local end=$((SECONDS + $2)) gone=no
  while :; do
    { nft list table ip kube-proxy; iptables-save -t nat; } 2>/dev/null | grep -q -F -e " $1 . " -e " $1:" || { gone=yes; break; }
    [ "$SECONDS" -lt "$end" ] || break
    pause 0.2
  done
  printf 'no-rule\t%s\t%s\t%s\n' "$EPOCHREALTIME" "$1" "$gone"
}

# ask ADDRESS PORT PATH SECONDS: a request, again until it is answered.
ask() {
  local end=$((SECONDS + $4)) said asked port
  while :; do
    asked=$EPOCHREALTIME
    said=$(curl -sS --max-time 2 -w ' HTTP %{http_code} from %{local_ip}:%{local_port}' "http://$1:$2$3" 2>&1) && break
    [ "$SECONDS" -lt "$end" ] || break
    pause 0.05
  done
  printf 'answer\t%s\t%s\t%s\n' "$asked" "$EPOCHREALTIME" "$(tr '\n' ' ' <<<"$said")"
  port=${said##*:}
  port=${port//[!0-9]/}
  # Newer labs have no program for it.
  if command -v conntrack >/dev/null; then
    conntrack -L -p tcp --orig-dst "$1" --orig-port-src "$port" 2>/dev/null | tr -s ' ' | tell conntrack
  elif [ -r /proc/net/nf_conntrack ]; then
    grep -F "dst=$1 sport=$port " /proc/net/nf_conntrack | tr -s ' ' | tell conntrack
  else
    printf 'no-conntrack\tthere is neither the program conntrack nor /proc/net/nf_conntrack\n'
  fi
}

finish() {
  local patterns=() each kind
  for each in "${ids[@]}"; do patterns+=(-e "$each"); done
  if [ "$node" = yes ]; then
    # By short ids, too: Calico's address management and systemd's slices name the Pod in forms of their own.
    journalctl -q --no-pager -o json --output-fields=MESSAGE,SYSLOG_IDENTIFIER --since "@$began" |
      grep -F "${patterns[@]}" | tail -n 400 | tell journal
    if [ -n "$sandbox" ]; then
      { grep -h -F "$sandbox" /var/log/calico/cni/cni.log 2>/dev/null || true; } | tail -n 200 | tell calico
    fi
    [ ! -e "$work/links" ] || tell link <"$work/links"
    [ ! -e "$work/rules" ] || { grep -F -e "${cluster:-$name} " -e "${address:-$name}:" -e "$name" "$work/rules" || true; } | tell rule-event
    [ ! -e "$work/gone" ] || tell gone <"$work/gone"
    { cat <&8 | head -n 100 | tell log; } 2>/dev/null
  fi
  if [ "$controller" = yes ]; then
    metrics | tell metrics-after
    if [ ! -r "$audit" ]; then
      printf 'no-audit\tthere is no %s\n' "$audit"
    elif [ "$followed" = yes ]; then
      find "${audit%/*}" -maxdepth 1 -name 'audit*.log' -newermt "@$began" -exec grep -h -F -e "$name" {} + | tail -n 400 | tell audit
    else
      {
        tail -c +$((audit_size + 1)) <&5
        [ "$audit" -ef /proc/self/fd/5 ] || cat "$audit"
      } | grep -F -e "$name" | tell audit
    fi
    { journalctl -q --no-pager -o cat --since "@$began" -u kube-scheduler
      find /var/log/pods -path '*kube-scheduler*' -name '*.log' -newermt "@$began" -exec cat {} + ; } 2>/dev/null |
      grep -F -e "$name" | head -n 20 | tell scheduler-log
  fi
  if [ "$etcd" = yes ]; then
    etcd_get get "/registry/pods/$namespace/$name" | without_values | tell etcd-now
    for kind in pods endpointslices; do [ ! -e "$work/etcd-$kind" ] || tell "etcd-$kind" <"$work/etcd-$kind"; done
  fi
}

begin
echo "done"
while read -r -t 900 command first second third fourth; do
  case $command in
    clock) printf 'clock\t%s\n' "$EPOCHREALTIME" ;;
    look) look "$first" "$second" "$third" ;;
    rules) cluster=$first address=$second; rules "$first" "$second" ;;
    ask) ask "$first" "$second" "$third" "$fourth" ;;
    gone) gone "$first" ;;
    no_rule) no_rule "$first" "$second" ;;
    finish) finish ;;
  esac
  echo "done"
done
