#!/bin/bash
# service.sh DEB: the unit under systemd: what it is told, its watchdog, wrong configurations, and containers that outlive it all.
set -Eeuo pipefail
trap 'echo "failed in line $LINENO: $BASH_COMMAND" >&2; journalctl --no-pager -o cat -u kernelet | tail -n 40 >&2' ERR
python=/opt/kernelet/bin/python3 dropins=/etc/kernelet/kernelet.toml.d

is() { [ "$1" = "$2" ] || { echo "expected \"$2\", found \"$1\"" >&2; return 1; }; }
await() { for _ in $(seq 900); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done; echo "waited 90 s for: $*" >&2; return 1; }
show() { systemctl show --property "$1" --value kernelet; }
main_is_new() { [ "$(show MainPID)" != "$daemon" ] && [ "$(show ActiveState)" = active ]; }
alive() { is "$(kernelet ps --quiet)" "$container" && [ -d "/proc/$pid" ] && kernelet exec "$container" true; }
logged() { journalctl --no-pager -o cat -u kernelet | grep -q -e "$1"; }
score() { cat "/proc/$1/oom_score_adj"; }

echo "start"
dpkg --install "$1" >/dev/null
systemctl stop kernelet
$python -c 'from cri import config; from cri.command import demo; demo.store_image(config.load(None).paths)'
mkdir -p $dropins /run/systemd/system/kernelet.service.d
printf '[Service]\nWatchdogSec=3\n' >/run/systemd/system/kernelet.service.d/watchdog.conf
systemctl daemon-reload
systemctl start kernelet
is "$(show StatusText)" "serving 0 pods, 0 containers run"

echo "a pod"
container=$($python - <<'END'
from cri.api import api_pb2 as api
from cri.client import Client
from cri.command import demo
from pathlib import Path
node = api.NamespaceOption(network=api.NODE)
pod = api.PodSandboxConfig(
    metadata=api.PodSandboxMetadata(name="p", namespace="default", uid="p"),
    linux=api.LinuxPodSandboxConfig(security_context=api.LinuxSandboxSecurityContext(namespace_options=node)),
)
wish = api.ContainerConfig(
    metadata=api.ContainerMetadata(name="c"), image=api.ImageSpec(image=demo.IMAGE), command=["sleep", "100000"],
    linux=api.LinuxContainerConfig(resources=api.LinuxContainerResources(oom_score_adj=500)),
)
with Client(Path("/run/kernelet/kernelet.sock")) as client:
    made = client.call(api.RunPodSandboxRequest(config=pod), api.RunPodSandboxResponse).pod_sandbox_id
    create = api.CreateContainerRequest(pod_sandbox_id=made, config=wish, sandbox_config=pod)
    container = client.call(create, api.CreateContainerResponse).container_id
    client.call(api.StartContainerRequest(container_id=container), api.StartContainerResponse)
print(container)
END
)
pid=$(kernelet inspect "$container" | sed -n 's/^ *"pid": \([0-9]*\),/\1/p')
alive
is "$(score "$(show MainPID)") $(score "$(pgrep -f runtime.monitor)") $(score "$pid")" "-999 -999 500"
await test "$(show StatusText)" = "serving 1 pods, 1 containers run"

echo "its log: priorities, and the pod's name"
journalctl -o json -u kernelet | grep 'rpc=StartContainer' | grep -q '"PRIORITY":"6"'
journalctl -o cat -u kernelet | grep 'rpc=StartContainer' | grep -q 'namespace=default pod=p container=c'

echo "a configuration that is wrong changes nothing, one that is right applies"
daemon=$(show MainPID)
echo 'levle = 1' >$dropins/a.toml
! systemctl reload kernelet 2>/dev/null
printf '[log]\nlevel = "debug"\n[network]\nbridge = "other0"\n' >$dropins/a.toml
systemctl reload kernelet
await logged 'reload: 1 applied, waiting for a restart: network.bridge'
logged 'network.bridge: kernelet0 -> other0: not applied, needs a restart'
rm $dropins/a.toml
systemctl reload kernelet
is "$(show MainPID)" "$daemon"
alive

echo "a monitor that stands still: the watchdog is not answered, the daemon is replaced, and replaces it"
kill -STOP "$(pgrep -f runtime.monitor)"
await logged 'the watchdog is not answered'
await main_is_new
logged 'Fatal Python error: Aborted'
await alive
is "$(show NRestarts)" 1

echo "killed"
daemon=$(show MainPID)
systemctl kill --kill-who=main --signal=KILL kernelet
await main_is_new
await alive

echo "stopped, and started"
systemctl stop kernelet
is "$(show ActiveState)" inactive
[ -d "/proc/$pid" ]
systemctl start kernelet
alive
echo "done"
