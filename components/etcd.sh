# Functions for machines with etcd: how a member joins its cluster, how members leave it, and how machines restart one
# at a time. Sourced after step.sh and etcd_health.sh; /usr/local/lib/hardway/etcd.sh on every machine with a member or
# a control plane.
#
# The cluster, and no file of the lab, says what a member must do: so the same lines work for the first `up`, for a
# recreated machine and for a cluster that grows. Source: https://etcd.io/docs/v3.6/op-guide/runtime-configuration/

ETCD_DATA=/var/lib/etcd
ETCD_JOIN=/etc/etcd/join.env
# Not in the data directory: it says that the machine was a member, also if its data are lost.
ETCD_MARK=/etc/etcd/was-a-member
ETCD_CLIENT=/etc/etcd/etcdctl.env
# The key in etcd that says which machine did not serve after its turn.
TURN_FAILED=/hardway/turn-failed
# Exists while a restore is not complete: until all members have their new data (live/restore.py).
ETCD_MASK=/etc/systemd/system.control/etcd.service

# ctl WORD...: etcdctl with the lab's certificates, and with short timeouts for members that do not answer.
# shellcheck source=/dev/null
ctl() { (. "$ETCD_CLIENT" && exec etcdctl --dial-timeout=$((2 * TIMEOUT_FACTOR))s \
  --command-timeout=$((5 * TIMEOUT_FACTOR))s "$@"); }

# join NAME PEER-URL [INITIAL_MEMBERS]: decide how the member starts, before its unit starts. A machine that may
# bootstrap the cluster gets INITIAL_MEMBERS (NAME=URL,...); all others must join the existing cluster.
join() {
  local name=$1 peer=$2 initial_members=${3:-}
  [ ! -L "$ETCD_MASK" ] ||
    die "etcd is masked on $(hostname): a restore ended before all members had their new data. Members with old and" \
      "with new data must not run at the same time. Run it again: ./hardway restore FILE"
  own file "$ETCD_JOIN"
  own file "$ETCD_MARK"
  own_data
  systemctl -q is-active etcd.service || move_unusable_data_aside "$peer"
  if [ -d "$ETCD_DATA/member" ]; then
    :
  elif bootstraps "$initial_members" && { ! others_serve || never_started "$peer"; }; then
    join_with "$name" new "$initial_members"
  else
    join_what_answers "$name" "$peer"
  fi
  # With `pulumi up --parallel 1` the other members start only after this step has ended; and the next step prepares the
  # control plane meanwhile. A learner is waited for: only then is there room for the next.
  ! bootstraps "$initial_members" || grep -qsx ETCD_INITIAL_CLUSTER_STATE=existing "$ETCD_JOIN" ||
    not_waited_for etcd.service
}

# own_data: etcd runs as the user etcd. A member that was made by hand may have run as another one.
own_data() {
  [ -d "$ETCD_DATA/member" ] && [ -n "$(find "$ETCD_DATA" ! -user etcd -print -quit)" ] || return 0
  # It would go on writing files as that user.
  systemctl stop etcd.service 2>/dev/null || true
  chown -R etcd:etcd "$ETCD_DATA"
}

# bootstraps INITIAL_MEMBERS: whether this machine must bootstrap the cluster, and has not served yet.
bootstraps() { [ -n "$1" ] && [ ! -e "$ETCD_MARK" ]; }

