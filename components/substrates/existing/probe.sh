# What a host is like, as lines of a word and its value; run by root, changes nothing. Before it stand:
#   peers    ADDRESS:PORT of what the other machines are to listen on; UDP where /udp stands behind it
#   modules  kernel modules
: "${peers?}" "${modules?}"
export LC_ALL=C

# A file system of its own has lost+found.
holds() { [ -n "$(ls -A -I lost+found "$1" 2>/dev/null)" ]; }
# Here at once, built in, or there to be loaded.
has_module() {
  case $1 in
    overlay) grep -qw overlay /proc/filesystems && return ;;
    br_netfilter) [ -e /proc/sys/net/bridge ] && return ;;
    nf_conntrack) [ -e /proc/sys/net/netfilter ] && return ;;
    # May be built in without a trace elsewhere.
    nf_tables) grep -qm 1 nft_do_chain /proc/kallsyms && return ;;
  esac
  [ -e "/sys/module/$1" ] || PATH=$PATH:/sbin:/usr/sbin modprobe -nq "$1" 2>/dev/null
}
# A refusal comes from the machine itself, so it can be reached. No answer, or an answer of another host, is a firewall.
peer() {
  local said at=${1%/udp}
  if [ "$at" = "$1" ]; then
    said=$(timeout 2 bash -c "exec 3<>/dev/tcp/${at/://}" 2>&1) && return
  else
    # A port without a listener is refused, too, with the next packet; some hosts send that only once in a second.
    said=$(timeout 3 bash -c "exec 3<>/dev/udp/${at/://}; for n in 1 2 3 4; do echo >&3 || exit; sleep 0.5; done" 2>&1)
  fi
  case $said in *"Connection refused"*) ;; *) echo "blocked $1" ;; esac
}

# Each port, in hexadecimal, and the first process that has it open. Without ss, which may not be there.
listening() {
  { find /proc/[0-9]*/fd -lname 'socket:*' -printf 'open %h %l\n'; cat /proc/net/tcp /proc/net/tcp6; } 2>/dev/null | awk '
    $1 == "open" {
      split($2, path, "/"); socket = substr($3, 9, length($3) - 9)
      if (!(socket in process) || path[3] + 0 < process[socket] + 0) process[socket] = path[3]
    }
    $4 == "0A" { split($2, at, ":"); print at[2], process[$10] }'
}

for peer in $peers; do peer "$peer" & done

echo "arch $(uname -m)"
echo "container $(systemd-detect-virt --container 2>/dev/null || true)"
[ -d /run/systemd/system ] || echo "lacks systemd as its first process"
command -v apt-get >/dev/null || echo "lacks apt-get: the lab needs Debian or Ubuntu"
[ -e /var/lib/hardway/lab ] && echo "lab $(paste -sd ' ' </var/lib/hardway/lab | tr -c '[:print:]\n' '?')"
for directory in /etc/kubernetes /var/lib/etcd /var/lib/kubelet /etc/cni/net.d /var/lib/rancher /var/lib/hardway; do
  holds "$directory" && echo "cluster $directory"
done
for status in /proc/[0-9]*/comm; do
  read -r program <"$status" || continue
  case $program in
    kubelet | kube-apiserver | kube-scheduler | kube-controller* | kube-proxy | etcd | k3s*) echo "cluster $program" ;;
    dockerd | containerd | crio | haproxy | nginx) echo "runs $program" ;;
  esac
done 2>/dev/null
for directory in /var/lib/containerd /var/lib/docker /var/lib/crio; do holds "$directory" && echo "keeps $directory"; done
[ -e /etc/containerd/config.toml ] && echo "keeps /etc/containerd/config.toml"
for unit in haproxy nginx keepalived; do systemctl -q is-enabled "$unit" 2>/dev/null && echo "enables $unit"; done
for module in $modules; do has_module "$module" || echo "module $module"; done
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  echo "cgroup 2 $(cat /sys/fs/cgroup/cgroup.controllers)"
else
  echo "cgroup 1 $(awk '$4 == 1 { printf "%s ", $1 }' /proc/cgroups)"
fi
awk '/^(MemAvailable|SwapTotal|SwapFree):/ { print tolower(substr($1, 1, length($1) - 1)), int($2 / 1024) }' /proc/meminfo
echo "disk $(df -Pm /var/lib | awk 'NR == 2 { print $4 }')"
# Programs are kept and run below these.
for directory in /var/lib /var/lib/containerd /var/lib/hardway /usr/local/bin /opt; do
  [ -d "$directory" ] || continue
  mounted=$(df -P "$directory" | awk 'NR == 2 { print $6 }')
  awk -v at="$mounted" '$2 == at { options = $4 } END { if (options ~ /(^|,)noexec(,|$)/) print "noexec", at }' /proc/mounts
done
awk 'NR > 1 { split($2, at, ":"); print "udp", at[2] }' /proc/net/udp
[ -r /sys/class/dmi/id/product_uuid ] && echo "uuid $(cat /sys/class/dmi/id/product_uuid)"
for interface in /sys/class/net/*; do
  [ "$(cat "$interface/type")" = 1 ] && [ ! -e "$interface/bridge" ] &&
    echo "mac $(cat "$interface/address") ${interface##*/}"
done
listening | while read -r port process; do
  [ -z "$process" ] || read -r program <"/proc/$process/comm" || process=
  echo "listens $port${process:+ $process $program}"
done 2>/dev/null
awk 'NR > 1 { print "route", $2, $8, $3, $1 }' /proc/net/route
awk '/\|--/ { at = $2 } /32 host LOCAL/ { print "address", at }' /proc/net/fib_trie
wait
echo "done yes"
