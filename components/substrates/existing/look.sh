# Whether the lab's steps have been at work there already, and whether it logs in as `user`. After entry.sh; changes nothing.
: "${user?}"
refuse_another_mark
[ ! -d "$HOME_OF_LAB/steps" ] || echo steps
[ ! -e "$ENTERED/$user" ] || echo entered
