"""The one way to change a machine: a step, rendered to one idempotent and reversible remote command.

The script is written in the verbs of `step.sh`, which the Host component puts on every machine. It is sent on standard
input, and what is secret is sent after it: the provider repeats the whole command line of a command that fails, so the
command line only names the step. What is not secret stands in the script, so that `pulumi preview --diff` shows a
changed flag as a changed line. Where secrets make the whole input secret, a resource of its own shows the script.
"""

import base64
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from shlex import quote
from typing import Any

import pulumi
from pulumi_command import remote

from components.machine import Machine
from config.artifacts import Artifact, ArtifactSource
from config.machine_paths import LIBRARY

_END = "END-OF-FILE"
_OPENING = "{\n"
_CLOSING = "}; exit # What follows is input of the script.\n"


@dataclass(frozen=True, kw_only=True)
class File:
    """A file on the machine.

    Args:
        path: absolute.
        content: all of it; a final line feed is added where there is none.
        mode: octal digits, as chmod takes them.
        owner: user and group of this one name.
        secret: whether the content is kept out of scripts, logs and plain state.
    """

    path: str
    content: pulumi.Input[str]
    mode: str = "0644"
    owner: str = "root"
    secret: bool = False


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A systemd unit that is to run.

    Args:
        name: with its suffix: etcd.service.
        content: the unit file; None for a unit that a package brings.
        restarts_on: the paths of files that it reads only when it starts.
        reloads_on: the paths of files that it re-reads on reload: if only they changed, it is reloaded.
        valid: a shell command that succeeds if the unit's files are fit to be read; while it fails, the unit is left
            as it is.
        ready: a shell command that succeeds once the unit serves.
        ready_means: what that shows, in words, for the report of a unit that does not come up.
        ready_seconds: how long that may take.
        stage: units of one stage are started together, once those of the stages before serve.
        follows: the unit of an earlier stage whose client it is: where that restarts repeatedly, it restarts, too.
    """

    name: str
    content: str | None = None
    restarts_on: Sequence[str] = ()
    reloads_on: Sequence[str] = ()
    valid: str | None = None
    ready: str | None = None
    ready_means: str = "running"
    ready_seconds: int = 60
    stage: int = 1
    follows: str = ""


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """An artifact on the machine.

    Args:
        artifact: what, and its checksum.
        destination: the file; with members, the directory that they appear in.
        members: paths inside a tar archive.
        sums: member -> its sha256, of those that the mirror also has unpacked: the machine copies them.
    """

    artifact: Artifact
    destination: str
    members: Sequence[str] = ()
    sums: Mapping[str, str] = field(default_factory=dict)


def fetch_kubernetes(artifacts: ArtifactSource, arch: str, *programs: str) -> list[Fetch]:
    """Programs of Kubernetes, on the machine's path."""
    return [
        Fetch(
            artifact=artifacts.artifact("kubernetes", arch=arch, artifact=program),
            destination=f"/usr/local/bin/{program}",
        )
        for program in programs
    ]


@dataclass(frozen=True, kw_only=True)
class StepArgs:
    """What a step does to its machine, in this order: prepare, fetches, files, before_start, units (by stages), run.

    Args:
        machine: where.
        name: what the machine knows the step by; of its own on each machine.
        prepare: shell lines before anything else (packages, users, directories).
        fetches: artifacts.
        files: files; removed again when a later version of the step lacks them.
        before_start: shell lines once artifacts and files are there.
        units: systemd units, each waited for until it serves.
        run: shell lines after the units serve; must be idempotent.
        brings: the step library itself (step.sh), for the first step of a machine, which has no secrets.
        undo: shell lines before the step's files and units are removed; must succeed if all is gone already.
        prints_secrets: whether what `run` prints is kept out of logs and plain state.
        leaves_first_start: at its first run on a machine it only starts the units of the first stage; another step has
            `start_left NAME`, which waits for them, and starts the rest.
    """

    machine: Machine
    name: str
    prepare: str = ""
    fetches: Sequence[Fetch] = ()
    files: Sequence[File] = ()
    before_start: pulumi.Input[str] = ""
    units: Sequence[Unit] = ()
    run: pulumi.Input[str] = ""
    undo: str = ""
    brings: str | None = None
    prints_secrets: bool = False
    leaves_first_start: bool = False


