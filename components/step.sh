# The verbs of a step: what components/step.py renders its scripts in. The Host component puts replace.sh and this file on
# every machine, as one file: /usr/local/lib/hardway/step.sh. bash 5, coreutils, util-linux, systemd; curl and openssl where present.
#
# A step is idempotent: it compares before it writes, and it may be killed anywhere and run again. What it owns on the
# machine stands in its manifest, so that what a later version of it lacks is removed, and `undo` puts back what was
# there before.
set -euo pipefail
umask 022

HARDWAY=${HARDWAY:-/var/lib/hardway}
UNIT_DIRECTORY=/etc/systemd/system
MIRROR=/opt/mirror
MODULES=/proc/modules
# What every deadline is multiplied by: an emulated machine is many times slower than a real one.
TIMEOUT_FACTOR=1

# A proxy of the host's (/etc/environment) is for what is outside: the cluster's own addresses are asked directly.
declare -A PROXIED=([no_proxy]=${no_proxy-} [NO_PROXY]=${NO_PROXY-})
if [ -n "${http_proxy-}${https_proxy-}${all_proxy-}${HTTP_PROXY-}${HTTPS_PROXY-}${ALL_PROXY-}" ]; then
  export no_proxy='*' NO_PROXY='*'
fi

# outside COMMAND...: run what fetches from elsewhere, by the host's proxy where it has one.
outside() { no_proxy=${PROXIED[no_proxy]} NO_PROXY=${PROXIED[NO_PROXY]} "$@"; }

# unit -> its last run before it was restarted here, see `cannot_start`; empty for units that others restart.
declare -gA run_before=()
# What systemd knows of units, see `look_at`.
declare -gA seen=()
# "ARCHIVE-SHA256 MEMBER" -> the member's sha256, see `has_member`.
declare -gA member_sums=()
# For systemctl: nginx and haproxy bring a SysV init script, too. To enable that as well, systemctl starts a Perl program
# which has systemd re-read all units twice. Where there is a unit, systemd does not use the script.
export SYSTEMCTL_SKIP_SYSV=1

die() { printf '%s\n' "$*" >&2; exit 1; }

# take_locks STEP: for as long as this script runs. Steps share the machine's lock; a script that changes the machine
# without Pulumi (restore, drill: live/machine_lock.py) holds it alone. Of one step only one script runs at a time: a
# script whose Pulumi was killed, or whose connection broke, may still be at work, and its next run waits for its end.
take_locks() {
  local seconds=$((300 * TIMEOUT_FACTOR))
  while :; do
    exec 8>>"$HARDWAY/lock"
    flock -s -w $seconds 8 || die "$(hostname) is in use, waited $seconds s: $(cat "$HARDWAY/lock")." \
      "Wait until that has ended, then run this again"
    # The last step to be undone removes the file, and a lock on a removed file keeps no process out.
    [ ! "$HARDWAY/lock" -ef /proc/self/fd/8 ] || break
  done
  exec 9>>"$step/lock"
  flock -w $seconds 9 || die "another run of step $1 is at work on $(hostname), waited $seconds s:" \
    "$(cat "$step/lock"). Wait until it has ended, or end that process there, then run this again"
  # On a full disk the name is missing, and `undo` still makes room.
  TZ=UTC printf 'process %s%s, since %(%F %T)T UTC\n' $$ "${SSH_CONNECTION:+, started from ${SSH_CONNECTION%% *}}" \
    -1 >"$step/lock" || true
}