# others_serve: whether a member of the lab is healthy. Then there is a cluster, and a machine without data joins it.
# (After `pulumi up --replace` or `pulumi state delete` of etcd-founders Pulumi may list a new machine as an initial
# member.) A member that waits for the other initial members accepts connections and answers nothing: they must not wait
# for each other here. So all are asked at once, and an answer to the TLS handshake comes within half a second, or none.
others_serve() {
  local endpoints url asked=() each half_a_second=$((TIMEOUT_FACTOR / 2)).$((TIMEOUT_FACTOR % 2 * 5))
  # shellcheck source=/dev/null
  endpoints=$(. "$ETCD_CLIENT" && echo "$ETCDCTL_ENDPOINTS")
  for url in ${endpoints//,/ }; do
    (
      # The step's locks are not for what may outlive it.
      exec 8>&- 9>&-
      member_is_healthy "$url" --connect-timeout "$half_a_second"
    ) 2>/dev/null &
    asked+=($!)
  done
  for each in "${asked[@]}"; do ! wait "$each" || return 0; done
  return 1
}

# never_started PEER-URL: whether the others have this member in their list from the beginning, and have not heard of it:
# they know no client URL of it. So it has no data that it could have lost, and bootstraps as they did. etcd sees to the
# same ("member has already been bootstrapped"). Under load the others often serve before the last one starts.
never_started() {
  local members
  members=$(ctl member list 2>/dev/null) || return 1
  awk -F ', ' -v peer="$1" '$4 == peer && $2 == "started" && $5 == "" { found = 1 } END { exit !found }' <<<"$members"
}

# joined PEER-URL MEANS: wait until the member serves; after that this machine never bootstraps a cluster.
joined() {
  ready etcd.service 60 "$2" "member_serves $1"
  serving etcd.service
  [ -e "$ETCD_MARK" ] || install -m 0600 /dev/null "$ETCD_MARK"
}

join_with() {
  printf 'ETCD_INITIAL_CLUSTER_STATE=%s\nETCD_INITIAL_CLUSTER=%s\n' "$2" "$3" |
    install -m 0600 /dev/stdin "$ETCD_JOIN"
}

join_what_answers() {
  local end=$((SECONDS + 120 * TIMEOUT_FACTOR)) cluster answered='' why
  why=$(mktemp)
  # etcdctl prints its retries on stderr, also if it succeeds in the end: they are not part of the answer.
  until cluster=$(become_a_member "$1" "$2" 2>"$why"); do
    [ -n "$answered" ] || ! ctl member list >/dev/null 2>&1 || answered=yes
    if [ $SECONDS -ge "$end" ]; then
      [ -n "$answered" ] || die "no member of this lab's etcd answers, and it had a cluster: $1 must not bootstrap a" \
        "second one. Start the machines with the other members; if their data are lost: ./hardway restore FILE"
      die "$1 cannot join etcd: $(grep -v '^{' "$why" | tail -n 3)"
    fi
    sleep 0.5
  done
  rm -f "$why"
  join_with "$1" existing "$cluster"
}

# become_a_member NAME PEER-URL: add this machine to the cluster's list of members, not started; print the list in the
# form that etcd reads. One at a time: etcd has room for one learner.
become_a_member() {
  local members id status=
  members=$(ctl member list) || return 1
  read -r id status < <(member_at "$2" <<<"$members") || true
  if [ "$status" = started ]; then
    # It was a member before, and its data are lost: with them its vote and its acknowledged log entries.
    ctl member remove "$id" >/dev/null || return 1
    status=
  fi
  if [ -z "$status" ]; then
    remove_unknown_members <<<"$members" || return 1
    ctl member add "$1" --peer-urls="$2" --learner >/dev/null || return 1
    members=$(ctl member list) || return 1
  fi
  # A member that has not started has no name yet. Only the own name must be right.
  awk -F ', ' -v name="$1" -v peer="$2" '
    { printf "%s%s=%s", (NR > 1 ? "," : ""), ($4 == peer ? name : ($3 == "" ? $1 : $3)), $4 }' <<<"$members"
}

# member_at PEER-URL: ID, and started or unstarted, out of `member list` on standard input.
member_at() { awk -F ', ' -v peer="$1" '$4 == peer { print $1, $2 }'; }

# remove_unknown_members: remove members that the lab no longer has before another one joins, one at a time. A learner
# that has not been promoted would occupy the only place for one. A voter whose machine is gone, or has another address
# now, counts for the quorum: etcd adds no member then ("unhealthy cluster"). A member that serves is removed after the
# new ones have joined (`only_members`). etcd refuses a removal that would lose the quorum.
remove_unknown_members() {
  local id peer client learner ours dropped=
  # shellcheck source=/dev/null
  ours=$(. "$ETCD_CLIENT" && echo "$ETCDCTL_ENDPOINTS")
  while read -r learner id peer client; do
    case ",$ours," in *",${peer/:2380/:2379},"*) continue ;; esac
    [ "$learner" = true ] || [ -z "$client" ] || ! member_is_healthy "${client%%,*}" 2>/dev/null || continue
    # The list has changed: the caller reads it again before the next removal.
    [ -z "$dropped" ] || return 1
    ctl member remove "$id" >/dev/null || return 1
    dropped=yes
  done < <(awk -F ', ' '{ print $6, $1, $4, $5 }' | sort -s -r -k 1,1)
}

