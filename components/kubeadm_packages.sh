# The verbs of machines that have kubelet, kubeadm and kubectl by apt. Sourced after step.sh;
# /usr/local/lib/hardway/kubeadm_packages.sh on these machines.

# upstream_packages URL FINGERPRINT VERSION CNI NAME...: packages of a repository that one key signs, at one version and held
# there, whatever the repository has besides and the machine has by now. CNI is the version of the lab's CNI plugins.
upstream_packages() {
  local url=$1 fingerprint=$2 version=$3 cni=$4 name line here theirs held hold wanted=()
  local keyring=/etc/apt/keyrings/hardway-kubernetes.asc list=/etc/apt/sources.list.d/hardway-kubernetes.list
  local -A replaced=()
  shift 4
  # What a killed run has left unfinished prevents the installation of every package.
  dpkg --configure -a >/dev/null 2>&1 || true
  packages gpg
  repository_key "$url" "$fingerprint"
  file "$keyring" 0644 root <"$step/Release.key"
  # apt refuses to read one repository by two keyrings: where an administrator has it already, that one is used.
  theirs=$(grep -rlsE --exclude="${list##*/}" "^[^#]*$url/?( |\$)" /etc/apt/sources.list /etc/apt/sources.list.d | head -n 1) || true
  if [ -n "$theirs" ]; then rm -f "$list"; else file "$list" 0644 root <<<"deb [signed-by=$keyring] $url/ /"; fi
  # shellcheck disable=SC2154  # step.sh's
  for line in "${manifest[@]}"; do
    case $line in "replaced:"*) replaced[${line#* }]=${line% *} ;; esac
  done
  lab_plugins "$cni"
  held=$(apt-mark showhold)
  for name; do
    # A hold from before; recorded before the installation, which removes it.
    hold=hold
    [ -z "${owned[held $name]+set}" ] || hold=held
    [ -n "${owned[hold $name]+set}" ] || ! grep -qxF "$name" <<<"$held" || hold=held
    own "$hold" "$name"
    here=$(version_of "$name")
    if [ -z "$here" ] || [ -n "${owned[package $name]+set}" ]; then
      own package "$name"
    elif [ -n "${replaced[$name]+set}" ] || [[ $here != "$version"-* ]]; then
      own "${replaced[$name]:-replaced:$here}" "$name"
    fi
    [[ $here == "$version"-* ]] || wanted+=("$name=$version-*")
  done
  if [ ${#wanted[@]} -gt 0 ]; then
    # This list alone: what the packages need of Debian's has been there since the first step.
    apt_get -o Dir::Etc::SourceList="${theirs:-$list}" -o Dir::Etc::SourceParts=/dev/null -o APT::Get::List-Cleanup=0 update ||
      die "apt-get update failed:" "$(tail -n 20 "$step/packages.log")"
    while read -r name; do
      [[ " $* " == *" $name "* ]] || own dependency "$name"
    done < <(install_as_told -s "${wanted[@]}" && awk '$1 == "Inst" && $3 ~ /^\(/ { print $2 }' "$step/packages.log")
    install_as_told "${wanted[@]}" || die "installing ${wanted[*]} failed:" "$(tail -n 20 "$step/packages.log")"
  fi
  apt-mark hold "$@" >/dev/null
}

# repository_key URL FINGERPRINT: put what signs a repository into the step's directory, once it is seen to be that one key.
repository_key() {
  local home=$step/gnupg found
  download "$1/Release.key" -o "$step/Release.key" || die "cannot get $1/Release.key"
  install -d -m 0700 "$home"
  # A second key in the file would be trusted as well.
  found=$(gpg --homedir "$home" --batch --show-keys --with-colons "$step/Release.key" 2>/dev/null |
    awk -F : '$1 == "pub" { new = 1 } $1 == "fpr" && new { print $10; new = 0 }' | paste -sd ' ') || true
  rm -rf "$home"
  [ "$found" = "$2" ] || die "$1 is signed by the key ${found:-?}, expected $2: nothing of it is installed"
}

# lab_plugins VERSION: a package without files that says that the lab's CNI plugins are there. The kubelet's depends on
# upstream's, which would write over them, and take them away when it goes.
lab_plugins() {
  local name=hardway-cni-plugins draft=$step/cni-plugins
  [ -z "${owned[package $name]+set}" ] || own package "$name"
  [ "$(version_of "$name")" != "$1" ] || return 0
  install -d "$draft/DEBIAN"
  printf '%s\n' "Package: $name" "Version: $1" "Provides: kubernetes-cni (= $1)" 'Architecture: all' \
    'Maintainer: nobody <nobody@hardway.invalid>' 'Description: the CNI plugins of a lab, which are no package' \
    >"$draft/DEBIAN/control"
  dpkg-deb --root-owner-group -b "$draft" "$draft.deb" >/dev/null
  own package "$name"
  install_as_told "$draft.deb" || die "installing $name failed:" "$(tail -n 20 "$step/packages.log")"
  rm -r "$draft" "$draft.deb"
}

version_of() { ! installed "$1" || dpkg-query -W -f '${Version}' "$1"; }

install_as_told() { apt_get --no-install-recommends --allow-downgrades --allow-change-held-packages install "$@"; }

# release_packages: what is held for the lab no longer is, so that it can go; what was there in another version is so again.
release_packages() {
  local step=$HARDWAY/steps/kubeadm name version
  [ -e "$step/manifest" ] || return 0
  sed -n 's/^hold //p' "$step/manifest" | xargs -r apt-mark unhold >/dev/null 2>&1 || true
  while read -r version name; do
    install_as_told "$name=$version" || printf '%s\n' "$name $version cannot be had any more: it stays as it is" >&2
    ! grep -qxF "held $name" "$step/manifest" || apt-mark hold "$name" >/dev/null
  done < <(sed -n 's/^replaced://p' "$step/manifest")
}
