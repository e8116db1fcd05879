"""The substrate `containers`: every machine is a container with systemd, on a network of the lab's own.

Made on the Pulumi host: a network, a container for each machine, the routes to the workers' pod ranges, and rules that
let forwarded packets of the lab pass the firewall (with a systemd unit that makes all of this again after a reboot).
Everything has the name hardway-<stack>.

The scripts that make a network or a container are part of what it is: another text replaces the machines of a running
lab. For podman with cgroup v1 they stay as they are; what a lab needs besides stands in resources of its own. With
cgroup v2 no lab came up before they had a flag more.

Raises, at `up` and before anything is made: one report of every failed precondition (see preflight.py).
"""

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from shlex import quote

import pulumi
import pulumi_tls as tls
from pulumi_command import local, remote

from components.authorized_keys import authorize_keys
from components.component import turn_before
from components.kubelet import HOST_RESOLV_CONF, HOST_RESOLVED, KUBELET_SYSCTLS
from components.machine import Machine
from components.quorum import quorum_guard
from components.rotation_record import rotation_record
from components.ssh_keys import SshKeys
from components.substrates.containers.owner import IDENTITY, RECORDS, REMOVES, of_owner, owners_interpreter
from components.substrates.containers.quorum import UNLOCKED, check_removal, give_up_quorum, keep_quorum, states
from components.substrates.pulumi_host import AS_ROOT, host_routes, script
from components.systemd import oneshot_unit
from components.version_guard import version_guard
from config import creation_mark
from config.fingerprint import fingerprint
from config.lab import Lab
from config.machines import MachineSpec, Role
from config.settings import ContainersSettings

_PREFLIGHT = Path(__file__).with_name("preflight.py").relative_to(Path(__file__).parents[3])
_FIREWALL = Path(__file__).with_name("firewall.sh")

_BOOT_SECONDS = 60

# What machines that share the host's kernel set for all of it: the kubelets the latter, and this substrate the first,
# since every systemd, containerd and kubelet watches files, and a host's default of 128 watchers is soon used up.
_MODULES = ("overlay", "br_netfilter", "nf_conntrack", "nf_tables")
_INOTIFY = "fs.inotify.max_user_instances=8192"
_HOST_SYSCTLS = (
    "fs.inotify.max_user_instances",
    *KUBELET_SYSCTLS,
)
# Shared by the labs of the Pulumi host; gone with a reboot, as the settings are.
_SAVED_SYSCTLS = "/run/hardway-sysctls"

# What a container's first command has printed, its id, which every step has among its inputs.
_SAY_AGAIN = 'printf "%s\\n" "$PULUMI_COMMAND_STDOUT"'

# The public key of a machine that is made after a rotation. The script and the input of its command are part of its
# definition, and have the lab's first key: their interpreter puts another line in its place.
_KEY = "HARDWAY_SSH_KEY"
_LATER_KEY = (f"exec < <(printf '%s\\n' \"${_KEY}\"; IFS= read -r _; exec cat)",)

# Each flag with its reason.
_RUN_FLAGS = {
    "--privileged": "systemd, containerd and kube-proxy make cgroups, mounts and nftables rules",
    "--cgroupns=private": "the machine sees its own cgroup as the root, as systemd and the kubelet expect",
    "--runtime=runc": "crun cannot start these machines on hosts with cgroup v1",
    "--env=container=podman": "how systemd knows that it is in a container",
    # Hosts without CAP_SYS_RESOURCE cannot raise limits above their own, and the engines' defaults are higher.
    "--ulimit=nofile=20000:20000": "within every host's own limit, enough for the API server's watches",
    "--ulimit=nproc=4096:4096": "within every host's own limit",
    "--tmpfs=/run": "systemd wants an empty /run at every boot",
    "--tmpfs=/tmp": "likewise",
    "--volume=/var/lib/containerd": "overlayfs does not stack on the container's own; goes with the container",
}
_PODMAN_FLAGS = {
    "--systemd=false": "on cgroup v1 podman would mount the host's systemd hierarchy over the machine's",
}
# Not for podman with cgroup v1: there the machines raise the limit themselves (see host.py).
_NO_PROCESS_LIMIT = {
    "--pids-limit=-1": "no limit below the host's, whatever the engine's default is; podman's is 2048",
}


