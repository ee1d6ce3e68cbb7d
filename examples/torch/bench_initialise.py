# SPDX-License-Identifier: Apache-2.0
"""transformers' _initialize_missing_keys under ZeRO-3: today, and in chunks, and what both can't go below.

    python bench_initialise.py [--json FILE] [RANKS] [RUNS] [BUDGET_MIB]
A Qwen3-MoE of 16 layers whose 32 packed expert tensors (32 and 16 MiB, 768 MiB in all) are missing.
  today     PreTrainedModel._initialize_missing_keys
  unshard   unshard.initialise_missing_keys
  unshard, twice the budget, in_flight 2    so that a chunk is written back while the next one is initialised
  floor     the same initialisers on plain tensors, then a bare gloo scatter of the same bytes, tensor by tensor
  floor: initialisers, floor: scatter       its two halves, each alone. Nobody is faster than the first of them: the same
                                            bits come from one generator, one after the other
Columns: common.py.
"""
import argparse

import common
import torch
import torch.distributed as dist

AHEAD = "unshard, twice the budget, in_flight 2"


def model_of():
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
    config = Qwen3MoeConfig(vocab_size=1024, hidden_size=512, intermediate_size=512, moe_intermediate_size=512,
                            num_hidden_layers=16, num_attention_heads=8, num_key_value_heads=4, head_dim=64,
                            num_experts=16, num_experts_per_tok=2, decoder_sparse_step=1)
    return Qwen3MoeForCausalLM(config)


def forget(model):
    """Marks all but the packed experts as loaded."""
    missing = []
    for module in model.modules():
        module._is_hf_initialized = False
    for name, p in [*model.named_parameters(), *model.named_buffers()]:
        p._is_hf_initialized = "experts." not in name or not isinstance(p, torch.nn.Parameter)
        if not p._is_hf_initialized:
            missing.append(p)
    return missing


def run(rank, world, runs, budget, path, port):
    common.join(rank, world, port)
    from transformers.integrations import HfDeepSpeedConfig
    import unshard
    import unshard.handles
    model = common.zero3(model_of(), world)
    plain = HfDeepSpeedConfig({"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}})
    missing = forget(model)
    assert len(missing) == 32 and sum(p.ds_numel for p in missing) * 4 == 768 * common.MiB
    shards = [p.ds_tensor for p in missing]
    meter = common.Meter()
    digests = {}

    def digest():
        return [hash(s.numpy().tobytes()) for s in shards]

    def floor(initialises, scatters):
        # One pair of buffers for each size: neither the allocation of pages nor the fill of shards is in the floor.
        for p, shard in zip(missing, shards):
            whole = plain_tensors[p.ds_numel] if rank == 0 else None
            if rank == 0 and initialises:
                torch.nn.init.normal_(whole, mean=0.0, std=0.02)
            if scatters:
                dist.scatter(shard, list(whole.chunk(world)) if rank == 0 else None, 0)

    cases = {"unshard": lambda: unshard.initialise_missing_keys(model, budget * common.MiB),
             AHEAD: lambda: unshard.initialise_missing_keys(model, 2 * budget * common.MiB, in_flight=2),
             "today": lambda: model._initialize_missing_keys(False),
             "floor": lambda: floor(True, True),
             "floor: initialisers": lambda: floor(True, False), "floor: scatter": lambda: floor(False, True)}

    others = {p: p.ds_tensor.clone() for p in model.parameters() if getattr(p, "_is_hf_initialized", False)}
    plain_tensors = {n: torch.zeros(n) for n in {p.ds_numel for p in missing}} if rank == 0 else {}
    for i in range(runs + 1):
        if i == 1:
            meter.runs.clear()                         # the first of each is to warm up
        for name, body in cases.items():
            forget(model)
            torch.manual_seed(i)
            for s in shards:
                s.zero_()
            with meter(name):
                body()
            digests[name] = digest()
            if name.startswith("unshard"):
                assert all(bool((p.ds_tensor == before).all()) for p, before in others.items()), "a parameter changed"
        whole_ones = ("unshard", AHEAD, "today", "floor")
        assert all(digests[name] == digests["today"] for name in whole_ones), "the bits differ"
    rows = meter.report(budget_mib=budget)
    if rank == 0:
        ratios = common.print_ratios(rows, [("unshard", "floor"), ("today", "unshard"), ("today", AHEAD), ("today", "floor"),
                                            ("today", "floor: initialisers")])
        if path:
            common.publish(path, "bench_initialise.py %d %d %d" % (world, runs, budget), meter.load, rows, ratios)
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--json")
    parser.add_argument("ranks", type=int, nargs="?", default=2)
    parser.add_argument("runs", type=int, nargs="?", default=5)
    parser.add_argument("budget_mib", type=int, nargs="?", default=64)
    a = parser.parse_args()
    torch.multiprocessing.spawn(run, (a.ranks, a.runs, a.budget_mib, a.json, common.free_port()), nprocs=a.ranks)