class Step(remote.Command):
    """One piece of work on one machine, as one resource; its stdout is what `run` printed.

    See docs/architecture.md, "Steps".
    """

    def __init__(self, name: str, args: StepArgs, opts: pulumi.ResourceOptions) -> None:
        contents = {file.path: file.content for file in args.files}
        secret_paths = [file.path for file in args.files if file.secret]
        # Only the paths' own contents go where they belong: one secret among all of them must not hide the script.
        plain = pulumi.Output.all(**{path: contents[path] for path in contents if path not in secret_paths})
        script = pulumi.Output.all(plain, args.machine.identity, args.before_start, args.run).apply(
            lambda known: render(args, contents=known[0], identity=known[1], before_start=known[2], run=known[3])
        )
        secret = bool(secret_paths) or args.prints_secrets
        more: pulumi.Input[str] = _packed(args.brings) if args.brings else ""
        if secret_paths:
            more = _secrets({path: contents[path] for path in secret_paths})
            _Script(name, script, opts.parent)
        super().__init__(
            name,
            connection=args.machine.connection,
            create=args.machine.reads_script(f"{args.name} on {args.machine.name}"),
            # Another command: a step counts the resources that created it (`succeeded` in step.sh).
            update=args.machine.reads_script(f"{args.name} on {args.machine.name}, updated"),
            delete=args.machine.as_root(render_undo(args)),
            stdin=pulumi.Output.all(script, more).apply(lambda known: sent(*known)),
            logging=remote.Logging.NONE if secret else None,
            # sshd takes no environment from us, and the earlier output is of no use to the script.
            add_previous_output_in_env=False,
            opts=pulumi.ResourceOptions.merge(
                opts,
                pulumi.ResourceOptions(
                    deleted_with=args.machine.resource,
                    additional_secret_outputs=["stdout", "stderr"] if secret else None,
                ),
            ),
        )


class _Script(pulumi.ComponentResource):
    """The script of a step with secrets, where previews and the state show it."""

    def __init__(self, name: str, script: pulumi.Input[str], parent: pulumi.Resource | None) -> None:
        super().__init__("hardway:index:Script", name, {"script": script}, pulumi.ResourceOptions(parent=parent))
        self.register_outputs({})


def sent(script: str, more: str) -> str:
    """What a step's bash reads: the script in braces, and after it what the script finds on standard input.

    bash runs what is in braces when it has read all of it: nothing of a script that was cut short is run.
    """
    return f"{_OPENING}{script}{_CLOSING}{more}"


def read_by_bash(args: StepArgs, *, contents: Mapping[str, str], identity: str, before_start: str, run: str) -> str:
    """All that a step's bash reads, secrets included, of plain values.

    Args:
        args: the step.
        contents: path -> content, of all its files whose content is known; the others are left out.
        identity, before_start, run: as `render` takes them.
    """
    files = [file for file in args.files if file.path in contents]
    plain = {file.path: contents[file.path] for file in files if not file.secret}
    secret = {file.path: contents[file.path] for file in files if file.secret}
    script = render(replace(args, files=files), contents=plain, identity=identity, before_start=before_start, run=run)
    return sent(script, _packed(args.brings) if args.brings else _secret_lines(secret))


def render(args: StepArgs, *, contents: Mapping[str, str], identity: str, before_start: str, run: str) -> str:
    """The script of a step.

    Args:
        args: the step.
        contents: path -> content, of the files that are not secret.
        identity: of the machine.
        before_start, run: the lines of the arguments of these names.

    Raises:
        ValueError: a file holds the line that ends its content in the script.
    """
    parts = [f"# {args.name} on {args.machine.name} ({identity[:12]})"]
    parts += [_BRING] if args.brings else []
    parts += [f". {LIBRARY}"]
    parts += [f"TIMEOUT_FACTOR={args.machine.timeout_factor}"] if args.machine.timeout_factor > 1 else []
    parts += [f"begin {args.name}"]
    parts += ["leave_first_start"] if args.leaves_first_start else []
    parts += [args.prepare] if args.prepare else []
    parts += [_fetch(fetch) for fetch in args.fetches]
    parts += [_file(file, contents) for file in args.files]
    parts += [_file(unit_file(unit), {}) for unit in args.units if unit.content is not None]
    parts += ["fetched", before_start] if before_start else []
    for stage in sorted({unit.stage for unit in args.units}):
        parts += [_unit(unit) for unit in args.units if unit.stage == stage]
        parts.append("start")
    parts.append("finish")
    parts += [run] if run else []
    parts.append('succeeded "$@"')
    return "\n".join(parts) + "\n"