class Containers(pulumi.ComponentResource):
    """All machines of a lab, as containers.

    Attributes:
        machines: one for each of `lab.machines`, in that order.
        ssh_private_key: the key (OpenSSH, secret) that opens all of them.
        checks, api_address, entrance: see `Substrate`.
    """

    def __init__(self, name: str, lab: Lab, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("hardway:index:Containers", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        engine = lab.engine
        prefix = f"hardway-{lab.name}"
        keys = SshKeys(
            f"{name}-ssh",
            lab.name,
            lab.rotations["ssh"],
            # Deletions come first, and are refused: with another key nothing opens the machines.
            pulumi.ResourceOptions(parent=self, delete_before_replace=True),
        )
        key = keys.first
        # Another text of what makes a machine would replace it: whose it is stands beside.
        owner = key.public_key_openssh.apply(lambda known: {IDENTITY: fingerprint(known)})
        guarded = owners_interpreter(lab.name)
        preflight = local.Command(
            f"{name}-preflight",
            create=key.public_key_openssh.apply(lambda known: _first_preflight(lab, prefix, known)),
            update=key.public_key_openssh.apply(lambda known: preflight_command(lab, prefix, known, begun=True)),
            delete=of_owner(forget(lab.name), lab.name),
            environment=owner,
            opts=pulumi.ResourceOptions(parent=self, delete_before_replace=True),
        )
        made_from = create_network(engine, prefix, lab)
        guard = quorum_guard(
            f"{name}-quorum",
            {spec.name: made_from + create_container(lab, prefix, spec) for spec in lab.etcd_members},
            lab.choices,
            child,
            ask="\n".join([AS_ROOT, states(engine, prefix, lab.settings.timeout_factor)]),
        )
        checks = [preflight, guard, version_guard(f"{name}-versions", lab, child)]
        self.checks: Sequence[pulumi.Resource] = [*checks, *rotation_record(lab.rotations, checks)]
        network = local.Command(
            f"{name}-network",
            create=made_from,
            # Where only the deletion differs from that of a running lab, nothing is to be made again.
            update=":",
            delete=of_owner(delete_network(engine, prefix, lab.name, last_data(lab, lab.etcd_members)), lab.name),
            # Its creation removes a network of its name, with all containers.
            interpreter=owners_interpreter(
                lab.name,
                title=f"network {prefix}",
                first=["set -eu", AS_ROOT, *last_data(lab, lab.etcd_members)],
            ),
            environment=owner,
            opts=pulumi.ResourceOptions(
                parent=self, depends_on=self.checks, replace_on_changes=["create"], delete_before_replace=True
            ),
        )
        firewall = local.Command(
            f"{name}-firewall",
            # The network's id is among it: another network has another bridge.
            create=pulumi.Output.format("{0}\n# on network {1}", open_firewall(prefix), network.id),
            delete=of_owner(close_firewall(prefix), lab.name),
            interpreter=guarded,
            environment=owner,
            stdin=firewall_script(engine, prefix),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[network], delete_before_replace=True),
        )
        self.api_address: pulumi.Input[str] = str(lab.api_address)
        self.entrance: Sequence[pulumi.Resource] = []
        self.ssh_private_key = keys.active.private_key_openssh
        made: list[Machine] = []
        for spec in lab.machines:
            workers = [machine.resource for machine in made if machine.has(Role.WORKER) and machine.resource]
            turn = turn_before(workers, lab.workers_at_once) if Role.WORKER in spec.roles else []
            made.append(self._machine(name, lab, spec, keys, owner, [network, firewall, *turn], network.id))
        self.machines: Sequence[Machine] = made
        machines = [machine.resource for machine in made if machine.resource]
        # Where network or key are replaced, the machines are deleted before, one by one; this is deleted before them.
        kept = local.Command(
            f"{name}-network-kept",
            create=pulumi.Output.format("# network {0} stays\n# {1}\n# {2}", prefix, network.id, owner[IDENTITY]),
            # A running lab may have another deletion.
            update=":",
            delete=of_owner(_removal(f"all machines of {prefix}", "exec bash -s"), lab.name),
            interpreter=guarded,
            environment=owner,
            # An error shows a command, not its input.
            stdin="\n".join([AS_ROOT, *last_data(lab, lab.etcd_members)]),
            opts=pulumi.ResourceOptions(
                parent=self, depends_on=machines, replace_on_changes=["create"], delete_before_replace=True
            ),
        )
        unchecked = of_owner(stop_checks(lab.name), lab.name)
        # Two: a run that is killed after the check was turned on has in its state what turns it off.
        removals = local.Command(
            f"{name}-removals",
            create=f"# removals of {prefix}",
            delete=unchecked,
            interpreter=guarded,
            environment=owner,
            opts=pulumi.ResourceOptions(
                parent=self,
                # Deleted before them by `pulumi destroy`.
                depends_on=[network, *machines, kept],
                delete_before_replace=True,
            ),
        )
        local.Command(
            f"{name}-removals-checked",
            create=pulumi.Output.format("{0}\n# after {1}", keep_quorum(lab.name), removals.id),
            delete=unchecked,
            interpreter=guarded,
            environment=owner,
            opts=pulumi.ResourceOptions(parent=self, delete_before_replace=True),
        )
        routes = host_routes(lab.machines)
        unit = boot_unit(engine, prefix, [spec.name for spec in lab.machines], routes, lab.kernel_modules)
        local.Command(
            f"{name}-boot",
            create=create_boot(prefix, routes),
            delete=of_owner(delete_boot(prefix, routes), lab.name),
            interpreter=guarded,
            environment=owner,
            stdin=unit,
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=machines,
                # Replaced, not updated: the route of a removed worker must go.
                replace_on_changes=["create", "stdin"],
                delete_before_replace=True,
            ),
        )
        self.register_outputs({})

    def _machine(
        self,
        name: str,
        lab: Lab,
        spec: MachineSpec,
        keys: SshKeys,
        owner: pulumi.Output[dict[str, str]],
        after: Sequence[pulumi.Resource],
        network_id: pulumi.Input[str],
    ) -> Machine:
        prefix = f"hardway-{lab.name}"
        has_later_key = keys.rotation.active > 0
        host_key = tls.PrivateKey(
            f"{name}-{spec.name}-host-key", algorithm="ED25519", opts=pulumi.ResourceOptions(parent=self)
        )
        container = local.Command(
            f"{name}-{spec.name}",
            # The network's id is among it: a network recreated has lost its containers.
            create=pulumi.Output.format("{0}\n# on network {1}", create_container(lab, prefix, spec), network_id),
            # A lab that runs may have other deletions and another interpreter: its machine stays as it is.
            update=f"# container {prefix}-{spec.name} stays\n{_SAY_AGAIN}",
            delete=delete_container(lab.engine, f"{prefix}-{spec.name}", last_data(lab, [spec])),
            # Keys come on standard input: no command line and no log shows them.
            stdin=pulumi.Output.format(
                "{0}\n{1}",
                keys.first.public_key_openssh.apply(str.strip),
                host_key.private_key_openssh.apply(str.strip),
            ),
            interpreter=owners_interpreter(
                lab.name,
                title=f"container {prefix}-{spec.name}",
                first=[*remove_found(lab, prefix, spec), *(_LATER_KEY if has_later_key else ())],
            ),
            environment=pulumi.Output.all(owner, keys.lines).apply(
                lambda known: {**known[0], _KEY: known[1].partition("\n")[0]}
            )
            if has_later_key
            else owner,
            logging=local.Logging.NONE,
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=list(after),
                # Another definition is another machine; the old one has the address until it is gone.
                replace_on_changes=["create", "stdin"],
                delete_before_replace=True,
            ),
        )
        connection = remote.ConnectionArgs(
            host=str(spec.address),
            user="root",
            private_key=keys.active.private_key_openssh,
            host_key=host_key.public_key_openssh.apply(str.strip),
        )
        return Machine(
            spec=spec,
            connection=connection,
            identity=authorize_keys(
                f"{name}-{spec.name}-ssh-keys",
                keys,
                machine=spec.name,
                # The provider would mark it secret, as it does all that comes from secret inputs.
                identity=pulumi.Output.unsecret(container.stdout),
                connection=connection,
                timeout_factor=lab.settings.timeout_factor,
                opts=pulumi.ResourceOptions(parent=self, deleted_with=container),
            ),
            resource=container,
            arch=lab.arch,
            # What container engines call it.
            interface="eth0",
            shares_kernel=True,
            timeout_factor=lab.settings.timeout_factor,
        )


