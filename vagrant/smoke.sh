#!/bin/bash
# What a node must do, seen from outside: a pod, its log, a command in it, its port, its limits, its end; a line a step.
#
# As root, on a machine that provision.sh has set up.  The image is packed out of this machine's busybox and comes from a
# registry on 127.0.0.1.  A step that fails is shown with all that was said, and the daemon's last words.
set -Eeuo pipefail
source=$(dirname "$(realpath "$0")")
port=5055 forwarded=5056
image=localhost:$port/smoke:latest
python=/opt/kernelet/bin/python
work=$(mktemp -d /tmp/smoke.XXXXXX)
began=${EPOCHREALTIME/./} at="" registry="" forward="" has_kubelet="" screen=1

main() {
    # A kubelet takes away what it has not asked for: it rests until its own turn.
    if systemctl -q is-enabled kubelet 2>&-; then
        has_kubelet=yes
        systemctl stop kubelet
    fi
    step "the daemon answers" answer
    step "pull an image" pull
    step "run a pod" run_pod
    step "create and start a container" start_container
    step "read its log" read_log
    step "run a command in it, and have its exit code" run_command
    step "the same over a stream, with standard input" stream_command
    step "reach it at the pod's address" reach_address
    step "reach it through a forwarded port" forward_port
    step "memory: more than the limit is killed, and said to be" exceed_memory
    step "processes: more than the limit are refused" exceed_processes
    step "cpu: more than the quota is throttled" exceed_cpu
    step "restart the daemon: the container runs on" restart_daemon
    step "stop the pod and remove it" remove_pod
    step "nothing of it is left" find_nothing
    if [ -n "$has_kubelet" ]; then
        step "a kubelet runs a pod of its own, and probes it" run_static_pod
        step "and takes it away" remove_static_pod
    else
        echo "  --      a kubelet runs a pod of its own: there is no kubelet here (provision.sh says why)"
    fi
    at=""
    printf 'smoke: all well in %.1f s\n' "$(seconds "$began")"
}

# $1 is what the function $2 shows; it runs in this shell, so that an error in it is our end.
step() {
    at=$1
    local begun=${EPOCHREALTIME/./}
    "$2" >"$work/output" 2>&1
    printf '  ok  %6.2f s  %s\n' "$(seconds "$begun")" "$1"
}

seconds() { awk -v begun="$1" -v now="${EPOCHREALTIME/./}" 'BEGIN { print (now - begun) / 1e6 }'; }

at_end() {
    local code=$?
    trap - EXIT
    exec >&"$screen" 2>&1
    if [ -n "$at" ]; then
        printf '  FAILED    %s (exit code %d)\n\nwhat was said:\n' "$at" "$code"
        sed 's/^/    /' "$work/output"
        printf '\nthe daemon, last:\n'
        journalctl --no-pager --output cat --lines 25 --unit kernelet 2>&1 | sed 's/^/    /'
        code=1
    fi
    { for pod in $(crictl pods --quiet --label smoke=yes); do crictl rmp --force "$pod"; done; } >/dev/null 2>&1 || true
    rm -f /etc/kubernetes/manifests/smoke.yaml
    [ -z "$has_kubelet" ] || systemctl start kubelet || true
    [ -z "$forward" ] || kill "$forward" || true
    [ -z "$registry" ] || kill "$registry" || true
    rm -rf "$work"
    exit "$code"
}

# Ends the step with what was awaited: the command in $2 and on does not succeed within two minutes (some have no KVM).
await() {
    local what=$1 end=$((SECONDS + 120))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || { echo "waited two minutes for $what"; return 1; }
        sleep 0.1
    done
}

is() { [ "$1" = "$2" ] || { echo "expected \"$2\", found \"$1\""; return 1; }; }

answer() {
    kernelet version
    crictl version
    is "$(crictl info --output go-template --template '{{(index .status.conditions 0).status}}')" true
}

pull() {
    "$python" "$source/registry.py" "$port" &
    registry=$!
    await "the registry on port $port" listens "$port"
    kernelet pull "$image"
    kernelet images
}

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

run_pod() {
    cat >"$work/pod.json" <<-EOF
	{"metadata": {"name": "smoke", "namespace": "default", "uid": "smoke"}, "hostname": "smoke",
	 "labels": {"smoke": "yes"}, "log_directory": "$work", "linux": {}}
	EOF
    pod=$(crictl runp "$work/pod.json")
    address=$(crictl inspectp --output go-template --template '{{.status.network.ip}}' "$pod")
    echo "pod $pod has address $address"
    [ -n "$address" ]
}

# $1 is a name, $2 the shell's command, $3 the resources; the id is in the variable of that name.
make_container() {
    cat >"$work/$1.json" <<-EOF
	{"metadata": {"name": "$1"}, "image": {"image": "$image"}, "log_path": "$1.log",
	 "command": ["sh", "-c", "$2"], "linux": {"resources": {$3}}}
	EOF
    local made
    made=$(crictl create "$pod" "$work/$1.json" "$work/pod.json")
    declare -g "$1=$made"
    crictl start "$made"
}

start_container() {
    make_container server "echo hello from \$(hostname); nc -ll -p 8080 -e echo hello from a port" ""
    kernelet ps
    kernelet explain "$server" | tail -n 3
}

read_log() {
    await "a line in the log" logged server "hello from smoke"
    is "$(kernelet logs "$server")" "hello from smoke"
    is "$(crictl logs "$server")" "hello from smoke"
}

logged() { grep -q "$2" "$work/$1.log"; }

