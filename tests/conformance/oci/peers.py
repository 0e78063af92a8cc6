"""Who is driven: ours, and crun and runc as Debian 12 has them, to test the tests; and where those two differ from them.

A difference is a strict expected failure with the versions named here, so that a test that stopped to tell is found; with
other versions it may pass.
"""

from __future__ import annotations

import functools
import subprocess
from dataclasses import dataclass

from tests.conformance.oci.container import Runtime
from tests.support.requires import is_met, program

NAMES = ("kernelet-oci", "crun", "runc")
VERSIONS = {"crun": "1.8.1", "runc": "1.1.5"}

SETS_FOR_GOOD = {"crun": "sets a flag of a new file system for good"}
OPPOSITES = ("ro-rw", "nosuid-suid", "nodev-dev", "noexec-exec", "noatime-atime")

#: By the test, or one of its cases, and the runtime: what it does instead.
DIFFERENCES: dict[str, dict[str, str]] = {
    "test_an_unsupported_major_version_is_refused": {"runc": "does not look at the version"},
    "test_kill_of_an_unknown_signal_is_refused": {"crun": "takes it for signal 0"},
    "test_a_relative_cwd_is_refused": {"crun": "goes there from the root"},
    "test_the_personality_is_another_architectures": {"runc": "ignores it"},
    "test_a_personality_that_is_unknown_is_refused": {"runc": "ignores it"},
    "test_the_scheduler_is_set": {"crun": "is older than it", "runc": "is older than it"},
    "test_a_scheduler_that_is_unknown_is_refused": {"crun": "is older than it", "runc": "is older than it"},
    "test_a_namespace_is_listed_once": {"crun": "takes the last"},
    "test_a_user_namespace_without_mappings_maps_every_id_to_itself": {"crun": "goes by /etc/subuid", "runc": "refuses it"},
    "test_the_domain_name_is_set": {"runc": "is older than it"},
    "test_the_clocks_are_shifted": {"crun": "fails over a joined sync socket", "runc": "is older than time namespaces"},
    **{f"test_of_an_option_and_its_opposite_the_last_one_counts[{each}]": SETS_FOR_GOOD for each in OPPOSITES},
    "test_options_that_are_no_flags_are_the_file_systems": {"runc": "gives a tmpfs the mode of what it covers"},
    "test_the_propagation_of_a_mount[rshared-shared]": {"crun": "forgets the propagation of a bind"},
    "test_the_propagation_of_a_mount[shared-shared]": {"crun": "forgets the propagation of a bind"},
    "test_the_propagation_of_a_mount[unbindable-unbindable]": {"crun": "forgets the propagation of a bind"},
    "test_the_propagation_of_the_root[unbindable-unbindable]": {"runc": "cannot bind what it made unbindable"},
    "test_the_propagation_of_the_root[shared-shared]": {"runc": "makes the root private again"},
    "test_a_device_of_no_known_type_is_refused": {"crun": "makes nothing"},
    "test_a_hook_reads_the_state[createContainer]": {"crun": "says pid 0"},
    "test_the_state_that_a_hook_reads_is_the_one_it_runs_in[startContainer]": {"crun": "says starting"},
    "test_a_hook_reads_the_state[startContainer]": {"crun": "says that the bundle is /"},
    "test_a_start_container_hook_that_fails_fails_start": dict.fromkeys(("crun", "runc"), "start has ended before the hook has"),
    "test_a_poststart_hook_that_fails_stops_the_container": {"crun": "ignores it", "runc": "warns only, as before 1.3.0"},
    "test_a_poststop_hook_that_fails_does_not_keep_the_container": {"runc": "leaves out the hooks after it"},
    "test_a_hook_need_not_read_its_input": {"crun": "ends by SIGPIPE"},
    "test_a_console_socket_without_a_terminal_is_refused": {"crun": "ignores the socket"},
    "test_listen_fds_are_handed_on": {"crun": "does not say so in the environment"},
    "test_more_may_be_handed_on_than_there_are": {"runc": "wants them all to be open"},
    "test_what_is_not_said_is_as_the_containers_process_has_it": {"crun": "begins as root in /"},
    "test_flags_change_it": {"crun": "knows no PATH any more when --env is given"},
    "test_a_document_says_it_all": {"runc": "does not set its umask"},
}
#: The same, of races: it happens now and then.
SOMETIMES: dict[str, dict[str, str]] = {
    "test_a_run_in_the_foreground_can_be_worked_on": {"crun": "fails when its container was deleted meanwhile"},
    "test_nothing_of_the_container_outlives_it": {"runc": "leaves the cgroup, when a process in it takes its time to end"},
    "test_hooks_run_in_the_order_of_the_spec": dict.fromkeys(("crun", "runc"), "start does not wait for startContainer hooks"),
    "test_the_state_that_a_hook_reads_is_the_one_it_runs_in[poststart]": {"runc": "the init may not have ended its part"},
}
#: Those that are about a cgroup.
NEED_CGROUPS = frozenset(
    (
        "test_the_cgroup_is_where_the_path_says",
        "test_the_cgroup_is_the_root_of_the_namespace",
        "test_every_process_is_in_the_cgroup",
        "test_pause_freezes_and_resume_thaws",
        "test_a_paused_container_can_be_killed",
        "test_nothing_of_the_container_outlives_it",
        "test_devices_are_allowed_by_their_rules",
        "test_unified_writes_the_file_that_it_names",
        "test_unified_refuses_what_is_not_there",
        "test_limits_of_huge_pages_are_set",
        "test_update_changes_a_limit",
        "test_a_limit_whose_controller_is_missing_is_an_error",
        "test_ps_lists_the_processes",
    )
)


@functools.cache
def runtime(name: str) -> Runtime:
    """The command line of *name*."""
    options = ("--cgroup-manager=disabled",) if name == "crun" and not has_cgroups(name) else ()
    return Runtime(name, (program(name), *options))


def has_cgroups(name: str) -> bool:
    """Whether it can make them: crun's device filter wants RLIMIT_MEMLOCK raised first, which kernels since 5.11 do not."""
    return name != "crun" or is_met("capability sys_resource")


@functools.cache
def is_known_version(name: str) -> bool:
    """Whether it is the version that the differences were seen with."""
    if name not in VERSIONS:
        return False
    said = subprocess.run([program(name), "--version"], capture_output=True, text=True, check=True).stdout
    return VERSIONS[name] in said.splitlines()[0]


@dataclass(frozen=True, slots=True)
class Difference:
    """What a peer does otherwise, and whether always."""

    reason: str
    is_sure: bool


def find_difference(name: str, function: str, case: str) -> Difference | None:
    """Why the runtime *name* is expected to fail a test, which may be one of several cases."""
    if function in NEED_CGROUPS and not has_cgroups(name):
        return Difference("runs with its cgroups disabled, as it wants CAP_SYS_RESOURCE for them", False)
    case = case.replace(f"{name}-", "").replace(f"-{name}", "").replace(f"[{name}]", "")
    for table, is_sure in ((DIFFERENCES, True), (SOMETIMES, False)):
        reasons = table.get(case, table.get(function, {}))
        if name in reasons:
            return Difference(reasons[name], is_sure and is_known_version(name))
    return None
