"""A stack of no lab."""

from pathlib import Path

from toolchain.stack import Stack

STACK = Stack(
    name="dev",
    project="toy",
    settings_file=Path("Pulumi.dev.yaml"),
    substrate="containers",
    engine="podman",
    kubernetes="1.36.4",
)
