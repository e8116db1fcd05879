# Another version of Kubernetes on a machine of a kubeadm cluster: the static pods of a controller, by `kubeadm upgrade`,
# and the kubelet of a Node, which also gets other flags here. Sourced after step.sh, worker.sh and kubeadm.sh, on
# controllers after etcd.sh, too; /usr/local/lib/hardway/kubeadm_upgrade.sh on every controller and worker. Which machine
# is next, the order of the steps says (kubeadm_upgrade.py).
#
# What a run that was killed has left is finished by the next. A record has the version only when all of it is done; until
# then it has two: "v1.35.8 to v1.36.4", the lower one first, whether the machine is upgraded or returns.

# shellcheck disable=SC2034,SC2154  # variables of the scripts that are sourced before

KUBELET=/usr/local/bin/kubelet
KUBELET_CONFIG=/var/lib/kubelet/config.yaml
# The version that the machine has, of its control plane and of its kubelet; each in its own step's directory.
MADE_VERSION=version
# The manifests from before an upgrade, in the step's directory, until it is done.
KEPT_MANIFESTS=manifests-before

# upgrade_control_plane VERSION SETTINGS CONFIGURATION [first]: have the static pods of this controller run VERSION (v1.36.4).
# SETTINGS is what they are made from, CONFIGURATION an UpgradeConfiguration. The first controller tells the cluster.
upgrade_control_plane() {
  local version=$1 settings=$2 configuration=$3 first=${4:-} has lowest highest
  # A run was killed while a program did not serve.
  [ ! -d "$step/$KEPT_MANIFESTS" ] || await 60 control_plane_serves >/dev/null || restore_control_plane
  if has_version "$version"; then return 0; fi
  has=$(cat "$step/$MADE_VERSION" 2>/dev/null) || true
  # shellcheck disable=SC2086  # two words, or none
  has=$(printf '%s\n' "$version" "$(manifest_version kube-apiserver)" ${has/ to / } | sort -Vu)
  lowest=$(head -n 1 <<<"$has") highest=$(tail -n 1 <<<"$has")
  printf '%s to %s\n' "$lowest" "$highest" >"$step/$MADE_VERSION"
  if [ "$highest" != "$version" ]; then
    return_control_plane "$settings" "$first"
    wait_for 120 "the control plane in the version $version" control_plane_serves
  else
    advance_control_plane "$version" "$configuration" "$first"
  fi
  rm -rf "${step:?}/$KEPT_MANIFESTS"
  k -n kube-system rollout status daemonset/kube-proxy --timeout=$((180 * TIMEOUT_FACTOR))s >/dev/null ||
    die "kube-proxy does not run on all Nodes: $(k -n kube-system get pods -l k8s-app=kube-proxy -o wide)"
  printf '%s\n' "$version" >"$step/$MADE_VERSION"
}

# has_version VERSION: whether nothing is to be done. Without a record kubeadm made the machine in the version that it has.
has_version() {
  local made
  manifests_have "$1" || return 1
  made=$(cat "$step/$MADE_VERSION" 2>/dev/null) || true
  [ -z "$made" ] || [ "$made" = "$1" ] || return 1
  printf '%s\n' "$1" >"$step/$MADE_VERSION"
}

# manifests_have VERSION: whether all static pods of Kubernetes have it in their manifests.
manifests_have() {
  local program
  for program in "${!static_pod_serves[@]}"; do
    [ "$(manifest_version "$program")" = "$1" ] || return 1
  done
}

# control_plane_serves: whether each static pod runs as its manifest says, and serves.
control_plane_serves() {
  local program
  for program in "${!static_pod_serves[@]}"; do
    as_in_manifest "$program" && eval "${static_pod_serves[$program]}" &&
      [ "$(process_version "$program")" = "$(manifest_version "$program")" ] ||
      { echo "$program does not serve in the version $(manifest_version "$program")"; return 1; }
  done
}

# process_version PROGRAM: the version of the process that runs.
process_version() {
  local pid
  # The kernel keeps 15 characters of a name.
  pid=$(pgrep -o -x "${1:0:15}") && "/proc/$pid/exe" --version | sed 's/^Kubernetes //'
}

