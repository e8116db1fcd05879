# Functions for machines of a kubeadm cluster. Sourced after step.sh; /usr/local/lib/hardway/kubeadm.sh on every
# controller and worker. They decide when kubeadm creates or joins a cluster, and remove the result of interrupted runs.

KUBEADM_SETTINGS=/etc/hardway/kubeadm.yaml
KUBEADM_TOKEN=/etc/hardway/join-token
KUBEADM_DISCOVERY=/etc/hardway/discovery.conf
KUBEADM_REJOIN=/etc/hardway/kubeadm-join.yaml
KUBEADM_LOG=/var/log/kubeadm.log
# The validity of a bootstrap token: the time that joining takes, and a margin.
TOKEN_MINUTES=15

# A drop-in of the kubelet's unit with its flags; and those that the kubelet was last started with.
KUBELET_DROP_IN=/etc/systemd/system/kubelet.service.d/20-hardway.conf
KUBELET_FLAGS=$HARDWAY/steps/kubeadm/kubelet-flags

# The checksum of the settings that the static pods of a controller were made from.
CONTROL_PLANE_MADE=$HARDWAY/steps/node/control-plane-made
STATIC_PODS=/etc/kubernetes/manifests
# static pod of the control plane -> the check that succeeds when it serves.
declare -gA static_pod_serves=(
  [kube-apiserver]='curl -sf --cacert /etc/kubernetes/pki/ca.crt https://127.0.0.1:6443/readyz >/dev/null'
  # They sign their certificates themselves.
  [kube-controller-manager]='curl -skf https://127.0.0.1:10257/healthz >/dev/null'
  [kube-scheduler]='curl -skf https://127.0.0.1:10259/healthz >/dev/null'
)

# done_here: whether kubeadm has finished on this machine; then its result is kept.
done_here() { [ -e "$HARDWAY/steps/node/finished" ]; }

# ports: refuse what is in use, before kubeadm does anything; standard input has a line for each port: number, for what.
ports() {
  local port what holder taken='' table
  ! done_here || return 0
  table=$(printf '%-7s %-28s %s' PORT FOR "TAKEN ON $(hostname) BY")
  while read -r port what; do
    holder=$(ss -Hltnp "sport = :$port" | sed -nE 's/.*users:\(\("([^"]+)",pid=([0-9]+).*/\1 (process \2)/p' | sort -u | paste -sd ,)
    [ -n "$holder" ] || [ -z "$(ss -Hltn "sport = :$port")" ] || holder='no process that can be seen'
    [ -z "$holder" ] || taken=yes
    table+=$'\n'$(printf '%-7s %-28s %s' "$port" "$what" "${holder:--}")
  done
  [ -z "$taken" ] || die "kubeadm needs ports that are in use, and has changed nothing:"$'\n'"$table"
}

# clean_start: remove what a killed run of kubeadm has left, before the step writes its files.
clean_start() {
  ! done_here || return 0
  # A package of the kubelet's holds directories by files of that name.
  [ -n "$(find /etc/kubernetes/manifests /var/lib/kubelet/pki /var/lib/etcd -mindepth 1 ! -name .kubelet-keep -print -quit 2>/dev/null)" ] ||
    [ -e /etc/kubernetes/admin.conf ] || [ -e /etc/kubernetes/bootstrap-kubelet.conf ] || return 0
  reset_node
}

# reset_node: kubeadm's own reset; it succeeds if things are gone already.
reset_node() {
  timeout $((120 * TIMEOUT_FACTOR)) kubeadm reset --force --cri-socket unix:///run/containerd/containerd.sock >"$KUBEADM_LOG" 2>&1 || true
}

# run_kubeadm VERB: run kubeadm with this machine's settings, log its output, and print the end of it if it fails.
run_kubeadm() {
  local settings=/run/hardway-kubeadm.yaml
  install -m 0600 "$KUBEADM_SETTINGS" "$settings"
  [ "$1" != init ] || printf 'bootstrapTokens:\n- {token: %s, ttl: %sm}\n' "$(cat "$KUBEADM_TOKEN")" "$TOKEN_MINUTES" >>"$settings"
  if ! kubeadm "$@" --config "$settings" >"$KUBEADM_LOG" 2>&1; then
    rm -f "$settings"
    die "kubeadm $1 failed on $(hostname); its last output ($KUBEADM_LOG):"$'\n'"$(tail -n 25 "$KUBEADM_LOG")"
  fi
  rm -f "$settings"
}

