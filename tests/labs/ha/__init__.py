"""Tests of a cluster of high availability, the stack `ha-test`: created once, given faults, destroyed in the end."""
