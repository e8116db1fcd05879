"""The image `nginx`: a web server that tests start, stop and replace."""

import re
from pathlib import Path

from toolchain.from_source import debian, image_archive
from toolchain.from_source.image_archive import File, Link
from toolchain.from_source.image_recipes import foundation
from toolchain.progress import Part

_PACKAGES = ("bash", "coreutils", "curl", "dash", "grep", "libc-bin", "nginx-light", "sed")
# Packages drag in Perl for their maintainer scripts, which are not run here.
_BALLAST = re.compile(r"\./(usr/share/|usr/bin/.*perl|usr/lib/.*/(lib)?perl|var/|etc/nginx/)")
_CONFIGURATION = """\
error_log /dev/stderr notice;
pid /run/nginx.pid;
events { worker_connections 1024; }
http {
  access_log /dev/stdout;
  default_type text/html;
  server {
    listen 80;
    root /usr/share/nginx/html;
  }
}
"""
_PAGE = "<!DOCTYPE html>\n<title>Welcome to nginx!</title>\n<h1>Welcome to nginx!</h1>\n"


def make(part: Part, reference: str, work: Path, arch: str) -> image_archive.Image:
    root, tools, layer = work / "root.tar", work / "tools.tar", work / "layer.tar"
    debian.files(part, root, packages=_PACKAGES)
    image_archive.copy_layer(root, tools, without=_BALLAST)
    entries: dict[str, File | Link] = {
        "/etc/nginx/nginx.conf": File(content=_CONFIGURATION.encode()),
        "/usr/share/nginx/html/index.html": File(content=_PAGE.encode()),
        # Directories that installing the package makes, and a layer has only with a file in it.
        "/var/lib/nginx/.keep": File(content=b""),
        "/var/log/nginx/.keep": File(content=b""),
    }
    image_archive.write_layer(layer, entries | foundation.accounts())
    return image_archive.Image(
        reference=reference,
        arch=arch,
        layers=(tools, layer),
        # As root, like the processes of a container without an account of its own for them.
        command=("nginx", "-g", "daemon off; user root;"),
    )
