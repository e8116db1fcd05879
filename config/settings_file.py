"""The settings file of a stack, read as Pulumi reads it: the tool chain's way to what the program gets from Pulumi."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from config.errors import UserError
from config.rotations import KEY as ROTATIONS
from config.rotations import Rotations, parse
from config.whole_file import write_whole


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that is there twice, as Pulumi does: of two values it is unknown which one counts."""


def _unique(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    first: dict[Any, yaml.Node] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in first:
            raise yaml.constructor.ConstructorError(
                None,
                None,
                f"line {key_node.start_mark.line + 1}: the key {key} is in line {first[key].start_mark.line + 1} "
                "already: write it once",
            )
        first[key] = key_node
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique)


def lab_of(file: Path, project: str) -> Any:
    """What a settings file says about the lab, as it is written there.

    Pulumi takes the key `lab` for `<project>:lab`, and so does this.

    Raises:
        UserError: it is not YAML, or what is in it is no configuration.
    """
    try:
        document = yaml.load(file.read_text(), Loader=_UniqueKeys)  # a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file.name} is not valid YAML: {error}") from error
    for what, value in (("the file", document), ("config", _mapping(document).get("config"))):
        if value is not None and not isinstance(value, dict):
            raise UserError(
                f"{file.name}: {what} is no map ({value!r}); nothing was changed.\n"
                f"  Write config:, below it {project}:lab:, and below that the lab's keys, as Pulumi.dev.yaml has them."
            )
    config = _mapping(_mapping(document).get("config"))
    keys = [key for key in (f"{project}:lab", "lab") if key in config]
    if len(keys) > 1:
        raise UserError(
            f"{file.name}: config has both {keys[0]} and {keys[1]}, which mean the same; nothing was changed.\n"
            f"  Write {keys[0]} alone."
        )
    return config[keys[0]] if keys else None


def rotations_of(file: Path, project: str) -> Any:
    """What a settings file says about rotations of keys; None where it says nothing."""
    return _rotations_in(file.read_text(), project)


def _rotations_in(text: str, project: str) -> Any:
    config = _mapping(_mapping(yaml.safe_load(text)).get("config"))
    return next((config[key] for key in _rotation_keys(project) if key in config), None)


def _rotation_keys(project: str) -> tuple[str, str]:
    """Pulumi takes the second for the first."""
    return f"{project}:{ROTATIONS}", ROTATIONS


def write_rotations(file: Path, project: str, rotations: Rotations) -> None:
    """Write the rotations into a settings file, as one line; all else, comments too, stays.

    Raises:
        UserError: the file is written in a way that has no place for the line. It is as it was.
    """
    text = file.read_text()
    flow = ", ".join(f"{subject}: {stage}" for subject, stage in rotations.written().items())
    keys = _rotation_keys(project)
    line = f"{keys[0]}: {{{flow}}}"
    # With the lines below it, as `pulumi config set` writes a mapping; not with a comment, which would be lost.
    before = re.search(rf"^([ \t]+)(?:{'|'.join(map(re.escape, keys))}):.*$(?:\n\1[ \t]+[^#\n]*$)*", text, re.M)
    opening = re.search(r"^config:[ \t]*(?:#.*)?\n(?:[ \t]*(?:#.*)?\n)*([ \t]+)", text, re.M)
    if before:
        changed = f"{text[: before.start()]}{before[1]}{line}{text[before.end() :]}"
    elif opening:
        at = text.index("\n", opening.start()) + 1
        changed = f"{text[:at]}{opening[1]}{line}\n{text[at:]}"
    elif "config" not in _mapping(yaml.safe_load(text)):
        changed = f"{text.rstrip()}\n\nconfig:\n  {line}\n".lstrip()
    else:
        changed = text
    if not _differs_only_in_rotations(text, changed, project, rotations):
        raise UserError(
            f"{file.name} is written in a way that `hardway rotate` cannot add a line to; nothing was changed.\n"
            f"  Write below config:, then run the same command again:\n  {line}"
        )
    write_whole(file, changed.encode(), mode=file.stat().st_mode & 0o777)


