"""A lab on a substrate that the project does not have."""

from lab.fixtures import show

__all__ = ["show"]