# move_unusable_data_aside PEER-URL: the data of a member that the cluster has removed, and data without a WAL, with
# which etcd cannot start. If no member answers, the program cannot tell whether this one was removed.
move_unusable_data_aside() {
  local members
  [ -d "$ETCD_DATA/member" ] || return 0
  if compgen -G "$ETCD_DATA/member/wal/*.wal" >/dev/null; then
    members=$(ctl member list 2>/dev/null) || return 0
    [ -z "$(member_at "$1" <<<"$members")" ] || return 0
  fi
  systemctl stop etcd.service 2>/dev/null || true
  rm -rf "$ETCD_DATA.removed"
  mv "$ETCD_DATA/member" "$ETCD_DATA.removed"
}

# member_serves PEER-URL: whether the member here is healthy in a cluster with a leader; a learner asks to be promoted.
member_serves() {
  local said id
  # First: it is healthy once it has read what the whole cluster agreed on. Before, the metrics of a new learner call it a
  # voter, and the next machine would wait in vain for the only place of a learner.
  member_is_healthy || return 1
  # In variables: grep -q would end before curl, and the pipe would fail.
  said=$(curl -sf http://127.0.0.1:2381/metrics) || return 1
  grep -q '^etcd_server_is_learner 1' <<<"$said" || return 0
  said=$(ctl member list) || return 1
  read -r id _ < <(member_at "$1" <<<"$said") || return 1
  ctl member promote "$id" || return 1
  member_is_healthy
}

# only_members PEER-URL...: remove all other members, one at a time; etcd refuses a removal that would lose the quorum.
only_members() {
  local id peer members
  members=$(answer_of 60 "etcd's list of members" ctl member list) || exit 1
  while IFS=' ' read -r id peer; do
    case " $* " in *" $peer "*) continue ;; esac
    # This checks the members that stay: etcdctl's environment has no others now.
    wait_for 60 'every etcd member that stays healthy' 'ctl endpoint health'
    # etcd refuses a removal until its members have been connected for 5 s.
    wait_for 60 "removal of the etcd member $peer" "leaves $id"
  done < <(awk -F ', ' '{ print $1, $4 }' <<<"$members")
  wait_for 60 'every etcd member healthy' 'ctl endpoint health --cluster'
}

# leaves ID: remove a member; success also if etcd's list does not have it. A list that cannot be read is an error.
leaves() {
  local members
  ! ctl member remove "$1" || return 0
  members=$(ctl member list) || return 1
  ! grep -q "^$1," <<<"$members"
}

# take_turn UNIT..., give_turn: take and release a lock, so that no two machines of the lab restart units at the same
# time. It is a lock in etcd, which expires after 30 s when its holder dies. If etcd gives no lock, only units that do
# not serve are restarted: nothing can be lost by that, and it may repair etcd.
take_turn() {
  [ -z "${turn_kept-}" ] || return 0
  local end=$((SECONDS + 300 * TIMEOUT_FACTOR)) no_answer=$((SECONDS + 60 * TIMEOUT_FACTOR)) why failed
  failed_before=$(ctl get --print-value-only "$TURN_FAILED" 2>/dev/null) || true
  why=$(mktemp)
  until ask_for_turn "$end" "$why"; do
    any_serves "$@" || { rm -f "$why"; return 0; }
    [ $SECONDS -lt "$end" ] ||
      die "another machine has been restarting its units for $((300 * TIMEOUT_FACTOR)) s"
    [ ! -s "$why" ] || [ $SECONDS -lt "$no_answer" ] ||
      die "$* on $(hostname) must restart, and etcd gives no lock against restarts of other machines at the same time:" \
        "$(tail -n 3 "$why")"$'\n'"Nothing was restarted. Repair etcd (./hardway status), then run the same command again."
    sleep 0.5
  done
  rm -f "$why"
  # Another one than at the beginning is of a machine that had its turn while this one waited.
  failed=$(ctl get --print-value-only "$TURN_FAILED" 2>/dev/null) || true
  if [ -n "$failed" ] && [ "$failed" != "$failed_before" ]; then
    put_back
    die "$* on $(hostname) did not restart: $failed"
  fi
  renew_elsewhere || case " $* " in
    *" etcd.service "*)
      put_back
      die "no other etcd member renews the lock of $(hostname), whose own member must restart. Nothing was restarted." \
        "Repair etcd (./hardway status), then run the same command again."
      ;;
  esac
  case " $* " in
    *" etcd.service "*)
      wait_for 60 'every other etcd member healthy, before this one restarts' 'ctl endpoint health --cluster'
      leave_leadership
      stop_api_server
      ;;
  esac
}

