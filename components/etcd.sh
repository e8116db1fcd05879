# The verbs of etcd's machines: how a member finds its cluster, how others leave it, and how machines take turns. Sourced
# after step.sh, behind etcd_health.sh; /usr/local/lib/hardway/etcd.sh on every machine that carries a member or a control plane.
#
# What a member is to do is asked of the cluster, never kept in a file of the lab: the same lines serve the first `up`,
# a recreated machine and a cluster that grows. Source: https://etcd.io/docs/v3.6/op-guide/runtime-configuration/

ETCD_DATA=/var/lib/etcd
ETCD_JOIN=/etc/etcd/join.env
# Kept apart from the data: a machine that has it was a member, whatever became of its data.
ETCD_MARK=/etc/etcd/was-a-member
ETCD_CLIENT=/etc/etcd/etcdctl.env
# There from the stop of a restore until all members have their new data (live/restore.py).
ETCD_MASK=/etc/systemd/system.control/etcd.service

# ctl WORD...: etcdctl with the lab's certificates, patient with a dead member but not for long.
# shellcheck source=/dev/null
ctl() { (. "$ETCD_CLIENT" && exec etcdctl --dial-timeout=$((2 * TIMEOUT_FACTOR))s \
  --command-timeout=$((5 * TIMEOUT_FACTOR))s "$@"); }

# join NAME PEER-URL [FOUNDERS]: decide how the member starts, before its unit does. FOUNDERS (NAME=URL,...) are given to
# a machine that may found the cluster together with them; all others have to find it.
join() {
  local name=$1 peer=$2 founders=${3:-}
  [ ! -L "$ETCD_MASK" ] ||
    die "etcd is masked on $(hostname): a restore has stopped before all members had their new data. Members with old" \
      "and with new data must not run side by side. Run it again: ./hardway restore file"
  own file "$ETCD_JOIN"
  own file "$ETCD_MARK"
  # The others may start only after this step has ended, where Pulumi does one thing at a time.
  ! founding "$founders" || not_waited_for etcd.service
  systemctl -q is-active etcd.service || leave_aside_what_serves_no_more "$peer"
  if [ -d "$ETCD_DATA/member" ]; then
    return
  elif [ -n "$founders" ] && [ ! -e "$ETCD_MARK" ] && ! others_serve; then
    join_with "$name" new "$founders"
  else
    join_what_answers "$name" "$peer"
  fi
}

# founding FOUNDERS: whether this initial member is to bootstrap the cluster with others, and has not yet served.
founding() { [[ $1 == *,* ]] && [ ! -e "$ETCD_MARK" ]; }

# others_serve: whether a member of the lab is healthy: then there is a cluster, and a machine without data joins it. Pulumi
# may list a new machine as an initial member, after `pulumi up --replace` or `pulumi state delete` of etcd-founders. A member that
# waits for the other initial members has no leader yet.
others_serve() {
  local endpoints url
  # shellcheck source=/dev/null
  endpoints=$(. "$ETCD_CLIENT" && echo "$ETCDCTL_ENDPOINTS")
  for url in ${endpoints//,/ }; do
    ! member_is_healthy "$url" 2>/dev/null || return 0
  done
  return 1
}

# joined PEER-URL MEANS: wait until the member serves; from now on this machine founds no cluster.
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
  # etcdctl reports its own retries on stderr, also where it succeeds in the end: that is no part of the answer.
  until cluster=$(become_a_member "$1" "$2" 2>"$why"); do
    [ -n "$answered" ] || ! ctl member list >/dev/null 2>&1 || answered=yes
    if [ $SECONDS -ge "$end" ]; then
      [ -n "$answered" ] || die "no member of this lab's etcd answers, and it had a cluster: $1 does not found a second" \
        "one. Start the machines that carry the others; if their data are lost: ./hardway restore file"
      die "$1 cannot join etcd: $(grep -v '^{' "$why" | tail -n 3)"
    fi
    sleep 0.5
  done
  rm -f "$why"
  join_with "$1" existing "$cluster"
}

# become_a_member NAME PEER-URL: be in the cluster's list, as one that has not started; print the list as etcd takes it.
# One at a time: etcd has room for one learner.
become_a_member() {
  local members id status=
  members=$(ctl member list) || return 1
  read -r id status < <(member_at "$2" <<<"$members") || true
  if [ "$status" = started ]; then
    # It has been here before, and its data are gone: what it had promised is gone with them.
    ctl member remove "$id" >/dev/null || return 1
    status=
  fi
  if [ -z "$status" ]; then
    drop_strangers <<<"$members" || return 1
    ctl member add "$1" --peer-urls="$2" --learner >/dev/null || return 1
    members=$(ctl member list) || return 1
  fi
  # A member that has not started has no name yet; any will do but for one's own.
  awk -F ', ' -v name="$1" -v peer="$2" '
    { printf "%s%s=%s", (NR > 1 ? "," : ""), ($4 == peer ? name : ($3 == "" ? $1 : $3)), $4 }' <<<"$members"
}

# member_at PEER-URL: ID, and started or unstarted, out of `member list` on standard input.
member_at() { awk -F ', ' -v peer="$1" '$4 == peer { print $1, $2 }'; }