run_command() {
    is "$(kernelet exec "$server" hostname)" smoke
    local code=0
    kernelet exec "$server" sh -c "exit 7" || code=$?
    is "$code" 7
}

stream_command() {
    is "$(echo through a stream | crictl exec -i "$server" cat)" "through a stream"
}

# What answers at $1:$2.
ask() { timeout 20 bash -c 'exec 3<>"/dev/tcp/$0/$1" && cat <&3' "$1" "$2"; }

reach_address() {
    await "an answer at $address:8080" ask "$address" 8080
    is "$(ask "$address" 8080)" "hello from a port"
}

forward_port() {
    crictl port-forward "$pod" "$forwarded:8080" &
    forward=$!
    await "crictl to listen on $forwarded" listens "$forwarded"
    is "$(ask 127.0.0.1 "$forwarded")" "hello from a port"
    kill "$forward"
    wait "$forward" || true
    forward=""
}

exceed_memory() {
    make_container hungry "exec tail -c 64m /dev/zero" '"memory_limit_in_bytes": 33554432'
    await "the container to end" ended "$hungry"
    is "$(crictl inspect --output go-template --template '{{.status.reason}} {{.status.exitCode}}' "$hungry")" "OOMKilled 137"
}

ended() { crictl inspect "$1" | grep -q CONTAINER_EXITED; }

exceed_processes() {
    make_container many "(while true; do sleep 1000 & done) ; exec sleep 1000" '"unified": {"pids.max": "10"}'
    await "a process to be refused" counts "$many" pids.events max
    is "$(cat "$(cgroup_of "$many")/pids.max")" 10
}

exceed_cpu() {
    make_container busy "while true; do true; done" '"cpu_quota": 10000, "cpu_period": 100000'
    await "the container to be throttled" counts "$busy" cpu.stat nr_throttled
    is "$(cat "$(cgroup_of "$busy")/cpu.max")" "10000 100000"
    crictl stop --timeout 0 "$busy" "$many"
}

# Whether in the file $2 of the cgroup of container $1, $3 is no longer 0.
counts() { awk -v key="$3" '$1 == key && $2 > 0 { found = 1 } END { exit !found }' "$(cgroup_of "$1")/$2"; }

cgroup_of() {
    local pid
    pid=$(crictl inspect --output go-template --template '{{.info.pid}}' "$1")
    echo "/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$pid/cgroup")"
}

restart_daemon() {
    local before
    before=$(crictl inspect --output go-template --template '{{.info.pid}}' "$server")
    systemctl restart kernelet
    await "the daemon" crictl version
    is "$(crictl inspect --output go-template --template '{{.info.pid}} {{.status.state}}' "$server")" "$before CONTAINER_RUNNING"
    is "$(ask "$address" 8080)" "hello from a port"
}

run_static_pod() {
    cat >/etc/kubernetes/manifests/smoke.yaml <<-EOF
	apiVersion: v1
	kind: Pod
	metadata: {name: static, labels: {smoke: "yes"}}
	spec:
	  terminationGracePeriodSeconds: 1
	  containers:
	  - name: main
	    image: $image
	    imagePullPolicy: IfNotPresent
	    command: [sh, -c, "echo hello from a kubelet; touch /tmp/ready; exec sleep 100000"]
	    readinessProbe: {exec: {command: [cat, /tmp/ready]}, periodSeconds: 1}
	    resources: {limits: {memory: 32Mi, cpu: 200m}}
	EOF
    systemctl start kubelet
    await "the kubelet's pod to be ready" is_static_pod_ready
    crictl pods --label smoke=yes
    static=$(crictl ps --quiet --label io.kubernetes.pod.namespace=default --name main)
    is "$(crictl logs "$static")" "hello from a kubelet"
    is "$(cat "$(cgroup_of "$static")/memory.max")" 33554432
}

# The kubelet's own word for it.
is_static_pod_ready() {
    python3 - <<-'EOF'
	import json, sys, urllib.request
	pods = json.load(urllib.request.urlopen("http://127.0.0.1:10255/pods", timeout=5))["items"] or []
	found = [pod["status"] for pod in pods if pod["metadata"]["name"].startswith("static")]
	ready = [one["status"] for status in found for one in status.get("conditions", []) if one["type"] == "Ready"]
	sys.exit(ready != ["True"])
	EOF
}

remove_static_pod() {
    rm /etc/kubernetes/manifests/smoke.yaml
    await "the kubelet to stop its pod" is_gone --name static --state ready
    crictl rmp "$(crictl pods --quiet --name static)" # which the kubelet itself does once a minute
    crictl rmi "$image"
}

is_gone() { [ -z "$(crictl pods --quiet "$@")" ]; }

remove_pod() {
    group=$(dirname "$(cgroup_of "$server")")
    kernelet stop "$pod"
    kernelet rm "$pod"
    is_gone --label smoke=yes
}

find_nothing() {
    [ ! -e "$group" ] || { echo "$group is still there"; return 1; }
    is "$(grep "$pod" /proc/self/mountinfo)" ""
    is "$(ls -d "/sys/class/net/kl${pod:0:11}" 2>&-)" ""
    is "$(find /run/kernelet /var/lib/kernelet -name "$pod*")" ""
}

[ "$(id -u)" = 0 ] || { echo "smoke.sh: only root may speak with the daemon: use sudo" >&2; exit 1; }
for program in kernelet crictl; do
    command -v "$program" >/dev/null || { echo "smoke.sh: there is no $program: see provision.sh" >&2; exit 1; }
done
exec {screen}>&1
trap at_end EXIT
main