# Where the API server here gets new keys with its member, both restart in one turn: the API server would otherwise stop
# for its member, and restart once more in a turn of its own. The step of etcd comes first. It writes its files and leaves
# the restart to the step of the control plane, which has the same KEYS in its script, so that it follows in the same `up`,
# or in the next if this one is killed.

# may_put_off KEYS: in the step of etcd, before its unit starts: which keys the member gets.
may_put_off() { MEMBER_KEYS=$1; }

# put_off UNIT: whether the control plane here had other keys when its step last succeeded, so that its step follows. A
# member that does not serve is restarted at once, as is one whose last restart did not finish (or `./hardway repair` wants
# it), and one that gets another version: this step has the one before.
put_off() {
  local control_plane=$HARDWAY/steps/control-plane
  [ "$1" = etcd.service ] && [ -n "${MEMBER_KEYS-}" ] && [ -e "$control_plane/member-keys" ] || return 1
  [ -e "${step:?}/started/$1" ] || return 1
  [ "$MEMBER_KEYS" != "$(cat "$control_plane/member-keys")" ] || return 1
  [ -z "$(find "$step/earlier" -type l -print -quit 2>/dev/null)" ] && any_serves "$1" || return 1
  fit "$1"
  fingerprint "$1" >"$step/put-off"
}

# restart_member MEANS: in the step of the control plane, before its units start: restart the member here if its step has
# put that off. The turn ends with `end_member_turn`, and the API server is started by the step meanwhile.
restart_member() {
  local of_etcd=$HARDWAY/steps/etcd
  [ -e "$of_etcd/put-off" ] || return 0
  if ! cmp -s "$of_etcd/put-off" "$of_etcd/started/etcd.service"; then
    ready etcd.service 60 "$1" member_is_healthy
    take_turn etcd.service
    look_at etcd.service
    ! outdated etcd.service || systemctl daemon-reload
    systemctl reset-failed etcd.service 2>/dev/null || true
    note_run etcd.service
    systemctl restart --no-block etcd.service
    serving etcd.service
    cp "$of_etcd/put-off" "$of_etcd/started/etcd.service"
    turn_kept=yes
  fi
  rm -f "$of_etcd/put-off"
}

# end_member_turn KEYS: after all units of the control plane serve.
end_member_turn() {
  turn_kept=
  give_turn
  printf '%s\n' "$1" >"$step/member-keys.new"
  mv "$step/member-keys.new" "$step/member-keys"
}

# turn_failed WHY: the machines that wait for the turn are not changed.
turn_failed() {
  [ -n "${turn_PID:-}" ] || return 0
  ctl put "$TURN_FAILED" "$1 (since $(date -u '+%F %T UTC'))" >/dev/null 2>&1 || true
}

