"""That the tests of limits can fail: one write after the other is taken away, and those that claim it must notice.

Not part of ``make test-vm``, but of ``KERNELET_WEAKENED=1 make test-vm``: once a test is written, or its limit changed.
Seen so for every row on 2026-11-25.
"""

from __future__ import annotations

import json
import shlex

import pytest

from tests.vm.debian import UML
from tests.vm.guest import PYTHON, Guests

OCI, MEMORY, TREE, DAEMON, ALL = (
    f"test_{name}.py" for name in ("oci_limits", "oci_memory", "oci_tree", "daemon_limits", "oci_all")
)

#: By kernel: the file that is not written to, and the tests that fail then.
TABLE = {
    UML: {
        "memory.max": [
            f"{OCI}::test_memory_beyond_the_limit_kills_the_init[20971520-1-137]",
            f"{OCI}::test_a_child_that_takes_too_much_is_killed_alone",
            f"{MEMORY}::test_a_maximum_below_what_is_used_is_refused_where_that_is_asked_and_kills_otherwise[False]",
            f"{MEMORY}::test_what_is_above_a_smaller_maximum_and_can_be_freed_is_freed",
            f"{DAEMON}::test_an_init_without_memory_is_said_to_be_so",
            f"{DAEMON}::test_a_child_without_memory_is_said_to_be_so_with_the_exit_code_of_its_init",
            f"{DAEMON}::test_a_container_whose_child_was_killed_runs_on_and_is_said_to_have_lacked_memory_when_it_ends",
            f"{DAEMON}::test_a_container_in_a_kubelets_tree_is_held_to_its_pods_limit_too",
            f"{TREE}::test_a_limit_above_holds_whatever_the_container_is_given",
        ],
        "memory.swap.max": [
            f"{MEMORY}::test_what_does_not_fit_into_memory_goes_to_swap_as_far_as_that_is_allowed[10485760-True]",
            f"{MEMORY}::test_what_does_not_fit_into_memory_goes_to_swap_as_far_as_that_is_allowed[0-True]",
        ],
        "memory.oom.group": [f"{OCI}::test_a_group_that_dies_together_takes_the_init_along"],
        "memory.high": [f"{OCI}::test_what_is_above_memory_high_is_reclaimed_and_counted"],
        "memory.low": [f"{MEMORY}::test_a_reservation_is_felt_when_nothing_else_can_be_taken"],
        "memory.min": [f"{MEMORY}::test_a_minimum_holds_even_if_somebody_must_die"],
        "pids.max": [
            f"{OCI}::test_no_more_processes_than_the_limit",
            f"{DAEMON}::test_what_only_unified_can_say_is_limited",
        ],
        "cpu.max": [f"{OCI}::test_a_quota_throttles", f"{DAEMON}::test_a_quota_throttles_and_shares_are_a_weight"],
        "cpu.weight": [
            f"{OCI}::test_weights_share_what_there_is",
            f"{TREE}::test_shares_and_a_kubelets_own_weight_are_both_what_the_kernel_is_told",
        ],
        "io.max": [f"{OCI}::test_bytes_written_per_second_are_limited"],
        "cgroup.kill": [f"{OCI}::test_a_fork_bomb_is_killed_as_a_whole[words0]"],
        "cgroup.freeze": [f"{OCI}::test_what_is_paused_uses_no_time_until_it_is_resumed"],
        "cgroup.subtree_control": [
            f"{TREE}::test_what_a_container_asks_for_is_handed_down_from_the_top",
            f"{TREE}::test_below_a_cgroup_with_processes_there_is_no_limit_and_that_is_said",
        ],
        "cgroup.max.descendants": [f"{TREE}::test_a_cgroup_may_be_held_to_a_number_of_others_below_it"],
        "devices": [f"{TREE}::test_a_device_that_no_rule_allows_cannot_be_opened_until_one_does"],
    },
    "6.1": {
        "cpuset.cpus": [
            f"{ALL}::test_a_container_runs_where_its_cpuset_says_and_moves_when_that_changes",
            f"{ALL}::test_a_cpu_that_there_is_not_is_refused_by_name",
        ],
        "hugetlb.2MB.max": [f"{ALL}::test_huge_pages_beyond_the_limit_are_not_given[1-True]"],
        "hugetlb.2MB.rsvd.max": [f"{ALL}::test_huge_pages_beyond_the_limit_are_not_reserved_either[1-True]"],
        "io.bfq.weight": [f"{ALL}::test_a_weight_of_io_is_bfqs_where_that_schedules"],
        "io.weight": [f"{ALL}::test_a_weight_of_io_is_the_kernels_own_where_bfq_is_not"],
        "io.max": [
            f"{ALL}::test_reading_is_limited[throttleReadBpsDevice-rbps]",
            f"{ALL}::test_reading_is_limited[throttleReadIOPSDevice-riops]",
        ],
        "memory.high": [f"{ALL}::test_who_is_above_memory_high_is_under_pressure"],
        "cpu.max": [
            f"{ALL}::test_who_is_throttled_is_under_pressure",
            f"{ALL}::test_figures_of_what_stands_still_are_the_kernels",
        ],
    },
}


@pytest.mark.timeout(1000)
@pytest.mark.parametrize("kernel", TABLE)
def test_each_test_of_a_limit_fails_without_its_write(vm: Guests, kernel: str) -> None:
    table = shlex.quote(json.dumps(TABLE[kernel]))
    command = f"printf %s {table} >/tmp/table && KERNELET_VM=1 {PYTHON} -m tests.vm.inside.weaken /tmp/table /results/found"
    done = vm.run(command, kernel=kernel, timeout_seconds=900).check()
    found = json.loads(done.files["found"])
    blind = [f"{file}: {name}: {how}" for file, names in found.items() for name, how in names.items() if how != "failure"]
    assert blind == [], done.stdout
    assert set(found) == set(TABLE[kernel])
