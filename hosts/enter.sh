# Let the lab's key in. Before it stand: user, stack, mark (nothing on a jumpbox, where only a way is opened) and line,
# which is for the user's authorized_keys. May be killed anywhere and run again; leave.sh is its reverse.
: "${user?}" "${stack?}" "${mark?}" "${line?}"
set -eu
umask 077
home=$(getent passwd "$user" | cut -d : -f 6)
keys=$home/.ssh/authorized_keys
# What was not there before goes again.
made=$home/.hardway-$stack
[ -z "$mark" ] || made=/var/lib/hardway/made

if [ -n "$mark" ]; then
  [ ! -e /var/lib/hardway/lab ] || [ "$(cat /var/lib/hardway/lab)" = "$mark" ] ||
    { echo "it is part of the lab $(cut -d ' ' -f 1 /var/lib/hardway/lab) already" >&2; exit 1; }
  install -d -m 0755 /var/lib/hardway
  printf '%s\n' "$mark" >/var/lib/hardway/lab
  chmod 0644 /var/lib/hardway/lab
fi
[ -e "$made" ] || {
  { [ -d "$home/.ssh" ] || echo directory; [ -e "$keys" ] || echo file; echo noted; } >"$made.new"
  mv "$made.new" "$made"
}
group=$(id -gn "$user")
[ -d "$home/.ssh" ] || install -d -m 0700 -o "$user" -g "$group" "$home/.ssh"
[ -e "$keys" ] || install -m 0600 -o "$user" -g "$group" /dev/null "$keys"
if ! grep -qxF "$line" "$keys"; then
  # First, so that the rest stays what it was, byte for byte; in place, so that its owner and mode stay, too.
  { printf '%s\n' "$line"; cat "$keys"; } >"$made.keys"
  cat "$made.keys" >"$keys"
  rm "$made.keys"
fi
if [ -n "$mark" ] && [ "$user" != root ] && [ ! -e "/etc/sudoers.d/hardway-$stack" ]; then
  printf '# Until the lab %s is destroyed.\n%s ALL=(ALL:ALL) NOPASSWD: ALL\n' "$stack" "$user" >"$made.sudo"
  visudo -cqf "$made.sudo"
  # Whole or not at all: half a line would lock everybody out.
  install -m 0440 "$made.sudo" /etc/sudoers.d/.hardway-new
  mv /etc/sudoers.d/.hardway-new "/etc/sudoers.d/hardway-$stack"
  rm "$made.sudo"
fi
