# Another version of Kubernetes on a machine of a kubeadm cluster: the static pods of a controller, by `kubeadm upgrade`,
# and the kubelet of a Node. Sourced after step.sh, worker.sh and kubeadm.sh; /usr/local/lib/hardway/kubeadm_upgrade.sh on
# every controller and worker. Which machine is next, the order of the steps says (kubeadm_upgrade.py).
#
# What a run that was killed has left is finished by the next: a record has the version only when all of it is done.

# shellcheck disable=SC2034,SC2154  # variables of the scripts that are sourced before

KUBELET=/usr/local/bin/kubelet
KUBELET_CONFIG=/var/lib/kubelet/config.yaml
# The version that the machine has, of its control plane and of its kubelet; each in its own step's directory.
MADE_VERSION=version

# upgrade_control_plane VERSION SETTINGS IGNORED [first]: have the static pods of this controller run VERSION (v1.36.4).
# SETTINGS has the configuration, IGNORED the preflight errors that kubeadm ignores. The first controller tells the cluster.
upgrade_control_plane() {
  local version=$1 settings=$2 ignored=$3 first=${4:-} program running
  # The kubelet's configuration comes with the kubelet. kubeadm refuses a CoreDNS that is newer than its own.
  local ignore=--ignore-preflight-errors=${ignored:+$ignored,}CoreDNSMigration,CoreDNSUnsupportedPlugins
  local words=(--certificate-renewal=false "--skip-phases=kubelet-config,addon/coredns" "$ignore")
  running=$(manifest_version kube-apiserver)
  if has_version "$version"; then return 0; fi
  if [ "$(printf '%s\n' "$running" "$version" | sort -V | tail -n 1)" != "$version" ]; then
    return_control_plane "$version" "$settings" "$first"
  elif [ -n "$first" ]; then
    by_kubeadm upgrade plan "$version" "$ignore"
    by_kubeadm upgrade apply "$version" --yes "${words[@]}"
  else
    by_kubeadm upgrade node "${words[@]}"
  fi
  for program in "${!static_pod_serves[@]}"; do
    wait_for 120 "$program in the version $version" "as_in_manifest $program && ${static_pod_serves[$program]}"
  done
  k -n kube-system rollout status daemonset/kube-proxy --timeout=$((180 * TIMEOUT_FACTOR))s >/dev/null ||
    die "kube-proxy does not run on all Nodes: $(k -n kube-system get pods -l k8s-app=kube-proxy -o wide)"
  printf '%s\n' "$version" >"$step/$MADE_VERSION"
}

# has_version VERSION: whether nothing is to be done. Without a record kubeadm made the machine in the version that it has.
has_version() {
  local program made
  for program in "${!static_pod_serves[@]}"; do
    [ "$(manifest_version "$program")" = "$1" ] || return 1
  done
  made=$(cat "$step/$MADE_VERSION" 2>/dev/null) || true
  [ -z "$made" ] || [ "$made" = "$1" ] || return 1
  printf '%s\n' "$1" >"$step/$MADE_VERSION"
}

# return_control_plane VERSION SETTINGS FIRST: to the version before, by the kubeadm of that version. `kubeadm upgrade`
# cannot: it reads the newer version in the cluster. kube-proxy may not be newer than an API server: it comes first.
return_control_plane() {
  if [ -n "$3" ]; then
    by_kubeadm init phase addon kube-proxy --config "$2"
    by_kubeadm init phase upload-config all --config "$2"
    k -n kube-system rollout status daemonset/kube-proxy --timeout=$((180 * TIMEOUT_FACTOR))s >/dev/null || true
  fi
  by_kubeadm init phase control-plane all --config "$2"
}

by_kubeadm() {
  kubeadm "$@" >"$KUBEADM_LOG" 2>&1 ||
    die "kubeadm $1 $2 failed on $(hostname); its last output ($KUBEADM_LOG):"$'\n'"$(tail -n 25 "$KUBEADM_LOG")"
}

