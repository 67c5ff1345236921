"""Blocks of loopback addresses: no two runs on this machine have the same, wherever their temporary files are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zebra.substrate.process.addresses import Block


def test_runs_have_different_blocks_whatever_their_directories(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = Block()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    second = Block()
    try:
        assert first.prefix != second.prefix
    finally:
        first.release()
        second.release()
    again = Block()
    again.release()
    assert again.prefix == first.prefix, "it was given back"


def test_a_block_is_given_back_when_its_process_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        os.write(tell, Block().prefix.encode())
        os.kill(os.getpid(), 9)
    prefix = os.read(told, 100).decode()
    os.waitpid(child, 0)
    os.close(told)
    os.close(tell)
    monkeypatch.setattr(os, "getpid", lambda: child)  # the first block that is tried follows from it
    block = Block()
    block.release()
    assert block.prefix == prefix
