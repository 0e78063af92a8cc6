#!/bin/sh
# Make this Debian 12 a node: kernel settings, Kernelet's package, its service, a kubelet and crictl where they can be had.
#
# As root; Vagrant runs it in its machine, tests/vm in a guest.  The package is the newest of build/*.deb ("make deb"); where
# there is none it is built here, for which the internet is needed.  Run again, it installs what is newer.
set -eu
source=${KERNELET_SOURCE:-/src}
kubernetes=v1.36
packages=https://pkgs.k8s.io/core:/stable:/$kubernetes/deb
export DEBIAN_FRONTEND=noninteractive LC_ALL=C

main() {
    [ "$(id -u)" = 0 ] || fail "only root can set up a node: use sudo"
    grep -qw memory /sys/fs/cgroup/cgroup.controllers || fail "there is no memory controller in /sys/fs/cgroup: cgroup v2 alone is needed"
    set_kernel
    install_kernelet
    install_kubernetes
    wait_for_daemon
}

# What a kubelet expects of its node.
set_kernel() {
    say "kernel: modules, forwarding, no swap"
    printf '%s\n' overlay br_netfilter > /etc/modules-load.d/kubernetes.conf
    modprobe -a overlay br_netfilter
    printf '%s\n' net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1 > /etc/sysctl.d/90-kubernetes.conf
    sysctl -q -p /etc/sysctl.d/90-kubernetes.conf
    swapoff -a
}

install_kernelet() {
    package=$(ls -t "$source"/build/kernelet_*.deb 2>/dev/null | head -n 1)
    if [ -z "$package" ]; then
        say "kernelet: no build/kernelet_*.deb yet: built here"
        apt-get -qq update
        apt-get -qq -y install make >/dev/null
        make -s -C "$source" deb
        package=$(ls -t "$source"/build/kernelet_*.deb | head -n 1)
    fi
    say "kernelet: ${package##*/}"
    # Also what is installed already: a package that was built anew has the same version.
    install_packages --reinstall --allow-downgrades "$package"
    systemctl -q enable --now kernelet
}

# kubelet and crictl: of pkgs.k8s.io where it answers, or what somebody put into build/vagrant.
install_kubernetes() {
    for program in crictl kubelet; do
        if [ -e "$source/build/vagrant/$program" ]; then
            say "$program: of build/vagrant"
            install -m 755 "$source/build/vagrant/$program" "/usr/local/bin/$program"
        fi
    done
    if ! command -v kubelet >/dev/null && fetch "$packages/Release.key" > /tmp/kubernetes.asc; then
        say "kubelet, crictl: Kubernetes $kubernetes of pkgs.k8s.io"
        mv /tmp/kubernetes.asc /etc/apt/keyrings/kubernetes.asc
        echo "deb [signed-by=/etc/apt/keyrings/kubernetes.asc] $packages/ /" > /etc/apt/sources.list.d/kubernetes.list
        apt-get -qq update
        install_packages kubelet cri-tools
    fi
    rm -f /tmp/kubernetes.asc
    printf 'runtime-endpoint: unix:///run/kernelet/kernelet.sock\ntimeout: 30\n' > /etc/crictl.yaml
    if command -v kubelet >/dev/null; then
        run_kubelet
    else
        say "kubelet: none: pkgs.k8s.io does not answer"
    fi
}

# Alone, without a cluster: it runs the pods of /etc/kubernetes/manifests.
run_kubelet() {
    mkdir -p /etc/kubernetes/manifests /etc/systemd/system/kubelet.service.d
    cat > /etc/kubernetes/kubelet.yaml <<-EOF
	apiVersion: kubelet.config.k8s.io/v1beta1
	kind: KubeletConfiguration
	containerRuntimeEndpoint: unix:///run/kernelet/kernelet.sock
	staticPodPath: /etc/kubernetes/manifests
	cgroupDriver: cgroupfs
	address: 127.0.0.1
	enableServer: true
	readOnlyPort: 10255
	authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
	authorization: {mode: AlwaysAllow}
	EOF
    # The package has a unit of its own; what is said here counts either way.
    cat > /etc/systemd/system/kubelet.service.d/kernelet.conf <<-EOF
	[Unit]
	Description=kubelet, alone, on Kernelet
	After=kernelet.service
	[Service]
	ExecStart=
	ExecStart=$(command -v kubelet) --config=/etc/kubernetes/kubelet.yaml --hostname-override=kernelet
	Restart=always
	RestartSec=5
	[Install]
	WantedBy=multi-user.target
	EOF
    [ -e /lib/systemd/system/kubelet.service ] || printf '[Unit]\n' > /etc/systemd/system/kubelet.service
    systemctl daemon-reload
    systemctl -q enable kubelet
    systemctl restart kubelet
}

wait_for_daemon() {
    for attempt in $(seq 60); do
        if kernelet version >/dev/null 2>&1; then
            say "$(kernelet version | tr '\n' ' ')"
            return
        fi
        sleep 0.5
    done
    fail "the daemon does not answer: $(systemctl status --no-pager --lines 20 kernelet 2>&1)"
}

# Without recommendations, and without asking the network for what is here already.
install_packages() {
    apt-get -qq -y --no-install-recommends install "$@" >/tmp/apt.log 2>&1 ||
        { apt-get -qq update && apt-get -qq -y --no-install-recommends install "$@" >/tmp/apt.log 2>&1; } ||
        fail "apt-get install $*: $(cat /tmp/apt.log)"
    rm -f /tmp/apt.log
}

# python3 is there for certain: the package needs it.
fetch() {
    python3 -c 'import sys, urllib.request as r; sys.stdout.write(r.urlopen(sys.argv[1], timeout=10).read().decode())' "$1" 2>/dev/null
}

say() { echo "provision: $*"; }
fail() { echo "provision: $*" >&2; exit 1; }

main