# advance_control_plane VERSION CONFIGURATION FIRST: by kubeadm. It restores the manifests where the API does not have the new
# pod within its timeout, and does not wait until the old pod serves again. A controller manager or scheduler that starts and
# fails again and again is good enough for it. So the static pods are checked here, and where one does not serve all return.
advance_control_plane() {
  local words=(upgrade node) why='' program
  [ -z "$3" ] || words=(upgrade apply "$1" --yes)
  [ -z "$3" ] || by_kubeadm upgrade plan "$1" --config "$2"
  keep_manifests
  if ! kubeadm "${words[@]}" --config "$2" >"$KUBEADM_LOG" 2>&1; then
    why="kubeadm ${words[*]:0:2} failed; its last output ($KUBEADM_LOG):"$'\n'"$(tail -n 25 "$KUBEADM_LOG")"
    # The newest log is still that of the pod which kubeadm waited for.
    program=$(sed -nE 's/.* component (kube-[a-z-]+) .*/\1/p' "$KUBEADM_LOG" | tail -n 1)
    [ -z "$program" ] || why+=$'\n'"$(pod_log "$program")"
    # All programs serve: what comes after them failed, and the next run does it.
    ! { manifests_have "$1" && await 30 control_plane_serves >/dev/null; } || die "On $(hostname) $why"
  elif ! why=$(await 120 control_plane_serves); then
    why+=" within $((120 * TIMEOUT_FACTOR)) s"$'\n'"$(pod_log "${why%% *}")"
  else
    return 0
  fi
  restore_control_plane
  die "The control plane of $(hostname) cannot run $1: $why"
}

# keep_manifests: those from before, unless a run that was killed has kept them.
keep_manifests() {
  local kept=$step/$KEPT_MANIFESTS program
  [ ! -d "$kept" ] || return 0
  rm -rf "$kept.hardway-new"
  install -d -m 0700 "$kept.hardway-new"
  for program in "${!static_pod_serves[@]}"; do cp -p "$STATIC_PODS/$program.yaml" "$kept.hardway-new"; done
  mv -T "$kept.hardway-new" "$kept"
}

# restore_control_plane: run the manifests from before again. The record still says that this machine is not done.
restore_control_plane() {
  local program why kept=$step/$KEPT_MANIFESTS new served=yes
  api_server_serves || served=
  for program in "${!static_pod_serves[@]}"; do
    ! cmp -s "$kept/$program.yaml" "$STATIC_PODS/$program.yaml" || continue
    # The kubelet ignores a file whose name begins with a dot.
    new=$STATIC_PODS/.$program.hardway-new
    cp -p "$kept/$program.yaml" "$new"
    mv -fT "$new" "$STATIC_PODS/$program.yaml"
  done
  [ -n "$served" ] || read_manifests
  if why=$(await 120 control_plane_serves); then
    printf 'The version before was put back on %s: its control plane serves again.\n' "$(hostname)" >&2
    rm -rf "$kept"
  else
    printf 'The version before was put back on %s, but the control plane does not serve with it either: %s\n' "$(hostname)" "$why" >&2
  fi
}

# return_control_plane SETTINGS FIRST: to the version before, by the kubeadm of that version. `kubeadm upgrade` cannot: it
# reads the newer version in the cluster. kube-proxy may not be newer than an API server: it comes first.
return_control_plane() {
  local served=yes
  if [ -n "$2" ]; then
    by_kubeadm init phase addon kube-proxy --config "$1"
    by_kubeadm init phase upload-config all --config "$1"
    k -n kube-system rollout status daemonset/kube-proxy --timeout=$((180 * TIMEOUT_FACTOR))s >/dev/null || true
  fi
  api_server_serves || served=
  by_kubeadm init phase control-plane all --config "$1"
  [ -n "$served" ] || read_manifests
}

by_kubeadm() {
  kubeadm "$@" >"$KUBEADM_LOG" 2>&1 ||
    die "kubeadm $1 $2 $3 failed on $(hostname); its last output ($KUBEADM_LOG):"$'\n'"$(tail -n 25 "$KUBEADM_LOG")"
}

# upgrade_kubelet NODE VERSION URL SHA256 DRAINS QUESTION SERVER ANSWER: have the kubelet run the program at URL. The Node is
# drained before, unless DRAINS is "no"; it is Ready, takes pods and has an answer of the DNS (see `turns`) in the end.
upgrade_kubelet() {
  local name=$1 version=$2 url=$3 sha=$4 source made
  shift 4
  begin_kubelet_turn "$name" "$@"
  source=$(artifact_path "$url" "$sha")
  made=$(cat "$step/$MADE_VERSION" 2>/dev/null || echo "$version")
  # Other flags come with another version, by one restart. Where the kubelet did not serve with the flags before, they are
  # first: no pod of this Node could be drained.
  if ! has_kubelet_flags && { [ "$made $(readlink "$KUBELET")" = "$version $source" ] || ! kubelet_serves; }; then
    take_kubelet_flags
  fi
  if ! runs_kubelet "$source" || [ "$made" != "$version" ]; then
    source=$(fetch_now "$url" "$sha" -)
    change_kubelet "$version" "$source" "$1"
  fi
  end_kubelet_turn
  printf '%s\n' "$version" >"$step/$MADE_VERSION"
}

