#!/bin/bash
# What a machine does at every boot, before anybody logs in: sshd gets the host key that the lab has pinned, and lets
# root in by key, by many connections at once: each remote command of the lab is one. Google's agent has the lab's key from the metadata, too; here it is put where sshd looks first.
set -eu
umask 077

attribute() {
  curl -sf --retry 10 --retry-connrefused -H 'Metadata-Flavor: Google' \
    "http://169.254.169.254/computeMetadata/v1/instance/attributes/$1"
}

key=/etc/ssh/hardway_host_ed25519_key
authorized=/etc/ssh/hardway_authorized_keys
settings=/etc/ssh/sshd_config.d/00-hardway.conf

attribute hardway-host-key >"$key.new"
mv "$key.new" "$key"
attribute ssh-keys | sed -n 's/^root://p' >"$authorized"
chmod 0644 "$authorized"
cat >"$settings" <<END
HostKey $key
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthorizedKeysFile $authorized .ssh/authorized_keys
UseDNS no
MaxStartups 500:30:1000
MaxSessions 500
END
chmod 0644 "$settings"
install -d -m 0755 /run/sshd
sshd -t
systemctl try-reload-or-restart ssh.service
