"""Tests of a real cluster, made and destroyed by the real tool chain."""
