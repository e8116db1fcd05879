# What is on a machine, for `hardway drift`: it changes nothing. bash, coreutils, iproute2, systemd.
#
# Standard input has one question a line: its kind, and then words. The answers are lines with tabs between the fields;
# the last line is "end": without it the answers are not complete. No content of a file is printed, but for the host
# table's block: only checksums. The functions fingerprint and last_read of the step library come before these lines.
# shellcheck disable=SC2034  # theirs: UNIT_DIRECTORY, watched, reread
export LC_ALL=C
UNIT_DIRECTORY=/etc/systemd/system
HARDWAY=/var/lib/hardway
declare -A watched=() reread=() step_of=()
paths=() hashed=() units=() triggered=() sysctls=() packages=() modules=() users=() links=() archives=() due=() notes=() routes='' hosts='' swap='' table=''

while read -r kind first rest; do
  case $kind in
    path) paths+=("$first") ;;
    hash) paths+=("$first"); hashed+=("$first") ;;
    link) links+=("$first") ;;
    members) archives+=("$first $rest") ;;
    unit) units+=("$first"); step_of[$first]=$rest ;;
    watches) watched[$first]=$rest ;;
    triggers) triggered+=("$first") ;;
    rereads) reread[$first]=$rest ;;
    due) due+=("$first $rest") ;;
    sysctl) sysctls+=("$first") ;;
    package) packages+=("$first") ;;
    module) modules+=("$first") ;;
    user) users+=("$first") ;;
    routes) routes=$first ;;
    hosts) hosts=$first ;;
    swap) swap=yes ;;
    table) table=$first ;;
  esac
done

# sha256 PATH...: lines of checksum and path. openssl uses the processor's SHA instructions, coreutils 9.1 does not.
sha256() {
  if command -v openssl >/dev/null; then openssl dgst -sha256 -r -- "$@"; else sha256sum -b -- "$@"; fi 2>/dev/null |
    sed -nE 's/^([0-9a-f]{64}) \*(.*)$/hash\t\2\t\1/p'
}

regular=()
for path in "${hashed[@]}"; do [ ! -f "$path" ] || regular+=("$path"); done
# read_members ARCHIVE MEMBER...: what an archive has, in one pass; some archives have a "./" before each name.
read_members() {
  local archive=$1
  shift
  # shellcheck disable=SC2016  # of the shell that tar starts for each member
  tar -xf "$archive" --to-command='
    printf "packed\t%s\t%s\t%s\n" "$TAR_ARCHIVE" "${TAR_FILENAME#./}" \
      "$(if command -v openssl >/dev/null; then openssl dgst -sha256 -r; else sha256sum; fi | cut -c 1-64)"
  ' -- "$@" "${@/#/./}" 2>/dev/null
}
# Side by side, and each by a pipe of its own: their lines must not be mixed.
exec {hashes}< <([ ${#regular[@]} = 0 ] || sha256 "${regular[@]}")
# shellcheck disable=SC2086  # the words of one archive
exec {members}< <(for words in "${archives[@]}"; do read_members $words; done)

[ ${#paths[@]} = 0 ] || stat -c $'path\t%n\t%F\t%a\t%U\t%G\t%.9Z\t%i:%s:%.9Z' -- "${paths[@]}" 2>/dev/null
# What is no link has an empty target.
[ ${#links[@]} = 0 ] || find "${links[@]}" -maxdepth 0 -printf 'link\t%p\t%l\n' 2>/dev/null

if [ ${#units[@]} -gt 0 ]; then
  systemctl show --timestamp=us+utc -p Id,LoadState,ActiveState,NeedDaemonReload \
    -p StateChangeTimestamp,ActiveEnterTimestamp,ExecMainStartTimestamp "${units[@]}" "${triggered[@]}" | sed 's/^/unit\t/; s/=/\t/'
  # Of the disk: what systemd remembers may be older than `enable --no-reload`. One line for each, but for those of which
  # it only says on standard error that they have no file.
  mapfile -t enabled < <(systemctl is-enabled "${units[@]}" 2>/dev/null)
  for index in "${!units[@]}"; do
    unit=${units[index]}
    if [ ${#enabled[@]} = ${#units[@]} ]; then printf 'enabled\t%s\t%s\n' "$unit" "${enabled[index]}"
    else printf 'enabled\t%s\t%s\n' "$unit" "$(systemctl is-enabled "$unit" 2>/dev/null)"; fi
    [ -n "${step_of[$unit]}" ] || continue
    started=$HARDWAY/steps/${step_of[$unit]}/started/$unit
    notes+=("$started" "$started.read")
    { noted=$(<"$started"); noted_read=$(<"$started.read"); } 2>/dev/null
    same=no
    [ "$(fingerprint "$unit" 2>/dev/null)" != "$noted" ] ||
      [ "$(last_read "$unit" 2>/dev/null)" != "$noted_read" ] || same=yes
    printf 'started\t%s\t%s\n' "$unit" $same
  done
  [ ${#notes[@]} = 0 ] || stat -c $'noted\t%n\t%.9Y' -- "${notes[@]}" 2>/dev/null
fi

# A repair notes what it still has to restart.
for words in "${due[@]}"; do
  [ ! -e "$HARDWAY/steps/${words#* }/due/${words%% *}" ] || printf 'due\t%s\n' "${words%% *}"
done
for name in "${sysctls[@]}"; do
  { value=$(<"/proc/sys/${name//.//}"); } 2>/dev/null && printf 'sysctl\t%s\t%s\n' "$name" "$value"
done
[ ${#packages[@]} = 0 ] || dpkg-query -W -f 'package\t${Package}\t${db:Status-Status}\n' "${packages[@]}" 2>/dev/null
for name in "${modules[@]}"; do
  [ ! -e "/sys/module/${name//-/_}" ] || printf 'module\t%s\n' "$name"
done
for name in "${users[@]}"; do
  ! id -u "$name" >/dev/null 2>&1 || printf 'user\t%s\n' "$name"
done
printf 'host_name\t%s\n' "$(hostname)"
[ -z "$swap" ] || tail -n +2 /proc/swaps | while read -r device _; do printf 'swap\t%s\n' "$device"; done
if [ -n "$hosts" ]; then
  sed -n "/^# BEGIN $hosts\$/,/^# END $hosts\$/{/^# /d; s/^/host\t/; p}" /etc/hosts
fi
if [ -n "$routes" ]; then ip -4 -o route show proto "$routes" | sed 's/^/route\t/'; fi
if [ -n "$table" ]; then
  # shellcheck disable=SC2016  # the inner shell's argument
  # What the file makes in a network namespace of its own, and what the kernel has.
  wanted=$(unshare --net bash -c 'nft -f "$1" && nft list table ip hardway' - "$table" 2>/dev/null)
  same=no
  [ "$wanted" != "$(nft list table ip hardway 2>/dev/null)" ] || same=yes
  printf 'table\t%s\n' $same
fi
cat <&"$hashes"
cat <&"$members"
echo end