# init_cluster ENDPOINT NAME: create the cluster; only on the initial machine of the lab, and only if no cluster answers.
init_cluster() {
  if ! done_here && ! curl -skf -m $((5 * TIMEOUT_FACTOR)) -o /dev/null "$1/readyz"; then
    run_kubeadm init --skip-token-print
    finished "$KUBEADM_SETTINGS"
  fi
  rejoin_cluster "$@"
}

# rejoin_cluster ENDPOINT NAME: the first controller was recreated, and the others have its cluster: join that under the old
# name. Not if kubeadm created the CAs, which are lost with the machine.
rejoin_cluster() {
  if ! done_here; then
    [ -e "$KUBEADM_REJOIN" ] ||
      die "$(hostname) was recreated: the cluster that began on it, and its CAs, are gone. Recreate the lab" \
        "(./hardway destroy, ./hardway up)"
    wait_for 120 "an answer of the cluster that $2 was the first controller of" "curl -skf -m $((5 * TIMEOUT_FACTOR)) -o /dev/null $1/readyz"
    let_in "$2"
    KUBEADM_SETTINGS=$KUBEADM_REJOIN run_kubeadm join
    finished
  fi
  rm -f "$KUBEADM_TOKEN" "$KUBEADM_DISCOVERY"
}

# let_in NAME: have the cluster forget the machine that had this one's name, and tell it the join token: by an administrator's
# kubeconfig and a client certificate for etcd, which kubeadm makes of the CAs that are on the machine.
let_in() {
  local said
  said=$(kubeadm init phase kubeconfig admin --config "$KUBEADM_SETTINGS" 2>&1 &&
    kubeadm init phase certs etcd-healthcheck-client --config "$KUBEADM_SETTINGS" 2>&1) ||
    die "kubeadm could not create the credentials that let $1 join: $said"
  ln -sfn admin.conf /etc/kubernetes/admin.kubeconfig
  forget "$1"
  allow_joins "$(cut -d . -f 1 "$KUBEADM_TOKEN")"
}

# forget NAME: delete the Node and the etcd member of a machine that no longer exists.
forget() {
  local id members
  members=$(answer_of 60 "etcd's list of members" ctl member list) || exit 1
  id=$(awk -F ', ' -v name="$1" '$3 == name { print $1 }' <<<"$members")
  [ -z "$id" ] || wait_for 60 "removal of the old etcd member $1" "leaves $id"
  k delete node "$1" --ignore-not-found >/dev/null
}

# join_cluster [FILE]: become a Node of the cluster that the discovery file names, once its token is accepted.
join_cluster() {
  if ! done_here; then
    # Another step, beside this one, sees that the API knows the token.
    wait_for 120 'the join token being accepted' "kubectl --kubeconfig $KUBEADM_DISCOVERY --request-timeout $((5 * TIMEOUT_FACTOR))s get --raw /api"
    run_kubeadm join
    # The first controller has told the cluster its settings before.
    finished "${1:-}"
  fi
  rm -f "$KUBEADM_DISCOVERY"
}

# finished [FILE]: not made again. On a controller FILE has the settings that its static pods were made from.
finished() {
  # Where kubectl finds it in every lab.
  [ ! -e /etc/kubernetes/admin.conf ] || ln -sfn admin.conf /etc/kubernetes/admin.kubeconfig
  close_kubelet_config
  [ -z "${1:-}" ] || without_version "$1" >"$CONTROL_PLANE_MADE"
  touch "$HARDWAY/steps/node/finished"
}

# use_certificates NODE FILE...: restart what reads these files where one has changed since. The program issued them, and
# renews them; a run that was killed before the restart is finished by the next. One machine after the other: which is
# next, the order of the steps says.
# On controllers after etcd.sh, on workers after worker.sh.
use_certificates() {
  local now node=$1 record=$HARDWAY/steps/node/certificates
  shift
  now=$(cat "$@" | sha256sum)
  if [ -e "$record" ] && [ "$(cat "$record")" != "$now" ]; then
    if [ -e /etc/kubernetes/pki/apiserver.crt ]; then
      end_static_pods
      release_leases
      systemctl restart kubelet.service
      trap - EXIT
      wait_for 120 'an API server with the new certificates' serves_new_certificate
      wait_for 60 'a controller manager that leads' another_leads
    else
      systemctl restart kubelet.service
      await_node "$node" 'with its new certificate'
    fi
  fi
  printf '%s\n' "$now" >"$record"
}

# await_node NODE WHY: wait until the Node is Ready, as its kubelet said since it started. After worker.sh.
await_node() {
  kubelet_identity
  # shellcheck disable=SC2034  # worker.sh reads them
  NODE=$1 SAID=${step:?}/answer
  wait_for 120 "$1 being Ready $2" node_is_ready
  rm -f "$SAID" "$step/kubelet.crt" "$step/kubelet.key"
}

