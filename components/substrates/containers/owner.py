"""Whose lab has a name on the Pulumi host: the one whose SSH key opens its machines.

The fingerprint of that key is the lab's identity. Its public key is in every container; a record below /var/lib keeps
the identity for all that has the lab's name: network, containers, firewall rules, boot unit. Whoever has another key in
its state (another checkout, a moved state, another backend) must neither remove nor reuse any of it.

A program of its own (standard library only), and a module of the preflight. It prints what is another lab's, with exit
status 1; else it can write the record. Labs made before there were records are recognised by the key in their
containers.
"""

import argparse
import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

if not __package__:
    # Run as a program, by the host's Python: the project is not on its path, and gets no files of root.
    sys.path.insert(0, str(Path(__file__).parents[3]))
    sys.dont_write_bytecode = True

from config.fingerprint import fingerprint
from config.ssh_comment import identity_of
from config.whole_file import write_whole

RECORDS = "/var/lib/hardway-labs"
"""A file for each lab of the Pulumi host: identity, container engine, and the directory that made it, in one line."""
IDENTITY = "HARDWAY_IDENTITY"
"""The environment variable by which commands of the container host get the identity of their state's lab."""
REMOVES = "# removes "
"""How scripts begin that remove something: they look at the owner themselves, see `owners_interpreter`."""

_ENGINES = ("podman", "docker")
_KEYS = "/root/.ssh/authorized_keys"
# Questions to an engine. Each takes a tenth of a second, and the machines of an `up` wait for the answers.
_AT_ONCE = 4
# Made, and never started: a run was killed before the container had its keys.
_HALF_MADE = ("created", "configured", "initialized")


class UnknownError(Exception):
    """An engine does not answer; the message says what it says."""


@dataclass(frozen=True)
class Lab:
    """One lab, as the state of this checkout has it.

    Args:
        name: of the stack.
        engine: podman or docker.
        key: its public SSH key, as OpenSSH writes it; empty where the state has none.
        containers: the names that its machines have, or will have.
        begun: whether the state says that its preflight has passed before.
        in_use: whether the key is the one that opens the machines now, which after a rotation is not the first.
        records: the directory of the records.
    """

    name: str
    engine: str
    key: str
    containers: tuple[str, ...] = ()
    begun: bool = False
    in_use: bool = False
    records: Path = Path(RECORDS)

    @property
    def prefix(self) -> str:
        """What the names of all that is made begin with."""
        return f"hardway-{self.name}"

    @property
    def record(self) -> Path:
        """The file with the identity."""
        return self.records / self.name


@dataclass(frozen=True)
class Record:
    """What a record says.

    Args:
        identity: the fingerprint of the lab's key.
        engine: its container engine.
        checkout: the directory that it was made from.
    """

    identity: str
    engine: str
    checkout: str


@dataclass(frozen=True)
class Found:
    """What an engine has of a lab's name.

    Args:
        engine: which.
        containers: their names.
        network: whether it has the network.
    """

    engine: str
    containers: tuple[str, ...]
    network: bool

    def __bool__(self) -> bool:
        return bool(self.containers or self.network)

    def __str__(self) -> str:
        parts = [f"the containers {', '.join(self.containers)}"] if self.containers else []
        return " and ".join([*parts, *(["the network"] if self.network else [])])