# leave_leadership: another member leads before this one stops. Without it the others elect a leader after a second.
leave_leadership() {
  local metrics other
  metrics=$(curl -sf -m $((5 * TIMEOUT_FACTOR)) http://127.0.0.1:2381/metrics) || return 0
  [[ $metrics == *$'\n''etcd_server_is_leader 1'* ]] || return 0
  other=$(ctl member list | awk -F ', ' -v own="$(hostname)" '$2 == "started" && $3 != own && $6 != "true" { print $1; exit }')
  [ -z "$other" ] || ctl move-leader "$other" >/dev/null || true
}

# renew_elsewhere: have the other members renew the lease of the lock: it stays if the member here fails in its turn. And
# before etcd stops, it waits 7 s for streams to its clients. (Machines that wait for the turn have theirs at their own
# members.) Fails if no other member does.
renew_elsewhere() {
  local others renewal pid
  [ -n "${turn_PID:-}" ] && [[ ${turn_key-} == */* ]] || return 0
  others=$(ctl member list | awk -F ', ' -v own="$(hostname)" '
    $3 == own { here = 1; next }
    $2 == "started" && $6 != "true" { others = others (others == "" ? "" : ",") $5 }
    END { if (here) print others }') || return 1
  [ -n "$others" ] || return 0
  # shellcheck source=/dev/null
  exec {renewal}< <(
    exec 8>&- 9>&- 2>/dev/null </dev/null
    . "$ETCD_CLIENT"
    export ETCDCTL_ENDPOINTS=$others
    exec setpriv --pdeathsig TERM etcdctl lease keep-alive "${turn_key##*/}"
  )
  pid=$!
  if ! read -r -t $((10 * TIMEOUT_FACTOR)) -u "$renewal" _; then
    kill -KILL "$pid" 2>/dev/null || true
    exec {renewal}<&-
    return 1
  fi
  # Not by a signal on which it would release the lock.
  kill -KILL "$turn_PID" 2>/dev/null || true
  wait "$turn_PID" 2>/dev/null || true
  exec {turn}<&-
  turn=$renewal turn_PID=$pid turn_lease=${turn_key##*/}
}

# stop_api_server, start_api_server: the API server here uses this machine's member alone. While the member restarts, requests
# to it would wait, and the load balancer detects that only seconds later. A connection that is refused goes to another
# API server at once. In a cluster of one member there is no other.
stop_api_server() {
  # shellcheck source=/dev/null
  [[ $(. "$ETCD_CLIENT" && echo "$ETCDCTL_ENDPOINTS") == *,* ]] || return 0
  systemctl -q is-active kube-apiserver.service || return 0
  api_server_stopped=yes
  # Also if this script fails or is ended.
  trap 'systemctl start --no-block kube-apiserver.service' EXIT
  systemctl stop kube-apiserver.service
}

start_api_server() {
  [ -n "${api_server_stopped:-}" ] || return 0
  # `./hardway repair` restores a file of it after this step, and that step waits until it serves. The trap starts it.
  case " ${repaired_later-} " in *" kube-apiserver.service "*) api_server_stopped=''; return ;; esac
  systemctl start kube-apiserver.service
  wait_for 120 'the API server ready, after its etcd member has restarted' \
    'curl -sf --cacert /etc/kubernetes/pki/ca.crt https://127.0.0.1:6443/readyz >/dev/null'
  trap - EXIT
  api_server_stopped=
}

# ask_for_turn END FILE: wait for the lock until END; if etcd gives none, FILE contains the reason.
ask_for_turn() {
  : >"$2"
  ctl member list >/dev/null 2>"$2" || return 1
  : >"$2"
  # It does not inherit the script's locks, and ends when the script ends.
  # shellcheck source=/dev/null
  exec {turn}< <(
    exec 8>&- 9>&- 2>"$2" </dev/null
    . "$ETCD_CLIENT"
    # That of another machine may be about to restart: see renew_elsewhere.
    ! member_is_healthy 2>/dev/null || export ETCDCTL_ENDPOINTS=https://127.0.0.1:2379
    exec setpriv --pdeathsig TERM etcdctl lock --ttl=30 /hardway/turn
  )
  turn_PID=$! turn_lease=
  ! read -r -t $(($1 > SECONDS ? $1 - SECONDS : 1)) -u "$turn" turn_key || return 0
  give_turn
  return 1
}

give_turn() {
  [ -z "${turn_kept-}" ] || return 0
  start_api_server
  [ -n "${turn_PID:-}" ] || return 0
  [ -z "${failed_before-}" ] || ctl del "$TURN_FAILED" >/dev/null 2>&1 || true
  local pid=$turn_PID end=$((SECONDS + 10 * TIMEOUT_FACTOR))
  [ -z "${turn_lease-}" ] || ctl lease revoke "$turn_lease" >/dev/null 2>&1 || true
  kill "$pid" 2>/dev/null || true
  # etcdctl releases the lock. If etcd does not answer, the lock expires after 30 s.
  while kill -0 "$pid" 2>/dev/null && [ $SECONDS -lt "$end" ]; do sleep 0.05; done
  kill -KILL "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
  exec {turn}<&-
  turn_PID=
}