def firewall_program(prefix: str) -> str:
    """Where the script is on the Pulumi host that opens and closes the firewall for a lab; the boot unit runs it."""
    return f"/usr/local/lib/{prefix}/firewall.sh"


def create_network(engine: str, prefix: str, lab: Lab) -> str:
    """The shell lines that make the lab's network; one that a killed run left is recreated."""
    # Without the engine's DNS: its search domain would reach every pod, and CoreDNS would refuse it.
    dns = "--disable-dns " if engine == "podman" else ""
    return script(
        f"network {prefix}",
        # A container shares the host's kernel. No error where they are built in.
        f"as_root modprobe -a {' '.join((*_MODULES, *lab.kernel_modules))} 2>/dev/null || true",
        f"[ -e {_SAVED_SYSCTLS} ] ||",
        f"  as_root sysctl {' '.join(_HOST_SYSCTLS)} | as_root tee {_SAVED_SYSCTLS} >/dev/null",
        f"as_root sysctl -q -w {_INOTIFY}",
        # Before Docker 23 it had no -f.
        f"as_root {engine} network rm{' -f' if engine == 'podman' else ''} {prefix} >/dev/null 2>&1 || true",
        f"as_root {engine} network create {dns}--label hardway.lab={lab.name} "
        f"--subnet {lab.network.nodes} --gateway {lab.network.gateway} {prefix} >/dev/null",
    )


