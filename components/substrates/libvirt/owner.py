"""The owner of a lab of virtual machines: a record below /var/lib has the fingerprint of the lab's SSH key.

Whoever has another key in its state (another checkout, a moved state, another backend) must neither remove nor reuse
what has the lab's names. A program of its own (standard library only): `check` prints a refusal, with exit status 1,
where the record is another lab's and libvirt has something of these names; `take` writes the record.
"""

import argparse
import subprocess
import sys
from pathlib import Path

if not __package__:
    # Run as a program, by the host's Python: the project is not on its path, and gets no files of root.
    sys.path.insert(0, str(Path(__file__).parents[3]))
    sys.dont_write_bytecode = True

from config.whole_file import write_whole

RECORDS = "/var/lib/hardway-libvirt-labs"
"""A file for each lab of the Pulumi host: the fingerprint of its key, and the directory that made it, in one line."""


class UnknownError(Exception):
    """Whose the lab is cannot be found out; the message says why."""


def main() -> int:
    """Check whose the name is, or take it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=["check", "take"])
    parser.add_argument("--uri", required=True)
    parser.add_argument("--lab", required=True)
    parser.add_argument("--key", required=True, help="the fingerprint of the lab's key")
    parser.add_argument("--records", type=Path, default=Path(RECORDS))
    args = parser.parse_args()
    record = args.records / args.lab
    if args.action == "take":
        take(record, args.key)
        return 0
    try:
        refusal = refused(args.uri, args.lab, args.key, record)
    except UnknownError as error:
        refusal = str(error)
    if refusal:
        print(refusal, file=sys.stderr)
    return 1 if refusal else 0


def refused(uri: str, lab: str, key: str, record: Path) -> str:
    """Why the name is another lab's; nothing where it is this lab's, or free.

    Raises:
        UnknownError: libvirt does not answer, or the record is damaged.
    """
    try:
        words = record.read_text().rstrip("\n").split(" ", 1)
    except FileNotFoundError:
        return ""
    except ValueError:
        words = []
    if len(words) != 2 or not words[0].startswith("SHA256:"):
        raise UnknownError(f"The record {record} is damaged, so the owner of the lab is not known: remove the record.")
    identity, checkout = words
    if identity == key or not (found := having(uri, f"hardway-{lab}")):
        return ""
    where = "this checkout with the state that made it (.state was moved, or Pulumi uses another backend)"
    return (
        f"hardway-{lab} is another lab on the Pulumi host. libvirt has {', '.join(found)}. Its key is {identity}, "
        f"and it was made from {checkout}; the key in this state is {key}. It is neither removed nor reused. To go on, "
        f"do one of these: (a) work in {where if checkout == str(Path.cwd()) else checkout}, or destroy it from there "
        f'(`./hardway destroy -s {lab}`); (b) adopt it: bring its state here (README, "Whose lab is it?"); '
        f"(c) take another name: copy Pulumi.{lab}.yaml to Pulumi.NAME.yaml, with other ranges below lab.network; "
        f"(d) if its state is lost and the lab is not needed: remove these by virsh, and {record}"
    )


def having(uri: str, prefix: str) -> list[str]:
    """What libvirt has of a lab's names.

    Raises:
        UnknownError: it does not answer.
    """
    found = [f"the network {name}" for name in _virsh(uri, "net-list", "--all", "--name") if name == prefix]
    found += [f"the pool {name}" for name in _virsh(uri, "pool-list", "--all", "--name") if name == prefix]
    # Whose a machine is stands in its description: names of labs may begin alike.
    machines = [name for name in _virsh(uri, "list", "--all", "--name") if name.startswith(f"{prefix}-")]
    return [*found, *(f"the machine {name}" for name in machines if _virsh(uri, "desc", name) == [prefix])]


def take(record: Path, key: str) -> None:
    """Write the record, whole or not at all."""
    content = f"{key} {Path.cwd()}\n"
    if record.exists() and record.read_text() == content:
        return
    record.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    write_whole(record, content, mode=0o644, sync=True)


def forget(lab: str, key: str, records: str = RECORDS) -> str:
    """The shell line that removes the record of a lab that is no more, where it is still that lab's."""
    record = f"{records}/{lab}"
    return (
        f"owner=''; [ ! -e {record} ] || read -r owner rest <{record} || true; "
        f"[ \"$owner\" != '{key}' ] || as_root rm -f {record}"
    )


def _virsh(uri: str, *command: str) -> list[str]:
    """The words that virsh prints."""
    try:
        done = subprocess.run(
            ["virsh", "-q", "-c", uri, *command], capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnknownError(f"virsh does not answer: {error}") from error
    if done.returncode != 0:
        raise UnknownError(f"libvirt at {uri} does not answer: {done.stderr.strip()}")
    return done.stdout.split()


if __name__ == "__main__":
    sys.exit(main())
