"""The lab's kubeconfig beside those of other clusters: merged into the user's file, and removed from it again.

The entries are called `hardway-<stack>`. An entry of that name is this lab's if it has the lab's CA; only such entries
are replaced or removed. Everything else in the file stays as it is written, comments too.
"""

import base64
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from config.whole_file import write_whole
from toolchain import access
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

_KINDS = {"clusters": "cluster", "users": "user", "contexts": "context"}
"""The lists of a kubeconfig -> what an entry holds beside its name."""
_RECORD = "kubeconfigs"
"""In the lab's directory: the files that it was merged into, one a line."""
_LOCK_SECONDS = 10.0


def context(stack: Stack) -> str:
    """What a lab's cluster, user and context are called."""
    return f"hardway-{stack.name}"


def text(stack: Stack) -> str:
    """The lab's kubeconfig by itself, with the names that it has beside others.

    Raises:
        ToolchainError: the lab is not up.
    """
    own = _own(stack)
    document = {"apiVersion": "v1", "kind": "Config", **{kind: [own[kind]] for kind in _KINDS}}
    return yaml.safe_dump({**document, "current-context": context(stack)}, sort_keys=False)


def merge(stack: Stack) -> Path:
    """Put the lab's cluster, user and context into the user's kubeconfig, and make the context the current one.

    Returns:
        The file: of those in KUBECONFIG the first that exists, else the last; without KUBECONFIG ~/.kube/config.

    Raises:
        ToolchainError: the lab is not up; the file is no kubeconfig or is locked; it has entries of this name that are
            another cluster's. Nothing was changed then.
    """
    own, file = _own(stack), _file()
    if (missing := _first_missing(file.parent)) is not None:
        file.parent.mkdir(mode=0o700, parents=True)
        _give(missing, missing.parent.stat())
    with _locked(file):
        document = _read(file)
        if foreign := _foreign(document, stack, own):
            raise ToolchainError(
                f"{file} has {context(stack)} as the name of another cluster's {' and '.join(foreign)}. Nothing was "
                "changed. If they are of no use any more, remove them: "
                + "; ".join(f"kubectl config --kubeconfig={file} delete-{one} {context(stack)}" for one in foreign)
            )
        # First: a file that is changed and not recorded would keep its entries for ever.
        _record(stack, file)
        _write(file, _changed(_text(file), document, context(stack), own, current=context(stack)))
    return file


def forget(stack: Stack, own: Mapping[str, Any] | None) -> list[str]:
    """Remove the entries of a lab that is destroyed from every file that it was merged into.

    Args:
        stack: the lab.
        own: its entries, as `entries` gave them before; None where it had none.

    Returns:
        A sentence for each file that could not be changed.
    """
    if own is None:
        return []
    problems = []
    for file in map(Path, (stack.directory / _RECORD).read_text().splitlines()):
        try:
            _forget(stack, own, file)
        except (ToolchainError, OSError) as error:
            problems.append(f"The entries {context(stack)} stay in {file}: {error}")
    return problems


def entries(stack: Stack) -> Mapping[str, Any] | None:
    """The lab's own entries; None where they are in no other file, or are damaged."""
    if not (stack.directory / _RECORD).exists():
        return None
    try:
        return _own(stack)
    except ToolchainError:
        return None


def _forget(stack: Stack, own: Mapping[str, Any], file: Path) -> None:
    if not file.exists():
        return
    with _locked(file):
        document, name = _read(file), context(stack)
        found = {kind: _entry(document, kind, name) for kind in _KINDS}
        mine = {kind for kind, entry in found.items() if entry is not None and kind != "contexts"}
        mine -= {f"{one}s" for one in _foreign(document, stack, own)}
        # A context is the lab's if all that it refers to is, or is gone.
        if found["contexts"] is not None and _refers_to(found["contexts"], name):
            others = {kind for kind in ("clusters", "users") if found[kind] is not None} - mine
            mine |= set() if others else {"contexts"}
        if not mine:
            return
        was_current = "contexts" in mine and _plain(_value(document, "current-context")) == name
        changes = {kind: None for kind in _KINDS if kind in mine}
        _write(file, _changed(_text(file), document, name, changes, current="" if was_current else None))


def _foreign(document: yaml.MappingNode, stack: Stack, own: Mapping[str, Any]) -> list[str]:
    """Which of `cluster`, `user` and `context` the file has by the lab's name although they are not the lab's."""
    name = context(stack)
    authority = own["clusters"]["cluster"]["certificate-authority-data"]
    found = {kind: _entry(document, kind, name) for kind in _KINDS}
    foreign = []
    cluster = found["clusters"]
    if cluster is not None and _field(cluster, "cluster", "certificate-authority-data") != authority:
        foreign.append("cluster")
    user = found["users"]
    if user is not None and not _is_signed_by(_field(user, "user", "client-certificate-data"), authority):
        foreign.append("user")
    if found["contexts"] is not None and not _refers_to(found["contexts"], name):
        foreign.append("context")
    return foreign


