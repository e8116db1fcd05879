"""Tests of a cluster of high availability, the stack `ha-test`: made once, hurt, destroyed in the end."""
