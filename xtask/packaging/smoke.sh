#!/bin/busybox sh
# The first and only process of a guest for which the enforcer was built: two hosts with an enforcer each, a network
# namespace and a bpf file system of its own, joined by a veth pair. Says `guest: done` if all of it held.
/bin/busybox --install -s /bin
export PATH=/bin:/programs
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
# The kernel asks for the modules that it wants, but for the one that is opened by its file.
echo /bin/modprobe > /proc/sys/kernel/modprobe

# on HOST COMMAND...: runs it there.
on() {
    pid=$(cat "/tmp/$1.pid")
    shift
    nsenter -t "$pid" -n -m "$@"
}

# host NAME ADDRESS: a namespace with the interface `veth-NAME`, and an enforcer's files in /tmp/NAME.
host() {
    unshare -n -m sleep 86400 &
    echo $! > "/tmp/$1.pid"
    while [ "$(readlink "/proc/$!/ns/mnt")" = "$(readlink /proc/$$/ns/mnt)" ]; do sleep 1; done
    ip link set "veth-$1" netns $!
    on "$1" mount -t sysfs sysfs /sys
    on "$1" mount -t bpf bpf /sys/fs/bpf
    on "$1" mount -t tmpfs tmpfs /run
    on "$1" ip link set lo up
    on "$1" ip addr add "$2/24" dev "veth-$1"
    on "$1" ip link set "veth-$1" up
    mkdir -p "/tmp/$1/policy"
    cp /tmp/psk.key "/tmp/$1/psk.key"
    echo 'permit(principal, action, resource);' > "/tmp/$1/policy/all.cedar"
    cat > "/tmp/$1/enforcer.toml" <<END
trust_domain = "example.org"
[identity]
mode = "psk"
psk_file = "psk.key"
[mesh]
networks = ["192.0.2.0/24"]
[policy]
files = ["policy"]
[[workload]]
name = "$1"
namespace = "/acme"
interface = "veth-$1"
END
}

# start HOST: an enforcer that enforces.
start() {
    on "$1" enforcer check-config --config "/tmp/$1/enforcer.toml"
    # Not by `on`: the number of a function in the background is that of a shell.
    nsenter -t "$(cat "/tmp/$1.pid")" -n -m enforcer run --config "/tmp/$1/enforcer.toml" &
    echo $! > "/tmp/$1.daemon"
    # Emulated, a daemon that loads its programs may answer nobody for a while.
    until on "$1" enforcer status --config "/tmp/$1/enforcer.toml" --wait-ready 600; do
        kill -0 "$(cat "/tmp/$1.daemon")"
        sleep 1
    done
}

# call: what the server says to the caller.
call() {
    on caller nc -w 20 192.0.2.2 8080 < /dev/null || true
}

# counted HOST COUNTER: succeeds if it is above nought.
counted() {
    on "$1" enforcer counters --config "/tmp/$1/enforcer.toml" --json | tr -d ' \n' > "/tmp/$1.counters"
    grep -q "\"$2\":[1-9]" "/tmp/$1.counters" || { cat "/tmp/$1.counters"; return 1; }
    echo "smoke: $1 counted $2"
}

smoke() {
    set -e
    uname -rm
    echo "smoke: compiled to machine code: $(cat /proc/sys/net/core/bpf_jit_enable)"
    [ "$(cat /proc/sys/net/core/bpf_jit_enable)" != 0 ]
    enforcer --version
    enforcer psk generate --out /tmp/psk.key
    modprobe tun
    # Busybox leaves the other end's name to the kernel.
    ip link add veth-caller type veth
    ip link set veth0 name veth-server
    host caller 192.0.2.1
    host server 192.0.2.2
    on server nc -ll -p 8080 -e echo hello &
    start caller
    start server
    [ "$(call)" = hello ]
    echo 'smoke: a permitted call was answered'
    counted caller s1_sent
    counted server s1_accepted
    counted server proof_accepted
    kill "$(cat /tmp/caller.daemon)"
    wait "$(cat /tmp/caller.daemon)" || true
    on caller enforcer detach --config /tmp/caller/enforcer.toml
    [ "$(call)" = '' ]
    echo 'smoke: a call without an enforcer was not'
    echo 'guest: done'
}
(smoke)
poweroff -f