# drop_strangers: members that the lab no longer has leave before another one joins, one at a time. A learner that was on
# its way in would keep the only place for one. A voter that is gone, as one whose machine has another address now, counts
# for the quorum: etcd adds no member beside it ("unhealthy cluster"). One that serves leaves after the new ones have
# joined (`only_members`). etcd refuses a removal that would lose the quorum.
drop_strangers() {
  local id peer client learner ours dropped=
  # shellcheck source=/dev/null
  ours=$(. "$ETCD_CLIENT" && echo "$ETCDCTL_ENDPOINTS")
  while read -r learner id peer client; do
    case ",$ours," in *",${peer/:2380/:2379},"*) continue ;; esac
    [ "$learner" = true ] || [ -z "$client" ] || ! member_is_healthy "${client%%,*}" 2>/dev/null || continue
    # The list has changed: the caller asks for it again before the next one leaves.
    [ -z "$dropped" ] || return 1
    ctl member remove "$id" >/dev/null || return 1
    dropped=yes
  done < <(awk -F ', ' '{ print $6, $1, $4, $5 }' | sort -s -r -k 1,1)
}

# leave_aside_what_serves_no_more PEER-URL: the data of a member that the cluster removed, and those without a WAL, which
# etcd cannot start on. If no member answers, it is not known whether it was removed.
leave_aside_what_serves_no_more() {
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
  # In variables: grep -q would end before curl, and the pipe would fail for that.
  said=$(curl -sf http://127.0.0.1:2381/metrics) || return 1
  if grep -q '^etcd_server_is_learner 1' <<<"$said"; then
    said=$(ctl member list) || return 1
    read -r id _ < <(member_at "$1" <<<"$said") || return 1
    ctl member promote "$id" || return 1
  fi
  member_is_healthy
}

# only_members PEER-URL...: those that are no longer of the lab leave, one at a time; etcd refuses what would lose quorum.
only_members() {
  local id peer members
  members=$(answer_of 60 "etcd's list of members" ctl member list) || exit 1
  while IFS=' ' read -r id peer; do
    case " $* " in *" $peer "*) continue ;; esac
    # Asks those that stay: no others stand in etcdctl's environment any more.
    wait_for 60 'every etcd member that stays healthy' 'ctl endpoint health'
    # etcd wants its members to have been together for 5 s, or it fears for the quorum.
    wait_for 60 "etcd lets $peer leave" "leaves $id"
  done < <(awk -F ', ' '{ print $1, $4 }' <<<"$members")
  wait_for 60 'every etcd member healthy' 'ctl endpoint health --cluster'
}

# leaves ID: remove a member; one that etcd's list does not have has left. A list that cannot be had says nothing.
leaves() {
  local members
  ! ctl member remove "$1" || return 0
  members=$(ctl member list) || return 1
  ! grep -q "^$1," <<<"$members"
}

# take_turn UNIT..., give_turn: between them this machine restarts what it must, and no other machine of the lab does. The
# lock is etcd's own; it falls when its holder dies. Where etcd gives none, only units that do not serve are restarted:
# nothing can be lost by that, and it may be what lets etcd answer again.
take_turn() {
  local end=$((SECONDS + 300 * TIMEOUT_FACTOR)) no_answer=$((SECONDS + 60 * TIMEOUT_FACTOR)) why
  why=$(mktemp)
  until ask_for_turn "$end" "$why"; do
    any_serves "$@" || { rm -f "$why"; return 0; }
    [ $SECONDS -lt "$end" ] ||
      die "another machine has been restarting its units for $((300 * TIMEOUT_FACTOR)) s"
    [ ! -s "$why" ] || [ $SECONDS -lt "$no_answer" ] ||
      die "$* on $(hostname) must restart, and etcd gives no lock that keeps other machines from doing so at the same" \
        "time: $(tail -n 3 "$why")"$'\n'"Nothing was restarted. See that etcd is healthy (./hardway status), then run this again."
    sleep 0.5
  done
  rm -f "$why"
  case " $* " in
    *" etcd.service "*)
      wait_for 60 'every other etcd member healthy, before this one restarts' 'ctl endpoint health --cluster' ;;
  esac
}

# ask_for_turn END FILE: wait for the lock until then; where etcd gives none, FILE says why.
ask_for_turn() {
  : >"$2"
  ctl member list >/dev/null 2>"$2" || return 1
  : >"$2"
  # Without the script's own locks, and gone with the script, however that ends.
  # shellcheck source=/dev/null
  exec {turn}< <(
    exec 8>&- 9>&- 2>"$2" </dev/null
    . "$ETCD_CLIENT"
    exec setpriv --pdeathsig TERM etcdctl lock --ttl=30 /hardway/turn
  )
  turn_PID=$!
  ! read -r -t $(($1 > SECONDS ? $1 - SECONDS : 1)) -u "$turn" || return 0
  give_turn
  return 1
}

# any_serves UNIT...: whether one of them serves, as far as its check tells; one without a check does.
any_serves() {
  local unit
  for unit; do
    [ -n "${ready_check[$unit]-}" ] || return 0
    ! (eval "${ready_check[$unit]}") >/dev/null 2>&1 || return 0
  done
  return 1
}

give_turn() {
  [ -n "${turn_PID:-}" ] || return 0
  local pid=$turn_PID end=$((SECONDS + 10 * TIMEOUT_FACTOR))
  kill "$pid" 2>/dev/null || true
  # It gives the lock back. Where etcd takes no answer any more, the lock falls by itself after its 30 s.
  while kill -0 "$pid" 2>/dev/null && [ $SECONDS -lt "$end" ]; do sleep 0.05; done
  kill -KILL "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
  exec {turn}<&-
  turn_PID=
}
