# How the content of a user's file is replaced: authorized_keys, /etc/hosts. The file has its old content or its new
# content, whenever the disk is full or the process is killed. Part of the library of the steps, where it comes before
# step.sh, and of the scripts of hosts/. bash, coreutils, diffutils.
#
# A file is replaced in three calls: `settle` completes what a killed run began, `draft` writes the new content beside the
# file, `replace` renames it. A mounted file (container engines mount /etc/hosts) cannot be renamed: it is written in
# place, while a verified copy of the old content is beside it.

# settle PATH: print the path with its symbolic links resolved, and complete a replacement that was interrupted there.
settle() {
  local path
  path=$(readlink -f "$1") || { printf '%s: its directory does not exist\n' "$1" >&2; return 1; }
  if [ -e "$path.hardway-old" ] && half_written "$path" "$path.hardway-old" "$path.hardway-new"; then
    write_over "$path" "$path.hardway-new" || return 1
  fi
  # The copy first: without it there is nothing to complete.
  rm -f "$path.hardway-old" "$path.hardway-old-part" && rm -f "$path.hardway-new" && printf '%s\n' "$path"
}

# draft PATH: standard input into PATH.hardway-new, on disk, with the owner, mode and attributes of PATH.
draft() {
  local new=$1.hardway-new
  if rm -f "$new" && (umask 077 && set -o noclobber && cat >"$new") && draft_attributes "$1" "$new" && sync "$new"; then
    return
  fi
  rm -f "$new"
  return 1
}

draft_attributes() {
  if [ -e "$1" ]; then cp -a --attributes-only "$1" "$2" && touch "$2"; else chmod 0644 "$2"; fi
}

# replace PATH: the draft becomes the content; the same content is not written again.
replace() {
  local new=$1.hardway-new
  if cmp -s "$new" "$1"; then
    rm -f "$new"
  elif is_mounted "$1"; then
    replace_in_place "$1"
  else
    mv -fT "$new" "$1" || { rm -f "$new"; return 1; }
  fi
}

is_mounted() { path=$1 awk '$5 == ENVIRON["path"] { found = 1 } END { exit !found }' /proc/self/mountinfo; }

replace_in_place() {
  local new=$1.hardway-new old=$1.hardway-old part=$1.hardway-old-part
  { cp -a --remove-destination "$1" "$part" && cmp -s "$1" "$part" && sync "$part" && mv -fT "$part" "$old"; } ||
    { rm -f "$part" "$new"; printf '%s: no copy of it could be made, and it is unchanged\n' "$1" >&2; return 1; }
  if write_over "$1" "$new"; then
    rm -f "$old" && rm -f "$new"
  else
    # write_over changes nothing where there is no room.
    ! cmp -s "$1" "$old" || rm -f "$old" "$new"
    printf '%s could not be written\n' "$1" >&2
    return 1
  fi
}

# write_over PATH NEW: write NEW into PATH. PATH is never shorter than the shorter of the two: it is extended by line feeds
# before anything is overwritten, so that a full disk is seen then.
write_over() {
  local has wants
  has=$(stat -c %s "$1") && wants=$(stat -c %s "$2") || return 1
  if [ "$wants" -gt "$has" ]; then
    head -c $((wants - has)) /dev/zero | tr '\0' '\n' >>"$1" && [ "$(stat -c %s "$1")" -ge "$wants" ] ||
      { truncate -s "$has" "$1"; return 1; }
  fi
  dd if="$2" of="$1" bs=1M conv=notrunc,fsync status=none && truncate -s "$wants" "$1" && cmp -s "$1" "$2"
}

# half_written PATH OLD NEW: whether PATH is what write_over leaves when it is killed: it begins as NEW, and goes on as OLD
# and line feeds. Any other content is another program's: an engine writes /etc/hosts again when it starts a container.
half_written() {
  local size same
  [ -e "$1" ] && [ -e "$3" ] && ! cmp -s "$1" "$3" || return 1
  size=$(stat -c %s "$1")
  same=$(LC_ALL=C cmp "$1" "$3" 2>/dev/null | sed -n 's/.* \(byte\|char\) \([0-9]*\),.*/\2/p')
  # One of the two ends before they differ.
  [ -n "$same" ] || same=$(($(stat -c '%s' "$1" "$3" | sort -n | head -n 1) + 1))
  tail -c "+$same" "$1" | cmp -s - <({ cat "$2"; head -c "$size" /dev/zero | tr '\0' '\n'; } | head -c "$size" | tail -c "+$same")
}

# put_block PATH MARK: a block of lines between two marks in a user's file; standard input is its content. It comes first,
# so that the rest of the file is byte for byte what it was, then and when the block is removed.
put_block() {
  local path
  path=$(settle "$1") || return 1
  { printf '# BEGIN %s\n%s\n# END %s\n' "$2" "$(cat)" "$2" && without_block "$path" "$2"; } | draft "$path" || return 1
  replace "$path"
}

# drop_block PATH MARK: the reverse.
drop_block() {
  local path
  [ -e "$1" ] || return 0
  path=$(settle "$1") || return 1
  without_block "$path" "$2" | draft "$path" || return 1
  replace "$path"
}

# without_block PATH MARK: the lines outside of the block. A block without its end is not removed: what follows its first
# line may be the user's.
without_block() {
  local blocks
  [ -e "$1" ] || return 0
  blocks=$(LC_ALL=C awk -v file="$1" -v mark="$2" '
    $0 == "# BEGIN " mark { first = NR }
    $0 == "# END " mark && first { printf "%d,%dd;", first, NR; first = 0 }
    END {
      if (first) printf "%s: line %d, \"# BEGIN %s\", has no end: remove the lines of that block by hand\n", \
        file, first, mark >"/dev/stderr"
    }' "$1") || return 1
  LC_ALL=C sed "$blocks" "$1"
}