def _differs_only_in_rotations(before: str, after: str, project: str, wanted: Rotations) -> bool:
    def others(text: str) -> dict[str, Any]:
        document = _mapping(yaml.safe_load(text))
        config = _mapping(document.get("config"))
        return {**document, "config": {key: config[key] for key in config.keys() - set(_rotation_keys(project))}}

    try:
        found, problems = parse(_rotations_in(after, project))
        return others(before) == others(after) and not problems and found == wanted
    except yaml.YAMLError:
        return False


def write_versions(file: Path, project: str, versions: Mapping[str, str]) -> None:
    """Write versions of products into a settings file; all else, comments too, stays.

    Raises:
        UserError: the file is written in a way that has no place for them. It is as it was.
    """
    text = file.read_text()
    wanted = {**_mapping(_mapping(lab_of(file, project)).get("versions")), **versions}
    lab = re.search(
        rf"^([ \t]+)(?:{re.escape(project)}:)?lab:[ \t]*(?:#.*)?\n(?:[ \t]*(?:#.*)?\n)*(?=(\1[ \t]+)\S)", text, re.M
    )
    changed = text
    if lab:
        flow = "{" + ", ".join(f"{product}: {version}" for product, version in wanted.items()) + "}"
        # Up to the first line that is not indented more than the key `lab`.
        inside = re.compile(rf"(?:(?:{re.escape(lab[1])}[ \t]+\S.*|[ \t]*(?:#.*)?)(?:\n|$))*")
        end = match.end() if (match := inside.match(text, lab.end())) else lab.end()
        keys = text[lab.end() : end]
        one_line = re.compile(rf"^({re.escape(lab[2])}versions:[ \t]*)\{{[^}}]*\}}", re.M)
        block = re.search(
            rf"^{re.escape(lab[2])}versions:[ \t]*(?:#.*)?\n(({re.escape(lab[2])}[ \t]+).*\n?)+", keys, re.M
        )
        if one_line.search(keys):
            keys = one_line.sub(lambda found: found[1] + flow, keys)
        elif block:
            keys = keys[: block.start()] + _with_products(block[0], block[2], versions) + keys[block.end() :]
        else:
            keys = f"{lab[2]}versions: {flow}\n{keys}"
        changed = text[: lab.end()] + keys + text[end:]
    if not _differs_only_in_versions(text, changed, project, wanted):
        lines = "".join(f"\n  {product}: {version}" for product, version in versions.items())
        raise UserError(
            f"{file.name} is written in a way that `hardway upgrade` cannot add versions to; nothing was changed.\n"
            f"Write below {project}:lab: versions:, then run the same command again:{lines}"
        )
    write_whole(file, changed.encode(), mode=file.stat().st_mode & 0o777)


def _with_products(block: str, indentation: str, versions: Mapping[str, str]) -> str:
    """The lines of `versions:` with these products."""
    for product, version in versions.items():
        line = re.compile(rf"^({re.escape(indentation)}{re.escape(product)}:[ \t]*)[^\s#]+", re.M)
        if line.search(block):
            block = line.sub(lambda found, version=version: found[1] + version, block)  # type: ignore[misc]
        else:
            block = f"{block.rstrip()}\n{indentation}{product}: {version}\n"
    return block


def _differs_only_in_versions(before: str, after: str, project: str, wanted: Mapping[str, str]) -> bool:
    def parts(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
        document = _mapping(yaml.safe_load(text))
        config = dict(_mapping(document.get("config")))
        lab = dict(_mapping(config.pop(f"{project}:lab", config.pop("lab", None))))
        versions = _mapping(lab.pop("versions", None))
        return {**document, "config": config, "lab": lab}, versions

    try:
        return parts(before)[0] == parts(after)[0] and parts(after)[1] == wanted
    except yaml.YAMLError:
        return False


def text_of(file: Path, key: str) -> str:
    """The text that a settings file has for another key; empty where it has none."""
    value = _mapping(_mapping(yaml.safe_load(file.read_text())).get("config")).get(key)
    return value if isinstance(value, str) else ""


def project(file: Path) -> str:
    """The project's name in Pulumi.yaml."""
    return str(_mapping(yaml.safe_load(file.read_text())).get("name", ""))


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
