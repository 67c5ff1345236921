"""The zygote of one run: a fork of the session from before its loop, that forks the nodes.

It has all that the run needs in memory, be it a role class that a test function made: nothing is imported or pickled.
So there is one per run, forked in a few milliseconds. A new node waits at a gate until its line in the ledger is
durable; if the zygote dies before, the gate ends, and so does the node.
"""

from __future__ import annotations

import gc
import os
import pickle
import select
import signal
import socket
import traceback
from pathlib import Path
from typing import Any

from zebra.injection.ledger import Ledger, process_entry
from zebra.injection.warden import only_files
from zebra.substrate.process.life import Ground, begin
from zebra.substrate.process.network import Brought

MESSAGE_BYTES_MAX = 1 << 20
FILES_MAX = 8


class Zygote:
    """The session's side: `sock` carries what to fork, and which processes came of it or ended."""

    def __init__(self, ground: Ground, ledger: Ledger) -> None:
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for each in (self.sock, theirs):
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                each.setsockopt(socket.SOL_SOCKET, option, MESSAGE_BYTES_MAX)
        gate_out, gate_in = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                os.close(gate_in)
                if os.read(gate_out, 1):
                    _Zygote(ground, theirs).serve()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        theirs.close()
        os.close(gate_out)
        try:
            os.setpgid(self.pid, self.pid)
            self.entry = process_entry(self.pid, "zygote")
            ledger.add([self.entry])
            os.write(gate_in, b"+")
        finally:
            os.close(gate_in)

    def spawn(self, nodes: list[tuple[str, int, bytes]]) -> None:
        """Start nodes: (name, incarnation, configuration in MessagePack or b"" for the plan's)."""
        for at in range(0, len(nodes), 64):
            self.sock.send(pickle.dumps(nodes[at : at + 64]))

    def receive(self) -> tuple[Any, list[int]]:
        """What the zygote said: ("born", name, pid, entry) with descriptors, ("died", pid, status, left), None at its
        end; what the run's network brings has a kind and a word of its own."""
        data, files, _, _ = socket.recv_fds(self.sock, MESSAGE_BYTES_MAX, FILES_MAX)
        return (pickle.loads(data) if data else None), list(files)

    def end(self) -> None:
        """Kill it and wait for it."""
        self.sock.close()
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


class _Zygote:
    def __init__(self, ground: Ground, sock: socket.socket) -> None:
        self._ground, self._sock = ground, sock

    def serve(self) -> None:
        os.setpgid(0, 0)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        only_files(self._sock.fileno())
        log = os.open(self._ground.directory / "zygote.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(log, 2)
        os.close(log)
        self._ledger = Ledger(self._ground.directory.parent / "ledger")
        gc.freeze()
        gc.disable()
        rung, bell = socket.socketpair()
        for each in (rung, bell):
            each.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(bell.fileno(), warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(rung, select.POLLIN)
        if self._ground.network is not None:
            self._bring(self._ground.network.make())
        while True:
            ready = {number for number, _ in poll.poll()}
            if rung.fileno() in ready:
                rung.recv(4096)
                self._bury()
            if self._sock.fileno() in ready:
                data = self._sock.recv(MESSAGE_BYTES_MAX)
                if not data:
                    return
                self._spawn(pickle.loads(data))

    def _spawn(self, nodes: list[tuple[str, int, bytes]]) -> None:
        network = self._ground.network
        if network is not None:
            for name, *_ in nodes:
                self._bring(network.prepare(self._ground.nodes[name]))
        out, into = os.pipe()
        born = []
        for name, incarnation, config in nodes:
            ours, theirs = socket.socketpair()
            pid = os.fork()
            if not pid:
                os.close(into)
                os.setpgid(0, 0)
                if network is not None:
                    network.enter(self._ground.nodes[name])
                begin(self._ground, name, incarnation, config, theirs, out)
            os.setpgid(pid, pid)
            theirs.close()
            born.append((name, pid, os.pidfd_open(pid), ours, process_entry(pid, name)))
        os.close(out)
        self._ledger.add([entry for *_, entry in born])
        os.write(into, b"+" * len(born))
        os.close(into)
        for name, pid, pidfd, ours, entry in born:
            message = pickle.dumps(("born", name, pid, entry))
            socket.send_fds(self._sock, [message], [pidfd, ours.fileno()])
            os.close(pidfd)
            ours.close()

    def _bring(self, brought: list[Brought]) -> None:
        for kind, files, word in brought:
            socket.send_fds(self._sock, [pickle.dumps((kind, word))], files)
            for file in files:
                os.close(file)

    def _bury(self) -> None:
        """Tell of the processes that ended; what their groups left ends with them."""
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            left = others_of(found.si_pid) if self._ground.plan.leaks else []
            try:
                os.killpg(found.si_pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
            _, status = os.waitpid(found.si_pid, 0)
            self._sock.send(pickle.dumps(("died", found.si_pid, os.waitstatus_to_exitcode(status), left)))


def others_of(group: int) -> list[str]:
    """The names of the processes of a group that run, without its first."""
    found = []
    for number in filter(str.isdecimal, os.listdir("/proc")):
        try:
            text = Path(f"/proc/{number}/stat").read_text()
        except OSError:
            continue
        state, _, pgrp = text.rpartition(")")[2].split()[:3]
        if int(pgrp) == group != int(number) and state not in "ZX":
            found.append(text[text.index("(") + 1 : text.rindex(")")])
    return sorted(found)
