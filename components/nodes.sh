# The verbs of the workers' Nodes in the API. Sourced after step.sh; /usr/local/lib/hardway/nodes.sh on the controller
# that looks after them.

NODE_LABEL=hardway/worker
DRAIN_SECONDS=$((120 * TIMEOUT_FACTOR))

k() { kubectl --kubeconfig /etc/kubernetes/admin.kubeconfig --cache-dir /var/lib/hardway/kubectl "$@"; }

# only_nodes NAME...: the Nodes that the lab made for workers it no longer has are drained and deleted. Budgets are kept;
# a drain that cannot finish takes itself back and says what holds it.
only_nodes() {
  local name ready gone=() alive=() said nodes
  nodes=$(answer_of 60 "the list of the lab's Nodes" k get nodes --request-timeout="$((10 * TIMEOUT_FACTOR))s" \
    -l "$NODE_LABEL" -o go-template="$NODE_READY") || exit 1
  while read -r name ready; do
    [ -n "$name" ] || continue
    case " $* " in *" $name "*) continue ;; esac
    gone+=("$name")
    # What runs on a machine that is lost cannot end in order: deleting its Node is how the cluster learns of it.
    [ "$ready" != True ] || alive+=("$name")
  done <<<"$nodes"
  [ ${#gone[@]} -gt 0 ] || return 0
  if [ ${#alive[@]} -gt 0 ]; then
    if ! said=$(k drain "${alive[@]}" --ignore-daemonsets --delete-emptydir-data --force \
      --timeout="${DRAIN_SECONDS}s" 2>&1); then
      said=$(held_back "${alive[@]}")$'\n'"kubectl drain said: $(printf '%s\n' "$said" | tail -n 3)"
      k uncordon "${alive[@]}" >/dev/null
      die "${alive[*]} cannot be drained within $DRAIN_SECONDS s; they stay, and take pods again."$'\n'"$said"
    fi
  fi
  k delete node "${gone[@]}" >/dev/null
}

NODE_READY='{{range .items}}{{.metadata.name}}{{range .status.conditions}}{{if eq .type "Ready"}} {{.status}}{{end}}{{end}}
{{end}}'

# held_back NODE...: the pods that are still there, each with the budgets that allow none to go.
held_back() {
  local node space pod budget selector
  for node; do
    while read -r space pod; do
      while read -r budget selector; do
        [ -n "$(k -n "$space" get pods -l "${selector%,}" --field-selector "metadata.name=$pod" -o name)" ] || continue
        echo "pod $space/$pod on $node is held by the PodDisruptionBudget $space/$budget, which allows no disruption"
      done < <(k -n "$space" get poddisruptionbudgets -o go-template="$FULL_BUDGETS")
    done < <(k get pods -A --field-selector "spec.nodeName=$node" -o go-template="$PODS")
  done
}

PODS='{{range .items}}{{.metadata.namespace}} {{.metadata.name}}
{{end}}'
FULL_BUDGETS='{{range .items}}{{if eq (printf "%v" .status.disruptionsAllowed) "0"}}{{.metadata.name}} '
# shellcheck disable=SC2016  # a template's own variables
FULL_BUDGETS+='{{range $key, $value := .spec.selector.matchLabels}}{{$key}}={{$value}},{{end}}
{{end}}{{end}}'
