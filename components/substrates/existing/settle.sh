# Where the lab logged in as another user before: that user's key and rule go. After entry.sh.
: "${user?}"
for other in $(users); do [ "$other" = "$user" ] || let_out "$other"; done
