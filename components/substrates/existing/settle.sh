# Where the lab logged in as another user before: remove that user's key and rule. After entry.sh.
: "${user?}"
for other in $(users); do [ "$other" = "$user" ] || let_out "$other"; done