# publish_ca FILE: have cluster-info name the CAs in FILE. `kubeadm join` with a token reads it there.
publish_ca() { wait_for 60 'the CAs in cluster-info' "cluster_info_names '$1'"; }

cluster_info_names() {
  local info ca
  ca=$(base64 -w 0 "$1")
  info=$(k -n kube-public get configmap cluster-info -o jsonpath='{.data.kubeconfig}') || return 1
  [[ $info != *" certificate-authority-data: $ca"$'\n'* ]] || return 0
  printf '%s\n' "$info" | sed "s|\( certificate-authority-data: \).*|\1$ca|" |
    k create configmap cluster-info --from-file=kubeconfig=/dev/stdin --dry-run=client -o json |
    k -n kube-public patch configmap cluster-info --type merge --patch-file /dev/stdin >/dev/null
}

# release_leases: of the controller manager and the scheduler that have ended here. Else the next ones would lead when the
# leases expire, 15 s later. Then kubelets of workers may restart, which may report their Nodes as not Ready; a controller
# manager that begins to lead has all pods of such a Node not ready.
release_leases() {
  local program holder
  ended_leader=
  for program in kube-controller-manager kube-scheduler; do
    holder=$(leader_of "$program") || continue
    [[ $holder == "$(hostname)"_* ]] || continue
    [ "$program" != kube-controller-manager ] || ended_leader=$holder
    # Not if another one leads meanwhile.
    k -n kube-system patch lease "$program" --request-timeout "$((5 * TIMEOUT_FACTOR))s" --type json -p '[
      {"op": "test", "path": "/spec/holderIdentity", "value": "'"$holder"'"},
      {"op": "replace", "path": "/spec/holderIdentity", "value": ""},
      {"op": "replace", "path": "/spec/leaseDurationSeconds", "value": 1}]' >/dev/null 2>&1 || true
  done
}

another_leads() {
  local holder
  holder=$(leader_of kube-controller-manager) && [ -n "$holder" ] && [ "$holder" != "$ended_leader" ]
}

# leader_of PROGRAM: the name in its lease.
leader_of() {
  k -n kube-system get lease "$1" --request-timeout "$((5 * TIMEOUT_FACTOR))s" -o jsonpath='{.spec.holderIdentity}'
}

# end_static_pods: on a controller, before its kubelet restarts together with its static pods; the caller restarts it, and
# then removes the trap. A kubelet of another version takes running static pods for pods that it does not know. It starts
# new ones beside them, and ends the old ones when the API server here has answered: the load balancer sends requests
# to it already, and then its etcd member ends. So all of them end while no kubelet runs. The API server is first: for some
# seconds it still answers, and /readyz says that it ends (shutdown-delay-duration, where there are several), so the load
# balancer sends requests to others. Then another etcd member leads, since an election takes longer.
end_static_pods() {
  [ -e "$STATIC_PODS/etcd.yaml" ] || return 0
  # Also if this script fails or is ended.
  trap 'systemctl start --no-block kubelet.service' EXIT
  systemctl stop kubelet.service
  end_programs kube-apiserver
  leave_leadership
  # The kernel keeps 15 characters of a name.
  end_programs 'etcd|kube-controller|kube-scheduler'
}

# end_programs NAMES: a regular expression; by signal KILL what does not end.
end_programs() {
  pkill -TERM -x "$1" || return 0
  await 30 "! pgrep -x '$1'" >/dev/null || pkill -KILL -x "$1" || true
}

serves_new_certificate() {
  kubectl --kubeconfig /etc/kubernetes/controller-manager.conf --request-timeout "$((5 * TIMEOUT_FACTOR))s" get --raw /readyz >/dev/null &&
    openssl s_client -connect "$(hostname):6443" </dev/null 2>/dev/null | openssl x509 -outform DER |
    cmp -s - <(openssl x509 -in /etc/kubernetes/pki/apiserver.crt -outform DER)
}

