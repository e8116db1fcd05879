# The verbs of etcd's machines: how a member finds its cluster, how others leave it, and how machines take turns. Sourced
# after step.sh; /usr/local/lib/hardway/etcd.sh on every machine that carries a member or a control plane.
#
# What a member is to do is asked of the cluster, never kept in a file of the lab: the same lines serve the first `up`,
# a machine made anew and a cluster that grows. Source: https://etcd.io/docs/v3.6/op-guide/runtime-configuration/

ETCD_DATA=/var/lib/etcd
ETCD_JOIN=/etc/etcd/join.env
# Kept apart from the data: a machine that has it was a member, whatever became of its data.
ETCD_MARK=/etc/etcd/was-a-member
ETCD_CLIENT=/etc/etcd/etcdctl.env

# ctl WORD...: etcdctl with the lab's certificates. Its deadlines are etcdctl's own, 2 s and 5 s, or the file's: etcdctl
# ends where one is both a flag and a variable.
# shellcheck source=/dev/null
ctl() { (. "$ETCD_CLIENT" && exec etcdctl "$@"); }

# join NAME PEER-URL [FOUNDERS]: decide how the member starts, before its unit does. FOUNDERS (NAME=URL,...) are given to
# a machine that may found the cluster together with them; all others have to find it.
join() {
  local name=$1 peer=$2 founders=${3:-}
  own file "$ETCD_JOIN"
  own file "$ETCD_MARK"
  # The others may start only after this step has ended, where Pulumi does one thing at a time.
  ! founding "$founders" || not_waited_for etcd.service
  if [ -d "$ETCD_DATA/member" ]; then
    systemctl -q is-active etcd.service || leave_aside_data_of_a_removed_member "$peer"
  fi
  if [ -d "$ETCD_DATA/member" ]; then
    return
  elif [ -n "$founders" ] && [ ! -e "$ETCD_MARK" ]; then
    join_with "$name" new "$founders"
  else
    join_what_answers "$name" "$peer"
  fi
}

# founding FOUNDERS: whether this member is to found the cluster with others, and has not been seen to serve yet.
founding() { [[ $1 == *,* ]] && [ ! -e "$ETCD_MARK" ]; }

# joined PEER-URL: wait until the member serves; from now on this machine founds no cluster.
joined() {
  ready etcd.service 60 'a healthy voting member of a cluster with a leader' "member_serves $1"
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
  # etcdctl tells of its own retries on stderr, also where it succeeds in the end: that is no part of the answer.
  until cluster=$(become_a_member "$1" "$2" 2>"$why"); do
    [ -n "$answered" ] || ! ctl member list >/dev/null 2>&1 || answered=yes
    if [ $SECONDS -ge "$end" ]; then
      [ -n "$answered" ] || die "no member of this lab's etcd answers, and it had a cluster: $1 does not found a second" \
        "one. Start the machines that carry the others; if their data are lost: make restore SNAPSHOT=file"
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
    drop_strange_learners <<<"$members" || return 1
    ctl member add "$1" --peer-urls="$2" --learner >/dev/null || return 1
    members=$(ctl member list) || return 1
  fi
  # A member that has not started has no name yet; any will do but for one's own.
  awk -F ', ' -v name="$1" -v peer="$2" '
    { printf "%s%s=%s", (NR > 1 ? "," : ""), ($4 == peer ? name : ($3 == "" ? $1 : $3)), $4 }' <<<"$members"
}

# member_at PEER-URL: ID, and started or unstarted, out of `member list` on standard input.
member_at() { awk -F ', ' -v peer="$1" '$4 == peer { print $1, $2 }'; }

# drop_strange_learners: one that was on its way in when the lab was told to do without it would keep the room for ever.
drop_strange_learners() {
  local id peer ours
  # shellcheck source=/dev/null
  ours=$(. "$ETCD_CLIENT" && echo "$ETCDCTL_ENDPOINTS")
  while read -r id peer; do
    case ",$ours," in *",${peer/:2380/:2379},"*) ;; *) ctl member remove "$id" >/dev/null || return 1 ;; esac
  done < <(awk -F ', ' '$6 == "true" { print $1, $4 }')
}

leave_aside_data_of_a_removed_member() {
  local members
  members=$(ctl member list 2>/dev/null) || return 0
  [ -z "$(member_at "$1" <<<"$members")" ] || return 0
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
  # shellcheck source=/dev/null
  said=$(. "$ETCD_CLIENT" && curl -sf --cacert "$ETCDCTL_CACERT" --cert "$ETCDCTL_CERT" --key "$ETCDCTL_KEY" \
    https://127.0.0.1:2379/health) || return 1
  [[ $said == *'"health":"true"'* ]]
}

# only_members PEER-URL...: those that are no longer of the lab leave, one at a time; etcd refuses what would lose quorum.
only_members() {
  local id peer
  while IFS=' ' read -r id peer; do
    case " $* " in *" $peer "*) continue ;; esac
    # Asks those that stay: no others stand in etcdctl's environment any more.
    wait_for 60 'every etcd member that stays healthy' 'ctl endpoint health'
    # etcd wants its members to have been together for 5 s, or it fears for the quorum.
    wait_for 60 "etcd lets $peer leave" "ctl member remove $id || ! ctl member list | grep -q '^$id,'"
  done < <(ctl member list | awk -F ', ' '{ print $1, $4 }')
  wait_for 60 'every etcd member healthy' 'ctl endpoint health --cluster'
}

# take_turn, give_turn: between them this machine restarts what it must, and no other machine of the lab does. The lock
# is etcd's own; it falls when its holder dies. Without a quorum nobody can grant a turn, and none can be lost.
take_turn() {
  local members
  members=$(ctl member list 2>/dev/null) || return 0
  [ "$(wc -l <<<"$members")" -gt 1 ] || return 0
  # Without the step's own lock, and gone with the script, however that ends.
  # shellcheck source=/dev/null
  coproc turn { exec 9>&-; . "$ETCD_CLIENT"; exec setpriv --pdeathsig TERM etcdctl lock --ttl=30 /hardway/turn; }
  read -r -t $((300 * TIMEOUT_FACTOR)) -u "${turn[0]}" ||
    die "another machine has been restarting its units for $((300 * TIMEOUT_FACTOR)) s"
  case " $* " in
    *" etcd.service "*)
      wait_for 60 'every other etcd member healthy, before this one restarts' 'ctl endpoint health --cluster' ;;
  esac
}

give_turn() {
  [ -n "${turn_PID:-}" ] || return 0
  local pid=$turn_PID
  kill "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
}
