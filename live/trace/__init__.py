"""Traces: what happens inside a running lab, told by its components. See docs/trace.md."""