def stop_checks(lab: str) -> str:
    """The shell lines by which removals of a lab's machines are not checked any more, see quorum.py."""
    return _removal(f"check of hardway-{lab}'s removals", give_up_quorum(lab))


def delete_network(engine: str, prefix: str, lab: str, checked: Sequence[str] = ()) -> str:
    """The shell lines that remove the network, with whatever container a killed run left in it.

    Args:
        engine: podman or docker.
        prefix: its name.
        lab: the label of its containers.
        checked: the lines that run before something is removed.
    """
    return _removal(
        f"network {prefix}",
        *checked,
        f"left=$(as_root {engine} ps -aq --filter label=hardway.lab={lab})",
        f'[ -z "$left" ] || as_root {_remove(engine)} $left >/dev/null',
        *_remove_network(engine, prefix),
        # The last lab on the Pulumi host restores its sysctls, whichever engine the others run on.
        "for engine in podman docker; do",
        "  command -v $engine >/dev/null || continue",
        # One that does not answer has no labs that run.
        '  [ -z "$(as_root $engine network ls -q --filter label=hardway.lab 2>/dev/null)" ] || exit 0',
        "done",
        f"[ -e {_SAVED_SYSCTLS} ] || exit 0",
        f"as_root sysctl -q -p {_SAVED_SYSCTLS}",
        f"as_root rm -f {_SAVED_SYSCTLS}",
    )


