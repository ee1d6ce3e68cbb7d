# SPDX-License-Identifier: Apache-2.0
"""unshard for torch: the whole values of sharded parameters, in chunks within a byte budget.

    with unshard.gathered(model.named_parameters(), budget=64 * unshard.MiB, access="overwrite") as chunks:
        for chunk in chunks:
            for piece in chunk:              # on the root; the other ranks see no pieces
                piece.tensor.normal_()       # an ordinary tensor over the chunk; the end of the chunk writes it back

Parameters may be DeepSpeed ZeRO-3's, DTensors (FSDP2, tensor parallelism) or plain tensors, mixed.
"""
import torch  # noqa: F401  (the extension needs its libraries)
from _unshard_torch import (AliasedParameters, BadLayout, BadOptions, BadShard, BatchMismatch, BudgetTooSmall,
                            DeviceFailed, Error, OutOfMemory, OverlappingScope, PeerFailed, PeerTimeout, PlanMismatch,
                            ReplicasDiffer, SizeOverflow, StalePlan, UnwrittenPiece, WriteBackFailed)

from .context import GatheredParameters
from .files import load_state_dict, save_safetensors
from .gathering import ReadOnly, gathered
from .initialise import NotInitialised, initialise_missing_keys

KiB, MiB, GiB = 2 ** 10, 2 ** 20, 2 ** 30
