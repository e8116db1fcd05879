# What enter.sh and leave.sh are made of. Before it stand: stack, mark (empty on a jumpbox, where only a way is opened)
# and line, which is for a user's authorized_keys; once the key was rotated there may be several lines of it, former is
# the line of the lab's first key, and comment is the last word of its other lines; then components/replace.sh. Everything
# may be killed anywhere and run again.
: "${stack?}" "${mark?}" "${line?}" "${former?}" "${comment?}"
set -euo pipefail
umask 077
HOME_OF_LAB=/var/lib/hardway
# A file for each user that the lab logs in as, with what was not there before and goes again.
ENTERED=$HOME_OF_LAB/entered
# The last rule that matches counts, and sudo reads the files by their names; it ignores names with a dot.
SUDOERS=/etc/sudoers.d/zzz-hardway-$stack

# Nothing for a user that does not exist.
home_of() { getent passwd "$1" | cut -d : -f 6 || true; }

# mark_is: ours, another (lab's), absent, or damaged: cut short, or missing where there are notes or steps.
mark_is() {
  local found
  if [ -e "$HOME_OF_LAB/lab" ]; then
    found=$(tr -d '\0' <"$HOME_OF_LAB/lab")
    if [ "$found" = "$mark" ]; then
      echo ours
    elif [[ $mark != "$found"* && $found =~ ^[^[:space:]]+\ SHA256:[A-Za-z0-9+/]+\ [^[:space:]]+$ ]]; then
      echo another
    else
      echo damaged
    fi
  elif [ -d "$HOME_OF_LAB/steps" ] || [ -n "$(users)" ]; then
    echo damaged
  else
    echo absent
  fi
}

# damaged_mark: what is said of one.
damaged_mark() {
  local found=missing
  [ ! -e "$HOME_OF_LAB/lab" ] || found="'$(tr -dc '[:print:]' <"$HOME_OF_LAB/lab" | cut -c -80)'"
  echo "the mark $HOME_OF_LAB/lab, which names the lab of the host, is damaged: $found"
}

refuse_another_mark() {
  local found
  [ -n "$mark" ] || return 0
  found=$(mark_is)
  case $found in
    another) echo "it is part of the lab $(cut -d ' ' -f 1 "$HOME_OF_LAB/lab") already" >&2; exit 1 ;;
    damaged)
      { damaged_mark; echo "If the host belongs to the lab $stack, write it again: echo '$mark' >$HOME_OF_LAB/lab"; } >&2
      exit 1
      ;;
  esac
}

# put_mark: whose the host is. Renamed when it is on disk: an incomplete mark has no owner.
put_mark() {
  install -d -m 0755 "$HOME_OF_LAB"
  printf '%s\n' "$mark" >"$HOME_OF_LAB/lab.new"
  chmod 0644 "$HOME_OF_LAB/lab.new"
  sync "$HOME_OF_LAB/lab.new"
  mv -fT "$HOME_OF_LAB/lab.new" "$HOME_OF_LAB/lab"
}

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
    sync "$ENTERED/.sudoers"
    visudo -cqf "$ENTERED/.sudoers"
    # Whole or not at all: an incomplete line would lock out all users.
    install -m 0440 "$ENTERED/.sudoers" /etc/sudoers.d/.hardway-new
    mv /etc/sudoers.d/.hardway-new "$SUDOERS"
    rm "$ENTERED/.sudoers"
  else
    rm -f "$SUDOERS" /etc/sudoers.d/.hardway-new "$ENTERED/.sudoers"
  fi
  rm -f "/etc/sudoers.d/hardway-$stack"
}

# lab_lines FILE: NUMBER:LINE of each line of the lab in it. A file that cannot be read is an error, and no answer.
lab_lines() {
  [ -n "$line" ] && [ -e "$1" ] || return 0
  line=$line former=$former comment=$comment awk '
    BEGIN {
      count = split(ENVIRON["line"] "\n" ENVIRON["former"], lines, "\n")
      for (; count; count--) if (lines[count] != "") is_of_lab[lines[count]]
    }
    $0 in is_of_lab || ENVIRON["comment"] != "" && $NF == ENVIRON["comment"] { print NR ":" $0 }' "$1"
}

# deletions LINES: what `lab_lines` has printed, as a script for sed.
deletions() { cut -d : -f 1 -s <<<"$1" | sed 's/$/d/'; }

# let_in USER
let_in() {
  local home keys note group draft found
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
  keys=$(settle "$keys")
  found=$(lab_lines "$keys")
  if [ "$(cut -d : -f 2- <<<"$found")" != "$line" ]; then
    # First, so that the rest stays what it was, byte for byte.
    { printf '%s\n' "$line" && sed "$(deletions "$found")" "$keys"; } | draft "$keys"
    replace "$keys"
  fi
  write_sudoers
}

# let_out USER: the reverse; all of it may be gone already, the user as well.
let_out() {
  local home keys note found
  home=$(home_of "$1")
  keys=$home/.ssh/authorized_keys note=$(note_of "$1")
  if [ -d "$home/.ssh" ]; then
    keys=$(settle "$keys")
    found=$(lab_lines "$keys")
    if [ -n "$found" ]; then
      sed "$(deletions "$found")" "$keys" | draft "$keys"
      replace "$keys"
    fi
    if grep -qsx file "$note" && [ -e "$keys" ] && [ ! -s "$keys" ]; then rm "$keys"; fi
    if grep -qsx directory "$note"; then rmdir "$home/.ssh" 2>/dev/null || true; fi
  fi
  rm -f "$note" "${note%/*}/.hardway-$stack-new"
  write_sudoers
}