def _removal(title: str, *lines: str) -> str:
    """A script that removes something; its first line lets it pass the guard, see owner.py."""
    return script(f"{REMOVES.removeprefix('# ')}{title}", *lines)


def _remove(engine: str) -> str:
    """The command that removes containers at once, with their volumes; docker never waits, and knows no -t."""
    return "podman rm -f -t 0 -v" if engine == "podman" else "docker rm -f -v"


def _remove_network(engine: str, prefix: str) -> list[str]:
    if engine == "podman":
        return [f"as_root podman network rm -f {prefix} >/dev/null"]
    # Before Docker 23 it had no -f. A listing that fails is an error; an empty one means that the network is gone.
    return [
        f"found=$(as_root docker network ls -q --filter 'name=^{prefix.replace('.', '[.]')}$')",
        f'[ -z "$found" ] || as_root docker network rm {prefix} >/dev/null',
    ]


def open_firewall(prefix: str) -> str:
    """The shell lines that open the firewall now and at every boot; its script is their standard input."""
    program = firewall_program(prefix)
    return script(
        f"firewall of {prefix}",
        f"as_root mkdir -p {Path(program).parent}",
        f"as_root tee {program} >/dev/null",
        f"as_root sh {program} open",
    )


def close_firewall(prefix: str) -> str:
    """The reverse of `open_firewall`, with the same input: neither the bridge nor the installed script need exist."""
    return _removal(
        f"firewall rules of {prefix}",
        "as_root sh -s close",
        f"as_root rm -rf {Path(firewall_program(prefix)).parent}",
    )


def firewall_script(engine: str, prefix: str) -> str:
    """The script that opens and closes the firewall for a lab."""
    return f"ENGINE={engine} LAB={prefix}\n{_FIREWALL.read_text()}"


def _limits(settings: ContainersSettings) -> Iterator[str]:
    """The flags that limit what a machine may use. Both engines know them."""
    if settings.vcpus:
        yield f"--cpus={settings.vcpus}"
    if settings.memory_mib:
        yield f"--memory={settings.memory_mib}m"
        # The same, which is no swap on top: the kubelet expects none.
        yield f"--memory-swap={settings.memory_mib}m"


def create_container(lab: Lab, prefix: str, spec: MachineSpec) -> str:
    """The shell lines that make one machine and print its id once sshd answers; keys come on standard input."""
    engine = lab.engine
    container = f"{prefix}-{spec.name}"
    boot_seconds = _BOOT_SECONDS * lab.settings.timeout_factor
    flags = [
        *_RUN_FLAGS,
        *(_PODMAN_FLAGS if engine == "podman" else ()),
        *(_NO_PROCESS_LIMIT if engine == "docker" or lab.cgroup_v2 else ()),
        f"--name={container}",
        f"--hostname={spec.name}",
        f"--label=hardway.lab={lab.name}",
        f"--network={prefix}",
        # Fixed, so that the lab survives a reboot of its host.
        f"--ip={spec.address}",
        # Likewise: the others keep sending to the old one for up to a minute after a restart.
        f"--mac-address={_mac_address(spec.address)}",
        f"--volume={quote(str(lab.mirror))}:/opt/mirror:ro",
        *_limits(lab.settings.containers),
    ]
    return script(
        f"container {container}",
        f"as_root {_remove(engine)} {container} >/dev/null 2>&1 || true",
        "umask 077",
        "keys=$(mktemp -d)",
        "trap 'rm -rf \"$keys\"' EXIT",
        'mkdir -p "$keys/root/.ssh" "$keys/etc/ssh"',
        # The modes that the image has, since copying sets them.
        'chmod 0755 "$keys" "$keys/etc" "$keys/etc/ssh"',
        'IFS= read -r user_key && printf "%s\\n" "$user_key" >"$keys/root/.ssh/authorized_keys"',
        '{ cat && echo; } >"$keys/etc/ssh/ssh_host_ed25519_key"',
        *(() if engine == "podman" else _host_resolvers()),
        " \\\n  ".join(
            [
                f"as_root {engine} create",
                *flags,
                *(() if engine == "podman" else ('"$@"',)),
                f"{lab.node_image} >/dev/null",
            ]
        ),
        f'as_root {engine} cp "$keys/." {container}:/',
        f"as_root {engine} start {container} >/dev/null",
        f"deadline=$((SECONDS + {boot_seconds}))",
        f"until (exec 3<>/dev/tcp/{spec.address}/22) 2>/dev/null; do",
        "  if [ $SECONDS -ge $deadline ]; then",
        f'    echo "{container}: no answer from sshd after {boot_seconds} s; the last lines of its journal:" >&2',
        f"    as_root {engine} exec {container} journalctl -q -n 20 --no-pager -o cat >&2 || true",
        "    exit 1",
        "  fi",
        "  sleep 0.1",
        "done",
        f"as_root {engine} inspect -f '{{{{.Id}}}}' {container}",
    )