# begin STEP: take the locks, and read the step's secrets (lines of "PATH BASE64" on standard input).
begin() {
  started_by
  STARTED_BY=$REPLY
  step=$HARDWAY/steps/$1
  [ -d "$step/started" ] || install -d -m 0700 "$step" "$step/started"
  take_locks "$1"
  [ -e "$step/owners" ] || [ -e "$step/manifest" ] || count_owners 0
  units=() fetches=() kept=() left=() leaves=
  declare -gA owned=() elsewhere=() found_there=() above=() keeps=() secrets=() watched=() ready_check=() ready_seconds=() ready_what=()
  declare -gA reread=() valid_check=() later=() followed=() restarted_again=()
  read_manifest
  local line other
  for line in "${manifest[@]}"; do owned[$line]=1; done
  for other in "$HARDWAY"/steps/*/manifest; do
    [ "$other" != "$step/manifest" ] && [ -e "$other" ] || continue
    while IFS= read -r line; do
      case $line in "file "* | "unit "*) elsewhere[$line]=${other%/manifest} ;; esac
    done <"$other"
  done
  read_secrets
}

# read_secrets: the lines on standard input, into `secrets`. All of them are decoded by one process: AA== is the byte NUL.
read_secrets() {
  local path content number paths=() decoded=() encoded=
  while read -r path content; do paths+=("$path") encoded+=${content}AA==; done
  [ ${#paths[@]} -gt 0 ] || return 0
  mapfile -d '' -t decoded < <(base64 -d <<<"$encoded")
  [ ${#decoded[@]} = ${#paths[@]} ] || die "the secrets of the step are damaged"
  for number in "${!paths[@]}"; do secrets[${paths[number]}]=${decoded[number]}; done
}

# What steps own on a machine, as patterns: data, which are removed with all that is below them, and files.
OWN_DATA=(
  /etc/kubernetes /opt/containerd /run/containerd /run/nri /usr/libexec/kubernetes /usr/local/lib/hardway
  /var/lib/calico /var/lib/cni /var/lib/containerd /var/lib/etcd /var/lib/etcd.removed /var/lib/etcd-restore
  /var/lib/etcd-snapshots /var/lib/kubelet /var/log/calico /var/log/containers /var/log/kubeadm.log /var/log/kubernetes
  /var/log/pods /var/run/calico "$HARDWAY/artifacts" "$HARDWAY/kubectl"
)
OWN_FILES=(
  '/etc/apt/keyrings/hardway-*' '/etc/apt/sources.list.d/hardway-*' '/etc/calico/*' '/etc/cni/*' '/etc/containerd/*'
  '/etc/etcd/*' '/etc/haproxy/*' '/etc/hardway/*' '/etc/keepalived/*' '/etc/kubernetes/*' '/etc/modules-load.d/*'
  '/etc/nginx/*' '/etc/sysctl.d/*' '/etc/systemd/*' '/opt/cni/*' '/usr/local/bin/*' '/usr/local/lib/hardway/*'
  '/usr/local/sbin/*' '/var/lib/kubelet/*' '/lib/modules/*'
)

# may_own KIND PATH: whether it is a path that a step may own; other kinds are names.
may_own() {
  local pattern patterns
  case $1 in
    file) patterns=("${OWN_FILES[@]}") ;;
    data | emptied:*) patterns=("${OWN_DATA[@]}") ;;
    directory)
      for pattern in "${OWN_FILES[@]}" "${OWN_DATA[@]}"; do
        # Above what is owned, or below it.
        [[ $pattern != "$2/"* ]] || return 0
      done
      patterns=("${OWN_FILES[@]}" "${OWN_DATA[@]}" "${OWN_DATA[@]/%//*}")
      ;;
    *) return 0 ;;
  esac
  [[ "$2/" != *//* && "$2/" != */./* && "$2/" != */../* ]] || return 1
  # shellcheck disable=SC2053  # patterns
  for pattern in "${patterns[@]}"; do [[ $2 != $pattern ]] || return 0; done
  return 1
}

# read_manifest: the lines of the step's manifest, into `manifest`. A last line without its end was cut off by a full disk or
# a kill before anything was done for it. A path that no step owns is an error before anything is done: the file is damaged.
read_manifest() {
  local line wrong=()
  manifest=()
  [ -e "$step/manifest" ] || return 0
  [ -z "$(tail -c 1 "$step/manifest" | tr '\0' ' ')" ] ||
    truncate -s "-$(tail -n 1 "$step/manifest" | wc -c)" "$step/manifest"
  while IFS= read -r line; do
    manifest+=("$line")
    may_own "${line%% *}" "${line#* }" || wrong+=("$line")
  done <"$step/manifest"
  [ ${#wrong[@]} = 0 ] ||
    die "$step/manifest on $(hostname) has paths that no step of a lab owns, and nothing was changed:" \
      "$(printf '%s, ' "${wrong[@]}")remove these lines from it"
}

# own KIND PATH: note that this step made PATH, before it does, and keep what stood there. A file or unit that another
# step made is this one's from now on: between two versions of the program it may move, and steps that go are undone
# after those that come are done.
own() {
  local line="$1 $2"
  [ -n "${keeps[$line]+set}" ] || kept+=("$line")
  keeps[$line]=1
  [ -z "${owned[$line]+set}" ] || return 0
  may_own "$1" "$2" || die "a step may not own $2: OWN_DATA and OWN_FILES in components/step.sh"
  if [ "$1" = file ]; then
    local before=$2
    [ -z "${elsewhere[$line]+set}" ] || before=${elsewhere[$line]}/before$2
    [ ! -e "$step/before$2" ] || rm -f "$step/before$2"
    if [ -e "$before" ] || [ -L "$before" ]; then
      install -d "$step/before${2%/*}"
      cp -a "$before" "$step/before$2"
    fi
  fi
  printf '%s\n' "$line" >>"$step/manifest"
  owned[$line]=1
  [ -z "${elsewhere[$line]+set}" ] || disown_by "${elsewhere[$line]}" "$line"
}

# disown_by STEP LINE: take a line out of another step's manifest.
disown_by() {
  # Status 1 is that no line is left.
  grep -vxF -e "$2" "$1/manifest" >"$1/manifest.without" || [ $? = 1 ]
  mv "$1/manifest.without" "$1/manifest"
}

# parents PATH: the directories above it; those that were missing go again with the last step that uses them.
parents() {
  local path=${1%/*} ours=()
  # Once in a run: most files of a step are in a few directories.
  [ -z "${above[$path]+set}" ] || return 0
  above[$path]=1
  while [ -n "$path" ]; do
    if [ ! -d "$path" ] || made_by_steps "$path"; then ours=("$path" "${ours[@]}"); fi
    path=${path%/*}
  done
  # The outermost first: `undo` goes from the end, and only an empty directory can be removed.
  for path in "${ours[@]}"; do own directory "$path"; [ -d "$path" ] || mkdir -p "$path"; done
}

made_by_steps() {
  [ -z "${owned[directory $1]+set}" ] || return 0
  [ -z "${found_there[$1]+set}" ] || return 1
  # In one's manifest before it is made: what is there and in none will not be in any later.
  ! grep -qsxF "directory $1" "$HARDWAY"/steps/*/manifest || return 0
  found_there[$1]=1
  return 1
}

# file PATH MODE OWNER: a file with the content of standard input, written at once or not at all.
file() {
  local content
  # `read` fails at the end of the input. It takes no process, which `cat` does, and a step has many files.
  IFS= read -r -d '' content || true
  write_file "$@" "$content"
}

