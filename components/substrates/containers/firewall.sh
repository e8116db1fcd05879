# Packets between the machines of a lab, its pods and the outside pass the host's firewall.
#
# The host forwards them, and policies of FORWARD are often DROP: Docker and ufw set it. The rules stand first in the
# chain and in Docker's own (DOCKER-USER), which a restart of Docker keeps. Each has the lab's name as its comment.
# usage, as root: sh FILE open|close

bridge() {
  case $ENGINE in
    podman) podman network inspect -f '{{.NetworkInterface}}' "$LAB" ;;
    docker) docker network inspect -f 'br-{{slice .Id 0 12}}' "$LAB" ;;
  esac
}

# The programs with rules on the host: iptables has two tables of the same name, the older one only if it is loaded.
programs() {
  for program in iptables-nft iptables-legacy; do
    command -v "$program" >/dev/null || continue
    [ "$program" = iptables-nft ] || grep -qx filter /proc/net/ip_tables_names 2>/dev/null || continue
    echo "$program"
  done
}

chains() {
  listed=$("$1" -w -S)
  for chain in FORWARD DOCKER-USER; do
    if printf '%s\n' "$listed" | grep -qE -- "^-[PN] $chain( |\$)"; then echo "$chain"; fi
  done
}

ours() {
  "$1" -w -S "$2" | grep -E -- "--comment \"?$(printf '%s' "$LAB" | sed 's/[.]/[.]/g')\"? " || true
}

close_with() {
  ours "$1" "$2" | sed 's/^-A/-D/; s/"//g' | while read -r rule; do
    # shellcheck disable=SC2086 # one word for each part of the rule
    "$1" -w $rule
  done
}

open_with() {
  "$1" -w -I "$2" -o "$3" -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment "$LAB" -j ACCEPT
  "$1" -w -I "$2" -i "$3" -m comment --comment "$LAB" -j ACCEPT
}

# Hosts without iptables: the same chain, where something else has made it.
has_chain() {
  [ -z "$(programs)" ] && command -v nft >/dev/null && nft list chain ip filter FORWARD >/dev/null 2>&1
}

nft_close() {
  listed=$(nft -a list chain ip filter FORWARD)
  printf '%s\n' "$listed" | grep -F "comment \"$LAB\"" | sed 's/.* handle //' | while read -r handle; do
    nft delete rule ip filter FORWARD handle "$handle"
  done
}

nft_open() {
  nft insert rule ip filter FORWARD oifname "$1" ct state established,related accept comment "\"$LAB\""
  nft insert rule ip filter FORWARD iifname "$1" accept comment "\"$LAB\""
}

set -eu
if [ "$1" = open ]; then interface=$(bridge); fi
for program in $(programs); do
  for chain in $(chains "$program"); do
    close_with "$program" "$chain"
    if [ "$1" = open ]; then open_with "$program" "$chain" "$interface"; fi
  done
done
if has_chain; then
  nft_close
  if [ "$1" = open ]; then nft_open "$interface"; fi
fi