def _refers_to(entry: yaml.MappingNode, name: str) -> bool:
    return {_field(entry, "context", "cluster"), _field(entry, "context", "user")} == {name}


def _is_signed_by(certificate: Any, authority: str) -> bool:
    """Whether a client certificate is one of the CA's; the lab's own is renewed in time, so it may be another."""
    try:
        leaf, ca = (x509.load_pem_x509_certificate(base64.b64decode(str(each))) for each in (certificate, authority))
        leaf.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _own(stack: Stack) -> dict[str, Any]:
    """kind -> the lab's entry, named for its stack."""
    access.check_up(stack, with_kubeconfig=True)
    file, name = stack.directory / "kubeconfig", context(stack)
    try:
        document = yaml.safe_load(file.read_text())
        own = {kind: {"name": name, one: document[kind][0][one]} for kind, one in _KINDS.items()}
    except (yaml.YAMLError, LookupError, TypeError):
        raise ToolchainError(f"{file} is damaged: `hardway up -s {stack.name}` writes it again.") from None
    own["contexts"]["context"] = {"cluster": name, "user": name}
    return own


def _file() -> Path:
    """Which file kubectl would write to (client-go, tools/clientcmd/config.go)."""
    named = [Path(word) for word in os.environ.get("KUBECONFIG", "").split(os.pathsep) if word]
    if not named:
        return (Path.home() / ".kube" / "config").resolve()
    return next((file for file in named if file.exists()), named[-1]).resolve()


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold the lock of kubectl, kind and other programs with client-go: a file beside it that only one can create.

    Raises:
        ToolchainError: another program has it for too long.
    """
    lock = file.with_name(f"{file.name}.lock")
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL, 0o600))
            break
        except FileExistsError:
            if time.monotonic() > deadline:
                raise ToolchainError(
                    f"{file} is locked by another program: {lock} exists. If no kubectl or kind is at work, a killed "
                    "one has left it: remove it, and run the command again."
                ) from None
            time.sleep(0.1)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def _read(file: Path) -> yaml.MappingNode:
    """The file as YAML's tree.

    Raises:
        ToolchainError: it is no kubeconfig.
    """
    try:
        root = yaml.compose(_text(file), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ToolchainError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    if root is None or _plain(root) is None:
        root = _node({"apiVersion": "v1", "kind": "Config"})
    if not isinstance(root, yaml.MappingNode):
        raise ToolchainError(f"{file} is no kubeconfig: it must be a map.")
    for kind in _KINDS:
        value = _value(root, kind)
        if value is not None and not isinstance(value, yaml.SequenceNode) and _plain(value) is not None:
            raise ToolchainError(f"{file} is no kubeconfig: {kind} must be a list.")
    return root


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def _changed(
    text: str,
    document: yaml.MappingNode,
    name: str,
    changes: Mapping[str, Mapping[str, Any] | None],
    *,
    current: str | None,
) -> str:
    """The file's text with other entries of a name.

    Args:
        text: of the file.
        document: its tree, which is changed, too: the text is right if it says the same.
        name: of the entries.
        changes: kind -> the entry that takes the place of those of this name; None: there is none any more.
        current: the current context; None: as before.
    """
    in_place = _in_place(text, name, changes, current)
    for kind, entry in changes.items():
        _replace_entry(document, kind, name, entry)
    if current is not None:
        _set(document, "current-context", current)
    whole = yaml.serialize(document, Dumper=yaml.SafeDumper)
    try:
        read = yaml.compose(in_place, Loader=yaml.SafeLoader)
        is_right = read is not None and yaml.serialize(read, Dumper=yaml.SafeDumper) == whole
    except yaml.YAMLError:
        is_right = False
    # A form that `_in_place` does not know, such as JSON, has no comments: it is written as a whole.
    return in_place if is_right else whole


def _in_place(text: str, name: str, changes: Mapping[str, Mapping[str, Any] | None], current: str | None) -> str:
    """The text with lines removed and added, for a file of YAML's usual form; of another form it comes out wrong."""
    root, lines = yaml.compose(text, Loader=yaml.SafeLoader), text.splitlines()
    # From the end to the beginning: the numbers of the lines above stay right.
    edits: list[tuple[int, int, list[str]]] = []
    added: list[str] = []
    for kind, entry in changes.items():
        found = _value(root, kind)
        new = _lines_of([entry] if entry is not None else [])
        if found is None:
            added += [f"{kind}:", *new] if new else [f"{kind}: []"]
            continue
        items = found.value if isinstance(found, yaml.SequenceNode) and not found.flow_style else []
        gone = [item for item in items if _plain(_value(item, "name")) == name]
        if not items or (len(gone) == len(items) and not new):
            end = _end(found) if items else found.start_mark.line + 1
            start = found.start_mark.line - 1 if items else found.start_mark.line
            edits.append((start, end, [f"{kind}:", *new] if new else [f"{kind}: []"]))
            continue
        indent = " " * found.start_mark.column
        edits += [(item.start_mark.line, _end(item), []) for item in gone]
        edits.append((_end(items[-1]), _end(items[-1]), [f"{indent}{line}" for line in new]))
    if current is not None:
        line = f"current-context: {current or chr(39) * 2}"
        if (found := _value(root, "current-context")) is None:
            added.append(line)
        else:
            edits.append((found.start_mark.line, found.start_mark.line + 1, [line]))
    for start, end, new in sorted(edits, key=lambda edit: edit[:2], reverse=True):
        lines[start:end] = new
    return "\n".join([*lines, *added, ""])