# restart_for_flags NODE QUESTION SERVER ANSWER: have the kubelet run with its flags; in the end as with `upgrade_kubelet`.
restart_for_flags() {
  local name=$1
  shift
  begin_kubelet_turn "$name" no "$@"
  has_kubelet_flags || take_kubelet_flags
  end_kubelet_turn
}

# begin_kubelet_turn NODE DRAINS QUESTION SERVER ANSWER: see `turns`. The order of the steps is the turn: the pods of no other
# machine wait for this one.
begin_kubelet_turn() {
  kubelet_identity
  turns "$1" 1 "${@:2}"
  # shellcheck disable=SC2329  # worker_turns.sh calls it
  turn_ends() { mark_node null; rm -f "$step/turn" "$SAID"; }
}

# take_kubelet_flags: the pods of the Node keep running while its kubelet restarts, so it is not drained.
take_kubelet_flags() {
  # In a lab whose first `up` has failed.
  dns_answers || dns_is_silent=yes
  : >"$step/turn"
  kubelet_flags
}

# end_kubelet_turn: if the kubelet has restarted, also in a run that was killed.
end_kubelet_turn() {
  local why
  [ -e "$step/turn" ] || return 0
  why=$(await 120 node_is_ready) || die "the Node $NODE is not Ready after its kubelet has restarted: $why"
  uncordon
  static_pods_serve
  # Its pods may have been those of the DNS.
  [ -n "${dns_is_silent-}" ] ||
    wait_for 60 "an answer of the cluster's DNS, after the kubelet of $NODE has restarted" dns_answers
  turn_ends
  # A run that was killed after the restart has left it.
  rm -f "$step/program"
}

# static_pods_serve: the static pods of the machine restart with its kubelet. Those of the next controller must wait until all
# of them serve, else etcd could lose its quorum.
static_pods_serve() {
  [ -e "$STATIC_PODS/etcd.yaml" ] || return 0
  wait_for 120 'the control plane, after the kubelet has restarted' control_plane_serves
  wait_for 60 'every etcd member healthy, after the kubelet has restarted' 'ctl endpoint health --cluster'
}

# change_kubelet VERSION SOURCE DRAINS: drain, and restart with the other program; with the one before where that does not serve.
change_kubelet() {
  local before kept=$step/kubelet-config.yaml program=$step/program
  : >"$step/turn"
  request 200 'reading the Node' GET "/api/v1/nodes/$NODE"
  [ -n "$(value_of "$TURN_MARK" 6)" ] || mark_node '"taken"'
  [ "$3" = no ] || drain
  # It is there after a run that was killed, which may have changed the program and the configuration.
  if [ ! -e "$program" ]; then
    before=$(readlink "$KUBELET")
    if [ "$before" != "$2" ] && [ "$(cat "$step/before" 2>/dev/null)" != "$1" ]; then
      cp -p "$KUBELET_CONFIG" "$kept"
      kubelet_version "$before" >"$step/before"
    fi
    printf '%s\n' "$before" >"$program.hardway-new"
    mv -f "$program.hardway-new" "$program"
  fi
  before=$(cat "$program")
  point_kubelet "$2"
  if [ -e "$kept" ] && [ "$(cat "$step/before" 2>/dev/null)" = "$1" ]; then
    # Back to the version whose configuration it is.
    cp -p "$kept" "$KUBELET_CONFIG"
  else
    by_kubeadm upgrade node phase kubelet-config
  fi
  close_kubelet_config
  end_static_pods
  if restart_kubelet; then
    rm -f "$program"
    return
  fi
  show_log kubelet.service
  point_kubelet "$before"
  [ ! -e "$kept" ] || cp -p "$kept" "$KUBELET_CONFIG"
  ! restart_kubelet || printf 'The kubelet before was put back on %s, and serves again.\n' "$(hostname)" >&2
  rm -f "$program"
  uncordon
  turn_ends
  die "the kubelet $1 does not serve on $(hostname)"
}

kubelet_version() { "$1" --version | sed 's/^Kubernetes //'; }

# restart_kubelet: with the flags that it is to have.
restart_kubelet() {
  has_kubelet_flags || { echo changing >"$KUBELET_FLAGS"; systemctl daemon-reload; }
  systemctl restart kubelet.service
  trap - EXIT
  await 60 kubelet_serves >/dev/null && wanted_kubelet_flags >"$KUBELET_FLAGS"
}

kubelet_serves() { systemctl -q is-active kubelet.service && curl -sf http://127.0.0.1:10248/healthz; }

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
