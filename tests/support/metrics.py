"""The metrics that critest wants of a node with every controller (cri-tools 1.37, pod.go)."""

from __future__ import annotations

#: Described, and given for every ordinary pod.
MANDATORY = {
    *(f"container_cpu_{name}_total" for name in ("cfs_periods", "cfs_throttled_periods", "cfs_throttled_seconds")),
    *(f"container_cpu_{name}_seconds_total" for name in ("system", "usage", "user")),
    *(f"container_fs_{name}" for name in ("inodes_free", "inodes_total", "limit_bytes", "usage_bytes")),
    *(
        f"container_memory_{name}"
        for name in (
            *("cache", "failcnt", "failures_total", "kernel_usage", "mapped_file", "max_usage_bytes", "rss", "swap"),
            *("usage_bytes", "working_set_bytes"),
        )
    ),
    *(
        f"container_network_{way}_{name}_total"
        for way in ("receive", "transmit")
        for name in ("bytes", "errors", "packets_dropped", "packets")
    ),
    *(
        f"container_{name}"
        for name in (
            *("file_descriptors", "last_seen", "oom_events_total", "processes", "sockets", "start_time_seconds"),
            *("threads", "threads_max", "spec_cpu_period", "spec_cpu_shares", "spec_memory_limit_bytes"),
            "spec_memory_swap_limit_bytes",
        )
    ),
}
#: Described, and given once there was such a thing.
DESCRIBED = {
    "container_blkio_device_usage_total",
    *(f"container_fs_{name}_total" for name in ("reads", "reads_bytes", "writes", "writes_bytes")),
}
