# What enter.sh and leave.sh are made of. Before it stand: stack, mark (empty on a jumpbox, where only a way is opened)
# and line, which is for a user's authorized_keys. Everything may be killed anywhere and run again.
: "${stack?}" "${mark?}" "${line?}"
set -eu
umask 077
HOME_OF_LAB=/var/lib/hardway
# A file for each user that the lab logs in as, with what was not there before and goes again.
ENTERED=$HOME_OF_LAB/entered
# The last rule that matches counts, and sudo reads the files by their names; it ignores names with a dot.
SUDOERS=/etc/sudoers.d/zzz-hardway-$stack

home_of() { getent passwd "$1" | cut -d : -f 6; }

# note_of USER: where it is noted.
note_of() { if [ -n "$mark" ]; then echo "$ENTERED/$1"; else echo "$(home_of "$1")/.hardway-$stack"; fi; }

# Labs made before have one note, without the user.
renew_notes() {
  local user=root
  [ -n "$mark" ] && [ -e "$HOME_OF_LAB/made" ] || return 0
  [ ! -e "/etc/sudoers.d/hardway-$stack" ] || user=$(awk '/NOPASSWD/ { print $1 }' "/etc/sudoers.d/hardway-$stack")
  mkdir -p "$ENTERED"
  mv "$HOME_OF_LAB/made" "$ENTERED/$user"
}

# users: all that the lab logs in as.
users() { [ -z "$mark" ] || ls "$ENTERED" 2>/dev/null || true; }

# write_sudoers: sudo without a password for all of them but root; no file where there is none.
write_sudoers() {
  local user rules=
  [ -n "$mark" ] || return 0
  for user in $(users); do
    # By number: a name in capitals would be an alias.
    [ "$user" = root ] || ! id -u "$user" >/dev/null 2>&1 || rules="$rules#$(id -u "$user") ALL=(ALL:ALL) NOPASSWD: ALL
"
  done
  if [ -n "$rules" ]; then
    printf '# Until the lab %s is destroyed.\n%s' "$stack" "$rules" >"$ENTERED/.sudoers"
    visudo -cqf "$ENTERED/.sudoers"
    # Whole or not at all: half a line would lock everybody out.
    install -m 0440 "$ENTERED/.sudoers" /etc/sudoers.d/.hardway-new
    mv /etc/sudoers.d/.hardway-new "$SUDOERS"
    rm "$ENTERED/.sudoers"
  else
    rm -f "$SUDOERS"
  fi
  rm -f "/etc/sudoers.d/hardway-$stack"
}

# let_in USER
let_in() {
  local home keys note group draft
  home=$(home_of "$1")
  [ -d "$home" ] || { echo "the user $1 has no home directory there" >&2; exit 1; }
  keys=$home/.ssh/authorized_keys note=$(note_of "$1") group=$(id -gn "$1")
  # Beside the note; no user's name begins with a dot.
  draft=${note%/*}/.hardway-$stack-new
  [ -z "$mark" ] || mkdir -p "$ENTERED"
  [ -e "$note" ] || {
    { [ -d "$home/.ssh" ] || echo directory; [ -e "$keys" ] || echo file; echo noted; } >"$draft"
    mv "$draft" "$note"
  }
  [ -d "$home/.ssh" ] || install -d -m 0700 -o "$1" -g "$group" "$home/.ssh"
  [ -e "$keys" ] || install -m 0600 -o "$1" -g "$group" /dev/null "$keys"
  if ! grep -qxF "$line" "$keys"; then
    # First, so that the rest stays what it was, byte for byte; in place, so that its owner and mode stay, too.
    { printf '%s\n' "$line"; cat "$keys"; } >"$draft"
    cat "$draft" >"$keys"
    rm "$draft"
  fi
  write_sudoers
}

# let_out USER: the reverse; all of it may be gone already, the user as well.
let_out() {
  local home keys note rest
  home=$(home_of "$1")
  keys=$home/.ssh/authorized_keys note=$(note_of "$1")
  if [ -n "$home" ]; then
    if [ -n "$line" ] && [ -e "$keys" ] && grep -qxF "$line" "$keys"; then
      rest=$(mktemp)
      grep -vxF "$line" "$keys" >"$rest" || true
      cat "$rest" >"$keys"
      rm "$rest"
    fi
    if grep -qsx file "$note" && [ -e "$keys" ] && [ ! -s "$keys" ]; then rm "$keys"; fi
    if grep -qsx directory "$note"; then rmdir "$home/.ssh" 2>/dev/null || true; fi
  fi
  rm -f "$note" "${note%/*}/.hardway-$stack-new"
  write_sudoers
}
