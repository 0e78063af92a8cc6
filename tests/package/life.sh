#!/bin/bash
# The package's life in a copy of this machine that is thrown away: an overlay over /, in a mount namespace of its own.
# Usage: life.sh DEB NEWER-DEB BRIDGE SUBNET.  Prints a line a step; the first that fails ends it.
set -euo pipefail
deb=$1 newer=$2 bridge=$3 subnet=$4

work=$(mktemp -d)
mount -t tmpfs tmpfs "$work"
mkdir "$work"/{upper,work,root,data,run}
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$work/root"
for each in proc sys dev; do
    mount --rbind "/$each" "$work/root/$each"
done
mount --bind "$work/run" "$work/root/run"
mkdir "$work/root/data"
mount --bind "$work/data" "$work/root/data"
cp "$deb" "$work/root/old.deb"
cp "$newer" "$work/root/new.deb"
export DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin

inside() { chroot "$work/root" "$@"; }
fail() { echo "FAILED: $*" >&2; exit 1; }
serve() {
    chroot "$work/root" /usr/bin/kernelet serve >>"$work/daemon.log" 2>&1 &
    daemon=$!
    for _ in $(seq 400); do
        inside kernelet version >/dev/null 2>&1 && return
        kill -0 $daemon 2>/dev/null || break
        sleep 0.05
    done
    cat "$work/daemon.log" >&2
    fail "the daemon does not answer"
}
stop() {
    kill -TERM $daemon
    wait $daemon || fail "the daemon ended with $?"
}
trap 'kill -KILL ${daemon:-} 2>/dev/null || true' EXIT

echo "install"
inside dpkg --install /old.deb >/dev/null
inside dpkg --verify kernelet
for each in kernelet kernelet-oci; do
    inside "$each" --help >/dev/null
done
inside kernelet config check
inside /opt/kernelet/bin/python3 -c 'import sys; assert not [p for p in sys.path if "/work" in p or "tmp" in p], sys.path'
[ -n "$(inside find /opt/kernelet/lib -name "*.pyc" -print -quit)" ] || fail "nothing was compiled"

echo "a pod runs"
mkdir -p "$work/root/etc/kernelet/kernelet.toml.d"
cat >"$work/root/etc/kernelet/kernelet.toml.d/test.toml" <<END
root_dir = "/data/kernelet"
[network]
kind = "built-in"
bridge = "$bridge"
subnet = "$subnet"
END
inside /opt/kernelet/bin/python3 -c '
from cri import config
from cri.command import demo
demo.store_image(config.load(None).paths)'
serve
inside /opt/kernelet/bin/python3 -c '
from cri import config
from cri.client import Client
from cri.command import demo
chosen = config.load(None)
with Client(chosen.socket) as client:
    demo.show(client, chosen)' >/dev/null
container=$(inside kernelet ps --quiet)
pid=$(inside kernelet inspect "$container" | sed -n 's/.*"pid": \([0-9]*\),.*/\1/p' | head -1)
[ -d "/proc/$pid" ] || fail "process $pid of container $container is not there"

echo "upgrade: the container runs on"
echo '# a local change' >>"$work/root/etc/kernelet/kernelet.toml"
inside dpkg --force-confold --install /new.deb >/dev/null
[ -d "/proc/$pid" ] || fail "the upgrade ended the container"
grep -q 'a local change' "$work/root/etc/kernelet/kernelet.toml" || fail "the upgrade took a change of the configuration away"
stop
[ -d "/proc/$pid" ] || fail "the daemon's stop ended the container"
serve
[ "$(inside kernelet ps --quiet)" = "$container" ] || fail "the new daemon does not know the container"
inside kernelet exec "$container" true || fail "nothing can be executed in the container"
[[ $(inside kernelet logs "$container") == *"hello from demo"* ]] || fail "the log is not there"

echo "remove: the pod is ended, images and configuration stay"
stop
inside dpkg --remove kernelet >/dev/null
[ ! -d "/proc/$pid" ] || fail "the container outlived the package"
[ ! -e "$work/root/opt/kernelet/bin/kernelet" ] || fail "the command is still there"
[ -e "$work/root/etc/kernelet/kernelet.toml" ] || fail "the configuration is gone"
[ -e "$work/root/data/kernelet/state.db" ] || fail "the records are gone"

echo "purge: nothing is left"
mkdir -p "$work/root/var/lib/kernelet/blobs"
inside dpkg --purge kernelet >/dev/null
for each in opt/kernelet etc/kernelet var/lib/kernelet run/kernelet usr/bin/kernelet lib/systemd/system/kernelet.service; do
    [ ! -e "$work/root/$each" ] || fail "/$each is left: $(find "$work/root/$each" | head -5)"
done
echo "done"
