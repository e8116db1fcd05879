#!/bin/bash
# etcd-snapshot DIRECTORY SECONDS: take a snapshot of this machine's etcd member, check it, and keep the last 24 that this
# script took. Started by etcd-snapshot.timer; one that fails leaves nothing but a failed unit, whose last line says why.
# A member that does not answer is waited for, so many seconds: a reboot or a restore of the cluster takes less.
set -euo pipefail
umask 077
cd "$1"
WAIT=$2

KEEP=24
# Older ones make room on a full disk, but not the last of them.
KEEP_ALWAYS=3
# What a snapshot leaves free, beside room for the database to become twice its size: the disk is etcd's, too.
RESERVE=$((512 << 20))
# The names of those that this script took, the oldest first: neither the clock nor a name tells whose a file is.
TAKEN=.taken

# is_snapshot FILE: it begins as a bbolt database, and etcd's checksum of 32 bytes follows the last page.
is_snapshot() {
  [ -f "$1" ] && [ ! -L "$1" ] && [ $(($(stat -c %s "$1") % 512)) = 32 ] &&
    [ "$(od -An -tx1 -j16 -N4 "$1" | tr -d ' ')" = edda0ced ]
}

# read_taken: into `taken`, without those that are no longer there.
read_taken() {
  local name names
  taken=()
  if [ -e "$TAKEN" ]; then
    names=$(cat "$TAKEN")
  else
    # Taken by an earlier version, which kept no list. Its names begin with the time.
    names=$(find . -maxdepth 1 -type f -printf '%f\n' | grep -E '^etcd-[0-9]{8}T[0-9]{6}Z-r[0-9]+\.db$' | sort || true)
  fi
  while read -r name; do
    if [ -n "$name" ] && is_snapshot "$name"; then taken+=("$name"); fi
  done <<<"$names"
}

write_taken() {
  { [ ${#taken[@]} = 0 ] || printf '%s\n' "${taken[@]}"; } >"$TAKEN.new"
  mv "$TAKEN.new" "$TAKEN"
}

remove_oldest() {
  rm "${taken[0]}"
  taken=("${taken[@]:1}")
}

# make_room BYTES: for a snapshot of that size.
make_room() {
  local free wanted=$((2 * $1 + RESERVE))
  while free=$(df -B1 --output=avail . | tail -n 1); [ "$free" -lt "$wanted" ]; do
    [ ${#taken[@]} -gt $KEEP_ALWAYS ] || {
      echo "no snapshot taken: $((free >> 20)) MiB are free on the disk of $PWD, $((wanted >> 20)) MiB are needed:" \
        "free some, or make the disk larger" >&2
      exit 1
    }
    echo "${taken[0]}: removed, the disk has $((free >> 20)) MiB free"
    remove_oldest
    write_taken
  done
}

# ask ETCDCTL-ARGUMENT...: ask this member until it answers.
ask() {
  local said
  until { said=$(etcdctl "$@" 2>&1 >&3); } 3>&1; do
    [ $SECONDS -lt "$WAIT" ] || { echo "$said" >&2; return 1; }
    sleep 0.5
  done
}

# shellcheck source=/dev/null
. /etc/etcd/etcdctl.env
export ETCDCTL_ENDPOINTS=https://127.0.0.1:2379

trap 'rm -f draft draft.part "$TAKEN.new"' EXIT
# Left by a run that was killed.
rm -f draft draft.part
read_taken
state=$(ask endpoint status -w json)
[[ $state =~ \"dbSize\":([0-9]+) ]] || { echo "etcdctl does not tell the size of the database: $state" >&2; exit 1; }
make_room "${BASH_REMATCH[1]}"
ask snapshot save draft >/dev/null
state=$(etcdutl snapshot status draft -w json)
[[ $state =~ \"revision\":([0-9]+) ]] || { echo "etcdutl says no revision: $state" >&2; exit 1; }
name=etcd-$(date -u +%Y%m%dT%H%M%SZ)-r${BASH_REMATCH[1]}.db
# In the list first: a file that is in none would stay for ever.
taken+=("$name")
write_taken
mv draft "$name"
echo "$name: $state"

while [ ${#taken[@]} -gt $KEEP ]; do
  remove_oldest
  write_taken
done
