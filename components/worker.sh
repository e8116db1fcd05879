# The verbs of a worker that is to be what it was before: its pods ended, and what the kubelet, kube-proxy and the CNI
# plugins left in the kernel gone. Sourced after step.sh; /usr/local/lib/hardway/worker.sh on every worker.

NOTED_TABLES=$HARDWAY/steps/node/tables
# Chains that no other program has.
CHAINS='KUBE-|CNI-HOSTPORT-|CNI-DN-'

# note_tables: which nftables tables there are before the kubelet makes those of iptables.
note_tables() { [ -e "$NOTED_TABLES" ] || nft list tables >"$NOTED_TABLES"; }

# register_again COMMAND...: a kubelet registers its Node when it starts, and at no other time. Where the API answers curl
# that there is none, it is stopped; the step starts it.
register_again() {
  systemctl -q is-active kubelet.service || return 0
  [ "$("$@" -w '%{http_code}')" != 404 ] || systemctl stop kubelet.service
}

# end_pods: no kubelet, and no container that it had. Most have ended in order before, by the API.
end_pods() {
  local task
  systemctl stop kubelet.service kube-proxy.service 2>/dev/null || true
  if systemctl -q is-active containerd.service; then
    for task in $(containers tasks ls -q); do containers tasks kill -s SIGKILL "$task" >/dev/null 2>&1 || true; done
    # shellcheck disable=SC2016  # for await to expand
    await 20 '[ -z "$(containers tasks ls | grep RUNNING)" ]' >/dev/null || true
    for task in $(containers tasks ls -q); do containers tasks rm -f "$task" >/dev/null 2>&1 || true; done
    for task in $(containers containers ls -q); do containers containers rm "$task" >/dev/null 2>&1 || true; done
  fi
  systemctl stop kubepods.slice 2>/dev/null || true
  unmount /var/lib/kubelet
}

containers() { ctr -n k8s.io "$@"; }

# end_runtime: no containerd, and nothing of the pods' network.
end_runtime() {
  local space
  # A kubelet that never came up is in no state, and no other step removes it.
  if [ -d "$HARDWAY/steps/node" ]; then
    end_pods
    drop_rules /etc/kubernetes/config/kube-proxy.yaml
    undo node
  fi
  systemctl stop containerd.service 2>/dev/null || true
  pkill -KILL -f '^/usr/local/bin/containerd-shim-runc-v2 -namespace k8s.io' || true
  unmount /run/containerd /var/lib/containerd
  for space in /run/netns/cni-*; do
    [ -e "$space" ] || continue
    umount "$space" 2>/dev/null || true
    rm -f "$space"
  done
  rmdir /run/netns 2>/dev/null || true
  ip link delete cni0 2>/dev/null || true
}

# unmount DIRECTORY...: all that is mounted below, the innermost first; and what is mounted on a directory that was not
# there before any step (kubelets mount theirs on itself).
unmount() {
  local directory below
  for directory; do
    below="^$directory/"
    ! grep -qsxF "data $directory" "$HARDWAY"/steps/*/manifest || below="^$directory(/|\$)"
    findmnt -rno TARGET | grep -E "$below" | sort -r | xargs -r -d '\n' umount -l 2>/dev/null || true
  done
}

# drop_rules CONFIGURATION: the rules of kube-proxy, the kubelet and the CNI plugins, which outlive them by design.
drop_rules() {
  local tool table
  kube-proxy --cleanup --config "$1" >/dev/null 2>&1 || true
  for tool in iptables ip6tables; do
    command -v "$tool-save" >/dev/null || continue
    for table in filter nat mangle raw; do drop_chains "$tool" "$table"; done
  done
  nft delete table inet cni_hostport 2>/dev/null || true
  drop_empty_tables
}

# drop_empty_tables: what iptables made for those whose rules are gone, and is empty again.
drop_empty_tables() {
  local table
  while read -r table; do
    ! grep -qxF "table $table" "$NOTED_TABLES" 2>/dev/null || continue
    # shellcheck disable=SC2086  # family and name
    holds_rules "$table" || nft delete table $table
  done < <(nft list tables | sed -nE 's/^table (ip6? .*)/\1/p')
}

# drop_chains TOOL TABLE: the jumps to them, what stands in them, and the chains.
drop_chains() {
  local rules chains chain
  rules=$("$1-save" -t "$2" 2>/dev/null) || return 0
  grep -E "^-A .* -j ($CHAINS)" <<<"$rules" | sed 's/^-A/-D/' | xargs -r -L 1 "$1" -w -t "$2" || true
  chains=$(sed -nE "s/^:(($CHAINS)[^ ]*) .*/\1/p" <<<"$rules")
  for chain in $chains; do "$1" -w -t "$2" -F "$chain"; done
  for chain in $chains; do "$1" -w -t "$2" -X "$chain" || true; done
}

# holds_rules FAMILY NAME: whether a table has anything but chains without rules.
holds_rules() {
  local said
  # One that cannot be listed is left alone.
  # shellcheck disable=SC2086  # two words
  said=$(nft list table $1) || return 0
  grep -qvE '^(table .*|\s*chain .*|\s*type .* hook .*|\s*}|)$' <<<"$said"
}
