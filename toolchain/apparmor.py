"""AppArmor's permission for libvirt's machines to use the disks of a lab's pool.

libvirt makes a profile for each machine. Its helper finds the path of a disk that is a file, and none of a disk in a
pool, which the lab's are. Debian and Ubuntu include a file of the administrator's in every such profile.
"""

from pathlib import Path

from config.whole_file import write_whole
from toolchain.progress import Report

ENABLED = Path("/sys/module/apparmor/parameters/enabled")
RULES = Path("/etc/apparmor.d/local/abstractions/libvirt-qemu")


def ensure(report: Report, pool: Path, *, enabled: Path = ENABLED, rules: Path = RULES) -> None:
    """Let machines use what is in a pool's directory, where the Pulumi host has AppArmor. The rule stays after the lab.

    Args:
        report: says what was added.
        pool: the directory that has the labs' own directories.
        enabled: the kernel's word on whether AppArmor is on.
        rules: the administrator's file.
    """
    if not enabled.exists() or enabled.read_text().strip() != "Y" or not rules.parent.parent.parent.is_dir():
        return
    rule = f"{pool}/** rwk,"
    text = rules.read_text() if rules.exists() else ""
    if rule in (line.strip() for line in text.splitlines()):
        return
    rules.parent.mkdir(parents=True, exist_ok=True)
    before = f"{text.rstrip()}\n" if text.strip() else ""
    write_whole(rules, f"{before}# The disks of labs (Kubernetes The Hard Way).\n{rule}\n", mode=0o644)
    report.note(f"AppArmor lets libvirt's machines use {pool} from now on: a line in {rules}.")
