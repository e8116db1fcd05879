# Functions for workers that take turns: no more than MAX_UNAVAILABLE workers restart their units at the same time, and a
# worker that gets another version of the kubelet or of containerd is drained first. Part of
# /usr/local/lib/hardway/worker.sh; sourced after step.sh.
#
# A worker asks the API as its own kubelet, which may read, cordon and mark its own Node, list its own pods and evict
# them, and nothing of another worker (Node authorizer, NodeRestriction). A turn is a ConfigMap that only one worker can
# create; KubeletAccess (control_plane.py) permits it. It belongs to the worker's Node: with the Node it is removed.
#
# What a run that was killed has left is ended by the next run: `turn` in the step's directory, the annotation of the
# Node and the ConfigMap say what it took.

PROGRAMS=/usr/local/bin
# The kubelet's identity; where kubeadm made the cluster it has other files (kubeadm_upgrade.sh).
KUBELET_CA=/var/lib/kubelet/pki/ca.crt
KUBELET_CERTIFICATE=/var/lib/kubelet/pki/kubelet.crt
KUBELET_KEY=/var/lib/kubelet/pki/kubelet.key
KUBELET_KUBECONFIG=/etc/kubernetes/kubelet.kubeconfig
TURNS=/api/v1/namespaces/kube-node-lease/configmaps
# On the Node: "taken", or "cordoned" where the worker was cordoned for its turn, and not by the user.
TURN_MARK=hardway/turn
MERGE=application/merge-patch+json
DRAIN_SECONDS=300

# turns NODE MAX_UNAVAILABLE DRAINS QUESTION SERVER ANSWER: from here on units that run restart in turns. DRAINS is "no"
# where no other worker could take the pods. The rest is a DNS query of the cluster, which is answered again after a turn
# if it was answered before it.
turns() {
  NODE=$1 MAX_UNAVAILABLE=$2 DRAINS=$3 DNS_QUERY=("@$5" "$4") DNS_ANSWER=$6
  SAID=${step:?}/answer
  # shellcheck disable=SC2329  # step.sh calls them
  {
    take_turn() { take_worker_turn "$@"; }
    # The step ends it: the kubelet and kube-proxy, which starts after the kubelet, restart in one turn.
    give_turn() { :; }
    turn_failed() { worker_turn_failed "$@"; }
  }
}

# asked METHOD PATH [BODY TYPE]: one request as this worker's kubelet. `code` is the status (000: no answer), and the
# answer is in $SAID, with an indentation by which fields are found.
asked() {
  local body=()
  [ $# -lt 3 ] || body=(-H "Content-Type: $4" --data-binary "$3")
  : >"$SAID"
  local pretty='?pretty=true'
  [[ $2 != *\?* ]] || pretty='&pretty=true'
  code=$(curl -s -m $((10 * TIMEOUT_FACTOR)) -o "$SAID" -w '%{http_code}' -X "$1" --cacert "$KUBELET_CA" \
    --cert "$KUBELET_CERTIFICATE" --key "$KUBELET_KEY" -H "Accept: ${accept:-application/json}" \
    "${body[@]}" "$(sed -n 's/^ *server: //p' "$KUBELET_KUBECONFIG")$2$pretty") || true
}

# said_why: the reason in the answer of a request that was refused.
said_why() {
  local message
  message=$(sed -nE 's/^ +"message": "(.*)",?$/\1/p' "$SAID" | sort -u | paste -sd ' ')
  if [ "$code" = 000 ]; then echo 'no answer'; else echo "$code${message:+ $message}"; fi
}

# request CODES WHAT METHOD PATH [BODY TYPE]: ask until the status is one of CODES (201|409).
request() {
  local codes=$1 what=$2 end=$((SECONDS + 90 * TIMEOUT_FACTOR))
  shift 2
  until asked "$@"; [[ $code =~ ^($codes)$ ]]; do
    [ $SECONDS -lt "$end" ] || die "$what of $NODE was not possible: the API said: $(said_why)"
    sleep 0.5
  done
}

# mark_node VALUE [SPEC]: write the annotation, and fields of the Node's spec, in one request; null removes.
mark_node() {
  request 200 "a change of the Node" PATCH "/api/v1/nodes/$NODE" \
    "{\"metadata\":{\"annotations\":{\"$TURN_MARK\":$1}}${2:+,\"spec\":$2}}" "$MERGE"
}

# value_of FIELD INDENTATION: the text of a field in the answer.
value_of() { sed -nE "s|^ {$2}\"$1\": \"(.*)\",?\$|\1|p" "$SAID" | head -n 1; }

# are_taken_over UNIT...: whether they run without the program: this step was never made, and no step before it had them.
# They, and the kubelet's kubeconfig, are somebody's own (docs/by-hand.md): the API may not be reached with it.
are_taken_over() {
  local unit
  [ "$(owners_of "$step")" = 0 ] || return 1
  for unit; do [ -z "${elsewhere[unit $unit]+set}" ] || return 1; done
}

# take_worker_turn UNIT...: before these restart. Where none of them serves, nothing can be lost: no turn is needed.
take_worker_turn() {
  [ -s "$KUBELET_KUBECONFIG" ] && ! are_taken_over "$@" && any_serves "$@" || return 0
  if [ -n "${has_turn-}" ]; then return 0; fi
  # Without a Node it has no pods.
  request '200|404' 'reading the Node' GET "/api/v1/nodes/$NODE"
  [ "$code" = 200 ] || return 0
  local uid
  uid=$(value_of uid 4)
  [ -e "$step/turn" ] || : >"$step/turn"
  [ -n "$(value_of "$TURN_MARK" 6)" ] || mark_node '"taken"'
  take_lock "$uid"
  has_turn=yes
  dns_answered=
  ! dns_answers || dns_answered=yes
  [ "$DRAINS" = no ] || ! gets_another_version "$@" || drain
}

dns_answers() { [ "$(dig +short +time="$TIMEOUT_FACTOR" +tries=1 "${DNS_QUERY[@]}" 2>/dev/null)" = "$DNS_ANSWER" ]; }

# gets_another_version UNIT...: whether the kubelet or containerd is one of them, and runs from another file than it will.
gets_another_version() {
  local unit pid
  for unit; do
    case $unit in kubelet.service | containerd.service) ;; *) continue ;; esac
    pid=$(systemctl show -p MainPID --value "$unit")
    [ "$(readlink "/proc/$pid/exe")" = "$(readlink -f "$PROGRAMS/${unit%.service}")" ] || return 0
  done
  return 1
}

