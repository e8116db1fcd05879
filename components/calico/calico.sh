# The verbs of a worker that Calico is on. Sourced after step.sh and worker.sh; /usr/local/lib/hardway/calico.sh on every
# such worker.

CNI=/opt/cni/bin
# Before Felix makes those of iptables; see note_tables.
# shellcheck disable=SC2034  # read in worker.sh
NOTED_TABLES=$HARDWAY/steps/calico-plugin/tables
PLUGIN_OF=$HARDWAY/steps/calico-plugin/image

# have_plugin REFERENCE [URL SHA256]: Calico's CNI plugin, which is its address management as well, out of its image: the
# only form in which upstream releases it for a host. From an archive, else from the registry.
have_plugin() {
  local image=$1 mounted
  if [ $# -gt 1 ]; then
    import_image "$2" "$3" "$image"
  else
    [ -n "$(ctr -n k8s.io images ls -q "name==$image")" ] || ctr -n k8s.io images pull "$image" >/dev/null
  fi
  parents "$CNI/x"
  own file "$CNI/calico"
  own file "$CNI/calico-ipam"
  [ "$(cat "$PLUGIN_OF" 2>/dev/null)" != "$image" ] || [ ! -x "$CNI/calico" ] || return 0
  mounted=$(mktemp -d)
  ctr -n k8s.io images mount "$image" "$mounted" >/dev/null
  install -m 0755 "$mounted/opt/cni/bin/calico" "$CNI/calico.hardway-new"
  ctr -n k8s.io images unmount --rm "$mounted" >/dev/null
  rmdir "$mounted"
  mv -fT "$CNI/calico.hardway-new" "$CNI/calico"
  # It acts by the name that it is called by.
  ln -sfn calico "$CNI/calico-ipam"
  echo "$image" >"$PLUGIN_OF"
}

# felix_ready PORT INTERFACE: Felix has written its rules, and the tunnel has its address.
felix_ready() {
  curl -sf "http://127.0.0.1:$1/readiness" || { echo "Felix is not ready"; return 1; }
  [ -z "$2" ] || [ -n "$(ip -4 -o addr show dev "$2" 2>/dev/null)" ] || { echo "$2 has no address"; return 1; }
}

# end_calico: nothing of it in the kernel.
end_calico() {
  local name tool table
  # A DaemonSet gives a node that loses its pods new ones: one may have begun while the kubelet went.
  end_pods
  pkill -KILL -f '^[^ ]*/containerd-shim-runc-v2 -namespace k8s[.]io' || true
  for name in $(ip -o link | sed -nE 's/^[0-9]+: (cali[^@:]*|vxlan[.]calico)[@:].*/\1/p'); do
    ip link delete "$name" 2>/dev/null || true
  done
  # What Felix marks its routes with, those to nowhere among them.
  ip route flush table all proto 80 2>/dev/null || true
  for tool in iptables ip6tables; do
    command -v "$tool-save" >/dev/null || continue
    for table in raw mangle nat filter; do drop_felix "$tool" "$table"; done
  done
  for name in $(ipset list -n 2>/dev/null | grep -E '^cali[46]' || true); do ipset destroy "$name" || true; done
  drop_empty_tables
}

# drop_felix TOOL TABLE: its rules, which have its mark or jump to its chains, and the chains.
drop_felix() {
  local rules chains chain
  rules=$("$1-save" -t "$2" 2>/dev/null) || return 0
  chains=$(sed -nE 's/^:(cali-[^ ]*) .*/\1/p' <<<"$rules")
  grep -vE '^-A cali-' <<<"$rules" | grep -E '^-A .*("cali:| -j cali-)' | sed 's/^-A/-D/' |
    xargs -r -L 1 "$1" -w -t "$2" || true
  for chain in $chains; do "$1" -w -t "$2" -F "$chain"; done
  for chain in $chains; do "$1" -w -t "$2" -X "$chain" || true; done
}
