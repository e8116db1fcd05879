# Removes the access of a new login user for whom the login failed. After entry.sh.
: "${user?}"
let_out "$user"
