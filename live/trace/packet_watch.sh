# shellcheck shell=bash disable=SC2154
# Marks the first packet of one connection, and its answer, for the kernel's trace (nft(8)), and prints what the kernel
# says of them. Before these lines stand: table, pod (address), port (the source port), devices (names, quoted, with
# commas), seconds (the deadline).
#
# The tables are the machine's own, in its network namespace, and match this connection alone. They are removed at the
# end, however that comes: the caller is killed (standard input ends), the deadline is over, a signal. What a machine
# keeps that was frozen meanwhile, the next trace removes.
set -u
export LC_ALL=C

remove_tables() {
  nft delete table inet "$table" 2>/dev/null
  nft delete table netdev "$table" 2>/dev/null
  return 0
}

command -v nft >/dev/null || { echo 'missing nft is not installed'; exit 0; }
directory=$(mktemp -d) || exit
monitor=
end() {
  [ -z "$monitor" ] || kill "$monitor"
  remove_tables
  rm -rf "$directory"
}
trap end EXIT
trap 'exit 1' HUP INT TERM

remove_tables
# The request is known by its first packet (SYN), the answer by SYN and ACK, or by RST where nothing listens.
# In inet by conntrack, which knows the connection before and after each translation; chains without rules only show that
# a packet passes (translated: after DNAT, whose priority is -100). In netdev, where there is no conntrack, by the Pod's address; and packets of VXLAN (UDP 4789) by the
# packet in them, which begins 30 bytes after the UDP header.
number() { printf '%d' $((($1 << 24) + ($2 << 16) + ($3 << 8) + $4)); }
# shellcheck disable=SC2086
inner=$(number ${pod//./ })
nft -f - <<RULES || exit
table inet $table {
  chain of_connection {
    ct direction original tcp flags & (syn|ack) == syn meta nftrace set 1
    ct direction reply tcp flags & (syn|rst) != 0 meta nftrace set 1
  }
  chain own {
    meta l4proto tcp ct original ip saddr $pod ct original proto-src $port jump of_connection
  }
  chain prerouting {
    type filter hook prerouting priority -199
    jump own
  }
  chain translated {
    type filter hook prerouting priority -99
  }
  chain input {
    type filter hook input priority 300
  }
  chain forward {
    type filter hook forward priority -199
  }
  chain output {
    type filter hook output priority -199
    jump own
  }
  chain postrouting {
    type filter hook postrouting priority 300
  }
}
table netdev $table {
  chain request {
    ip saddr $pod tcp sport $port tcp flags & (syn|ack) == syn meta nftrace set 1
    udp dport 4789 @th,336,32 $inner @th,400,16 $port @th,504,8 & 0x12 == 0x02 meta nftrace set 1
  }
  chain answer {
    ip daddr $pod tcp dport $port tcp flags & (syn|rst) != 0 meta nftrace set 1
    udp dport 4789 @th,368,32 $inner @th,416,16 $port @th,504,8 & 0x06 != 0 meta nftrace set 1
  }
  chain ingress {
    type filter hook ingress devices = { $devices } priority -500
    jump request
    jump answer
  }
  chain egress {
    type filter hook egress devices = { $devices } priority 500
    jump request
    jump answer
  }
}
RULES

nft monitor >"$directory/events" 2>"$directory/errors" &
monitor=$!
# seen NAME: wait until the monitor prints a change that is made here: it listens; and all before that is printed.
seen() {
  local deadline=$((SECONDS + seconds))
  until grep -qsE "^add chain inet $table $1( |$)" "$directory/events"; do
    if [ "$SECONDS" -ge "$deadline" ] || ! kill -0 "$monitor"; then
      echo "nft monitor prints nothing: $(tail -n 1 "$directory/errors")" >&2
      return 1
    fi
    nft add chain inet "$table" "$1" && nft delete chain inet "$table" "$1"
    sleep 0.02
  done
}
seen begin || exit
echo ready
read -r -t "$seconds" _ || true
seen end || exit
sed -n 's/^trace id /event &/p' "$directory/events"
if command -v conntrack >/dev/null; then
  conntrack -L -p tcp --orig-src "$pod" --orig-port-src "$port" 2>/dev/null | sed 's/^/conntrack /'
elif [ -r /proc/net/nf_conntrack ]; then
  sed -n "/src=$pod .*sport=$port /s/^/conntrack /p" /proc/net/nf_conntrack
fi
echo done
