"""Plugins in Python for machines where Pulumi's official ones cannot be had: language host, `command`, `tls`.

The engine finds them by their names in `bin/`, when that directory comes first on PATH. They take the same
inputs, give the same outputs and keep the same state as the official ones.
"""
