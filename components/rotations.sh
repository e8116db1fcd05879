# What a rotation of keys does in the API and on workers, after the programs have their new files: a part of the scripts of
# components/rotations.py, which define `api` (kubectl) on a controller. Each function may be run again.

# rewrite_secrets PREFIX: have the API server write each Secret again, until each value in etcd begins with PREFIX,
# a regular expression. After etcd.sh.
rewrite_secrets() {
  wait_for 120 'every Secret encrypted with the new key' "secrets_rewritten '$1'"
}

secrets_rewritten() {
  local names keys values
  names=$(api get secrets --all-namespaces -o name) || return 1
  # A Secret that changed or went meanwhile is an error, and all are written again.
  [ -z "$names" ] || api get secrets --all-namespaces -o json | api replace -f - >/dev/null || return 1
  keys=$(ctl get --prefix /registry/secrets/ --keys-only | { grep -c '^/registry/secrets/' || true; }) || return 1
  values=$(ctl get --prefix /registry/secrets/ --print-value-only | { grep -a -c "^$1" || true; }) || return 1
  [ "$keys" = "$values" ] || {
    echo "$values of $keys Secrets in etcd are encrypted with the new key" >&2
    return 1
  }
}

# key_id: the name that tokens have for a public key (PEM, on standard input). A file may have further keys behind it.
key_id() {
  sed '/^-----END/q' | openssl pkey -pubin -outform DER | openssl dgst -sha256 -binary | base64 -w 0 | tr '+/' '-_' | tr -d '='
}

# signed_with KEY-ID TOKEN
signed_with() {
  local head=${2%%.*}
  while [ $((${#head} % 4)) != 0 ]; do head+='='; done
  head=$(tr -- '-_' '+/' <<<"$head" | base64 -d) || return 1
  [[ $head == *"\"kid\":\"$1\""* ]]
}

# renew_tokens: have the kubelet here request new tokens for all pods, and wait until each is signed with the key (PEM, on
# standard input). A program in a pod reads its token again within a minute.
renew_tokens() {
  new_key=$(key_id) && [ -n "$new_key" ] || die "the public key cannot be read on $(hostname)"
  # Its cache of tokens is in its memory.
  old_tokens >/dev/null || systemctl restart kubelet.service
  wait_for 180 'tokens of all pods signed with the new key' old_tokens
}

# old_tokens: fail, and name the pods, if a token is of another key.
old_tokens() {
  local file token old=''
  for file in /var/lib/kubelet/pods/*/volumes/kubernetes.io~projected/*/token; do
    # Of a pod that has ended meanwhile.
    token=$(cat "$file" 2>/dev/null) || continue
    signed_with "$new_key" "$token" || old+=" ${file#/var/lib/kubelet/pods/}"
  done
  [ -z "$old" ] || { echo "old tokens:$old" >&2; return 1; }
}

# renew_token_secrets: likewise for tokens in Secrets (kubernetes.io/service-account-token), which do not expire:
# the controller manager makes a token where there is none.
renew_token_secrets() {
  new_key=$(key_id) && [ -n "$new_key" ] || die "the public key cannot be read on $(hostname)"
  wait_for 120 'tokens of all Secrets signed with the new key' token_secrets_are_new
}

token_secrets_are_new() {
  local namespace name token secrets missing=''
  secrets=$(api get secrets --all-namespaces --field-selector type=kubernetes.io/service-account-token \
    -o jsonpath='{range .items[*]}{.metadata.namespace} {.metadata.name} {.data.token}{"\n"}{end}') || return 1
  while read -r namespace name token; do
    [ -n "$name" ] || continue
    if [ -z "$token" ]; then
      missing+=" $namespace/$name"
    elif ! signed_with "$new_key" "$(base64 -d <<<"$token")"; then
      missing+=" $namespace/$name"
      api -n "$namespace" patch secret "$name" --type json -p '[{"op": "remove", "path": "/data/token"}]' >/dev/null || return 1
    fi
  done <<<"$secrets"
  [ -z "$missing" ] || { echo "Secrets without a new token:$missing" >&2; return 1; }
}

# restart_cluster_pods CA-FILE: once the API hands out these CAs, restart the pods of kube-system one after the
# other: a program reads the CA of the API when it starts.
restart_cluster_pods() {
  local each names
  wait_for 60 'the CAs in kube-root-ca.crt' "hands_out kube-root-ca.crt ca.crt '$1'"
  names=$(answer_of 30 'the list of workloads' api -n kube-system get deployments,daemonsets,statefulsets -o name) || exit 1
  for each in $names; do
    wait_for 30 "restart of $each" "api -n kube-system rollout restart $each >/dev/null"
    api -n kube-system rollout status "$each" --timeout=$((120 * TIMEOUT_FACTOR))s >/dev/null ||
      die "the pods of $each are not ready after their restart"
  done
}

# forget_client_cas CA-FILE FRONT-PROXY-CA-FILE: extension API servers read the CAs of clients in a ConfigMap. The API
# servers only add to it; where it is missing, they make it with those that they trust themselves.
forget_client_cas() {
  wait_for 60 'only the trusted CAs in extension-apiserver-authentication' "only_these_cas '$1' '$2'"
}

only_these_cas() {
  local name=extension-apiserver-authentication
  ! { hands_out $name client-ca-file "$1" && hands_out $name requestheader-client-ca-file "$2"; } 2>/dev/null ||
    return 0
  api -n kube-system delete configmap $name --ignore-not-found >/dev/null || return 1
  for _ in 1 2 3 4 5 6; do
    sleep 0.5
    ! { hands_out $name client-ca-file "$1" && hands_out $name requestheader-client-ca-file "$2"; } || return 0
  done
  return 1
}

# hands_out CONFIGMAP KEY FILE: whether the ConfigMap in kube-system has the certificates of the file.
hands_out() {
  local said
  said=$(api -n kube-system get configmap "$1" -o jsonpath="{.data.${2//./\\.}}") || return 1
  [ "$(sort <<<"$said")" = "$(sort "$3")" ] || { echo "$1 has other CAs" >&2; return 1; }
}