def main() -> int:
    """Print what is another lab's, or take the name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lab", required=True)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--key", default="")
    parser.add_argument("--take", action="store_true", help="record that the name is this lab's, where it is")
    parser.add_argument("--begun", action="store_true")
    parser.add_argument("--in-use", action="store_true", help="the key is that which opens the machines now")
    parser.add_argument("--records", type=Path, default=Path(RECORDS))
    args = parser.parse_args()
    lab = Lab(
        name=args.lab, engine=args.engine, key=args.key, begun=args.begun, in_use=args.in_use, records=args.records
    )
    try:
        found = list(problems(lab))
    except UnknownError as error:
        found = [str(error)]
    for problem in found:
        print(problem)
    if args.take and not found:
        take(lab)
    return 1 if found else 0


def identity(line: str) -> str:
    """Whose lab a line of authorized_keys is; empty for what is no key.

    A rotation writes the identity, which is the fingerprint of the lab's first key, behind the key
    (components/ssh_keys.py).
    """
    found = fingerprint(line)
    return found and (identity_of(line) or found)


def problems(lab: Lab) -> Iterator[str]:
    """What has the lab's name and is not the lab's, with what to do.

    Raises:
        UnknownError: an engine does not answer.
    """
    record, mine = read(lab.record), fingerprint(lab.key)
    if record is not None and record.identity != mine and record.engine != lab.engine:
        # Where nothing is left of it, the name is free.
        theirs = _found(lab, record.engine)
        if theirs:
            yield _refusal(lab, theirs, record.identity, record)
            return
    found = _found(lab, lab.engine)
    with ThreadPoolExecutor(_AT_ONCE) as asked:
        copied = asked.map(lambda name: _keys_of(lab.engine, name, in_use=lab.in_use), found.containers)
        keys = dict(zip(found.containers, copied, strict=True))
    others = sorted({identities[0] for identities in keys.values() if identities and mine not in identities})
    if others:
        yield _refusal(lab, found, " and ".join(others), record)
    elif found and not _is_mine(lab, keys, record):
        yield _refusal(lab, found, record.identity if record else "unknown", record)


def _is_mine(lab: Lab, keys: dict[str, list[str]], record: Record | None) -> bool:
    """Whether all of a lab is that of this state, where none of its containers has another's key."""
    if not lab.key:
        return False
    if record is not None and record.identity == fingerprint(lab.key):
        return True
    without = [name for name, identities in keys.items() if not identities]
    if record is not None or not lab.begun:
        return bool(keys) and not without
    # A run of an earlier version was killed: right after it had made the network, or a container.
    return all(_status(lab.engine, name) in _HALF_MADE for name in without)


def take(lab: Lab) -> None:
    """Write the record, whole or not at all."""
    content = f"{fingerprint(lab.key)} {lab.engine} {Path.cwd()}\n"
    if lab.record.exists() and lab.record.read_text() == content:
        return
    while True:
        lab.records.mkdir(mode=0o755, parents=True, exist_ok=True)
        try:
            write_whole(lab.record, content, mode=0o644, sync=True)
        except FileNotFoundError:
            # The end of the Pulumi host's last lab has removed the directory.
            continue
        break


def read(file: Path) -> Record | None:
    """What a record says; None where there is none.

    Raises:
        UnknownError: it is damaged.
    """
    try:
        words = file.read_text().rstrip("\n").split(" ", 2)
    except FileNotFoundError:
        return None
    except ValueError:
        words = []
    if len(words) != 3 or not words[0].startswith("SHA256:") or words[1] not in _ENGINES:
        raise UnknownError(
            f"the record {file} is damaged, which hides whose lab that is: remove it, and the lab is "
            "recognised by the key in its containers"
        )
    return Record(*words)


def _refusal(lab: Lab, found: Found, identity: str, record: Record | None) -> str:
    checkout = record.checkout if record and record.identity == identity else ""
    where = checkout or "the checkout that made it"
    if checkout == str(Path.cwd()):
        where = "this checkout with the state that made it (.state was moved, or Pulumi uses another backend)"
    podman = found.engine == "podman"
    remove = " && ".join(
        [
            *([f"{found.engine} rm -f -v {' '.join(found.containers)}"] if found.containers else []),
            *([f"{found.engine} network rm {'-f ' if podman else ''}{lab.prefix}"] if found.network else []),
        ]
    )
    return (
        f"{lab.prefix} is another lab on the Pulumi host. {found.engine} has {found}. Its key is {identity}"
        f"{f', and it was made from {checkout}' if checkout else ''}; the key in this state is "
        f"{fingerprint(lab.key) or 'not there'}. "
        "It is neither removed nor reused. To go on, do one of these: "
        f"(a) work in {where}, or destroy it from there (`./hardway destroy -s {lab.name}`); "
        '(b) adopt it: bring its state here (README, "Whose lab is it?"); '
        f"(c) take another name: copy Pulumi.{lab.name}.yaml to Pulumi.NAME.yaml, with other ranges below lab.network; "
        f"(d) if its state is lost and the lab is not needed: `{remove}`"
    )


