# The reverse of enter.sh, with the same words before it; bears that all is gone already.
: "${user?}" "${stack?}" "${mark?}" "${line?}" "${verbs?}"
set -eu
umask 077
home=$(getent passwd "$user" | cut -d : -f 6)
keys=$home/.ssh/authorized_keys
made=$home/.hardway-$stack
[ -z "$mark" ] || made=/var/lib/hardway/made
# Another lab's by now.
[ -z "$mark" ] || [ ! -e /var/lib/hardway/lab ] || [ "$(cat /var/lib/hardway/lab)" = "$mark" ] || exit 0

# Steps that failed are in no state, so that nobody has taken them back: the last begun goes first.
if [ -n "$mark" ] && [ -d /var/lib/hardway/steps ]; then
  # shellcheck disable=SC2016  # for that bash to expand
  bash -c "$verbs"'
    if [ -d "$HARDWAY/steps/container-runtime" ] || [ -d "$HARDWAY/steps/node" ]; then end_runtime; fi
    for name in $(ls -tc "$HARDWAY/steps"); do undo "$name"; done
    rm -rf "$HARDWAY/mirror" "$HARDWAY/kubectl"'
fi
if [ -e "$keys" ] && grep -qxF "$line" "$keys"; then
  grep -vxF "$line" "$keys" >"$made.keys" || true
  cat "$made.keys" >"$keys"
  rm "$made.keys"
fi
if grep -qsx file "$made" && [ -e "$keys" ] && [ ! -s "$keys" ]; then rm "$keys"; fi
if grep -qsx directory "$made"; then rmdir "$home/.ssh" 2>/dev/null || true; fi
if [ -n "$mark" ]; then rm -rf /var/lib/hardway/lab /var/lib/hardway/mirror; fi
rm -f "$made" "$made.new" "$made.sudo"
if [ -n "$mark" ]; then
  # Only what is empty: what a step could not take back stays to be seen.
  rmdir /var/lib/hardway 2>/dev/null || true
  rm -f "/etc/sudoers.d/hardway-$stack"
fi
