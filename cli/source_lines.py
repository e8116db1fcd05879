"""Which line of the source sets a flag or a key in a file that the program makes, and the reason beside it.

The search begins at the call that makes the file (`recorded_program.Place`) and goes on to the functions and constants
that this call uses, by Python's own parser: no name of a component or of a file is known here.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cli.recorded_program import Made, Place
from toolchain import paths

_DEPTH = 4
_FOLDERS = ("components", "bootstrap", "config")


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line that sets something.

    Args:
        file: below the checkout.
        number: from 1.
        text: of the line.
        reason: the comment beside it or above it; empty where there is none.
    """

    file: Path
    number: int
    text: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.number}"


def setting(word: str, made: Made) -> Line | None:
    """The line that puts a flag or a key into a file; None where it is not in the program's own text.

    Args:
        word: without dashes.
        made: the file. Where its content is not known, only a text that is this word alone counts, and only what the
            call itself uses.
    """
    if made.secret:
        return None
    places = made.places if made.content is not None else made.places[:1]
    weaker: Line | None = None
    for node, file in _reached(places):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        if node.value == word:
            return line(file, node.lineno)
        if made.content is None:
            continue
        weaker = weaker or _in_text(node, word, file)
        if weaker is None and (copied := _project_file(node.value, file)) is not None:
            weaker = next(_mentions_in(copied, word), None)
    return weaker


def content_of(made: Made) -> Place | None:
    """The function that gives a file its content, or the file of the project that is copied; None where neither is.

    A place whose line is 1 and whose function is empty is a whole file.
    """
    for place in made.places[:1]:
        for call in _calls(place):
            given = next((each.value for each in call.keywords if each.arg == "content"), None)
            if given is None:
                continue
            for node in ast.walk(given):
                if isinstance(node, ast.Constant) and (copied := _project_file(node.value, place.file)) is not None:
                    return Place(file=copied, line=1, function="")
            for node in ast.walk(given):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    for found, file in _definitions(node.func.id, place.file):
                        if isinstance(found, ast.FunctionDef):
                            return Place(file=file, line=found.lineno, function=found.name)
    return None


def is_script(made: Made) -> bool:
    """Whether a file is a shell script of the project: its words are no settings."""
    found = content_of(made)
    return found is not None and found.file.suffix == ".sh"


def mentions(word: str) -> Iterator[Line]:
    """Every line of the components, scripts, templates and settings with a word."""
    for folder in _FOLDERS:
        for file in sorted((paths.checkout() / folder).rglob("*")):
            if file.suffix not in (".pyc", "") and file.is_file():
                yield from _mentions_in(file.relative_to(paths.checkout()), word)


def _mentions_in(file: Path, word: str) -> Iterator[Line]:
    pattern = _whole(word)
    for number, text in enumerate(_lines(file), 1):
        if pattern.search(text):
            yield line(file, number)


def line(file: Path, number: int) -> Line:
    """A line with its reason: the comment behind it, else the lines of comment right above it."""
    lines = _lines(file)
    text = lines[number - 1]
    behind = re.search(r"[,({\[]\s*# (.+)$", text)
    reasons = [behind[1]] if behind else []
    above = number - 2
    while not behind and above >= 0 and lines[above].lstrip().startswith("# "):
        reasons.insert(0, lines[above].strip().removeprefix("# "))
        above -= 1
    return Line(file=file, number=number, text=text.strip(), reason=" ".join(reasons))


@cache
def _reached(places: tuple[Place, ...]) -> tuple[tuple[ast.AST, Path], ...]:
    """The nodes of the calls that make a file, the innermost first, then of what they use, the nearest first."""
    return tuple(_walk(places))


def _walk(places: tuple[Place, ...]) -> Iterator[tuple[ast.AST, Path]]:
    seen: set[tuple[Path, int, int]] = set()
    for place in places:
        names = set(_locals(place))
        waiting: list[tuple[ast.AST, Path, int]] = [(call, place.file, 0) for call in _calls(place)]
        while waiting:
            root, file, depth = waiting.pop(0)
            key = (file, getattr(root, "lineno", 0), getattr(root, "col_offset", 0))
            if key in seen:
                continue
            seen.add(key)
            for node in ast.walk(root):
                yield node, file
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and depth < _DEPTH:
                    local = _assigned(place, node.id) if file == place.file and node.id in names else ()
                    found = [(each, place.file) for each in local] or list(_definitions(node.id, file))
                    waiting += [(each, where, depth + 1) for each, where in found]


def _in_text(node: ast.Constant, word: str, file: Path) -> Line | None:
    """The line of a longer text, such as a template, that has a word."""
    text = str(node.value)
    if "\n" not in text and " " not in text and "=" not in text:
        return None
    found = _whole(word).search(text)
    if found is None:
        return None
    for number in range(node.lineno, (node.end_lineno or node.lineno) + 1):
        if _whole(word).search(_lines(file)[number - 1]):
            return line(file, number)
    return None


def _project_file(name: object, near: Path) -> Path | None:
    """The script or template of this name that is copied into a file: beside a module, or in config/templates."""
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]+\.\w+", name):
        return None
    for found in (near.with_name(name), Path("config", "templates", name)):
        if (paths.checkout() / found).is_file():
            return found
    return None


def _whole(word: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-]){re.escape(word)}(?![\w-])")


def _calls(place: Place) -> list[ast.Call]:
    """The calls that begin in a line."""
    return [node for node in ast.walk(_tree(place.file)) if isinstance(node, ast.Call) and node.lineno == place.line]


def _function(place: Place) -> ast.FunctionDef | None:
    """The innermost function around a place."""
    around = [
        node
        for node in ast.walk(_tree(place.file))
        if isinstance(node, ast.FunctionDef) and node.lineno <= place.line <= (node.end_lineno or node.lineno)
    ]
    return max(around, key=lambda node: node.lineno, default=None)


def _locals(place: Place) -> set[str]:
    function = _function(place)
    return {
        node.id
        for node in (ast.walk(function) if function else ())
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def _assigned(place: Place, name: str) -> list[ast.AST]:
    """What a local variable is set to."""
    function = _function(place)
    return [
        node.value
        for node in (ast.walk(function) if function else ())
        if isinstance(node, ast.Assign)
        and any(isinstance(each, ast.Name) and each.id == name for target in node.targets for each in ast.walk(target))
    ]


def _definitions(name: str, file: Path) -> Iterator[tuple[ast.AST, Path]]:
    """The function or the constant of this name in a module, or in the project's module that it is imported from."""
    for node in _tree(file).body:
        match node:
            case ast.FunctionDef(name=found) if found == name:
                yield node, file
            case ast.Assign(targets=[ast.Name(id=found)]) | ast.AnnAssign(target=ast.Name(id=found)) if found == name:
                yield node, file
            case ast.ImportFrom(module=str(module), names=names):
                for each in names:
                    other = Path(*module.split(".")).with_suffix(".py")
                    if (each.asname or each.name) == name and (paths.checkout() / other).is_file():
                        yield from _definitions(each.name, other)


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse((paths.checkout() / file).read_text())


@cache
def _lines(file: Path) -> list[str]:
    return (paths.checkout() / file).read_text(errors="replace").splitlines()
