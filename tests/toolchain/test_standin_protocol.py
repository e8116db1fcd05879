import subprocess
import sys

import pytest

from toolchain import paths


@pytest.mark.parametrize("plugin", ["command", "tls"])
def test_a_plugin_starts_with_the_protocol_alone(plugin: str) -> None:
    """The SDK would be half of the time that it takes to start."""
    program = (
        "import sys; from toolchain.from_source.standins import protocol; protocol.alone(); "
        f"import toolchain.from_source.standins.{plugin}; "
        "print(*(name for name in sys.modules if name.startswith('pulumi')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=paths.checkout(), capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(done.stdout.split())
    assert "pulumi.runtime.proto.provider_pb2_grpc" in loaded
    assert {name for name in loaded if not name.startswith("pulumi.runtime.proto")} == {"pulumi", "pulumi.runtime"}
