"""What etcd's members say of themselves, asked by a command on the Pulumi host before a machine goes.

Shell text for the guard of the quorum (quorum.py): `can_ask`, whether members can be asked, and `state_of MACHINE`,
which prints `healthy`, `none` where a machine has no data of etcd, or neither: it does not answer, or is not healthy.
"""

from pathlib import Path
from shlex import quote

_HEALTH = Path(__file__).with_name("etcd_health.sh")
_DATA = ("/var/lib/etcd/member", "/var/lib/etcd-restore", "/etc/etcd/was-a-member")
_CONNECT_SECONDS = 10
ANSWER_SECONDS = 30
"""How long one machine may take to answer; times `timeout_factor`."""

COUNT = """count_healthy() {
  healthy=0 silent='' data=''
  for machine in $1; do
    state=$(state_of $machine)
    [ "$state" = none ] || data=yes
    case " $2 " in *" $machine "*) continue ;; esac
    if [ "$state" = healthy ]; then healthy=$((healthy + 1)); else silent="$silent $machine"; fi
  done
}"""
"""The function `count_healthy MEMBERS GONE`, for sh. Of the members that stay, `healthy` is how many are healthy, and
`silent` names the others. `data` is empty where no member has any: what the lab was to be has failed, and nothing is
lost with it.
"""


def question(timeout_factor: int) -> str:
    """The lines, for root's bash on a machine, that print its member's state."""
    return "\n".join(
        [
            f"TIMEOUT_FACTOR={timeout_factor}",
            " && ".join(f"[ ! -e {path} ]" for path in _DATA) + " && echo none && exit",
            _HEALTH.read_text().rstrip(),
            "! member_is_healthy || echo healthy",
        ]
    )


def asked_by_ssh(lab: str, timeout_factor: int) -> str:
    """The functions, for machines that the files of `.state/<stack>` lead to.

    A checkout without these files, which shares the state with another one, cannot ask.

    Args:
        lab: the stack's name.
        timeout_factor: what deadlines are multiplied by.
    """
    directory = f".state/{lab}"
    ask = question(timeout_factor)
    as_root = "\n".join([f'[ "$(id -u)" = 0 ] || exec sudo -n bash -c {quote(ask)}', ask])
    # By bash, whatever the login shell is.
    command = f"bash -c {quote(as_root)}"
    return "\n".join(
        [
            f"can_ask() {{ [ -e {directory}/ssh_config ] && [ -e {directory}/ssh_key ]; }}",
            "state_of() {",
            f"  timeout {ANSWER_SECONDS * timeout_factor} ssh -F {directory}/ssh_config -i {directory}/ssh_key "
            f'-o BatchMode=yes -o ConnectTimeout={_CONNECT_SECONDS * timeout_factor} "$1" {quote(command)} || true',
            # Standard input may be the script itself.
            "} </dev/null 2>/dev/null",
        ]
    )