# take_lock UID: wait for one of the turns. One that was ended without success stops the workers that wait.
take_lock() {
  local uid=$1 number holder holders seen=- failed first=yes why
  local end start=$SECONDS
  declare -A old=()
  while :; do
    holders='' why=''
    for ((number = 0; number < MAX_UNAVAILABLE; number++)); do
      asked GET "$TURNS/hardway-turn-$number"
      if [ "$code" = 404 ]; then
        asked POST "$TURNS" "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"hardway-turn-$number\",
          \"ownerReferences\":[{\"apiVersion\":\"v1\",\"kind\":\"Node\",\"name\":\"$NODE\",\"uid\":\"$uid\"}]},
          \"data\":{\"holder\":\"$NODE\"}}" application/json
        if [ "$code" = 201 ]; then echo "$number" >"$step/turn"; return; fi
      fi
      # 409: another worker was first.
      case $code in 200) ;; 409) continue ;; *) why=$(said_why); continue ;; esac
      holder=$(value_of holder 4) failed=$(value_of failed 4)
      if [ "$holder" = "$NODE" ]; then
        [ -z "$failed" ] || request 200 'taking the turn again' PATCH "$TURNS/hardway-turn-$number" \
          '{"data":{"failed":null}}' "$MERGE"
        echo "$number" >"$step/turn"
        return
      fi
      holders+=" $holder"
      [ -n "$failed" ] || continue
      # It may be of a run before this one, and that worker is being repaired.
      [ -z "$first" ] || old[$failed]=yes
      [ -n "${old[$failed]-}" ] && [ $SECONDS -lt $((start + 90 * TIMEOUT_FACTOR)) ] || no_turn "$failed"
    done
    first=
    [ "$holders" = "$seen" ] || { seen=$holders end=$((SECONDS + (${#holders} > 0 ? 600 : 120) * TIMEOUT_FACTOR)); }
    [ $SECONDS -lt "$end" ] || no_turn "${holders:+the turn of$holders did not end for $((600 * TIMEOUT_FACTOR)) s}$why"
    sleep 0.5
  done
}

# no_turn WHY: leave the worker as it is.
no_turn() {
  put_back
  mark_node null
  rm -f "$step/turn" "$SAID"
  die "$NODE was not changed, and nothing restarted there: $1"
}

# own_pods: namespace and name of each pod here that a drain evicts. A pod of a DaemonSet would be created here again. A
# pod without a controller would be lost: its containers continue while the kubelet and containerd restart.
own_pods() {
  local accept='application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1'
  asked GET "/api/v1/pods?fieldSelector=spec.nodeName%3D$NODE"
  [ "$code" = 200 ] || return 1
  awk -F '"' '
    /^    \{/ { name = ""; space = ""; owner = "" }
    /^        "name": / { name = $4 }
    /^        "namespace": / { space = $4 }
    /^            "kind": / { owner = $4 }
    /^    \}/ { if (owner != "" && owner != "DaemonSet" && owner != "Node") print space, name }' "$SAID"
}

# drain: cordon this worker and evict its pods. PodDisruptionBudgets are kept: an eviction that one does not permit is
# tried again until the deadline. Then the worker takes pods again.
drain() {
  local end=$((SECONDS + DRAIN_SECONDS * TIMEOUT_FACTOR)) pods space name
  declare -A held=()
  request 200 'reading the Node' GET "/api/v1/nodes/$NODE"
  if ! grep -q '^    "unschedulable": true' "$SAID"; then mark_node '"cordoned"' '{"unschedulable":true}'; fi
  until pods=$(own_pods) && [ -z "$pods" ]; do
    held=()
    while read -r space name; do
      [ -n "$name" ] || continue
      asked POST "/api/v1/namespaces/$space/pods/$name/eviction" "{\"apiVersion\":\"policy/v1\",\"kind\":\"Eviction\",
        \"metadata\":{\"name\":\"$name\",\"namespace\":\"$space\"}}" application/json
      # It ends, or has ended.
      case $code in 2?? | 404) held["$space/$name"]='has not ended' ;; *) held["$space/$name"]=$(said_why) ;; esac
    done <<<"$pods"
    if [ $SECONDS -ge "$end" ]; then
      local pod report=''
      for pod in "${!held[@]}"; do report+=$'\n'"pod $pod: ${held[$pod]}"; done
      uncordon
      turn_ends
      put_back
      die "$NODE cannot be drained within $((DRAIN_SECONDS * TIMEOUT_FACTOR)) s; nothing restarted there, and it takes" \
        "pods again.$report"
    fi
    sleep 0.5
  done
}

# uncordon: unless the user has cordoned the worker.
uncordon() {
  request 200 'reading the Node' GET "/api/v1/nodes/$NODE"
  [ "$(value_of "$TURN_MARK" 6)" != cordoned ] || mark_node '"taken"' '{"unschedulable":null}'
}

# turn_ends: the ConfigMap first, then what tells of it.
turn_ends() {
  local number
  number=$(cat "$step/turn" 2>/dev/null) || true
  for ((number = ${number:--1} < MAX_UNAVAILABLE ? MAX_UNAVAILABLE - 1 : number; number >= 0; number--)); do
    request '200|404' 'reading a turn' GET "$TURNS/hardway-turn-$number"
    [ "$(value_of holder 4)" != "$NODE" ] ||
      request '200|404' 'ending the turn' DELETE "$TURNS/hardway-turn-$number"
  done
  mark_node null
  rm -f "$step/turn" "$SAID"
}

# end_turn [FILE]: after the units serve: the Node is Ready, and the worker takes pods again. Also what a killed run took,
# as this step's directory or FILE, the worker's Node, tells.
end_turn() {
  [ -e "$step/turn" ] || { [ -n "${1-}" ] && grep -qsF "\"$TURN_MARK\": \"" "$1"; } || return 0
  local why
  why=$(await 120 node_is_ready) || {
    worker_turn_failed "the Node $NODE is not Ready after its units restarted"
    die "the Node $NODE is not Ready after its units restarted, within $((120 * TIMEOUT_FACTOR)) s: $why"
  }
  uncordon
  # Its pods may have been those of the DNS.
  [ -z "${dns_answered-}" ] || await 60 dns_answers >/dev/null || {
    worker_turn_failed "the cluster's DNS does not answer on $NODE after its units restarted"
    die "the cluster's DNS does not answer on $NODE, within $((60 * TIMEOUT_FACTOR)) s, after its units restarted"
  }
  turn_ends
}

# node_is_ready: as its kubelet said since it started.
node_is_ready() {
  local since said
  since=$(date -d "$(systemctl show -p ActiveEnterTimestamp --value kubelet.service)" +%s) || return 1
  asked GET "/api/v1/nodes/$NODE"
  [ "$code" = 200 ] || { said_why; return 1; }
  said=$(awk -F '"' '
    /^        "type": "Ready"/ { found = 1 }
    found && /^        "status": / { status = $4 }
    found && /^        "lastHeartbeatTime": / { heard = $4 }
    found && /^        "message": / { message = $4 }
    /^      \}/ { if (found) print status, heard, message; found = 0 }' "$SAID")
  local status heard message
  read -r status heard message <<<"$said" || true
  [ "$status" = True ] && [ "$(date -d "$heard" +%s)" -ge "$since" ] || { echo "$status, $heard: $message"; return 1; }
}

# worker_turn_failed WHY: the workers that wait for this turn are not changed. What runs here takes pods if it can.
worker_turn_failed() {
  local number
  number=$(cat "$step/turn" 2>/dev/null) && [ -n "$number" ] || return 0
  asked PATCH "$TURNS/hardway-turn-$number" "{\"data\":{\"failed\":\"${1//[\"\\]/} (since $(date -u '+%F %T UTC'))\"}}" "$MERGE"
  if node_is_ready >/dev/null; then (uncordon) || true; fi
}