def _lines_of(entries: list[Any]) -> list[str]:
    return yaml.safe_dump(entries, sort_keys=False).splitlines() if entries else []


def _end(node: yaml.Node) -> int:
    """The number of the line behind a node; a block ends with its last value, before comments that follow."""
    if isinstance(node, yaml.ScalarNode) or getattr(node, "flow_style", False) or not node.value:
        mark = node.end_mark
        return mark.line + (1 if mark.column else 0)
    last = node.value[-1]
    return _end(last[1] if isinstance(last, tuple) else last)


def _write(file: Path, text: str) -> None:
    """Replace the file at once; its mode and owner stay. A new one is the user's alone."""
    before = file.stat() if file.exists() else None
    like = before or file.parent.stat()
    owner = (like.st_uid, like.st_gid) if os.geteuid() == 0 else None
    write_whole(file, text, mode=before.st_mode & 0o7777 if before else 0o600, owner=owner, sync=True)


def _give(made: Path, like: os.stat_result) -> None:
    """As root, in a user's directory: what is made there is the user's."""
    if os.geteuid() == 0:
        os.chown(made, like.st_uid, like.st_gid)


def _first_missing(directory: Path) -> Path | None:
    missing = None
    while not directory.exists():
        missing, directory = directory, directory.parent
    return missing


def _record(stack: Stack, file: Path) -> None:
    record = stack.directory / _RECORD
    known = record.read_text().splitlines() if record.exists() else []
    if str(file) not in known:
        record.write_text("\n".join([*known, str(file), ""]))


def _node(value: Any) -> yaml.Node:
    node = yaml.compose(yaml.safe_dump(value, sort_keys=False), Loader=yaml.SafeLoader)
    assert node is not None
    return node


def _plain(node: yaml.Node | None) -> Any:
    """The value of a scalar; None for none, and for null."""
    if not isinstance(node, yaml.ScalarNode):
        return node
    return None if node.tag == "tag:yaml.org,2002:null" else node.value


def _value(mapping: yaml.Node | None, key: str) -> yaml.Node | None:
    pairs = mapping.value if isinstance(mapping, yaml.MappingNode) else []
    return next((value for found, value in pairs if _plain(found) == key), None)


def _field(entry: yaml.Node, one: str, key: str) -> Any:
    return _plain(_value(_value(entry, one), key))


def _set(mapping: yaml.MappingNode, key: str, value: Any) -> None:
    for place, (found, _) in enumerate(mapping.value):
        if _plain(found) == key:
            mapping.value[place] = (found, _node(value))
            return
    mapping.value.append((_node(key), _node(value)))


def _entry(document: yaml.MappingNode, kind: str, name: str) -> yaml.MappingNode | None:
    found = _value(document, kind)
    entries = found.value if isinstance(found, yaml.SequenceNode) else []
    return next((entry for entry in entries if _plain(_value(entry, "name")) == name), None)


def _replace_entry(document: yaml.MappingNode, kind: str, name: str, entry: Mapping[str, Any] | None) -> None:
    """Put an entry behind the others, in place of those of its name; None: there is none any more."""
    found = _value(document, kind)
    if not isinstance(found, yaml.SequenceNode):
        _set(document, kind, [])
        found = _value(document, kind)
        assert isinstance(found, yaml.SequenceNode)
    found.value = [each for each in found.value if _plain(_value(each, "name")) != name]
    found.value += [_node(entry)] if entry is not None else []
    found.flow_style = False if found.value else found.flow_style
