"""Tests that run scripts of the project by a real bash, with false programs before the real ones in PATH."""