# write_file PATH MODE OWNER CONTENT
write_file() {
  local new=$1.hardway-new mask
  parents "$1"
  own file "$1"
  if has_content "$1" "$4"; then
    # In place: a unit's file with a new time is a changed one to systemd. The mode is last: chown clears bits of it.
    if [ "$(stat -c '%04a %U:%G' "$1")" != "$2 $3:$3" ]; then
      chown "$3:$3" "$1"
      chmod "$2" "$1"
    fi
    return
  fi
  # What a killed run has left may have another mode.
  [ ! -e "$new" ] && [ ! -L "$new" ] || rm -f "$new"
  printf -v mask '%o' $((8#666 & ~8#$2))
  umask "$mask"
  printf %s "$4" >"$new" || die "$1 cannot be written"
  umask 022
  [ "$3" = root ] && [ $EUID = 0 ] && [ -O "$new" ] && [ -G "$new" ] || chown "$3:$3" "$new"
  # umask gives no file the right to be executed.
  [ $((8#$2 & ~8#666)) = 0 ] || chmod "$2" "$new"
  case $1 in "$UNIT_DIRECTORY"/*) keep_earlier "$1" ;; esac
  mv -fT "$new" "$1"
}

# has_content PATH CONTENT: whether it is a regular file of this content.
has_content() {
  local found
  [ -f "$1" ] && [ ! -L "$1" ] || return 1
  # A byte NUL would be a delimiter, and no file of ours has one.
  ! IFS= read -r -d '' found <"$1" && [ "$found" = "$2" ]
}

# secret PATH MODE OWNER: a file whose content came as a secret.
secret() {
  [ -n "${secrets[$1]+set}" ] || die "no content came for $1"
  write_file "$@" "${secrets[$1]}"
}

# sysctls NAME=VALUE...: set now; `undo` restores the earlier values.
sysctls() {
  local setting name line
  for setting; do
    name=${setting%%=*}
    for line in "${manifest[@]}" "${kept[@]}"; do
      case $line in sysctl:*" $name") own "${line% *}" "$name"; continue 2 ;; esac
    done
    own "sysctl:$(sysctl -n "$name")" "$name"
  done
  sysctl -q -w "$@"
}

# clock_after TIME: with a clock behind the creation of the lab's CAs no certificate is valid.
clock_after() {
  [ "$(date +%s)" -ge $(($(date -d "$1" +%s) - 300)) ] ||
    die "the clock of $(hostname) says $(date -u -Is), but the lab was made at $1: set the clock"
}

# user NAME HOME: a system user without a login.
user() {
  if [ -n "${owned[user $1]+set}" ] || ! id -u "$1" >/dev/null 2>&1; then own user "$1"; fi
  ! id -u "$1" >/dev/null 2>&1 || return 0
  # A user that was removed by hand: its group, and what its programs keep, may still be there.
  local options=() id
  ! getent group "$1" >/dev/null || options+=(--gid "$1")
  if id=$(stat -c %u "$2" 2>/dev/null) && [ "$id" != 0 ] && ! getent passwd "$id" >/dev/null; then options+=(--uid "$id"); fi
  useradd --system "${options[@]}" --home-dir "$2" --no-create-home --shell /usr/sbin/nologin "$1"
}

# packages NAME...: Debian packages; those that were missing go again with the step, and so does what came with them.
packages() {
  local name line missing=()
  for line in "${manifest[@]}"; do
    case $line in "dependency "*) own dependency "${line#* }" ;; esac
  done
  for name; do [ -z "${owned[package $name]+set}" ] || own package "$name"; done
  mapfile -t missing < <(not_installed "$@")
  wait $! || exit 1
  [ ${#missing[@]} -gt 0 ] || return 0
  export DEBIAN_FRONTEND=noninteractive
  # What a killed run has left unfinished prevents the installation of every package.
  dpkg --configure -a >/dev/null 2>&1 || true
  # What was only not configured is installed now: no package source is needed for it.
  mapfile -t missing < <(not_installed "${missing[@]}")
  wait $! || exit 1
  [ ${#missing[@]} -gt 0 ] || return 0
  # A broken package source of another owner prevents only packages from it.
  local outdated=
  apt_get update || outdated=$(tail -n 20 "$step/packages.log")
  # Before they come: what a killed run has installed must be known to the next.
  while read -r name; do
    [[ " ${missing[*]} " == *" $name "* ]] || own dependency "$name"
  done < <(apt-get install -s --no-install-recommends "${missing[@]}" 2>/dev/null | awk '$1 == "Inst" && $3 ~ /^\(/ { print $2 }')
  for name in "${missing[@]}"; do own package "$name"; done
  apt_get install --no-install-recommends "${missing[@]}" ||
    die "installing ${missing[*]} failed:" "$(tail -n 20 "$step/packages.log")" \
      "${outdated:+apt-get update failed before: $outdated}"
}

# not_installed NAME...: those of the packages that are not, one a line. dpkg-query reads its whole database each time, so it
# is asked once. It ends with 1 where it does not know one of them, and with 2 where it cannot tell.
not_installed() {
  local name said status=0
  # shellcheck disable=SC2016  # fields of dpkg-query
  said=$(dpkg-query -W -f '${Package} ${Status} \n' "$@" 2>/dev/null) || status=$?
  [ $status -le 1 ] || die "dpkg-query on $(hostname) does not tell whether $* is installed (status $status)"
  for name; do [[ $'\n'$said =~ $'\n'"$name "[^$'\n']*' installed ' ]] || printf '%s\n' "$name"; done
}

installed() {
  local missing
  missing=$(not_installed "$1") || exit 1
  [ -z "$missing" ]
}

# apt waits for dpkg's lock by itself, and not for that of its lists, which a host's timers hold after a boot.
apt_get() {
  local end=$((SECONDS + 300 * TIMEOUT_FACTOR)) holder said=
  until outside apt-get -q -y -o DPkg::Lock::Timeout=$((300 * TIMEOUT_FACTOR)) "$@" >"$step/packages.log" 2>&1; do
    grep -q '^E: Could not get lock /var/lib/apt/lists/' "$step/packages.log" || return 1
    holder=$(sed -n 's/.*It is held by process \(.*\)$/process \1/p' "$step/packages.log" | head -n 1)
    [ -n "$said" ] || printf '%s: apt waits for the lock of its lists, held by %s\n' "$(hostname)" "${holder:-an unknown process}" >&2
    said=yes
    [ $SECONDS -lt "$end" ] ||
      die "the lock of apt's lists on $(hostname) is held by ${holder:-an unknown process} for more than $((300 * TIMEOUT_FACTOR)) s"
    sleep 1
  done
}

# purge NAME...: packages that the step brought, but for those that other packages need by now.
purge() {
  local name here=() plan
  for name; do ! installed "$name" || here+=("$name"); done
  [ ${#here[@]} -gt 0 ] || return 0
  export DEBIAN_FRONTEND=noninteractive
  # If apt cannot say what it would remove, nothing is removed.
  plan=$(apt-get purge -s "${here[@]}" 2>/dev/null) || plan="Remv unknown"
  while read -r name; do
    [[ " ${here[*]} " != *" $name "* ]] || continue
    # dpkg takes nothing away that is not named: what is needed stays.
    dpkg --purge "${here[@]}" >"$step/packages.log" 2>&1 || true
    return 0
  done < <(awk '$1 == "Purg" || $1 == "Remv" { print $2 }' <<<"$plan")
  apt_get -o APT::Get::AutomaticRemove=false purge "${here[@]}" || true
}

# host_name NAME: the machine's name; `undo` restores the earlier one.
host_name() {
  local line now
  for line in "${manifest[@]}"; do
    case $line in "hostname "*) own hostname "${line#* }" ;; esac
  done
  now=$(hostname)
  [ "$now" != "$1" ] || return 0
  own hostname "$now"
  hostnamectl set-hostname "$1"
}

# modules NAME...: kernel modules, loaded; those that were not go again with `undo`.
modules() {
  local name
  for name; do
    if [ -n "${owned[module $name]+set}" ] || ! grep -qs "^$name " "$MODULES"; then own module "$name"; fi
    modprobe "$name"
  done
}

# no_swap: no swap from now on; what was in use is again after `undo`.
no_swap() {
  local line device
  for line in "${manifest[@]}"; do
    case $line in "swap "*) own swap "${line#* }" ;; esac
  done
  while read -r device _; do own swap "$device"; done < <(tail -n +2 /proc/swaps)
  swapoff -a
}

# kept_sysctls NAME...: settings that the step's programs change by themselves; `undo` restores the earlier values.
kept_sysctls() {
  local name before
  for name; do
    before=$(sysctl -n "$name" 2>/dev/null) || continue
    sysctls "$name=$before"
  done
}

# sha256 FILE: its sum, in REPLY.
sha256() {
  # openssl uses the processor's SHA instructions; coreutils 9.1 does not, and is four times slower.
  read -r REPLY _ < <(if command -v openssl >/dev/null; then exec openssl dgst -sha256 -r "$1"; else exec sha256sum "$1"; fi) || true
}

# fetch URL SHA256 DESTINATION [MEMBER...]: an artifact, in the background (`fetched` waits). Without members
# DESTINATION is the file (for `fetch_now` "-" just prints where it is kept); with members (paths in a tar archive, or a folder/) it is the folder that they appear in.
fetch() {
  local url=$1 sha=$2 destination=$3
  shift 3
  [ "$#" -gt 0 ] || { parents "$destination"; own file "$destination"; }
  local member
  for member; do
    parents "$destination/x"
    own file "$destination/${member##*/}"
  done
  fetch_now "$url" "$sha" "$destination" "$@" &
  fetches+=("$!")
}

# download URL [OPTION...]: by curl, which does not by itself try again when an answer breaks off in the middle.
download() {
  local status
  for _ in 1 2 3 4 5; do
    # One that stalls ends.
    outside curl -fsSL --connect-timeout $((30 * TIMEOUT_FACTOR)) --speed-limit 1 --speed-time $((60 * TIMEOUT_FACTOR)) \
      --retry 5 --retry-connrefused "$@" && return
    status=$?
    case $status in 18 | 56) ;; *) break ;; esac
  done
  return $status
}

fetch_now() {
  local url=$1 sha=$2 destination=$3 source kept member
  shift 3
  if [ "$sha" = published ]; then
    sha=$(download "$url.sha256" | cut -c 1-64) || die "no checksum at $url.sha256"
  fi
  kept=$HARDWAY/artifacts/$sha
  if [ "${url#file://}" != "$url" ]; then
    source=${url#file://}
    [ -r "$source" ] || die "$source is not there: fill the mirror with './hardway setup'"
  else
    source=$kept/$(basename "$url")
    install -d "$kept"
    [ -e "$source" ] || download "$url" -o "$source.part" || die "cannot get $url"
    [ -e "$source" ] || mv "$source.part" "$source"
    chmod 0755 "$source"
  fi
  if [ $# -eq 0 ]; then
    check_source "$url" "$source" "$sha"
    if [ "$destination" = - ]; then echo "$source"; else link "$source" "$destination"; fi
    return
  fi
  # Of an archive whose members come from elsewhere, and are checked there, nothing is used.
  if [ -e "$kept/unpacked/.complete" ]; then
    check_source "$url" "$source" "$sha"
  elif ! copy_members "$source" "$sha" "$@"; then
    check_source "$url" "$source" "$sha"
    rm -rf "$kept/unpacked"
    install -d "$kept/unpacked"
    tar -xf "$source" -C "$kept/unpacked" --no-same-owner
    touch "$kept/unpacked/.complete"
  fi
  for member; do link "$kept/unpacked/$member" "$destination/${member##*/}"; done
}

# check_source URL FILE SHA256: end where the file has another sum; a download is removed, so that the next run gets it again.
check_source() {
  sha256 "$2"
  [ "$REPLY" != "$3" ] || return 0
  [ "${1#file://}" != "$1" ] || rm -f "$2"
  die "$1 has the sha256 $REPLY, expected $3"
}

# has_member ARCHIVE-SHA256 MEMBER SHA256: what a member of the archive is, where the mirror has it unpacked, too.
has_member() { member_sums[$1 $2]=$3; }

# copy_members ARCHIVE ARCHIVE-SHA256 MEMBER...: have members as the mirror has them unpacked, which takes a tenth of what
# unpacking does; each copy is checked. Fails if one is not known, or is not there.
copy_members() {
  local unpacked=$MIRROR/unpacked/${1#"$MIRROR/"} sha=$2 member copy
  shift 2
  for member; do [ -n "${member_sums[$sha $member]-}" ] && [ -r "$unpacked/$member" ] || return 1; done
  for member; do
    copy=$HARDWAY/artifacts/$sha/unpacked/$member
    # One that is there may be what a killed `tar` has left.
    if [ -e "$copy" ] && sha256 "$copy" && [ "$REPLY" = "${member_sums[$sha $member]}" ]; then continue; fi
    mkdir -p "${copy%/*}"
    cp "$unpacked/$member" "$copy.hardway-new"
    sha256 "$copy.hardway-new"
    [ "$REPLY" = "${member_sums[$sha $member]}" ] ||
      die "$unpacked/$member has the sha256 $REPLY, expected ${member_sums[$sha $member]}"
    mv -fT "$copy.hardway-new" "$copy"
  done
}

# hold PATH: a link to another version of a program stays as it is; another step changes it, when it is its machine's turn.
# What is no version of it, `./hardway repair` replaces.
hold() { held_links+=" $1 "; }

link() {
  [ -e "$1" ] || die "$1 is not in its archive"
  local now=
  [ ! -L "$2" ] || now=$(readlink "$2")
  if [[ "${held_links-}" == *" $2 "* ]] && [ -e "$2" ] && [ "${now##*/}" = "${1##*/}" ]; then return 0; fi
  if [ ! -e "$2" ] && [ ! -L "$2" ]; then
    ln -sn "$1" "$2"
  elif [ "$now" != "$1" ]; then
    keep_earlier "$2"
    ln -sfn "$1" "$2.hardway-new"
    mv -fT "$2.hardway-new" "$2"
  fi
  # The version before is wanted again.
  [ ! -L "$step/earlier$2" ] || [ "$(readlink "$step/earlier$2")" != "$1" ] || rm -f "$step/earlier$2"
}

# keep_earlier PATH: keep a program's link or a unit's file as it was when the step last succeeded, until it succeeds
# again: `roll_back` restores it.
keep_earlier() {
  local kept=$step/earlier$1
  [ -e "$1" ] || [ -L "$1" ] || return 0
  if [ -e "$kept" ] || [ -L "$kept" ]; then return 0; fi
  [ "$(owners_of "$step")" != 0 ] || return 0
  mkdir -p "${kept%/*}"
  cp -a "$1" "$kept.hardway-new"
  mv -fT "$kept.hardway-new" "$kept"
}

# put_back: the links and unit files from before, if there is a program of another version among them.
put_back() {
  local path
  [ -n "$(find "$step/earlier" -type l -print -quit 2>/dev/null)" ] || return 0
  while IFS= read -r path; do
    cp -a "$step/earlier$path" "$path.hardway-new"
    mv -fT "$path.hardway-new" "$path"
  done < <(find "$step/earlier" ! -type d -printf '/%P\n')
  rm -rf "$step/earlier"
}

# roll_back: where a unit does not serve with a program of another version, run the version before again.
roll_back() {
  local unit back=() broken=()
  for unit in "${!watched[@]}"; do
    [ ! -L "$step/earlier$(program_of "$unit")" ] || back+=("$unit")
  done
  [ ${#back[@]} -gt 0 ] || return 0
  put_back
  systemctl daemon-reload
  systemctl reset-failed "${back[@]}" 2>/dev/null || true
  systemctl restart --no-block "${back[@]}"
  for unit in "${back[@]}"; do
    if await "${ready_seconds[$unit]:-30}" "$(check_of "$unit")" >/dev/null; then
      fingerprint "$unit" >"$step/started/$unit"
    else
      broken+=("$unit")
    fi
  done
  if [ ${#broken[@]} = 0 ]; then
    printf 'The version before was put back on %s: %s serves again.\n' "$(hostname)" "${back[*]}" >&2
  else
    printf 'The version before was put back on %s, but %s does not serve with it either.\n' "$(hostname)" "${broken[*]}" >&2
  fi
}

# import_image URL SHA256 REFERENCE: an image archive, into containerd's store for Kubernetes.
import_image() {
  [ -z "$(ctr -n k8s.io images ls -q "name==$3" 2>/dev/null)" ] || return 0
  local archive said turn place=$HARDWAY
  if [ -n "${imports_in_turn-}" ]; then
    case $1 in file://*) place=$(dirname "${1#file://}") ;; esac
    [ -d "$place" ] || place=$HARDWAY
    exec {turn}<"$place"
    # An import is right without its turn, too: it only takes more from others.
    flock -w $((600 * TIMEOUT_FACTOR)) "$turn" || true
  fi
  archive=$(fetch_now "$1" "$2" -)
  said=$(ctr -n k8s.io images import "$archive" 2>&1) || die "importing $3 from $1 failed: $said"
  [ -z "${turn-}" ] || exec {turn}<&-
}

# import_in_turn: from here on one image at a time is imported, on this machine and on all that have the directory of the
# mirror in common, since they are on one host: many at once keep the disk from the etcd members of a cluster that serves.
import_in_turn() { imports_in_turn=yes; }

# fetched: wait until everything that `fetch` began is there.
fetched() {
  local pid failed=0
  for pid in "${fetches[@]}"; do wait "$pid" || failed=1; done
  fetches=()
  [ $failed = 0 ] || die "not all artifacts could be had"
}

# unit NAME [PATH...]: a systemd unit that is to run; restarted when its own file, its program or a PATH changed.
unit() {
  units+=("$1")
  own unit "$1"
  watched[$1]="${*:2}"
}

# reloads UNIT PATH...: files that the unit re-reads on reload; reloaded where nothing else changed.
reloads() { reread[$1]="${*:2}"; }

# valid UNIT COMMAND: the unit's files are fit to be read when COMMAND succeeds; until then it is left as it is.
valid() { valid_check[$1]=$2; }

# ready UNIT SECONDS WHAT COMMAND: the unit serves when COMMAND succeeds; WHAT says so in words.
ready() {
  ready_seconds[$1]=$2 ready_what[$1]=$3 ready_check[$1]=$4
}

# follows UNIT OTHER: it is a client of OTHER that waits longer after each refused request, up to a minute, and forgets that
# only after two minutes (client-go). Where OTHER restarts again within three minutes, UNIT restarts after it: its watches
# would stay behind for so long that the controller manager takes Nodes for lost.
follows() { followed[$1]=$2; }

# not_waited_for UNIT: started all the same; that it serves is seen by a later step.
not_waited_for() { later[$1]=yes; }

# first_run: whether the step has never succeeded on this machine.
first_run() { [ "$(owners_of "$step")" = 0 ]; }

# leave_first_start: at its first run the step starts its units of the first stage, and waits for none: the steps that come
# next prepare what is theirs meanwhile. A step after it has `start_left`, which waits, and starts the other stages.
leave_first_start() { ! first_run || leaves=maybe; }

# program_of UNIT: the path of its program; nothing where a package brings the unit.
program_of() { sed -n 's/^ExecStart=-\?\([^ ]*\).*/\1/p' "$UNIT_DIRECTORY/$1" 2>/dev/null || true; }

# What a unit's behaviour comes from; compared with what it was started from, not with what this run wrote: a run that
# was killed between writing and restarting is finished by the next.
fingerprint() {
  local path program files=() links=()
  # Not by program_of: `./hardway drift` runs this function alone.
  program=$(sed -n 's/^ExecStart=-\?\([^ ]*\).*/\1/p' "$UNIT_DIRECTORY/$1" 2>/dev/null || true)
  for path in $program ${watched[$1]}; do
    if [ -L "$path" ]; then links+=("$path"); elif [[ $path != /*bin/* ]]; then files+=("$path"); fi
  done
  {
    [ ! -e "$UNIT_DIRECTORY/$1" ] || files+=("$UNIT_DIRECTORY/$1")
    [ ${#links[@]} = 0 ] || readlink "${links[@]}"
    [ ${#files[@]} = 0 ] || cat "${files[@]}"
  } | sha256sum
}

# take_turn UNIT..., give_turn: what surrounds the restart of units that run. turn_failed WHY: one of them does not serve.
# Steps whose units must not restart on two machines at once bring their own (etcd.sh, worker_turns.sh).
# put_off UNIT: whether a later step restarts it, although it changed.
take_turn() { :; }
give_turn() { :; }
turn_failed() { :; }
put_off() { return 1; }

# any_serves UNIT...: whether the check of one of them succeeds; a unit without a check counts as serving.
any_serves() {
  local unit
  for unit; do
    [ -n "${ready_check[$unit]-}" ] || return 0
    ! (eval "${ready_check[$unit]}") >/dev/null 2>&1 || return 0
  done
  return 1
}

# What a unit last read when it was started or reloaded; compared in the same way.
last_read() {
  local path
  for path in ${reread[$1]-}; do sha256sum "$path"; done
}

# start: start the units declared since the last `start`, restart or reload those that changed, and wait until all serve.
start() {
  fetched
  [ ${#units[@]} -gt 0 ] || return 0
  if [ "$leaves" = yes ]; then left+=("${units[*]}") units=(); return; fi
  local unit restart=() reload=() running=()
  look_at "${units[@]}"
  for unit in "${units[@]}"; do
    if ! is_active "$unit" || has_to_follow "$unit" ||
      [ "$(fingerprint "$unit")" != "$(cat "$step/started/$unit" 2>/dev/null)" ]
    then
      ! put_off "$unit" || continue
      restart+=("$unit")
    elif [ "$(last_read "$unit")" != "$(cat "$step/started/$unit.read" 2>/dev/null)" ]; then
      reload+=("$unit")
    else
      continue
    fi
    fit "$unit"
  done
  for unit in "${restart[@]}"; do ! is_active "$unit" || running+=("$unit"); done
  if [ ${#running[@]} -gt 0 ]; then
    take_turn "${running[@]}"
    # That may have taken minutes.
    look_at "${restart[@]}"
  fi
  if [ ${#restart[@]} -gt 0 ]; then
    ! outdated "${restart[@]}" || systemctl daemon-reload
    systemctl -q enable --no-reload "${restart[@]}" 2>/dev/null
    for unit in "${restart[@]}"; do
      # Where it was started too often, systemd would not start it.
      [[ ${seen[$unit ActiveState]-} != failed ]] || systemctl reset-failed "$unit" 2>/dev/null || true
      note_run "$unit"
    done
    # A unit that does not serve with its new files is restarted again when the old ones are put back.
    rm -f "${restart[@]/#/$step/started/}"
    # A unit that is slow to say that it runs is waited for below, where the report shows its log.
    systemctl restart --no-block "${restart[@]}"
  fi
  # Where one of them ran before, a run that was killed has got this far.
  if [ "$leaves" = maybe ] && [ ${#restart[@]} = ${#units[@]} ] && [ ${#running[@]} = 0 ]; then
    leaves=yes left=("${units[*]}") units=()
    return
  fi
  leaves=
  for unit in "${reload[@]}"; do
    rm -f "$step/started/$unit.read"
    systemctl reload "$unit" || { printf '%s on %s cannot be reloaded\n' "$unit" "$(hostname)" >&2; show_log "$unit"; exit 1; }
  done
  for unit in "${units[@]}"; do [ -n "${later[$unit]-}" ] || serving "$unit"; done
  for unit in "${restart[@]}" "${reload[@]}"; do last_read "$unit" >"$step/started/$unit.read"; done
  for unit in "${restart[@]}"; do fingerprint "$unit" >"$step/started/$unit"; done
  for unit in "${running[@]}"; do note_restart "$unit"; done
  [ ${#running[@]} = 0 ] || give_turn
  units=()
}

# What `start_left` needs to know of the units.
LEFT=(left watched ready_check ready_seconds ready_what valid_check reread followed)

# note_left: for `start_left`, what this run leaves; nothing where it has started and seen all.
note_left() {
  if [ "$leaves" = yes ]; then
    declare -p "${LEFT[@]}" | sed 's/^declare -/declare -g/' >"$step/left.new"
    mv "$step/left.new" "$step/left"
  elif [ -e "$step/left" ]; then
    rm -f "$step/left"
  fi
}

# start_left STEP: start what the first run of another step here has left, and wait until all its units serve.
start_left() {
  local own=$step unit begun=() number
  step=$HARDWAY/steps/$1
  # Of a run whose Pulumi was killed, or of a later one.
  exec {other}>>"$step/lock"
  flock -w $((300 * TIMEOUT_FACTOR)) "$other" || die "another run of step $1 is at work on $(hostname): $(cat "$step/lock")"
  if [ -e "$step/left" ]; then
    # shellcheck source=/dev/null
    . "$step/left"
    read -r -a units <<<"${left[0]}"
    look_at "${units[@]}"
    for unit in "${units[@]}"; do
      # It runs, or systemd is at it: what it was started from has not changed since.
      [[ ! ${seen[$unit ActiveState]-} =~ ^(active|activating|reloading|refreshing)$ ]] || begun+=("$unit")
    done
    for unit in "${begun[@]}"; do
      serving "$unit"
      last_read "$unit" >"$step/started/$unit.read"
      fingerprint "$unit" >"$step/started/$unit"
    done
    start
    for ((number = 1; number < ${#left[@]}; number++)); do
      read -r -a units <<<"${left[number]}"
      start
    done
    rm -f "$step/left"
  fi
  exec {other}>&-
  step=$own
}

# note_restart UNIT: that it was restarted while it ran, and whether that was also done within the last three minutes.
note_restart() {
  local noted=$step/started/$1.restarted
  [ -z "$(find "$noted" -mmin -3 2>/dev/null)" ] || restarted_again[$1]=yes
  : >"$noted"
}

has_to_follow() {
  local other=${followed[$1]-}
  [ -n "$other" ] && [ -n "${restarted_again[$other]-}" ]
}

# look_at UNIT...: what systemd knows of them, as seen["UNIT PROPERTY"]. One question for all of them.
look_at() {
  local unit property rest=("$@")
  while IFS= read -r property; do
    # An empty line is between two units.
    if [ -z "$property" ]; then rest=("${rest[@]:1}"); continue; fi
    seen["${rest[0]} ${property%%=*}"]=${property#*=}
  done < <(systemctl show -p ActiveState -p FragmentPath -p NeedDaemonReload -p InvocationID "$@")
}

# is_active UNIT: whether it was when it was looked at.
is_active() { [[ ${seen[$1 ActiveState]-} =~ ^(active|reloading|refreshing)$ ]]; }

# outdated UNIT...: whether systemd knew a unit otherwise than it is on disk when it was looked at. One that it does not know
# is no such unit: it is read when it is started; to re-read all of them takes systemd a tenth of a second, and more on a
# busy host. A unit that another one triggers is read with that one, and not again when it is started.
outdated() {
  local unit path triggered=()
  for unit; do
    [ "${seen[$unit NeedDaemonReload]-}" = no ] || return 0
    case ${seen[$unit FragmentPath]-} in
      '' | "$UNIT_DIRECTORY/$unit") ;;
      # A package's, that nothing of ours hides.
      *) [ ! -e "$UNIT_DIRECTORY/$unit" ] || return 0 ;;
    esac
    for path in ${watched[$unit]-}; do
      case ${path#"$UNIT_DIRECTORY/"} in */*) ;; *) triggered+=("${path##*/}") ;; esac
    done
  done
  [ ${#triggered[@]} -gt 0 ] || return 1
  # Not loaded: its file was missing when systemd read it. What triggers such a unit is not started.
  [ "$(systemctl show -p LoadState -p NeedDaemonReload "${triggered[@]}" |
    grep -cx 'LoadState=loaded\|NeedDaemonReload=no')" != $((2 * ${#triggered[@]})) ]
}

# finish: drop what the step no longer has, and see that the rest runs.
finish() {
  local number line
  for ((number = ${#manifest[@]} - 1; number >= 0; number--)); do
    line=${manifest[number]}
    [ -n "${keeps[$line]+set}" ] || remove "${line%% *}" "${line#* }"
  done
  start
  { [ ${#kept[@]} = 0 ] || printf '%s\n' "${kept[@]}"; } >"$step/manifest.new"
  mv "$step/manifest.new" "$step/manifest"
  note_left
  [ ! -e "$step/earlier" ] || rm -rf "$step/earlier"
}

# succeeded WORD...: the last line of a step, with the words of its command; the last is `updated` where its resource was
# there before.
#
# Pulumi may create a step that is there already: `pulumi up --replace` creates it and then deletes the old resource, and
# `pulumi state delete` removes one from the state. So the creations that have succeeded are counted, and a deletion only
# takes one from the count while others are left. A count that is too high (a run was killed after the script, and before
# the state was written) leaves things on the machine: a container or VM is removed with them, and on an existing host
# the lab's leaving undoes them.
succeeded() {
  local owners
  # The connection was closed, as when Pulumi was killed: this success is in no state.
  started_by
  [ "$REPLY" = "$STARTED_BY" ] || return 0
  owners=$(owners_of "$step")
  if [ "${*: -1}" != updated ]; then
    count_owners $((owners + 1))
  elif [ "$owners" = 0 ]; then
    count_owners 1
  fi
}

# started_by: the process that started this script, beside sudo: sshd's, which ends with the connection. In REPLY.
started_by() {
  local pid=$$ key name
  while :; do
    while read -r key REPLY; do [ "$key" != PPid: ] || break; done <"/proc/$pid/status"
    name=
    { read -r name <"/proc/$REPLY/comm"; } 2>/dev/null || true
    [ "$name" = sudo ] || break
    pid=$REPLY
  done
}

# owners_of STEP-DIRECTORY: a step that an earlier version of the program made has no count, and one resource.
owners_of() {
  local owners=1
  [ ! -e "$1/owners" ] || read -r owners <"$1/owners" || true
  echo "$owners"
}

count_owners() {
  echo "$1" >"$step/owners.new"
  mv "$step/owners.new" "$step/owners"
}

# last_owner STEP: whether the step is to be undone with the resource that is deleted; else it has one owner less.
last_owner() {
  local step=$HARDWAY/steps/$1 owners
  sole_owner=yes
  [ -d "$step" ] || return 0
  take_locks "$1"
  owners=$(owners_of "$step")
  [ "$owners" -gt 1 ] || return 0
  count_owners $((owners - 1))
  printf 'step %s on %s has another resource in the state: nothing was removed\n' "$1" "$(hostname)"
  return 1
}

# serving UNIT: wait for the unit and for its `ready` command.
serving() {
  local why seconds=${ready_seconds[$1]:-30} status=0 since=$SECONDS left
  listens "$1" "$seconds"
  left=$((seconds - (SECONDS - since) / TIMEOUT_FACTOR))
  why=$(await $((left > 0 ? left : 0)) "$(check_of "$1")" "cannot_start $1") || status=$?
  [ $status != 0 ] || return 0
  if [ $status = 2 ]; then
    printf '%s on %s: %s\n' "$1" "$(hostname)" "$why" >&2
  else
    printf '%s on %s: %s not seen within %s s\n' \
      "$1" "$(hostname)" "${ready_what[$1]:-running}" $((seconds * TIMEOUT_FACTOR)) >&2
    [ -z "$why" ] || printf 'the last try said: %s\n' "$why" >&2
  fi
  show_log "$1"
  roll_back
  turn_failed "$1 on $(hostname) does not serve"
  exit 1
}

# listens UNIT SECONDS: wait until something listens where the unit's `ready` command sends its first request, or systemd
# says that waiting is in vain. Without processes: they would take from the unit what it needs to start.
listens() {
  local end=$((SECONDS + $2 * TIMEOUT_FACTOR)) asked=$SECONDS
  [[ ${ready_check[$1]-} =~ https?://([0-9.]+):([0-9]+)/ ]] || return 0
  local address=${BASH_REMATCH[1]} port=${BASH_REMATCH[2]}
  until { : <>"/dev/tcp/$address/$port"; } 2>/dev/null || [ $SECONDS -ge "$end" ]; do
    if [ "$asked" != $SECONDS ]; then
      asked=$SECONDS
      ! cannot_start "$1" || return 0
    fi
    nap 0.05
  done
}

# check_of UNIT: the command that succeeds while it serves.
check_of() { printf '%s' "${ready_check[$1]+${ready_check[$1]} && }systemctl -q is-active $1"; }

# cannot_start UNIT: whether waiting for the unit is in vain, and why, in `hopeless`: systemd cannot execute its program
# (exit statuses from 200 are systemd's own, as 203/EXEC and 200/CHDIR), cannot read its file, or will not try again.
# A unit that is started again each second needs two such runs: the first may still be one of the old unit file.
cannot_start() {
  local LoadState='' SubState='' Result='' ExecMainStatus='' InvocationID='' property
  while IFS= read -r property; do
    declare "$property"
  done < <(systemctl show -p LoadState -p SubState -p Result -p ExecMainStatus -p InvocationID "$1" 2>/dev/null)
  hopeless=
  case $LoadState in bad-setting | error | masked | not-found) hopeless="systemd cannot load the unit ($LoadState)" ;; esac
  if [ -z "$hopeless" ] && [ "$InvocationID" != "${run_before[$1]-}" ]; then
    if [[ $ExecMainStatus =~ ^2([0-3][0-9]|4[0-5])$ ]]; then
      hopeless="systemd cannot execute its program (status $(status_name "$ExecMainStatus"))"
      if [ "$SubState" != failed ] && [ "${failed_run-$InvocationID}" = "$InvocationID" ]; then hopeless=; fi
      failed_run=$InvocationID
    elif [ "$SubState" = failed ]; then
      hopeless="failed ($Result), and systemd does not start it again"
    fi
  fi
  [ -n "$hopeless" ]
}

# note_run UNIT: remember which run of the unit is the last one before it is restarted, when it was looked at.
note_run() { run_before[$1]=${seen[$1 InvocationID]-}; }

# status_name NUMBER: as systemd writes it, e.g. 203/EXEC.
status_name() {
  local name
  name=$(systemd-analyze exit-status "$1" 2>/dev/null | awk 'NR == 2 { print $1 }') || true
  echo "$1${name:+/$name}"
}

# fit UNIT: see that its files are valid before it has to read them.
fit() {
  local said
  said=$(eval "${valid_check[$1]:-:}" 2>&1) || die "$1 on $(hostname) is left as it is, its files are not valid: $said"
}

show_log() {
  printf 'the last lines of its log:\n' >&2
  journalctl -q -u "$1" -n 20 --no-pager -o cat >&2 || true
}

# nap SECONDS: sleep, without a process of its own: what is waited for needs the processor.
nap() {
  local status=0
  # A pipe that nobody else writes into: there is nothing to read from it, and it does not end.
  [ -n "${NAP-}" ] || exec {NAP}<> <(:)
  read -r -t "$1" -u "$NAP" || status=$?
  # More than 128 is that the time is over.
  [ $status -gt 128 ] || sleep "$1"
}

# await SECONDS COMMAND [GIVE_UP]: repeat a command until it succeeds; past the deadline fail and print what it last said.
# Where the command GIVE_UP succeeds, waiting is in vain: status 2, and what it left in `hopeless` is printed. It is asked
# once a second.
await() {
  local end=$((SECONDS + $1 * TIMEOUT_FACTOR)) said asked=$SECONDS
  until said=$(eval "$2" 2>&1); do
    if [ -n "${3-}" ] && [ "$asked" != $SECONDS ]; then
      asked=$SECONDS
      if $3; then printf '%s\n' "$hopeless"; return 2; fi
    fi
    [ $SECONDS -lt "$end" ] || { printf '%s\n' "$said" | tail -n 5; return 1; }
    nap 0.2
  done
}

# wait_for SECONDS WHAT COMMAND: await, with a report that names what did not come.
wait_for() {
  local why
  why=$(await "$1" "$3") || die "$2: not within $(($1 * TIMEOUT_FACTOR)) s on $(hostname); the last try said: $why"
}

# await_api URL CA: at the first run of a step, which comes while the API server of a new lab starts: wait until it is ready.
# A kubelet or kubectl that asks too early waits longer after each try. Without processes until something answers: many
# steps may wait, and would take from the API server what it needs to start.
await_api() {
  local seconds=$((120 * TIMEOUT_FACTOR)) address=${1#https://} why
  local end=$((SECONDS + seconds)) left
  first_run || return 0
  until keeps_connection "${address%:*}" "${address##*:}" || [ $SECONDS -ge "$end" ]; do nap 0.1; done
  left=$(((end - SECONDS) / TIMEOUT_FACTOR))
  why=$(await $((left > 0 ? left : 0)) "curl -sSf -m $((5 * TIMEOUT_FACTOR)) -o /dev/null --cacert $2 $1/readyz") ||
    die "the API at $1 was not ready within $seconds s, asked from $(hostname) ($why): a control plane's step says why"
}

# after_api_server HOST:PORT: at the first run of a step, which comes while the API server of a new lab starts: wait until it
# answers, for at most half a minute. For what nothing needs before, and what would take from it the processors that it
# starts on.
after_api_server() {
  local end=$((SECONDS + 30 * TIMEOUT_FACTOR)) left
  first_run || return 0
  until { : <>"/dev/tcp/${1/://}"; } 2>/dev/null; do
    [ $SECONDS -lt "$end" ] || return 0
    nap 0.1
  done
  # It listens long before it answers. Nothing that it says is used, so no certificate is checked.
  left=$((end - SECONDS))
  curl -sk -o /dev/null -m $((left > 0 ? left : 1)) "https://$1/livez" || true
}

# keeps_connection HOST PORT: whether the other side accepts a connection and keeps it. A load balancer without a server
# behind it closes it.
keeps_connection() {
  local connection status=0
  { exec {connection}<>"/dev/tcp/$1/$2"; } 2>/dev/null || return 1
  # A tenth of a second, multiplied as every deadline is.
  read -r -t "$((TIMEOUT_FACTOR / 10)).$((TIMEOUT_FACTOR % 10))" -u "$connection" _ || status=$?
  exec {connection}>&-
  # More than 128 is that the time is over.
  [ $status -gt 128 ]
}

# answer_of SECONDS WHAT COMMAND...: print what a query says, once it succeeds. One that fails has said nothing: that
# something is missing from a list is known only where the list could be had. In $(...): `|| exit 1`.
answer_of() {
  local end=$((SECONDS + $1 * TIMEOUT_FACTOR)) what=$2 why said
  shift 2
  why=$(mktemp)
  until said=$("$@" 2>"$why"); do
    [ $SECONDS -lt "$end" ] || die "$what cannot be had on $(hostname): $(tail -n 3 "$why"; rm -f "$why")"
    sleep 0.5
  done
  rm -f "$why"
  printf '%s\n' "$said"
}

remove() {
  case $1 in
    unit)
      # By a restore that did not finish: systemd disables no unit that is masked.
      rm -f "$UNIT_DIRECTORY.control/$2"
      rmdir "$UNIT_DIRECTORY.control" 2>/dev/null || true
      systemctl -q disable --now "$2" 2>/dev/null || true
      rm -f "$step/started/$2" "$step/started/$2.read" "$step/started/$2.restarted"
      ;;
    file)
      rm -f "$2.hardway-new"
      # Where its directory is gone, what stood in it is gone, too.
      if [ ! -d "${2%/*}/" ]; then
        return
      elif [ -e "$step/before$2" ] || [ -L "$step/before$2" ]; then
        # Beside it first: where the disk is full, what is there stays.
        cp -a "$step/before$2" "$2.hardway-new"
        mv -fT "$2.hardway-new" "$2"
      else
        rm -f "$2"
      fi
      ;;
    directory) rmdir "$2" 2>/dev/null || true ;;
    sysctl:*) sysctl -q -w "$2=${1#sysctl:}" 2>/dev/null || true ;;
    user) userdel "$2" 2>/dev/null || true ;;
    package | dependency) purge "$2" ;;
    hostname) hostnamectl set-hostname "$2" ;;
    module) modprobe -q -r "$2" 2>/dev/null || true ;;
    swap) swapon "$2" 2>/dev/null || true ;;
    data) rm -rf "$2" ;;
    emptied:*)
      # Not its target, which may have another directory's files by now.
      [ ! -L "$2" ] || { printf '%s is a symbolic link: what it leads to stays as it is\n' "$2" >&2; return 0; }
      [ -d "$2" ] || mkdir "$2"
      find "$2" -mindepth 1 -maxdepth 1 ! -name lost+found -exec rm -rf {} +
      line=${1#*:}
      chmod "${line%%:*}" "$2"
      chown "${line#*:}" "$2"
      ;;
  esac
}

# data PATH...: what the step's programs keep; goes with the step. A directory that was there before stays: one that was
# empty is emptied again, and one that was not is not the lab's.
data() {
  local path line
  for path; do
    for line in "${manifest[@]}"; do
      case $line in emptied:*" $path") own "${line% *}" "$path"; continue 2 ;; esac
    done
    if [ -n "${owned[data $path]+set}" ] || [ ! -e "$path" ]; then
      own data "$path"
    elif [ -z "$(ls -A -I lost+found "$path")" ]; then
      # A file system of its own has lost+found.
      own "emptied:$(stat -c '%a:%u:%g' "$path")" "$path"
    else
      # What has the lab's name is the lab's: this library came before any step.
      case $path in */hardway*) own data "$path" ;; esac
    fi
  done
}

reversed() { [ ${#manifest[@]} = 0 ] || printf '%s\n' "${manifest[@]}" | tac; }

# undo STEP: the reverse of all that the step did; what is already gone is no error.
undo() {
  step=$HARDWAY/steps/$1
  [ -d "$step" ] || return 0
  # The deletion of a resource that an earlier version has made.
  [ -n "${sole_owner-}" ] || last_owner "$1" || return 0
  take_locks "$1"
  local line packages=()
  read_manifest
  # Units first: a program must not write into what is being removed.
  while read -r line; do remove unit "${line#unit }"; done < <(reversed | sed -n '/^unit /p')
  # Packages together: one at a time would take a second each.
  while read -r line; do
    case $line in
      "package "* | "dependency "*) packages+=("${line#* }") ;;
      *)
        [ ${#packages[@]} = 0 ] || purge "${packages[@]}"
        packages=()
        remove "${line%% *}" "${line#* }"
        ;;
    esac
  done < <(reversed | sed '/^unit /d')
  [ ${#packages[@]} = 0 ] || purge "${packages[@]}"
  rm -rf "$step"
  ! rmdir "$HARDWAY/steps" 2>/dev/null || rm -f "$HARDWAY/lock"
  rmdir "$HARDWAY" 2>/dev/null || true
  systemctl daemon-reload
}
