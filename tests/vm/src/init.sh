#!/bin/sh
# First process of a guest: set up what a scenario needs, then run commands that arrive on the agent's port.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/ LC_ALL=C
/usr/bin/busybox mkdir -p /sbin
/usr/bin/busybox --install -s /bin 2>/dev/null
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /run/jobs
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
# The list's last line has no newline, for which `read` gives a status but also the text.
while read -r module || [ -n "$module" ]; do
    insmod "/lib/modules/$module" || echo "guest: module $module did not load"
done </etc/modules
sysctl -q -w kernel.printk="4 4 1 7" kernel.hung_task_timeout_secs=120 2>/dev/null
# Without this an address is unusable for two seconds after it was added.
sysctl -q -w net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.eth0.accept_dad=0
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
ip -6 addr add fec0::15/64 dev eth0
port=
while [ -z "$port" ]; do
    for candidate in /sys/class/virtio-ports/*/name; do
        [ -e "$candidate" ] && [ "$(cat "$candidate")" = agent ] && port=/dev/$(basename "$(dirname "$candidate")")
    done
    [ -n "$port" ] || sleep 0.1
done
exec 3<>"$port"
echo "ready 0 0" >&3
while read -r id length <&3; do
    if [ "$id" = bye ]; then
        break
    fi
    dd bs="$length" count=1 iflag=fullblock of=/run/command <&3 2>/dev/null
    sh /run/command >/run/output 2>&1 3<&- </dev/null
    status=$?
    echo "$id $status $(wc -c </run/output)" >&3
    cat /run/output >&3
done
poweroff -f
