"""The AppArmor profile of a container: there before anything else is made, and the default one loaded by us.

An administrator's ``aa-remove-unknown`` takes away every profile that is in no file of /etc/apparmor.d, and with it the
default one: so it is looked for each time, and loaded anew (0.3 ms).
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from kernel import apparmor
from runtime.errors import Unsupported, WrongState

#: What RuntimeDefault means; its rules are in runtime/spec/apparmor_default.profile.
DEFAULT = "kernelet-default"
_UNCONFINED = "unconfined"


def see_to(profile: str) -> None:
    """Make sure that *profile* can be changed to; an empty one needs nothing.

    Raises WrongState when it is not loaded, Unsupported where the default one cannot be.
    """
    if profile in ("", _UNCONFINED) or not apparmor.is_enabled():
        return  # without AppArmor it is the kernel that says so, of the step that asks for it
    try:
        loaded = apparmor.profiles()
    except OSError as error:
        if profile == DEFAULT:
            raise Unsupported(_refused(error)) from None
        return  # nor is this ours to say, where we may not look
    if profile == DEFAULT and profile not in loaded:
        try:
            apparmor.load(_policy())
        except OSError as error:
            raise Unsupported(_refused(error)) from None
    elif profile not in loaded and "//&" not in profile and not profile.startswith(":"):  # stacked, or of a namespace
        raise WrongState(f"AppArmor profile {profile}: not loaded on this node: apparmor_parser -r FILE loads it")


@cache
def _policy() -> bytes:
    return files("runtime.spec").joinpath("apparmor_default.bin").read_bytes()


def _refused(error: OSError) -> str:
    return (
        f"AppArmor profile {DEFAULT}: it cannot be loaded: {(error.strerror or str(error)).lower()}; that needs CAP_MAC_ADMIN; "
        "or ask for Unconfined"
    )
