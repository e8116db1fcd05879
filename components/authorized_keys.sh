# Which SSH keys of the lab open a machine: a script for the Pulumi host. components/authorized_keys.py puts before it:
# machine, host, seconds, files (on the machine), wanted (their lines, the key in use first), first (the lab's first public
# key), comment (the last word of the lab's other lines), and the function `login KEY COMMAND`. Private keys come on
# standard input: those of `wanted`, in their order, then the first key. It may be killed anywhere and run again.
: "${machine?}" "${host?}" "${seconds?}" "${files?}" "${wanted?}" "${first?}" "${comment?}"
set -euo pipefail
umask 077
keys=$(mktemp -d)
trap 'rm -rf "$keys"' EXIT
# A file for each: 1, 2 ...
awk -v keys="$keys" '/^-----BEGIN/ { file = keys "/" (++count) } file != "" { print >file }'

# write_keys add|only: on the machine, the wanted lines first; with `only` without other lines of the lab. Lines that are
# not the lab's stay.
write_keys() {
  local file
  for file in $files; do
    [ -e "$file" ] || [ "$file" = "${files##* }" ] || continue
    mkdir -p "${file%/*}"
    [ -e "$file" ] || : >"$file"
    {
      printf '%s\n' "$wanted"
      how=$1 wanted=$wanted first=$first comment=$comment awk '
        BEGIN { count = split(ENVIRON["wanted"], lines, "\n"); while (count) is_wanted[lines[count--]] }
        $0 in is_wanted { next }
        ENVIRON["how"] == "only" && ($1 " " $2 == ENVIRON["first"] || NF && $NF == ENVIRON["comment"]) { next }
        { print }' "$file"
    } >"$file.hardway-new"
    if ! cmp -s "$file.hardway-new" "$file"; then
      chmod --reference="$file" "$file.hardway-new"
      sync "$file.hardway-new"
      mv -fT "$file.hardway-new" "$file"
    fi
    rm -f "$file.hardway-new"
  done
}

# put KEY add|only: the same from here.
put() {
  {
    declare -p files wanted first comment
    declare -f write_keys
    printf 'set -eu\numask 077\nwrite_keys %s\n' "$2"
  } | login "$1" 'bash -s'
}

deadline=$((SECONDS + seconds)) opened=''
while [ -z "$opened" ]; do
  for key in "$keys"/*; do
    if said=$(put "${key##*/}" add 2>&1); then opened=${key##*/} && break; fi
  done
  [ -z "$opened" ] || break
  if [ $SECONDS -ge $deadline ]; then
    echo "$machine ($host) accepts no SSH key of the lab after $seconds s; ssh said last: $said" >&2
    exit 1
  fi
  sleep 0.5
done
# Before anything is removed.
for ((number = 1; number <= $(wc -l <<<"$wanted"); number++)); do
  [ "$number" != "$opened" ] || continue
  said=$(login "$number" true </dev/null 2>&1) || {
    echo "$machine ($host) does not accept an SSH key that is in ${files##* } there, and the key from before stays:" \
      "sshd reads another file, or refuses it (AuthorizedKeysFile and AuthorizedKeysCommand). ssh said: $said" >&2
    exit 1
  }
done
put 1 only