# control_plane_flags FILE [upload]: have the static pods of the control plane run with the settings in FILE, where these
# have changed; on one controller at a time. Where one does not serve, the controllers that wait are not changed. With
# `upload` the cluster is told, too: then machines that join get them.
control_plane_flags() {
  local program said made now settings=$HARDWAY/steps/node/settings running served=yes
  made=$(cat "$CONTROL_PLANE_MADE" 2>/dev/null) || true
  now=$(without_version "$1")
  # Before there were upgrades the version counted, too.
  sha256 "$1"
  [ "$made" != "$now" ] && [ "$made" != "$REPLY" ] || return 0
  # In the version that runs: another one is an upgrade (kubeadm_upgrade.sh).
  running=$(manifest_version kube-apiserver)
  sed "s/^kubernetesVersion: .*/kubernetesVersion: $running/" "$1" | install -m 0600 /dev/stdin "$settings"
  [ -n "$running" ] || install -m 0600 "$1" "$settings"
  ready kube-apiserver 120 'an answer of https://127.0.0.1:6443/readyz' "${static_pod_serves[kube-apiserver]}"
  take_turn kube-apiserver
  # Until all serve, the settings of before are no longer those of the manifests.
  echo changing >"$CONTROL_PLANE_MADE"
  api_server_serves || served=
  # The kubelet restarts a pod only if its manifest has changed.
  kubeadm init phase control-plane all --config "$settings" >"$KUBEADM_LOG" 2>&1 ||
    die "kubeadm cannot make the manifests of the control plane on $(hostname): $(tail -n 5 "$KUBEADM_LOG")"
  [ -n "$served" ] || read_manifests
  for program in "${!static_pod_serves[@]}"; do
    said=$(await 120 "as_in_manifest $program && ${static_pod_serves[$program]}") || {
      turn_failed "$program on $(hostname) does not serve with its new flags"
      die "$program on $(hostname) does not serve with its new flags within $((120 * TIMEOUT_FACTOR)) s: $said"$'\n'"$(pod_log "$program")"
    }
  done
  if [ "${2:-}" = upload ]; then
    said=$(await 60 "kubeadm init phase upload-config kubeadm --config '$settings'") ||
      die "kubeadm cannot store its configuration in the cluster: $said"
  fi
  printf '%s\n' "$now" >"$CONTROL_PLANE_MADE"
  rm -f "$settings"
  give_turn
}

api_server_serves() { eval "${static_pod_serves[kube-apiserver]}"; }

# read_manifests: after manifests have changed where the API server here did not serve. A kubelet that started meanwhile ends
# no pod before this API server has answered, and a pod of a changed manifest waits until the one before has ended. A
# kubelet that starts begins with the new manifests.
read_manifests() {
  trap 'systemctl start --no-block kubelet.service' EXIT
  systemctl stop kubelet.service
  end_programs 'kube-apiserver|kube-controller|kube-scheduler'
  systemctl start kubelet.service
  trap - EXIT
}

# without_version FILE: the checksum of settings, whatever version of Kubernetes they name. The preflight error `ImagePull` is
# ignored in some versions only.
without_version() { sed -E '/^kubernetesVersion: |^ *- ImagePull$/d' "$1" | sha256sum | cut -d ' ' -f 1; }

# manifest_version NAME: the version of a static pod, as in its manifest: v1.36.4.
manifest_version() { sed -nE "s|^ +image: .*/$1:(\S+)\$|\1|p" "$STATIC_PODS/$1.yaml" 2>/dev/null || true; }

