"""The links do the same for a user who is not root, inside a user namespace of the run's own."""

from __future__ import annotations

import ctypes
import encodings.idna  # noqa: F401  (what is loaded late may lie where that user cannot go)
import os
import tempfile
import traceback
from collections.abc import Callable

import pytest

from tests.netns import test_netns_links as links
from tests.netns import test_netns_run as runs
from zebra.substrate.netns import SUBSTRATE
from zebra.substrate.netns.probe import lacks

NOBODY = 65534
PR_SET_DUMPABLE = 4

pytestmark = [
    pytest.mark.skipif(bool(SUBSTRATE.unavailable()), reason=SUBSTRATE.unavailable()),
    pytest.mark.skipif(os.geteuid() != 0, reason="it takes root to become another user"),
]


def as_nobody(work: Callable[[], object]) -> str:
    """Do something in a child that is no longer root; what it raised, "" if nothing.

    A fork, not a program of its own: the user need not be able to reach this Python's files.
    """
    out, into = os.pipe()
    pid = os.fork()
    if not pid:
        said = "died"
        try:
            os.close(out)
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1)  # as after an exec: /proc/self belongs to the user
            os.chdir("/")
            os.environ.pop("TMPDIR", None)
            tempfile.tempdir = None
            lacks.cache_clear()
            work()
            said = ""
        except BaseException:
            said = traceback.format_exc()
        finally:
            os.write(into, said.encode()[-60_000:])
            os._exit(0)
    os.close(into)
    with open(out) as file:
        said = file.read()
    os.waitpid(pid, 0)
    return said


def test_a_user_namespace_is_made_and_offers_the_same() -> None:
    def check() -> None:
        with pytest.raises(PermissionError):
            os.chroot("/")
        assert SUBSTRATE.unavailable() == ""
        assert set(lacks()) == wanted

    wanted = set(lacks())
    assert as_nobody(check) == ""


WORK = {
    "drop": links.test_a_drop_stalls_an_open_connection_loses_datagrams_and_counts_each_packet,
    "one way": links.test_a_drop_of_one_direction_lets_the_other_pass,
    "reject": links.test_a_reject_resets_open_connections_refuses_new_ones_and_loses_datagrams,
    "new only": lambda: links.test_only_new_connections_are_hit_when_asked_so("reject", "netns"),
    "loss": links.test_a_stream_under_loss_keeps_every_byte_and_each_loss_is_told,
    "rate": links.test_all_links_of_a_node_share_one_rate_for_each_direction,
    "rate and crash": links.test_a_rate_holds_back_datagrams_and_comes_back_with_a_node_that_had_lost_its_power,
    "latency": links.test_latency_and_jitter_hold_for_datagrams_and_for_connections_that_were_open,
    "reset": links.test_a_reset_reaches_both_ends_although_only_one_sends,
    "userspace": links.test_nothing_passes_through_userspace_but_what_an_effect_sends_there,
    "namespaces": runs.test_each_node_has_a_namespace_of_its_own_and_what_listens_locally_is_for_it_alone,
    "shapes": runs.test_partitions_of_every_shape_cut_exactly_their_pairs,
}
NEEDS = {"rate": "rate", "rate and crash": "rate", "latency": "latency_s", "reset": "latency_s",
         "userspace": "latency_s", "loss": "loss"}  # fmt: skip


@pytest.mark.parametrize("what", WORK)
def test_without_root_it_is_the_same(what: str) -> None:
    reason = lacks().get(NEEDS.get(what, ""), "")
    if reason:
        pytest.skip(reason)
    assert as_nobody(WORK[what]) == ""
