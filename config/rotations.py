"""Rotations of keys: which generation each subject has, and how far the change to it is.

They are a setting, `hardway:rotations` in Pulumi.<stack>.yaml, and not only in the state: a program cannot read its own
state, plain `pulumi` must build the same lab as `./hardway`, and a stage is to be shown by a preview before it is done.
`./hardway rotate` writes it. A lab that never rotated has no such key.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from config.problems import Problem

KEY = "rotations"
SUBJECTS = ("encryption-key", "service-accounts", "leaves", "ca", "etcd-ca", "front-proxy-ca", "ssh")
_WITH_KUBEADM = ("ssh",)
# kubeadm's control plane does not encrypt Secrets in etcd.
_WITH_EXTERNAL_CAS = tuple(subject for subject in SUBJECTS if subject != "encryption-key")
AT_ONCE = frozenset({"leaves"})
"""What is trusted does not change with these: they have one stage."""
TRUSTED, USED = "trusted", "used"
_TEXT = re.compile(rf"(0|[1-9][0-9]{{0,3}})( ({TRUSTED}|{USED}))?")


@dataclass(frozen=True)
class Rotation:
    """One subject.

    Args:
        count: the number of its rotations, the one under way included; 0: it has the key that it was made with.
        stage: of the one under way: `trusted` (the new key is accepted, the old one is used), `used` (the new key is
            used, the old one is accepted); empty where none is.
    """

    count: int = 0
    stage: str = ""

    @property
    def generations(self) -> tuple[int, ...]:
        """Those that are accepted; the one in use first."""
        if not self.stage:
            return (self.count,)
        return (self.count - 1, self.count) if self.stage == TRUSTED else (self.count, self.count - 1)

    @property
    def active(self) -> int:
        """The generation that signs, issues or encrypts."""
        return self.generations[0]

    def __str__(self) -> str:
        return f"{self.count} {self.stage}".strip()

    def next(self, subject: str) -> "Rotation":
        """The stage after this one; of a finished rotation the first stage of the next."""
        if self.stage:
            return Rotation(self.count, USED) if self.stage == TRUSTED else Rotation(self.count)
        return Rotation(self.count + 1, "" if subject in AT_ONCE else TRUSTED)

    def before(self, subject: str) -> "Rotation":
        """The stage before this one."""
        if self.stage:
            return Rotation(self.count, TRUSTED) if self.stage == USED else Rotation(self.count - 1)
        return Rotation(self.count - 1) if subject in AT_ONCE else Rotation(self.count, USED)


NEVER = Rotation()


def subjects_of(bootstrap: str, authorities: str) -> tuple[str, ...]:
    """What is rotated in a lab: with kubeadm that which it has no part in.

    Args:
        bootstrap: the bootstrap method.
        authorities: the setting `kubeadm.authorities`. In the external CA mode the stack issues all certificates.
    """
    if bootstrap != "kubeadm":
        return SUBJECTS
    return _WITH_EXTERNAL_CAS if authorities == "external" else _WITH_KUBEADM


class Rotations:
    """All subjects of a lab."""

    def __init__(self, rotated: Mapping[str, Rotation] | None = None) -> None:
        self._rotated = {name: each for name, each in (rotated or {}).items() if each != NEVER}

    def __getitem__(self, subject: str) -> Rotation:
        return self._rotated.get(subject, NEVER)

    def __bool__(self) -> bool:
        return bool(self._rotated)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rotations) and self.written() == other.written()

    __hash__ = None  # type: ignore[assignment]

    @property
    def under_way(self) -> list[str]:
        """The subjects whose rotation is not finished."""
        return [subject for subject in SUBJECTS if self[subject].stage]

    def written(self) -> dict[str, str]:
        """As the settings file has them; every subject that was rotated."""
        return {subject: str(self[subject]) for subject in SUBJECTS if subject in self._rotated}

    def advanced(self, subjects: list[str]) -> "Rotations":
        """With the next stage of these subjects."""
        return Rotations({**self._rotated, **{subject: self[subject].next(subject) for subject in subjects}})


def refused(before: Rotations, wanted: Rotations) -> list[str]:
    """Why a running lab cannot go from one to the other, in words: each stage comes after the one before it."""
    return [
        f"{subject} is at {before[subject]!s}, and {KEY} says {wanted[subject]!s}"
        for subject in SUBJECTS
        if wanted[subject] not in (before[subject], before[subject].next(subject))
    ]


def of_lines(text: str) -> Rotations:
    """The rotations that `lines` wrote."""
    rows = (line.split(" ", 1) for line in text.splitlines() if " " in line)
    return parse(dict(rows))[0]


def lines(rotations: Rotations) -> str:
    """One line for each subject."""
    return "".join(f"{subject} {rotations[subject]}\n" for subject in SUBJECTS)


def parse(document: Any) -> tuple[Rotations, list[Problem]]:
    """The rotations that a settings file has, and what is wrong with them.

    Args:
        document: a map of subject -> "1", "1 trusted" or "1 used"; None for none.
    """
    if document is None:
        return Rotations(), []
    if not isinstance(document, dict):
        return Rotations(), [Problem((KEY,), f"{document!r} is no map", "`hardway rotate` writes this key")]
    found: dict[str, Rotation] = {}
    problems = []
    for subject, value in document.items():
        match = _TEXT.fullmatch(str(value)) if isinstance(value, int | str) else None
        if subject not in SUBJECTS:
            problems.append(Problem((f"{KEY}.{subject}",), "unknown key", f"one of {', '.join(SUBJECTS)}"))
        elif match is None or (match[3] and (match[1] == "0" or subject in AT_ONCE)):
            fix = 'the number of rotations, like 1; during one "1 trusted", then "1 used"'
            problems.append(Problem((f"{KEY}.{subject}",), f"{value!r} is no stage of a rotation", fix))
        else:
            found[str(subject)] = Rotation(int(match[1]), match[3] or "")
    return Rotations(found), problems
