"""The saves of a lab, as `./hardway saves` shows them."""

from live.saves import store
from live.saves.store import Save
from toolchain.errors import ToolchainError
from toolchain.stack import Stack


def readable(stack: Stack) -> list[Save]:
    """What each save says of itself, oldest first; without those that are damaged."""
    found = []
    for name in store.names(stack):
        try:
            found.append(store.read(stack, name))
        except ToolchainError:
            continue
    return sorted(found, key=lambda each: each.time)


def lines(stack: Stack) -> list[str]:
    """The table for a person."""
    names = store.names(stack)
    if not names:
        return [f"The lab {stack.name} has no saves: `./hardway save -s {stack.name} NAME` makes one."]
    found = readable(stack)
    program = store.program()
    rows = [("save", "time", "size", "kubernetes", "")]
    rows += [
        (
            each.name,
            each.time,
            store.shown(each.bytes),
            each.kubernetes,
            "" if each.program == program else "of another version of this program",
        )
        for each in found
    ]
    rows += [(name, "", "", "", "damaged") for name in names if name not in {each.name for each in found}]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return ["  ".join([*(f"{row[i]:{widths[i]}}" for i in range(4)), row[4]]).rstrip() for row in rows]
