"""Tests that run scripts by a real bash, with false programs first in PATH, or programs of the cluster."""
