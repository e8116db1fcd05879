# The reverse of enter.sh, for all users; it succeeds if things are gone already. After entry.sh.
: "${user?}" "${stack?}" "${verbs?}" "${freed?}"
# The user has named the owner of the host.
[ -z "$freed" ] || put_mark
found=absent
[ -z "$mark" ] || found=$(mark_is)
# Another lab's by now.
[ "$found" != another ] || exit 0
renew_notes

# Steps that failed are in no state, so they were not undone: undo the last one first.
if [ "$found" = ours ] && [ -d "$HOME_OF_LAB/steps" ]; then
  # shellcheck disable=SC2016  # for that bash to expand
  bash -c "$verbs"'
    sole_owner=yes
    if [ -d "$HARDWAY/steps/container-runtime" ] || [ -d "$HARDWAY/steps/node" ]; then end_runtime; fi
    for name in $(ls -tc "$HARDWAY/steps"); do undo "$name"; done
    rm -rf "$HARDWAY/mirror" "$HARDWAY/kubectl"'
fi
for other in $(users) "$user"; do let_out "$other"; done
[ -n "$mark" ] || exit 0

if [ "$found" = damaged ]; then
  {
    damaged_mark
    echo "The key and the sudo rule of the lab $stack were removed."
  } >&2
  if [ -d "$HOME_OF_LAB/steps" ]; then
    # Without the mark it is not certain whose they are; the key and the rule have the lab's own name.
    {
      echo "These steps were not undone: $(cd "$HOME_OF_LAB/steps" && echo *). If they are of this lab, write the mark"
      echo "again, and destroy once more: echo '$mark' >$HOME_OF_LAB/lab"
    } >&2
    exit 1
  fi
fi
rm -rf "$HOME_OF_LAB/mirror" "$ENTERED"
# Last: notes without a mark have no owner.
rm -f "$HOME_OF_LAB/lab" "$HOME_OF_LAB/lab.new"
# Only what is empty: what a step could not undo stays visible.
rmdir "$HOME_OF_LAB" 2>/dev/null || true
[ "$found" != damaged ] || exit 1
