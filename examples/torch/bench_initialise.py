"""transformers' _initialize_missing_keys under ZeRO-3: today, and in chunks, and what both can't go below.

    python bench_initialise.py [RANKS] [RUNS] [BUDGET_MIB]
A Qwen3-MoE of 16 layers whose 32 packed expert tensors (32 and 16 MiB, 768 MiB in all) are missing.
  today     PreTrainedModel._initialize_missing_keys
  unshard   unshard.initialise_missing_keys
  floor     the same initialisers on plain tensors, then a bare gloo scatter of the same bytes, tensor by tensor
"""
import sys

import common
import torch
import torch.distributed as dist


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


def run(rank, world, runs, budget, port):
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

    def floor():
        # One pair of buffers for each size: neither the allocation of pages nor the fill of shards is in the floor.
        for p, shard in zip(missing, shards):
            whole = plain_tensors[p.ds_numel] if rank == 0 else None
            if rank == 0:
                torch.nn.init.normal_(whole, mean=0.0, std=0.02)
            dist.scatter(shard, list(whole.chunk(world)) if rank == 0 else None, 0)

    others = {p: p.ds_tensor.clone() for p in model.parameters() if getattr(p, "_is_hf_initialized", False)}
    plain_tensors = {n: torch.zeros(n) for n in {p.ds_numel for p in missing}} if rank == 0 else {}
    for i in range(runs + 1):
        if i == 1:
            meter.runs.clear()                         # the first of each is to warm up
        for name, body in (("unshard", lambda: unshard.initialise_missing_keys(model, budget * common.MiB)),
                           ("today", lambda: model._initialize_missing_keys(False)), ("floor", floor)):
            forget(model)
            torch.manual_seed(i)
            for s in shards:
                s.zero_()
            with meter(name):
                body()
            digests[name] = digest()
            if name == "unshard":
                assert all(bool((p.ds_tensor == before).all()) for p, before in others.items()), "a parameter changed"
        assert digests["unshard"] == digests["today"] == digests["floor"], "the bits differ"
    rows = meter.report(budget_mib=budget)
    if rank == 0:
        by = {r["case"]: r for r in rows}
        print("unshard / floor %.3f   today / unshard %.2f" % (by["unshard"]["s_median"] / by["floor"]["s_median"],
                                                              by["today"]["s_median"] / by["unshard"]["s_median"]))
    dist.destroy_process_group()


if __name__ == "__main__":
    world, runs, budget = (int(a) for a in (sys.argv[1:] + ["2", "5", "64"][len(sys.argv) - 1:]))
    torch.multiprocessing.spawn(run, (world, runs, budget, common.free_port()), nprocs=world)