def last_data(lab: Lab, specs: Sequence[MachineSpec]) -> list[str]:
    """The shell lines that end a script where etcd would lose its quorum, or its last data, without these machines."""
    members = [spec.name for spec in lab.etcd_members]
    removed = [spec.name for spec in specs if spec.name in members]
    if not removed:
        return []
    return check_removal(lab.name, lab.engine, lab.settings.timeout_factor, members=members, removed=removed)


def remove_found(lab: Lab, prefix: str, spec: MachineSpec) -> list[str]:
    """The shell lines that remove what has a machine's name before it is made, where etcd goes on without it."""
    checked = last_data(lab, [spec])
    if not checked:
        return []
    return [
        "set -eu",
        AS_ROOT,
        *checked,
        f"as_root {_remove(lab.engine)} {prefix}-{spec.name} >/dev/null 2>&1 {UNLOCKED} || true",
        f"exec {UNLOCKED}",
    ]


def delete_container(engine: str, container: str, checked: Sequence[str] = ()) -> str:
    """The shell lines that remove a machine with all it holds; it need not answer any more, or be there.

    By its id, which its first command has printed: another one may have its name by now.

    Args:
        engine: podman or docker.
        container: its name.
        checked: the lines that run before something is removed.
    """
    return _removal(
        f"container {container}",
        ': "${PULUMI_COMMAND_STDOUT:?the state has no id of this container}"',
        f"present=$(as_root {engine} ps -aq --no-trunc --filter id=$PULUMI_COMMAND_STDOUT)",
        '[ -n "$present" ] || exit 0',
        *checked,
        f'as_root {_remove(engine)} "$present" >/dev/null {UNLOCKED}',
    )


def _host_resolvers() -> list[str]:
    """The shell lines that set "$@" to what shows a machine the host's resolvers.

    docker writes its own into the machine: 127.0.0.11, which no pod can reach. The volumes are made only where the host
    has the files, since docker makes a directory of what is missing. A directory, not its file: systemd-resolved
    replaces that.
    """
    return [
        "set --",
        f"[ ! -f /etc/resolv.conf ] || set -- --volume=/etc/resolv.conf:{HOST_RESOLV_CONF}:ro",
        "[ ! -d /run/systemd/resolve ] ||",
        f'  set -- "$@" --volume=/run/systemd/resolve:{Path(HOST_RESOLVED).parent}:ro',
    ]


def _mac_address(address: IPv4Address) -> str:
    # Locally administered, unicast; the rest is the address itself, as docker does it.
    return ":".join(f"{byte:02x}" for byte in (0x02, 0x42, *address.packed))


