# shellcheck shell=bash disable=SC1007,SC1091,SC2034,SC2086,SC2154
# machine.sh: prints what is so on a machine, a line for each fact when it changes, and a dot as a sign of life every
# quarter of a second. Runs as root, for as long as somebody reads; changes nothing. Variables that stand before it:
#   units     the systemd units to watch
#   programs  programs that kubeadm runs as pods, found by the names of their processes
#   member    1 where the machine has an etcd member
#   balancer  1 where it has HAProxy
#   address   of the API, where load balancers share it
# What is asked four times a second is done without a new process: cgroup files say which unit has processes, and one curl
# asks etcd by one connection. systemctl is asked when that changes, when systemd writes something about one of the units
# to the journal, and every three seconds. Journal and cgroups are two sources: one is enough, where the other is missing
# or starts again.
export LC_ALL=C
trap '' PIPE
declare -A told pid_of
# A pipe that nobody writes into: `read -t` waits on it, where `sleep` would be a process. And one for the journal's lines.
exec {nap}<> <(:) {journal_lines}<> <(:)
# Where systemd has the units' cgroups: version 2, or with version 1 beside the controllers, or its own hierarchy.
cgroups=/sys/fs/cgroup
for each in "$cgroups" "$cgroups/unified" "$cgroups/systemd"; do
  [ ! -e "$each/system.slice/cgroup.procs" ] || { cgroups=$each && break; }
done

# tell FACT VALUE: prints it if it changed.
tell() {
  [ "${told[$1]-none}" = "$2" ] && return
  told[$1]=$2
  printf '%s %s\n' "$1" "$2" || exit
}

# First process of each unit, by its cgroup: changes when a unit stops or restarts.
first_processes() {
  found=
  local unit pid
  for unit in $units; do
    pid=
    { read -r pid <"$cgroups/system.slice/$unit/cgroup.procs"; } 2>/dev/null
    found+="$pid "
  done
}

tell_units() {
  local states= name= state= pid= key value
  while IFS='=' read -r key value; do
    case $key in
      Id) name=$value ;;
      ActiveState) state=$value ;;
      MainPID) pid=$value ;;
      '') [ -z "$name" ] || states+="$name=$state:$pid "; name= state= pid= ;;
    esac
  done < <(systemctl show --property=Id,ActiveState,MainPID $units 2>/dev/null; echo)
  all_active=1
  case $states in *=inactive:* | *=failed:* | *=activating:* | *=deactivating:* | *=reloading:* | '') all_active= ;; esac
  [ -z "$states" ] || tell units "${states% }"
}

# A pod's process is looked for among all only while it is missing.
tell_programs() {
  local program name pid file states= missing=
  for program in $programs; do
    name=
    pid=${pid_of[$program]-}
    [ -z "$pid" ] || { read -r name <"/proc/$pid/comm"; } 2>/dev/null
    [ "$name" = "${program:0:15}" ] || { pid_of[$program]= && missing+="$program "; }
  done
  if [ -n "$missing" ] && ((tick % 2 == 0)); then
    for file in /proc/[0-9]*/comm; do
      { read -r name <"$file"; } 2>/dev/null || continue
      for program in $missing; do
        [ "$name" != "${program:0:15}" ] || { pid=${file#/proc/} && pid_of[$program]=${pid%/comm}; }
      done
    done
  fi
  for program in $programs; do
    if [ -n "${pid_of[$program]}" ]; then states+="$program=active:${pid_of[$program]} "; else states+="$program=inactive:0 "; fi
  done
  tell programs "${states% }"
}

tell_backends() {
  local rows= field
  while IFS=, read -r -a field; do
    [ "${#field[@]}" -gt 36 ] && [ "${field[0]}" != "# pxname" ] || continue
    rows+="${field[0]}/${field[1]}=${field[17]// /_}:${field[36]#\* } "
  done < <(socat -t 1 - UNIX-CONNECT:/run/haproxy/admin.sock <<<'show stat -1 4 -1' 2>/dev/null)
  tell backends "${rows% }"
}

tell_address() {
  if [ -n "$(ip -4 -o address show to "$address" 2>/dev/null)" ]; then tell holds yes; else tell holds no; fi
}

# The state of the machine's own member, by etcd's JSON gateway. curl ends after a minute: keys may have been rotated.
follow_member() {
  local line id leader term learner
  while kill -0 $$ 2>/dev/null; do
    . /etc/etcd/etcdctl.env
    while IFS= read -r line; do
      case $line in
        '{'*'"raftTerm"'*)
          id= leader=0 term=0 learner=voter
          [[ $line =~ \"member_id\":\"([0-9]+)\" ]] && id=${BASH_REMATCH[1]}
          [[ $line =~ \"leader\":\"([0-9]+)\" ]] && leader=${BASH_REMATCH[1]}
          [[ $line =~ \"raftTerm\":\"([0-9]+)\" ]] && term=${BASH_REMATCH[1]}
          [[ $line == *'"isLearner":true'* ]] && learner=learner
          tell etcd "$id $leader $term $learner"
          ;;
        '= 0 200 '*) ;;
        '= '*) tell etcd "- ${line#= }" ;;
      esac
      kill -0 $$ 2>/dev/null || return
    done < <(curl -sN --rate 4/s --max-time 0.7 --cacert "$ETCDCTL_CACERT" --cert "$ETCDCTL_CERT" --key "$ETCDCTL_KEY" \
      --noproxy '*' -d '{}' -w '\n= %{exitcode} %{http_code} %{errormsg}\n' 'https://127.0.0.1:2379/v3/maintenance/status#[1-240]')
    read -r -t 0.25 -u "$nap"
  done
}

# A line for each message of systemd (process 1) about one of the units. journalctl continues when journald restarts; where
# it ends, it is started again. It writes to this script's own pipe, so it does not see by itself that this has ended.
follow_journal() {
  local of=() unit
  for unit in $units; do of+=("UNIT=$unit"); done
  while kill -0 $$ 2>/dev/null; do
    journalctl -q -f -n 0 -o cat _PID=1 "${of[@]}" >&"$journal_lines" 2>/dev/null &
    while kill -0 $$ 2>/dev/null && kill -0 $! 2>/dev/null; do read -r -t 1 -u "$nap"; done
    kill $! 2>/dev/null
    read -r -t 1 -u "$nap"
  done
}

# Waits for the next quarter of a second, or for the journal: then `news` is set, and all lines that came are read.
wait_for_news() {
  news=
  while read -r -t 0.25 -u "$journal_lines"; do
    news=1
    read -r -t 0 -u "$journal_lines" || break
  done
}

members= journal=
# What each of them follows is a process of its own.
trap 'for each in $members $journal; do pkill -P "$each" 2>/dev/null; kill "$each" 2>/dev/null; done' EXIT
if [ "$member" = 1 ]; then
  follow_member &
  members=$!
fi
if [ -n "$units" ]; then
  follow_journal &
  journal=$!
fi

tick=0 before=none all_active= news=
while :; do
  first_processes
  if [ "$found" != "$before" ] || [ -n "$news" ] || ((tick % 12 == 0)) || { [ -z "$all_active" ] && ((tick % 4 == 0)); }; then
    before=$found
    tell_units
  fi
  [ -z "$programs" ] || tell_programs
  if ((tick % 2 == 0)); then
    [ "$balancer" != 1 ] || tell_backends
    [ -z "$address" ] || tell_address
  fi
  printf '.\n' || exit
  tick=$((tick + 1))
  wait_for_news
done
