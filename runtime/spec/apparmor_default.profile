# What RuntimeDefault means on a node with AppArmor: the rules of Docker's docker-default, under our own name.
# Compiled into apparmor_default.bin by the tests' guest (tests/vm/inside/test_apparmor.py says how), for a daemon that starts no program.
abi <abi/3.0>,

@{PROC}=/proc/

profile kernelet-default flags=(attach_disconnected,mediate_deleted) {
  network,
  unix,
  dbus,
  capability,
  file,
  umount,

  # Whoever is not confined, as the monitor, may signal; so may processes of containers each other.
  signal (receive) peer=unconfined,
  signal (send,receive) peer=kernelet-default,
  ptrace (trace,read,tracedby,readby) peer=kernelet-default,

  deny mount,

  # /proc: a process's own files and /proc/sys/kernel/shm* alone are for writing.
  deny @{PROC}/* w,
  deny @{PROC}/{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9/]*}/** w,
  deny @{PROC}/sys/[^k]** w,
  deny @{PROC}/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny @{PROC}/sysrq-trigger rwklx,
  deny @{PROC}/kcore rwklx,

  # /sys: only /sys/fs/cgroup is.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