def _found(lab: Lab, engine: str) -> Found:
    if shutil.which(engine) is None:
        return Found(engine, (), network=False)
    with ThreadPoolExecutor(_AT_ONCE) as asked:
        labelled, all_names, networks = asked.map(
            lambda words: _ask(engine, *words).split(),
            (
                ("ps", "-a", "--filter", f"label=hardway.lab={lab.name}", "--format", "{{.Names}}"),
                ("ps", "-a", "--format", "{{.Names}}"),
                ("network", "ls", "--format", "{{.Name}}"),
            ),
        )
    named = set(all_names) & set(lab.containers)
    return Found(engine, tuple(sorted({*labelled, *named})), network=lab.prefix in networks)


def _keys_of(engine: str, container: str, *, in_use: bool = False) -> list[str]:
    """The identities of the keys that open a container, which need not run; none where it has no such file.

    Args:
        engine: which.
        container: its name.
        in_use: also the fingerprints of the keys themselves.
    """
    copied = subprocess.run([engine, "cp", f"{container}:{_KEYS}", "-"], capture_output=True, check=False, timeout=60)
    if copied.returncode != 0:
        return []
    try:
        with tarfile.open(fileobj=io.BytesIO(copied.stdout)) as archive:
            files = [archive.extractfile(member) for member in archive if member.isfile()]
            text = "".join(file.read().decode(errors="replace") for file in files if file)
    except tarfile.TarError:
        return []
    lines = text.splitlines()
    return [found for found in (*map(identity, lines), *(map(fingerprint, lines) if in_use else ())) if found]


def _status(engine: str, container: str) -> str:
    return _ask(engine, "inspect", "-f", "{{.State.Status}}", container).strip()


def _ask(*command: str) -> str:
    """What an engine answers.

    Raises:
        UnknownError: nothing.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnknownError(f"{command[0]} does not answer: {error}") from error
    if done.returncode != 0:
        raise UnknownError(f"{command[0]} does not work or is not permitted: {done.stderr.strip()}")
    return done.stdout


def owners_interpreter(lab: str, records: str = RECORDS, *, title: str = "", first: Sequence[str] = ()) -> list[str]:
    """The interpreter of commands that make something of a lab's name: they run for the recorded lab only.

    It is no part of the command: another text of that would replace the machines of labs that run. What such a command
    finds of the lab's name it removes, since a run that was killed may have left it. It needs the variable `IDENTITY`.

    Args:
        lab: the stack's name.
        records: the directory of the records.
        title: of the script that makes something; others, as updates, have another first line.
        first: the shell lines that run before that script.
    """
    lines = [
        # $0 is the command. What removes something decides by itself.
        f'case $0 in "{REMOVES}"*) exec /bin/bash -c "$0" ;; esac',
        *(("newline=$'\\n'",) if first else ()),
        owner_of(lab, records),
        f'if [ "${{owner:-none}}" = "${IDENTITY}" ]; then',
        *((f'if [ "${{0%%$newline*}}" = {quote(f"# {title}")} ]; then', *first, "fi") if first else ()),
        'exec /bin/bash -c "$0"; fi',
        # Another text of these lines would update every network and container of the labs that run.
        f'echo "Refused: on this host the name hardway-{lab} is not the lab of this state, whose key is ${IDENTITY};'
        f' {records}/{lab} has ${{owner:-no key}} ${{rest#* }}." >&2',
        f'echo "\\`make up STACK={lab}\\` marks a lab that lost its record, and says how to go on with another." >&2',
        "exit 1",
    ]
    return ["/bin/bash", "-c", "\n".join(lines)]


def of_owner(removal: str, lab: str, records: str = RECORDS) -> str:
    """A script that removes something of a lab's name; it ends, without an error, where that is another lab's by now.

    It needs the variable `IDENTITY`.

    Args:
        removal: the script, with its title in its first line.
        lab: the stack's name.
        records: the directory of the records.
    """
    title, rest = removal.split("\n", 1)
    said = f"hardway-{lab} is not the lab of this state, {records}/{lab} has ${{owner:-no key}}: left as it is."
    check = f'[ "${{owner:-none}}" = "${IDENTITY}" ] || {{ echo "{said}"; exit 0; }}'
    return "\n".join([title, owner_of(lab, records), check, rest])


def owner_of(lab: str, records: str = RECORDS) -> str:
    """The shell line that sets `owner` to the recorded identity, empty where there is none, and `rest` to the rest."""
    return f"owner='' rest=''; [ ! -e {records}/{lab} ] || read -r owner rest <{records}/{lab} || true"


if __name__ == "__main__":
    sys.exit(main())
