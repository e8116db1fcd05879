# The reverse of enter.sh, for all users; what is gone already is no error. After entry.sh.
: "${user?}" "${verbs?}"
# Another lab's by now.
[ -z "$mark" ] || [ ! -s "$HOME_OF_LAB/lab" ] || [ "$(cat "$HOME_OF_LAB/lab")" = "$mark" ] || exit 0
renew_notes

# Steps that failed are in no state, so that nobody has taken them back: the last begun goes first.
if [ -n "$mark" ] && [ -d "$HOME_OF_LAB/steps" ]; then
  # shellcheck disable=SC2016  # for that bash to expand
  bash -c "$verbs"'
    if [ -d "$HARDWAY/steps/container-runtime" ] || [ -d "$HARDWAY/steps/node" ]; then end_runtime; fi
    for name in $(ls -tc "$HARDWAY/steps"); do undo "$name"; done
    rm -rf "$HARDWAY/mirror" "$HARDWAY/kubectl"'
fi
for other in $(users) "$user"; do let_out "$other"; done
if [ -n "$mark" ]; then
  rm -rf "$HOME_OF_LAB/lab" "$HOME_OF_LAB/mirror" "$ENTERED"
  # Only what is empty: what a step could not take back stays to be seen.
  rmdir "$HOME_OF_LAB" 2>/dev/null || true
fi
