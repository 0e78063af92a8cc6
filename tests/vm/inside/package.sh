#!/bin/bash
# package.sh FIRST LATER: a package's life under systemd, with a pod that must not notice: install, upgrade, remove, purge.
set -Eeuo pipefail
trap 'echo "failed in line $LINENO: $BASH_COMMAND" >&2; journalctl --no-pager -o cat -u kernelet | grep -v cygrpc | tail -n 30 >&2' ERR
first=$1 later=$2
image=localhost:5055/smoke:latest
export DEBIAN_FRONTEND=noninteractive
printf 'runtime-endpoint: unix:///run/kernelet/kernelet.sock\ntimeout: 30\n' >/etc/crictl.yaml

is() { [ "$1" = "$2" ] || { echo "expected \"$2\", found \"$1\"" >&2; return 1; }; }
await() { for _ in $(seq 600); do "$@" && return; sleep 0.1; done; echo "waited a minute for: $*" >&2; return 1; }
field() { crictl inspect --output go-template --template "{{$2}}" "$1"; }
main_pid() { systemctl show --property MainPID --value kernelet; }
state() { systemctl is-enabled kernelet 2>&1 | head -n 1; systemctl is-active kernelet; }
begin() {
    cat >/tmp/container.json <<-EOF
	{"metadata": {"name": "$1"}, "image": {"image": "$image"}, "log_path": "$1.log", "linux": {},
	 "command": ["sh", "-c", "n=0; while true; do n=\$((n + 1)); echo \$n; sleep 0.05; done"]}
	EOF
    container=$(crictl create "$pod" /tmp/container.json /tmp/pod.json)
    crictl start "$container" >/dev/null
    await test -s "/tmp/$1.log"
}

echo "install"
dpkg --install "$first"
is "$(state | xargs)" "enabled active"
kernelet version
kernelet doctor
sed -i 's/^level = "info" /level = "debug"/' /etc/kernelet/kernelet.toml
systemctl reload kernelet

echo "a pod"
/opt/kernelet/bin/python3 /src/vagrant/registry.py 5055 &
registry=$!
await kernelet pull "$image"
kill "$registry"
echo '{"metadata": {"name": "p", "namespace": "default", "uid": "p"}, "log_directory": "/tmp", "linux": {}}' >/tmp/pod.json
pod=$(crictl runp /tmp/pod.json)
begin counter
counter=$container
pid=$(field "$counter" .info.pid) daemon=$(main_pid)
group=/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$pid/cgroup")

echo "upgrade"
dpkg --install "$later"
is "$(dpkg-query --show --showformat '${Version}' kernelet)" "$(dpkg-deb --field "$later" Version)"
is "$(state | xargs)" "enabled active"
[ "$(main_pid)" != "$daemon" ]
grep '^level = "debug"' /etc/kernelet/kernelet.toml
is "$(field "$counter" '.info.pid') $(field "$counter" .status.state)" "$pid CONTAINER_RUNNING"
lines=$(wc -l </tmp/counter.log)
await test "$(wc -l </tmp/counter.log)" -ge "$lines"
awk '$4 != NR { print "line " NR " is " $4; exit 1 }' /tmp/counter.log # stamp, stream, tag, number: none lost, none twice
is "$(kernelet exec "$counter" echo in it)" "in it"
begin second
kernelet ps

echo "remove"
dpkg --remove kernelet
[ ! -e /usr/bin/kernelet ] && [ ! -e /lib/systemd/system/kernelet.service ] && [ ! -e /opt/kernelet/bin ]
[ ! -e "/proc/$pid" ] && [ ! -e "$group" ]
is "$(pgrep -f runtime.monitor || true)" ""
is "$(grep "$pod" /proc/self/mountinfo || true)" ""
is "$(ls /sys/class/net | grep "^kl${pod:0:11}" || true)" ""
grep '^level = "debug"' /etc/kernelet/kernelet.toml

echo "install again"
dpkg --install "$later"
is "$(state | xargs)" "enabled active"
kernelet images | grep smoke
is "$(crictl pods --quiet --state ready)" "" # what ran is remembered, until a purge

echo "purge"
dpkg --purge kernelet
for place in /etc/kernelet /var/lib/kernelet /run/kernelet /opt/kernelet /etc/systemd/system/multi-user.target.wants/kernelet.service; do
    [ ! -e "$place" ] && [ ! -L "$place" ]
done
is "$(ls -d /sys/class/net/kernelet0 2>/dev/null || true)" ""
is "$(nft list tables 2>&1 | grep kernelet || true)" ""
echo "done"
