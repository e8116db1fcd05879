"""Tests that take seconds: no network, no containers, no engine."""
