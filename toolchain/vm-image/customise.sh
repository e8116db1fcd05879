#!/bin/sh
# Runs inside the fresh root of the virtual machines' image.
set -eu

# Services that only some machines need: the steps that configure them enable them.
systemctl disable haproxy.service keepalived.service nginx.service

# Housekeeping that nobody asked for, on machines that live for days.
systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer
systemctl set-default multi-user.target
systemctl enable systemd-networkd.service systemd-networkd-wait-online.service systemd-resolved.service
ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf

# All of the disk is one file system: there is no boot loader, since the kernel is handed over by the host.
echo '/dev/vda / ext4 defaults,discard 0 1' >/etc/fstab

# An initrd with what the root file system needs, rather than with every driver: less to unpack at every boot.
sed -i 's/^MODULES=.*/MODULES=list/' /etc/initramfs-tools/initramfs.conf
printf '%s\n' virtio_pci virtio_blk ext4 crc32c >>/etc/initramfs-tools/modules
# Drivers of hardware that no virtual machine has.
cd /lib/modules/*/kernel
rm -rf sound drivers/gpu drivers/media drivers/infiniband drivers/net/wireless drivers/net/ethernet/mellanox \
  drivers/staging drivers/iio drivers/isdn drivers/bluetooth drivers/mtd drivers/usb net/bluetooth net/mac80211 net/wireless
cd /
depmod "$(basename /lib/modules/*)"
update-initramfs -u -k all

# The settings of a machine come on a CD, and from nowhere else: asking for a cloud's own would take minutes. And there
# is no package that would make another locale than C.
cat >/etc/cloud/cloud.cfg.d/90-hardway.cfg <<'CONF'
datasource_list: [NoCloud, None]
locale: false
CONF

# sshd starts with the keys that cloud-init brings, and has none before.
rm -f /etc/ssh/ssh_host_*

# Nothing that would be the same on two machines, and nothing that only the installation needed.
: >/etc/machine-id
: >/etc/hostname
rm -f /var/lib/dbus/machine-id
apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/debconf/*-old /var/lib/dpkg/*-old \
  /var/log/apt /var/log/*.log /usr/share/doc/* /usr/share/man/* /usr/share/locale/*
