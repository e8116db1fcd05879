#!/bin/bash
# etcd-snapshot DIRECTORY: take a snapshot of this machine's etcd member, check it, and keep the last 24.
# Started by etcd-snapshot.timer; one that fails leaves nothing but a failed unit.
set -euo pipefail
umask 077
cd "$1"

# shellcheck source=/dev/null
. /etc/etcd/etcdctl.env
export ETCDCTL_ENDPOINTS=https://127.0.0.1:2379

trap 'rm -f draft draft.part' EXIT
etcdctl snapshot save draft >/dev/null
state=$(etcdutl snapshot status draft -w json)
[[ $state =~ \"revision\":([0-9]+) ]] || { echo "etcdutl says no revision: $state" >&2; exit 1; }
name=etcd-$(date -u +%Y%m%dT%H%M%SZ)-r${BASH_REMATCH[1]}.db
mv draft "$name"
echo "$name: $state"

kept=(etcd-*.db)
# By name, which is by time: the oldest first.
for ((number = 0; number < ${#kept[@]} - 24; number++)); do rm "${kept[number]}"; done
