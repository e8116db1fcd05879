"""What every component of a lab is: there at once, while its children wait for what it depends on.

A component of Pulumi's own waits itself until everything that it depends on is made. Each takes three writes of the
whole state, one after the other, and late ones hold up the work on the machines: at the end of an `up` the state is
large. Registered at the beginning they cost next to nothing.
"""

from collections.abc import Sequence

import pulumi


class Component(pulumi.ComponentResource):
    """A group of resources that make one thing of a lab.

    Args:
        kind: the last part of its type.
        name: of the resource.
        opts: what `depends_on` has, the children wait for.
    """

    def __init__(self, kind: str, name: str, opts: pulumi.ResourceOptions | None = None) -> None:
        own = pulumi.ResourceOptions.merge(None, opts)
        waits_for, own.depends_on = own.depends_on, None
        super().__init__(f"hardway:index:{kind}", name, None, own)
        self._waits_for = waits_for

    def child(self, *after: pulumi.Resource) -> pulumi.ResourceOptions:
        """The options of a child: made when what the component depends on is there, and `after`."""
        options = pulumi.ResourceOptions(parent=self, depends_on=self._waits_for)
        return pulumi.ResourceOptions.merge(options, pulumi.ResourceOptions(depends_on=list(after)))


def turn_before(turns: Sequence[pulumi.Resource], at_once: int) -> list[pulumi.Resource]:
    """What the next one comes after, so that no more than `at_once` are at work; nothing for the first ones.

    Args:
        turns: those that were made, in their order.
        at_once: how many, 1 at least.
    """
    return [turns[-at_once]] if len(turns) >= at_once else []