def boot_unit(
    engine: str,
    prefix: str,
    machines: Sequence[str],
    routes: Sequence[tuple[str, str]],
    modules: Sequence[str] = (),
) -> str:
    """The unit of the host that makes all of the lab work again after a reboot, or a restart of docker's daemon.

    Args:
        engine: podman or docker.
        prefix: hardway-<stack>.
        machines: the containers' names after the prefix.
        routes: pod range and worker's address.
        modules: kernel modules beyond those of every lab.
    """
    return oneshot_unit(
        description=f"Kubernetes The Hard Way: the lab {prefix}",
        # docker's daemon takes its containers down with it, and knows nothing of the order of a lab.
        after=("docker.service",) if engine == "docker" else (),
        start=[
            # Before anything sends packets. A module that is built in, or missing, is none of this unit's errors.
            f"/bin/sh -c 'modprobe -a {' '.join((*_MODULES, *modules))} 2>/dev/null || true'",
            f"/usr/bin/env sysctl -q -w {_INOTIFY}",
            f"/usr/bin/env sh {firewall_program(prefix)} open",
            f"/usr/bin/env {engine} start {' '.join(f'{prefix}-{machine}' for machine in machines)}",
            *(f"/usr/bin/env ip route replace {pods} via {worker}" for pods, worker in routes),
        ],
    )


def create_boot(prefix: str, routes: Sequence[tuple[str, str]]) -> str:
    """Shell lines that set the routes now and, if the Pulumi host runs systemd, at every boot by the unit on stdin."""
    return script(
        f"routes and boot unit of {prefix}",
        *(f"as_root ip route replace {pods} via {worker}" for pods, worker in routes),
        "[ -d /run/systemd/system ] || exit 0",
        f"as_root tee /etc/systemd/system/{prefix}.service >/dev/null",
        "as_root systemctl daemon-reload",
        f"as_root systemctl -q enable {prefix}.service",
    )


def delete_boot(prefix: str, routes: Sequence[tuple[str, str]]) -> str:
    """The reverse of `create_boot`; tolerates that the containers, and with them the routes, are gone."""
    return _removal(
        f"routes and boot unit of {prefix}",
        *(f"as_root ip route del {pods} via {worker} 2>/dev/null || true" for pods, worker in routes),
        f"[ -e /etc/systemd/system/{prefix}.service ] || exit 0",
        f"as_root systemctl -q disable {prefix}.service",
        f"as_root rm -f /etc/systemd/system/{prefix}.service",
        "as_root systemctl daemon-reload",
    )


def _first_preflight(lab: Lab, prefix: str, key: str) -> str:
    """The command of a lab's first preflight, once the run's mark has the lab's identity, where the run has a mark.

    The engine gets the command afterwards, and everything on the host is created after it: nothing is there whose
    identity is not in the mark.
    """
    if not pulumi.runtime.is_dry_run():
        creation_mark.note(fingerprint(key))
    return preflight_command(lab, prefix, key, begun=False)


def preflight_command(lab: Lab, prefix: str, key: str, *, begun: bool) -> str:
    """The shell lines that report failed preconditions, or record whose lab it is.

    Args:
        lab: the lab.
        prefix: hardway-<stack>.
        key: its public SSH key.
        begun: whether it has passed before: then what has no mark, and is of an earlier version, may be the lab's own.
    """
    return script(
        f"preflight of {prefix}",
        " ".join(
            [
                f"as_root python3 -B {_PREFLIGHT}",
                f"--engine {lab.engine}",
                f"--network {prefix}",
                f"--image {lab.node_image}",
                f"--mirror {quote(str(lab.mirror))}",
                f"--machines {len(lab.machines)}",
                f"--ranges {lab.network.nodes} {lab.network.pods}",
                *([f"--modules {' '.join(lab.kernel_modules)}"] if lab.kernel_modules else []),
                f"--lab {lab.name}",
                f"--key {quote(' '.join(key.split()[:2]))}",
                f"--containers {' '.join(f'{prefix}-{spec.name}' for spec in lab.machines)}",
                *(["--begun"] if begun else []),
            ]
        ),
    )


def forget(lab: str) -> str:
    """The shell lines that remove the record of a lab that is no more."""
    return _removal(
        f"record of hardway-{lab}",
        f"as_root rm -f {RECORDS}/{lab}",
        f"as_root rmdir --ignore-fail-on-non-empty {RECORDS}",
    )
