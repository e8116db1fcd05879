"""What every component of a lab is: there at once, while its children wait for what it depends on.

A component of Pulumi's own waits itself until everything that it depends on is made. Each takes three writes of the
whole state, one after the other, and late ones hold up the work on the machines: at the end of an `up` the state is
large. Registered at the beginning they cost next to nothing.
"""

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
