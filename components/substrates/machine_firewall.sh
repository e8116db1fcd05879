# What a host's firewall is made of, as lines of a word and its value; run by root's bash, changes nothing.
#   nft        the rules as JSON, in one line
#   rule       family, table, handle and text of each rule that has a verdict, but for those of a cluster's own tables
#   legacy     lines of iptables' older tables
#   firewalld  the addresses in its zone trusted, where it runs
#   ufw        yes, where it is active
#   unread     what could not be asked, and why
firewall() {
  local -x PATH=$PATH:/usr/sbin:/sbin LC_ALL=C
  local rules
  if command -v nft >/dev/null; then
    if rules=$(nft -j list ruleset 2>&1); then
      echo "nft $(printf %s "$rules" | tr -d '\n')"
      nft -s -a list ruleset 2>/dev/null | awk '
        $1 == "table" { table = $2 " " $3; own = $3 ~ /^(kube-proxy|hardway|calico)/ }
        !own && / # handle [0-9]+$/ && /(accept|drop|reject|jump|goto|return)/ {
          handle = $NF; sub(/ # handle [0-9]+$/, ""); sub(/^[ \t]+/, ""); print "rule", table, handle, $0
        }'
    else
      echo "unread nft: ${rules##*$'\n'}"
    fi
  fi
  # If the module is not loaded there is no rule, and a query would load it.
  if command -v iptables-legacy-save >/dev/null && [ -s /proc/net/ip_tables_names ]; then
    if rules=$(iptables-legacy-save -t filter 2>&1); then
      printf '%s\n' "$rules" | sed -n 's/^:/legacy :/p; s/^-/legacy -/p'
    else
      echo "unread iptables-legacy-save: ${rules##*$'\n'}"
    fi
  fi
  if command -v firewall-cmd >/dev/null && [ "$(firewall-cmd --state 2>/dev/null)" = running ]; then
    if rules=$(firewall-cmd --zone=trusted --list-sources 2>&1); then
      echo "firewalld $rules"
    else
      echo "unread firewall-cmd: ${rules##*$'\n'}"
    fi
  fi
  if command -v ufw >/dev/null && ufw status 2>/dev/null | grep -q '^Status: active'; then echo "ufw yes"; fi
}
firewall
