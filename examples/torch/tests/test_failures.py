# SPDX-License-Identifier: Apache-2.0
"""Ranks that die, stall or give up: the others get an error, not a hang. Each case is a world of its own."""
import multiprocessing
import os
import time

import torch
import torch.distributed as dist
import unshard
from kinds import parameters

ranks = (1,)


def play(rank, world, port, scene, said):
    import common
    common.join(rank, world, port)
    start = time.monotonic()
    params = parameters("plain", [torch.zeros(200_000) for _ in range(4)])
    try:
        with unshard.gathered(params, unshard.MiB, timeout_ms=20_000 if scene == "dies" else 1500) as chunks:
            for number, chunk in enumerate(chunks):
                if number == 1 and rank == 1 and scene == "dies":
                    os._exit(1)
                if number == 1 and rank == 1 and scene == "stalls":
                    time.sleep(5)
        said.put((rank, "finished", "", time.monotonic() - start))
    except unshard.Error as e:
        said.put((rank, type(e).__name__, str(e), time.monotonic() - start))
    said.close()
    said.join_thread()
    os._exit(0)  # the group is broken: its end is not what is tested


def scene(name, world=3):
    import common
    context = multiprocessing.get_context("spawn")
    said, port = context.Queue(), common.free_port()
    processes = [context.Process(target=play, args=(r, world, port, name, said)) for r in range(world)]
    for p in processes:
        p.start()
    told = {}
    for _ in range(world - (name == "dies")):
        rank, kind, text, seconds = said.get(timeout=120)
        told[rank] = (kind, text, seconds)
    for p in processes:
        p.join(20)
    return told


def test_a_rank_that_dies():
    told = scene("dies")
    assert all(told[r][0] == "DeviceFailed" and told[r][2] < 15 for r in (0, 2)), told


def test_a_rank_that_stalls_past_the_timeout():
    told = scene("stalls")
    assert told[0][0] in ("PeerTimeout", "DeviceFailed") and told[2][0] in ("PeerTimeout", "DeviceFailed"), told
    assert "PeerTimeout" in (told[0][0], told[2][0]) and told[1][0] in ("DeviceFailed", "PeerTimeout"), told
