"""The command `explain`: which component and which line of the source make a file of a machine, or set a flag."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from cli import stacks
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

if TYPE_CHECKING:
    from cli.recorded_program import Made
    from cli.source_lines import Line

_MENTIONS = 20


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A file on one or more machines, or what sets a flag in it."""

    made: "Made"
    line: "Line | None" = None
    machines: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(f"{item.value}:", type="plain") for item in stacks.complete_machine(ctx, param, incomplete)]


@stacks.command(context_settings={"ignore_unknown_options": True})
@click.argument("what", metavar="FILE|FLAG|MACHINE:PATH", shell_complete=_complete)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def explain(stack: Stack, what: str, *, as_json: bool) -> None:
    """Show which component and which line of the source create a file or set a flag.

    FILE is a path on the machines, or the end of a path: kubelet.yaml. FLAG is a flag of a program or a key in a file:
    --service-cluster-ip-range, maxPods. MACHINE:PATH is a file of one machine.

    It reads the stack's settings and the source, so the lab need not run, and it connects to no machine.
    """
    from cli import recorded_program

    found = list(_grouped(_search(what, recorded_program.record(stack))))
    named, mentions = ("", []) if found else _mentions(what)
    if not found and not mentions:
        raise ToolchainError(
            f"Nothing in the stack {stack.name} and in the source is or has {what!r}: it must be a path on a machine "
            "or the end of one, a flag, a key of a file, or MACHINE:PATH."
        )
    if as_json:
        print(json.dumps(_document(what, stack.name, found, mentions), indent=2))
        return
    for each in found:
        _show(each)
    if mentions:
        print(f"No step of the stack {stack.name} writes {what} by itself. Lines that name {named}:")
        for line in mentions[:_MENTIONS]:
            print(f"  {line}  {line.text}")
        if len(mentions) > _MENTIONS:
            print(f"  and {len(mentions) - _MENTIONS} lines more")


def _search(what: str, made: "Sequence[Made]") -> "Iterator[tuple[Made, Line | None]]":
    """What is meant, with the line for a flag.

    Raises:
        ToolchainError: there is no such machine.
    """
    from cli import source_lines

    machine, colon, path = what.partition(":")
    if colon and path.startswith("/"):
        machines = sorted({each.machine for each in made})
        if machine not in machines:
            raise ToolchainError(f"There is no machine {machine!r}: it must be one of {', '.join(machines)}.")
        yield from ((each, None) for each in made if (each.machine, each.path) == (machine, path))
        return
    files = [each for each in made if each.path == what or each.path.endswith(f"/{what.lstrip('/')}")]
    if files:
        yield from ((each, None) for each in files)
        return
    if what.startswith("/"):
        return
    word = what.lstrip("-").partition("=")[0]
    flag = re.compile(rf"(?<![\w-])(--)?{re.escape(word)}(?=['\"]?\s*[=:]|\s|$)", re.M)
    for each in made:
        if each.content is None:
            if (line := source_lines.setting(word, each)) is not None:
                yield each, line
        elif flag.search(each.content) and not source_lines.is_script(each):
            yield each, source_lines.setting(word, each)


def _mentions(what: str) -> "tuple[str, list[Line]]":
    """The lines of the source with a word; for a path that no line has, those with the nearest directory above it."""
    from cli import source_lines

    path = PurePosixPath(what.rpartition(":")[2].lstrip("-"))
    above = [str(each) for each in path.parents if len(each.parts) > 2]
    for word in (str(path), *above):
        if found := list(source_lines.mentions(word)):
            return word, found
    return str(path), []


def _grouped(found: "Iterable[tuple[Made, Line | None]]") -> Iterator[_Found]:
    """The same file of several machines, once."""
    groups: dict[Any, _Found] = {}
    for made, line in found:
        key = (made.path, made.places, made.component, line)
        group = groups.setdefault(key, _Found(made=made, line=line))
        group.machines.append(made.machine)
        group.steps.append(made.step)
    yield from groups.values()


def _show(found: _Found) -> None:
    from cli import source_lines

    made = found.made
    owned = f" ({made.mode}, {made.owner}{', secret' if made.secret else ''})" if made.mode else ""
    print(f"{made.path}{owned} on {', '.join(found.machines)}")
    rows: list[tuple[str, str, str]] = []
    if found.line is not None:
        rows.append(("set in", str(found.line), found.line.text))
        if found.line.reason:
            rows.append(("reason", "", found.line.reason))
    elif (content := source_lines.content_of(made)) is not None:
        rows.append(("content", str(content) if content.function else str(content.file), content.function))
    first, *callers = made.places
    rows.append((made.kind, str(first), source_lines.line(first.file, first.line).text))
    rows += [("called", str(place), f"in {place.function}") for place in callers]
    rows.append(("step", str(made.step_place), ", ".join(dict.fromkeys(found.steps))))
    rows.append(("component", str(made.component_place), made.component))
    width = max(len(where) for _, where, _ in rows)
    for name, where, text in rows:
        print(f"  {name:9}  {where:{width}}  {text}".rstrip() if where else f"  {name:9}  {text}")


def _document(what: str, stack: str, found: Sequence[_Found], mentions: "Sequence[Line]") -> dict[str, Any]:
    from cli import source_lines

    def described(each: _Found) -> dict[str, Any]:
        made, content = each.made, source_lines.content_of(each.made)
        return {
            "path": made.path,
            "kind": made.kind,
            "machines": each.machines,
            "mode": made.mode or None,
            "owner": made.owner or None,
            "secret": made.secret,
            "set_in": _line(each.line) if each.line else None,
            "content": str(content) if content else None,
            "source": [str(place) for place in made.places],
            "steps": list(dict.fromkeys(each.steps)),
            "step_source": str(made.step_place),
            "component": made.component,
            "component_source": str(made.component_place),
        }

    return {
        "what": what,
        "stack": stack,
        "found": [described(each) for each in found],
        "mentions": [_line(line) for line in mentions],
    }


def _line(line: "Line") -> dict[str, str]:
    return {"source": str(line), "text": line.text, "reason": line.reason}
