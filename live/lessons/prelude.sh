# shellcheck shell=bash disable=SC2154
# Before each script of a lesson (actions.py), behind the lab's names and addresses as variables: functions that the
# scripts of faults and checks use. A learner needs none of them.

# This machine's API server: the load balancer may be what is broken. For controllers.
kubectl() {
  command kubectl --kubeconfig /etc/kubernetes/admin.kubeconfig --cache-dir /var/lib/hardway/kubectl \
    --server https://127.0.0.1:6443 --request-timeout="${seconds:-10}s" "$@"
}

# until_true SECONDS COMMAND...: wait until a command succeeds.
until_true() {
  local deadline=$((SECONDS + $1 * timeout_factor))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || { echo "not within the deadline: $*" >&2; return 1; }
    sleep 0.2
  done
}

# The namespace `lesson`, after the end of an earlier one that is being deleted.
namespace() {
  until_true 60 active_namespace
  until_true 30 kubectl -n lesson get serviceaccount default
}
active_namespace() {
  kubectl create namespace lesson || true
  [ "$(kubectl get namespace lesson -o jsonpath='{.status.phase}')" = Active ]
}
# `reset` waits for the end of the namespace after the repair (no_namespace).
remove_namespace() {
  kubectl delete namespace lesson --ignore-not-found --wait=false
  # A kubelet that is broken would not end them.
  kubectl -n lesson delete pods --all --ignore-not-found --grace-period=0 --force --wait=false
}
no_namespace() { [ -z "$(kubectl get namespace lesson --ignore-not-found -o name)" ] && kubectl get --raw /readyz; }

# deployment NAME [WORKER [REPLICAS [IMAGE [ARGUMENTS]]]]: a Deployment in the namespace, without waiting for it.
deployment() {
  kubectl apply -f - <<DEPLOYMENT
apiVersion: apps/v1
kind: Deployment
metadata: {name: $1, namespace: lesson}
spec:
  replicas: ${3:-1}
  selector: {matchLabels: {app: $1}}
  template:
    metadata: {labels: {app: $1}}
    spec:
      terminationGracePeriodSeconds: 1
      nodeSelector: {${2:+kubernetes.io/hostname: $2}}
      containers:
      - {name: $1, image: "${4:-$pause}", imagePullPolicy: IfNotPresent, args: ${5:-[]}}
DEPLOYMENT
}

# available NAME: whether all replicas of a Deployment's newest version are.
available() {
  local said
  said=$(kubectl -n lesson get deployment "$1" -o jsonpath='{.metadata.generation} {.status.observedGeneration} {.spec.replicas} {.status.updatedReplicas} {.status.replicas} {.status.availableReplicas}')
  # shellcheck disable=SC2086
  set -- $said
  [ $# = 6 ] && [ "$1" = "$2" ] && [ "$3" = "$4" ] && [ "$3" = "$5" ] && [ "$3" = "$6" ]
}

# fresh_lease NAMESPACE NAME SECONDS: whether a lease was renewed within so many seconds.
fresh_lease() {
  local renewed
  renewed=$(kubectl -n "$1" get lease "$2" -o jsonpath='{.spec.renewTime}')
  [ $(($(date +%s) - $(date -d "$renewed" +%s))) -le $(($3 * timeout_factor)) ]
}

# issue CERTIFICATE KEY CN [START END]: a certificate of the kubernetes CA for an existing key. On standard input: the
# alternative names, in OpenSSL's form, or nothing. START and END as `openssl ca` takes them; usage=clientAuth for a
# client. For controllers.
issue() {
  local names made dates=(-days 365)
  [ $# -lt 5 ] || dates=(-startdate "$4" -enddate "$5")
  names=$(cat) made=$(mktemp -d)
  cat >"$made/cnf" <<CONFIGURATION
[ca]
default_ca = default
[default]
database = $made/database
serial = $made/serial
new_certs_dir = $made
default_md = sha256
policy = policy
[policy]
commonName = supplied
[extensions]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature,keyEncipherment
extendedKeyUsage = ${usage:-serverAuth}
${names:+subjectAltName = $names}
CONFIGURATION
  : >"$made/database"
  openssl rand -hex 16 >"$made/serial"
  openssl req -new -key "$2" -subj "/CN=$3" -out "$made/request"
  openssl ca -batch -notext -config "$made/cnf" -extensions extensions -in "$made/request" -out "$made/certificate" \
    -cert /etc/kubernetes/pki/ca.crt -keyfile /etc/kubernetes/pki/ca.key "${dates[@]}" 2>/dev/null
  cat "$made/certificate" >"$1"
  rm -r "$made"
}

# names_of CERTIFICATE: its alternative names, in OpenSSL's form.
names_of() {
  openssl x509 -in "$1" -noout -ext subjectAltName | sed -n '2{s/IP Address:/IP:/g; s/, */,/g; s/^ *//p;}'
}