# upgrade_kubelet NODE VERSION URL SHA256 DRAINS QUESTION SERVER ANSWER: have the kubelet run the program at URL. The Node is
# drained before, unless DRAINS is "no"; it is Ready, takes pods and has an answer of the DNS (see `turns`) in the end.
upgrade_kubelet() {
  local name=$1 version=$2 url=$3 sha=$4 source why
  shift 4
  kubelet_identity
  turns "$name" 1 "$@"
  # The pods of no other machine wait for this one: the order of the steps is the turn.
  # shellcheck disable=SC2329  # worker_turns.sh calls it
  turn_ends() { mark_node null; rm -f "$step/turn" "$SAID"; }
  source=$(artifact_path "$url" "$sha")
  if ! runs_kubelet "$source" || [ "$(cat "$step/$MADE_VERSION" 2>/dev/null || echo "$version")" != "$version" ]; then
    source=$(fetch_now "$url" "$sha" -)
    change_kubelet "$version" "$source" "$1"
  fi
  if [ -e "$step/turn" ]; then
    why=$(await 120 node_is_ready) || die "the Node $NODE is not Ready with its new kubelet: $why"
    uncordon
    # Its pods may have been those of the DNS.
    wait_for 60 "an answer of the cluster's DNS, after the kubelet of $NODE has restarted" dns_answers
    turn_ends
  fi
  printf '%s\n' "$version" >"$step/$MADE_VERSION"
}

# change_kubelet VERSION SOURCE DRAINS: drain, and restart with the other program; with the one before where that does not serve.
change_kubelet() {
  local before kept=$step/kubelet-config.yaml
  before=$(readlink "$KUBELET")
  : >"$step/turn"
  request 200 'reading the Node' GET "/api/v1/nodes/$NODE"
  [ -n "$(value_of "$TURN_MARK" 6)" ] || mark_node '"taken"'
  [ "$3" = no ] || drain
  [ "$before" = "$2" ] || point_kubelet "$2"
  if [ -e "$kept" ] && [ "$(cat "$step/before" 2>/dev/null)" = "$1" ]; then
    # Back to the version whose configuration it is.
    cp -p "$kept" "$KUBELET_CONFIG"
  else
    [ "$before" = "$2" ] || { cp -p "$KUBELET_CONFIG" "$kept"; kubelet_version "$before" >"$step/before"; }
    by_kubeadm upgrade node phase kubelet-config
  fi
  close_kubelet_config
  restart_kubelet && return
  show_log kubelet.service
  point_kubelet "$before"
  [ ! -e "$kept" ] || cp -p "$kept" "$KUBELET_CONFIG"
  ! restart_kubelet || printf 'The kubelet before was put back on %s, and serves again.\n' "$(hostname)" >&2
  uncordon
  turn_ends
  die "the kubelet $1 does not serve on $(hostname)"
}

kubelet_version() { "$1" --version | sed 's/^Kubernetes //'; }

restart_kubelet() {
  systemctl restart kubelet.service
  await 60 'systemctl -q is-active kubelet.service && curl -sf http://127.0.0.1:10248/healthz' >/dev/null
}

point_kubelet() {
  ln -sfn "$1" "$KUBELET.hardway-new"
  mv -fT "$KUBELET.hardway-new" "$KUBELET"
}

# runs_kubelet PROGRAM: whether it is on the path, and runs.
runs_kubelet() {
  [ "$(readlink "$KUBELET")" = "$1" ] &&
    [ "$(readlink "/proc/$(systemctl show -p MainPID --value kubelet.service)/exe")" = "$(readlink -f "$1")" ]
}

# artifact_path URL SHA256: where an artifact is, or will be.
artifact_path() {
  case $1 in file://*) echo "${1#file://}" ;; *) echo "$HARDWAY/artifacts/$2/${1##*/}" ;; esac
}

# kubelet_identity: what the kubelet asks the API with (worker_turns.sh).
kubelet_identity() {
  KUBELET_KUBECONFIG=/etc/kubernetes/kubelet.conf
  KUBELET_CA=/etc/kubernetes/pki/ca.crt
  KUBELET_CERTIFICATE=$(sed -n 's/^ *client-certificate: //p' "$KUBELET_KUBECONFIG")
  KUBELET_KEY=$(sed -n 's/^ *client-key: //p' "$KUBELET_KUBECONFIG")
  [ -z "$KUBELET_CERTIFICATE" ] || return 0
  # In the kubeconfig itself.
  KUBELET_CERTIFICATE=$step/kubelet.crt KUBELET_KEY=$step/kubelet.key
  sed -n 's/^ *client-certificate-data: //p' "$KUBELET_KUBECONFIG" | base64 -d | install -m 0600 /dev/stdin "$KUBELET_CERTIFICATE"
  sed -n 's/^ *client-key-data: //p' "$KUBELET_KUBECONFIG" | base64 -d | install -m 0600 /dev/stdin "$KUBELET_KEY"
}
