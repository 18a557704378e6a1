#!/bin/sh
# Stands in for systemctl where no systemd runs: starts and ends what enforcer.service says, and notes what it was told.
set -e

unit=/lib/systemd/system/enforcer.service
pid=/run/systemctl.pid
link=/etc/systemd/system/multi-user.target.wants/enforcer.service
echo "$*" >>/run/systemctl.log

# The value of a key of the unit.
value() { sed -n "s/^$1=//p" "$unit"; }

runs() { [ -e "$pid" ] && kill -0 "$(cat "$pid")" 2>/dev/null; }

start() {
    if runs; then return; fi
    $(value ExecStartPre) >/dev/null
    mkdir -p /run/enforcer
    $(value ExecStart) >>/run/enforcer.log 2>&1 &
    echo $! >"$pid"
    enforcer status --wait-ready 90 >/dev/null
}

stop() {
    if ! runs; then return; fi
    kill "$(cat "$pid")"
    while runs; do sleep 0.05; done
    rm -f "$pid"
    # The run folder survives a restart, as the unit says, and nothing else.
    if [ "$1" != restart ]; then rm -rf /run/enforcer; fi
}

command=$1
case "$*" in
daemon-reload) ;;
"enable --now enforcer.service")
    mkdir -p "${link%/*}"
    ln -sf "$unit" "$link"
    start
    ;;
"disable --now enforcer.service")
    rm -f "$link"
    stop
    ;;
"try-restart enforcer.service")
    if runs; then
        stop restart
        start
    fi
    ;;
*)
    echo "systemctl: $command is not stood in for: $*" >&2
    exit 1
    ;;
esac
