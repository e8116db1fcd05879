"""Problems of a configuration, with what is wrong and a valid value."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from config.errors import UserError


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Args:
        keys: the paths of the keys that it is about, the first of them the one to look at.
        what: what is wrong with it.
        fix: what would be right.
    """

    keys: tuple[str, ...]
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.keys[0]}: {self.what}\n      {self.fix}"


class ConfigError(UserError):
    """All problems of one stack's configuration, as one report."""

    def __init__(self, stack: str, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        report = "\n".join(f"  {number}. {problem}" for number, problem in enumerate(problems, 1))
        super().__init__(f"Pulumi.{stack}.yaml has {count}; nothing was changed.\n\n{report}\n")


# What pydantic calls an error -> what is wrong, and what would be right. Anything else: pydantic's words.
_WORDS = {
    "extra_forbidden": ("unknown key", "see the keys in Pulumi.yaml and docs/configuration.md, mind the spelling"),
    "missing": ("not there", "add this key"),
    "model_type": ("no map", "write its keys below it"),
    "dict_type": ("no map", "write its keys below it"),
    "ip_v4_network": ("no IPv4 range", "write its first address and prefix length, like 10.240.0.0/24"),
    "ip_v4_address": ("no IPv4 address", "write one like 10.240.0.10"),
    "address_as_name": ("an address, and not a name", "write a DNS name, like api.hardway.example"),
    "flag_value": (
        "no value of a flag",
        "write text without spaces and quotes, a number, or true or false; a list as one text with commas",
    ),
    "user_name": (
        "no user name",
        "write one that useradd accepts: at most 32 letters, digits, dots, dashes and underscores, a letter or an "
        "underscore first",
    ),
}
_LONGEST_INPUT = 80


def from_validation(error: ValidationError) -> list[Problem]:
    """One problem for each value that pydantic found unreadable."""
    return [_problem(detail) for detail in error.errors()]


def described(detail: ErrorDetails) -> tuple[str, str]:
    """What is wrong with one value, and what would be right."""
    described = "see this key's description in Pulumi.yaml and docs/configuration.md"
    what, fix = _WORDS.get(detail["type"], (detail["msg"], described))
    if detail["type"] != "missing":
        given = repr(detail["input"])
        what += f" ({given if len(given) <= _LONGEST_INPUT else given[:_LONGEST_INPUT] + '...'})"
    return what, fix


def _problem(detail: ErrorDetails) -> Problem:
    what, fix = described(detail)
    key = "lab" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path_of(detail))
    return Problem((key,), what, fix)


# The keys whose value may be of several kinds.
_UNIONS = (("controllers",), ("etcd_members",), ("workers",), ("load_balancers",), ("machines", "database"))


def path_of(detail: ErrorDetails) -> list[int | str]:
    """Where the value stands below `lab`: pydantic's path without the branch of a union, which is no key."""
    path = list(detail["loc"])
    for union in _UNIONS:
        if tuple(path[: len(union)]) == union:
            del path[len(union) : len(union) + 1]
    return path
