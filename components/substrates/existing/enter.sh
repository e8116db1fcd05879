# Let the lab's key in, for `user`. After entry.sh; leave.sh is its reverse.
: "${user?}"
refuse_another_mark
[ -z "$mark" ] || put_mark
renew_notes
let_in "$user"
