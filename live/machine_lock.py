"""A machine's lock, held alone by each script that changes the machine without Pulumi: of a restore, of a drill.

Steps share the lock (`take_locks` in components/step.sh), so that no step runs beside such a script, whatever backend,
checkout or user it comes from. Nor does a second such script: where a connection broke, the first script is still at
work, and its retry waits for its end. The kernel releases the lock when its holder ends, however it ends.

Each script carries these lines itself: the library on the machine may be of an earlier version, whose steps have locks
of their own alone. These are taken, too.
"""

import os
import pwd
import socket
from shlex import quote

WAIT_SECONDS = 300
"""How long a script waits for the lock; as the steps do."""
_GRACE_SECONDS = 10

_TAKE = """set -u
hardway=/var/lib/hardway
others() {
  local lock step said
  for lock in "$hardway"/steps/*/lock; do
    [ -e "$lock" ] || continue
    step=${lock%/lock} said=$(cat "$lock")
    flock -n "$lock" true || printf 'step %s%s; ' "${step##*/}" "${said:+ ($said)}"
  done
}
refuse() {
  local holders
  holders=$(others)
  printf '%s is in use, waited %s s: %s. Wait until that has ended, then run this again.\n' \
    "$(hostname)" WAIT "${holders:-$(cat "$hardway/lock")}" >&2
  exit 75
}
while :; do
  mkdir -p "$hardway" && exec 8>>"$hardway/lock" || exit
  flock -w WAIT 8 || refuse
  [ ! "$hardway/lock" -ef /proc/self/fd/8 ] || break
done
for lock in "$hardway"/steps/*/lock; do
  [ ! -e "$lock" ] || { exec {other}<"$lock" && flock -w WAIT "$other"; } || refuse
done
printf '%s, process %s, since %s\n' HOLDER $$ "$(date -u '+%F %T UTC')" >"$hardway/lock"
"""


def alone(script: str, *, command: str, wait: float, seconds: float) -> str:
    """The script that takes a machine's lock and then runs another, which may take so many seconds.

    It ends with status 75 and the holder's name where the lock was not released in time.

    Args:
        script: a bash script.
        command: what it is part of, for those who wait: ./hardway restore.
        wait: seconds to wait for the lock.
        seconds: how long the script may run; then it is ended on the machine, also if its caller has ended.
    """
    user = pwd.getpwuid(os.geteuid()).pw_name
    holder = quote(f"{command} of {user}@{socket.gethostname()}")
    take = _TAKE.replace("WAIT", f"{wait:.0f}").replace("HOLDER", holder)
    return f"""{take}timeout --kill-after={_GRACE_SECONDS} {seconds:.0f} bash -c {quote(script)}
status=$?
case $status in
  124 | 137) printf '%s: not done within %s s, and ended\\n' "$(hostname)" {seconds:.0f} >&2 ;;
esac
exit $status
"""


def longest(*, wait: float, seconds: float) -> float:
    """How long `alone` can take, in seconds."""
    return wait + seconds + 2 * _GRACE_SECONDS
