# The certificates on a machine, for `hardway certs`: it changes nothing. bash, coreutils, findutils, sed, awk.
#
# Standard input has one path a line. The answers are lines of path, place in the file and certificate (base64 of DER),
# with tabs between them; the last line is "end": without it the answers are not complete. A private key is never
# printed: only the blocks of certificates are, and the two fields of a kubeconfig that have certificates.
export LC_ALL=C

files=()
while read -r path; do [ ! -f "$path" ] || files+=("$path"); done
# What kubeadm and kubelets make by themselves.
while read -r path; do files+=("$path"); done < <(
  find /etc/kubernetes /etc/etcd/pki /var/lib/kubelet/pki -maxdepth 3 -name '*.hardway-new' -prune -o \
    \( -name '*.crt' -o -name '*.pem' -o -name '*.conf' -o -name '*.kubeconfig' \) \( -type f -o -type l \) -print 2>/dev/null
)

blocks() {
  awk -v path="$1" -v place="$2" -v OFS='\t' '
    /^-----BEGIN CERTIFICATE-----/ { inside = 1; text = ""; next }
    /^-----END CERTIFICATE-----/ { if (inside) print path, place, text; inside = 0; next }
    inside { sub(/\r$/, ""); text = text $0 }'
}

declare -A seen=()
for path in "${files[@]}"; do
  # Of links to one file the first counts: kubelet-client-current.pem, admin.kubeconfig.
  real=$(readlink -f -- "$path")
  [ -z "${seen[$real]-}" ] || continue
  seen[$real]=1
  if [ ! -r "$path" ]; then
    printf 'cannot read %s\n' "$path" >&2
    exit 1
  fi
  blocks "$path" '' <"$path"
  for field in client-certificate-data certificate-authority-data; do
    data=$(sed -n "s/^ *$field: *\"\{0,1\}\([A-Za-z0-9+\/=]*\)\"\{0,1\} *\$/\1/p" "$path")
    for each in $data; do printf %s "$each" | base64 -d 2>/dev/null | blocks "$path" "$field"; done
  done
done
echo end