# as_in_manifest NAME: whether the process of a static pod has the command line of its manifest.
as_in_manifest() {
  local wanted pid
  wanted=$(awk -v quote="['\"]" '
    /^  - command:/ { on = 1; next }
    on && /^    - / { sub(/^    - /, ""); gsub("^" quote "|" quote "$", ""); print; next }
    on { exit }' "$STATIC_PODS/$1.yaml")
  # The kernel keeps 15 characters of a name.
  for pid in $(pgrep -x "${1:0:15}"); do
    [ "$(tr '\0' '\n' <"/proc/$pid/cmdline")" != "$wanted" ] || return 0
  done
  echo "no process of $1 has the flags of its manifest"
  return 1
}

# pod_log NAME: the last lines of a static pod's log.
pod_log() {
  # shellcheck disable=SC2012  # the newest file; kubelet's names have no spaces
  ls -t "/var/log/pods/kube-system_$1-$(hostname)"_*/"$1"/*.log 2>/dev/null | head -n 1 | xargs -r tail -n 10
}

# kubelet_flags: restart the kubelet where its flags in its drop-in are not those that it was last started with. On a Node
# only in its turn (kubeadm_upgrade.sh).
kubelet_flags() {
  ! has_kubelet_flags || return 0
  if systemctl -q is-active kubelet.service || done_here; then
    # Until it serves it counts as not started, also if this is killed.
    echo changing >"$KUBELET_FLAGS"
    systemctl daemon-reload
    look_at kubelet.service
    note_run kubelet.service
    systemctl restart kubelet.service
    ready kubelet.service 60 'an answer of http://127.0.0.1:10248/healthz' \
      'curl -sf http://127.0.0.1:10248/healthz >/dev/null'
    serving kubelet.service
  fi
  wanted_kubelet_flags >"$KUBELET_FLAGS"
}

wanted_kubelet_flags() { grep -s '^Environment="KUBELET_EXTRA_ARGS=' "$KUBELET_DROP_IN" || true; }

has_kubelet_flags() { [ "$(wanted_kubelet_flags)" = "$(cat "$KUBELET_FLAGS" 2>/dev/null)" ]; }

# kubelet_identity: what the kubelet asks the API with (worker_turns.sh).
# shellcheck disable=SC2034,SC2154
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

# close_kubelet_config: kubeadm writes the kubelet's configuration with mode 0644 (CIS Benchmark 4.1.9).
close_kubelet_config() { [ ! -e /var/lib/kubelet/config.yaml ] || chmod 0600 /var/lib/kubelet/config.yaml; }

k() { kubectl --kubeconfig /etc/kubernetes/admin.kubeconfig --cache-dir /var/lib/hardway/kubectl "$@"; }

# admit [TURNS]: wait until all machines are Nodes; standard input has a line for each: name, machine, pod range. The token
# is known to the API for as long as one is missing. TURNS is how many of them join one after the other.
admit() {
  KUBEADM_TOKEN=/etc/hardway/admission-token
  local seconds=$((120 * ${1:-1})) name machine pods is missing=() all=() id nodes
  declare -A label=() range=() there=()
  while read -r name machine pods; do
    all+=("$name") label[$name]=$machine range[$name]=$pods
  done
  nodes=$(answer_of 60 'the list of Nodes' k get nodes --request-timeout="$((10 * TIMEOUT_FACTOR))s" \
    -o go-template="$NODE_MACHINES") || exit 1
  while read -r name is; do [ -z "$name" ] || there[$name]=$is; done <<<"$nodes"
  for name in "${all[@]}"; do
    [ "${there[$name]:-}" != "${label[$name]}" ] || continue
    missing+=("$name")
    # The kubelet and the etcd member of the new machine would be refused.
    [ -z "${there[$name]+set}" ] || forget "$name"
  done
  id=$(cut -d . -f 1 "$KUBEADM_TOKEN")
  [ ${#missing[@]} = 0 ] || allow_joins "$id"
  for name in "${all[@]}"; do
    wait_for "$seconds" "$name joining" "[ \"\$(k get node $name -o jsonpath='{.metadata.labels.hardway/machine}')\" = ${label[$name]} ]"
    k patch node "$name" -p "{\"spec\":{\"podCIDR\":\"${range[$name]}\",\"podCIDRs\":[\"${range[$name]}\"]}}" >/dev/null
  done
  k -n kube-system delete secret "bootstrap-token-$id" --ignore-not-found >/dev/null
  rm -f "$KUBEADM_TOKEN"
  k wait --for=condition=Ready "${all[@]/#/node/}" --timeout=$((90 * TIMEOUT_FACTOR))s >/dev/null ||
    die "not Ready: $(k get nodes)"
}

NODE_MACHINES='{{range .items}}{{.metadata.name}} {{index .metadata.labels "hardway/machine"}}
{{end}}'

# allow_joins ID: create the token in the API for some minutes; a token that is valid for long enough stays.
allow_joins() {
  local until settings=/run/hardway-token.yaml
  until=$(answer_of 60 'whether the API has the join token' k -n kube-system get secret "bootstrap-token-$1" \
    --request-timeout="$((10 * TIMEOUT_FACTOR))s" --ignore-not-found -o jsonpath='{.data.expiration}') || exit 1
  until=$(base64 -d <<<"$until")
  [ -z "$until" ] || [ $(($(date -d "$until" +%s) - $(date +%s))) -lt 600 ] || return 0
  k -n kube-system delete secret "bootstrap-token-$1" --ignore-not-found >/dev/null
  printf 'apiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfiguration\nbootstrapTokens:\n- {token: %s, ttl: %sm}\n' \
    "$(cat "$KUBEADM_TOKEN")" "$TOKEN_MINUTES" | install -m 0600 /dev/stdin "$settings"
  kubeadm token create --kubeconfig /etc/kubernetes/admin.kubeconfig --config "$settings" >/dev/null 2>&1 ||
    { rm -f "$settings"; die "kubeadm could not create a join token"; }
  rm -f "$settings"
}

# drop_proxy_tables: the tables of a kube-proxy in nftables mode, whose program is gone with its pod.
drop_proxy_tables() {
  nft delete table ip kube-proxy 2>/dev/null || true
  nft delete table ip6 kube-proxy 2>/dev/null || true
}
