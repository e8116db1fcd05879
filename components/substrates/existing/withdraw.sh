# A user whom the lab was to log in as from now on, and could not. After entry.sh.
: "${user?}"
let_out "$user"
