# SPDX-License-Identifier: Apache-2.0
# The smallest program over torch: FSDP2 shards a layer over four ranks; rank 0 fills its whole weight through a buffer of
# 1 MiB. The README and the home page show this program and its output.  torchrun --nproc-per-node 4 first.py
#
# prints: weight: 249856 elements from 0 on
# prints: weight: 249856 elements from 249856 on
# prints: weight: 249856 elements from 499712 on
# prints: weight: 249856 elements from 749568 on
# prints: weight: 576 elements from 999424 on

import torch
import unshard
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

model = torch.nn.Linear(1000, 1000, bias=False)
fully_shard(model, mesh=init_device_mesh("cpu", (4,)))
with unshard.gathered(model, budget=1 * unshard.MiB, access="overwrite", cut="oversized") as chunks:
    for chunk in chunks:
        for piece in chunk:  # on rank 0; the other ranks see no pieces
            piece.tensor.fill_(0.02)
            print(f"{piece.name}: {piece.elements} elements from {piece.first} on")
torch.distributed.destroy_process_group()
