# SPDX-License-Identifier: Apache-2.0
"""The communicator under unshard's own conformance kit. Each check has a process group of its own."""
import _unshard_torch_conformance as kit
import torch.distributed as dist

ranks = (1, 2, 3, 5)


def new_group():
    return dist.new_group(backend="gloo", use_local_synchronization=True)


def test_the_kit_finds_nothing():
    found = kit.check_communicator(new_group, 2 ** 20, 5_000)
    assert not found, "\n".join(found)


def test_nor_where_almost_everything_is_cut_into_the_shortest_fragments():
    found = kit.check_communicator(new_group, 0, 5_000)
    assert not found, "\n".join(found)
