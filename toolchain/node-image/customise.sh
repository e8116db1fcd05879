#!/bin/sh
# Runs inside the fresh root of the node image, whichever way that root was made.
set -eu

# Services that only some machines need: the steps that configure them enable them.
systemctl disable haproxy.service keepalived.service nginx.service

# Hardware, consoles, sessions and housekeeping belong to the host; without them systemd is up in about a second.
# systemd-networkd and systemd-resolved: the engine gives a container its address and its resolv.conf.
systemctl mask \
  apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
  fstrim.timer console-getty.service getty.target getty-static.service \
  dev-hugepages.mount dev-mqueue.mount proc-sys-fs-binfmt_misc.automount \
  sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount \
  systemd-ask-password-wall.path systemd-binfmt.service systemd-firstboot.service \
  systemd-journal-flush.service systemd-logind.service systemd-modules-load.service \
  systemd-networkd.service systemd-networkd.socket systemd-pcrphase.service systemd-pcrphase-sysinit.service \
  systemd-pstore.service systemd-random-seed.service systemd-remount-fs.service systemd-resolved.service \
  systemd-timesyncd.service systemd-udev-trigger.service systemd-udevd.service systemd-update-utmp.service \
  systemd-update-utmp-runlevel.service tmp.mount
systemctl set-default multi-user.target

# A privileged container writes the host's sysctls: only what the lab's own files say may be set at boot.
for shipped in /usr/lib/sysctl.d/*.conf /etc/sysctl.d/*.conf; do
  [ -e "$shipped" ] && ln -sf /dev/null "/etc/sysctl.d/$(basename "$shipped")"
done

# The journal: this machine's own messages, not the host kernel's; in memory, since /run is, and bounded.
mkdir -p /etc/systemd/journald.conf.d
cat > /etc/systemd/journald.conf.d/hardway.conf <<'CONF'
[Journal]
Storage=volatile
RuntimeMaxUse=64M
ReadKMsg=no
ForwardToSyslog=no
RateLimitIntervalSec=0
CONF

# Keys only. Every remote command of the lab is a connection and a session of its own, many at once, and the
# command provider closes none before it ends. PAM would only add a login session to each.
cat > /etc/ssh/sshd_config.d/hardway.conf <<'CONF'
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
UseDNS no
MaxStartups 500:30:1000
MaxSessions 500
LoginGraceTime 60
X11Forwarding no
PrintMotd no
CONF

# Every machine is given its own host keys. sshd starts when they have arrived, before or after boot.
rm -f /etc/ssh/ssh_host_*
systemctl disable ssh.service
cat > /etc/systemd/system/ssh.path <<'CONF'
[Unit]
Description=Start sshd when this machine has a host key

[Path]
PathExistsGlob=/etc/ssh/ssh_host_*_key

[Install]
WantedBy=multi-user.target
CONF
systemctl enable ssh.path
# The path unit starts it again at once, should it find a key that is only half written.
mkdir -p /etc/systemd/system/ssh.service.d
cat > /etc/systemd/system/ssh.service.d/hardway.conf <<'CONF'
[Unit]
StartLimitIntervalSec=10
StartLimitBurst=100
CONF
install -d -m 700 /root/.ssh

# Nothing that would be the same on two machines, and nothing that only the installation needed. An empty
# machine-id (rather than none) tells systemd to make one without a "first boot".
: > /etc/machine-id
: > /etc/hostname
rm -f /var/lib/dbus/machine-id
apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/debconf/*-old /var/lib/dpkg/*-old \
  /var/log/apt /var/log/*.log /usr/share/doc/* /usr/share/man/* /usr/share/locale/*