_SAME_LIBRARY = (
    f"[ ! -L {LIBRARY} ] && [ \"$(stat -c '%a %U:%G' {LIBRARY} 2>/dev/null)\" = '644 root:root' ] && "
    f'cmp -s <(printf %s "${{library%.}}") {LIBRARY}'
)
# A repair of another file must not write this one. The dot keeps the line ends that `$(...)` would drop.
_BRING = (
    f"library=$(base64 -d | gzip -dc && echo .) && {{ {_SAME_LIBRARY} || "
    f'printf %s "${{library%.}}" | install -D -m 0644 /dev/stdin {LIBRARY}; }}'
)


def render_undo(args: StepArgs) -> str:
    """The script that takes a step back."""
    # Without the library the machine has been cleaned already, or recreated.
    parts = [
        f"[ -e {LIBRARY} ] || exit 0",
        f". {LIBRARY}",
        f"last_owner {args.name} || exit 0",
        *([args.undo] if args.undo else []),
        f"undo {args.name}",
    ]
    return "\n".join(parts) + "\n"


def _fetch(fetch: Fetch) -> str:
    sha256 = fetch.artifact.sha256
    lines = [
        f"has_member {sha256} {quote(member)} {fetch.sums[member]}" for member in fetch.members if member in fetch.sums
    ]
    words = ["fetch", quote(fetch.artifact.url), sha256, fetch.destination, *map(quote, fetch.members)]
    return "\n".join([*lines, " ".join(words)])


def _file(file: File, contents: Mapping[str, str]) -> str:
    at = f"{quote(file.path)} {file.mode} {file.owner}"
    if file.secret:
        return f"secret {at}"
    content = contents.get(file.path, file.content)
    if not isinstance(content, str):
        raise TypeError(f"the content of {file.path} is not known")
    if _END in content.splitlines():
        raise ValueError(f"{file.path} holds the line {_END}, which ends it in the script")
    return f"file {at} <<'{_END}'\n{content.rstrip(chr(10))}\n{_END}"


def unit_file(unit: Unit) -> File:
    """The file of a unit that no package brings; root's alone, as CIS wants it."""
    return File(path=f"/etc/systemd/system/{unit.name}", content=unit.content or "", mode="0600")


def _unit(unit: Unit) -> str:
    lines = [" ".join(["unit", unit.name, *unit.restarts_on])]
    if unit.reloads_on:
        lines.append(" ".join(["reloads", unit.name, *unit.reloads_on]))
    if unit.follows:
        lines.append(f"follows {unit.name} {unit.follows}")
    if unit.valid:
        lines.append(f"valid {unit.name} {quote(unit.valid)}")
    if unit.ready:
        lines.append(f"ready {unit.name} {unit.ready_seconds} {quote(unit.ready_means)} {quote(unit.ready)}")
    return "\n".join(lines)


def _secrets(contents: Mapping[str, pulumi.Input[str]]) -> pulumi.Output[str]:
    return pulumi.Output.secret(pulumi.Output.all(**contents).apply(_secret_lines))


def _secret_lines(known: Mapping[str, Any]) -> str:
    return "".join(f"{path} {base64.b64encode(content.encode()).decode()}\n" for path, content in sorted(known.items()))


def without_comments(script: str) -> str:
    """A shell script without its lines of comments.

    For those that each machine gets: the state has them twice for each, and the engine writes the whole state when a
    step begins and when it ends (docs/scale.md, "What grows in the program").
    """
    return "".join(line for line in script.splitlines(keepends=True) if not line.lstrip().startswith("#"))


def _packed(library: str) -> str:
    """By gzip, in base64: it is in the state twice for each machine, and the engine writes that some 300 times."""
    return base64.b64encode(gzip.compress(library.encode(), mtime=0)).decode()
