# Whether an etcd member is healthy: defined here alone, for the steps that start members, for `status` and for `restore`.
# Part of /usr/local/lib/hardway/etcd.sh on every machine that carries a member or a control plane.

# member_health [CLIENT-URL [OPTION...]]: what this machine's member, or another one, says of itself, JSON. It is healthy
# where it can read from a cluster that has a leader, and no alarm is raised. The options are curl's.
# Source: https://etcd.io/docs/v3.6/op-guide/monitoring/
# shellcheck source=/dev/null
member_health() { (. "${ETCD_CLIENT:-/etc/etcd/etcdctl.env}" && exec curl -sS --max-time $((4 * TIMEOUT_FACTOR)) \
  --cacert "$ETCDCTL_CACERT" --cert "$ETCDCTL_CERT" --key "$ETCDCTL_KEY" "${1:-https://127.0.0.1:2379}/health" "${@:2}"); }

# member_is_healthy [CLIENT-URL [OPTION...]]: whether it says so.
member_is_healthy() { [[ $(member_health "$@") == *'"health":"true"'* ]]; }
