"""Histories that are written down by hand: what clients asked and were told, with times that are whole numbers."""

from live.search.history import Action, Event, Operation, Outcome

KEY = "object"


def create(
    value: str, version: int = 0, *, at: tuple[int, int], outcome: Outcome = Outcome.OK, client: int = 0, key: str = KEY
) -> Operation:
    """A create."""
    return Operation(
        client=client,
        action=Action.CREATE,
        key=key,
        call=at[0],
        returned=at[1],
        outcome=outcome,
        value=value,
        version=version,
    )


def update(
    value: str,
    version: int = 0,
    *,
    of: tuple[str, int],
    at: tuple[int, int],
    outcome: Outcome = Outcome.OK,
    client: int = 0,
    key: str = KEY,
) -> Operation:
    """A compare-and-swap of the value and version that the client had read."""
    return Operation(
        client=client,
        action=Action.UPDATE,
        key=key,
        call=at[0],
        returned=at[1],
        outcome=outcome,
        value=value,
        version=version,
        expected=of[1],
        expected_value=of[0],
    )


def delete(*, at: tuple[int, int], outcome: Outcome = Outcome.OK, client: int = 0, key: str = KEY) -> Operation:
    """A delete."""
    return Operation(client=client, action=Action.DELETE, key=key, call=at[0], returned=at[1], outcome=outcome)


def get(value: str = "", version: int = 0, *, at: tuple[int, int], client: int = 0, key: str = KEY) -> Operation:
    """A read; without a value, the answer that there is no such object."""
    return Operation(
        client=client,
        action=Action.GET,
        key=key,
        call=at[0],
        returned=at[1],
        outcome=Outcome.OK if value else Outcome.MISSING,
        value=value,
        version=version,
    )


def event(kind: str, value: str, version: int, key: str = KEY) -> Event:
    """An event of the watch."""
    return Event(kind=kind, key=key, version=version, value=value)
