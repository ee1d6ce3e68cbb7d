# SPDX-License-Identifier: Apache-2.0
"""GatheredParameters, ranks that write different values, live engines, tensors that are made of others."""
import torch
import torch.distributed as dist
import unshard
from kinds import parameters, raises, whole

ranks = (2, 3)


def rank():
    return dist.get_rank()


def test_inside_the_values_are_whole_on_every_rank_and_gone_outside():
    want = [torch.randn(5, 3, generator=torch.Generator().manual_seed(1)), torch.arange(7.0)]
    params = parameters("zero3", want)
    for given in (params, (p for p in params), params + [torch.nn.Parameter(torch.ones(2))]):
        with unshard.GatheredParameters(given):
            assert all(torch.equal(p, w) and p.ds_status.name == "AVAILABLE" for p, w in zip(params, want))
        assert all(p.numel() == 0 and p.ds_status.name == "NOT_AVAILABLE" for p in params)
    with unshard.GatheredParameters(params, enabled=False):
        assert params[0].numel() == 0


def test_what_the_modifier_changed_reaches_every_shard_and_nobody_elses_changes_do():
    for modifier in (0, dist.get_world_size() - 1):
        params = parameters("zero3", [torch.zeros(5, 3), torch.zeros(7)])
        with unshard.GatheredParameters(params, modifier_rank=modifier), torch.no_grad():
            params[0].add_(rank() + 1)
            params[1].data = torch.full((7,), 3.0 + rank())
        assert torch.equal(whole(params[0]), torch.full((5, 3), modifier + 1.0))
        assert torch.equal(whole(params[1]), torch.full((7,), modifier + 3.0))


def test_a_change_without_a_modifier_is_an_error_on_every_rank():
    (p,) = parameters("zero3", [torch.zeros(5, 3)])
    with raises(unshard.ReadOnly, "in-place modification"):
        with unshard.GatheredParameters(p), torch.no_grad():
            if rank() == 1:
                p.add_(1)
    assert p.numel() == 0 and torch.equal(whole(p), torch.zeros(5, 3))


def test_an_exception_inside_discards_every_change():
    (p,) = parameters("zero3", [torch.zeros(5, 3)])
    with raises(KeyError):
        with unshard.GatheredParameters(p, modifier_rank=0), torch.no_grad():
            p.add_(1)
            raise KeyError("the body's own")
    assert p.numel() == 0 and torch.equal(whole(p), torch.zeros(5, 3))


def test_contexts_do_not_overlap_and_a_list_over_the_budget_names_gathered():
    import deepspeed
    params = parameters("zero3", [torch.zeros(500), torch.zeros(7)])
    with unshard.GatheredParameters(params[0]):
        with raises(RuntimeError, "cannot overlap"):
            unshard.GatheredParameters(params).__enter__()
        with raises(RuntimeError, "cannot overlap"):
            deepspeed.zero.GatheredParameters(params).__enter__()
        with unshard.GatheredParameters(params[1]):
            assert params[1].numel() == 7
    with raises(unshard.BudgetTooSmall, "2028 bytes on every rank, the budget is 2000. unshard.gathered"):
        unshard.GatheredParameters(params, budget=2000).__enter__()


def test_without_a_root_ranks_that_write_different_values_are_named():
    for kind in ("zero3", "fsdp2", "plain"):
        params = parameters(kind, [torch.zeros(8), torch.ones(6)])
        for only in (0, 1):
            with raises(unshard.ReplicasDiffer, "rank 1 wrote others than rank 0 to parameter 'a'"):
                with unshard.gathered([("a", params[0]), ("b", params[1])], unshard.MiB, root=None) as chunks:
                    for chunk in chunks:
                        for piece in chunk:
                            if rank() == only or rank() > 1:
                                piece.tensor.fill_(9)
            assert torch.equal(whole(params[0]), torch.zeros(8)) and torch.equal(whole(params[1]), torch.ones(6)), kind
        with raises((KeyError, unshard.PeerFailed)) as r:
            with unshard.gathered(params, unshard.MiB, root=None) as chunks:
                for chunk in chunks:
                    if rank() == 0:
                        raise KeyError("the body's own")
        assert isinstance(r.error, KeyError) == (rank() == 0)


def test_a_live_engine_that_keeps_small_parameters_gathered():
    import deepspeed
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.LayerNorm(16), torch.nn.Linear(16, 90))
    config = {"train_micro_batch_size_per_gpu": 1, "zero_allow_untested_optimizer": True,
              "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 500}}
    engine, _, _, _ = deepspeed.initialize(model=net, optimizer=torch.optim.SGD(net.parameters(), lr=0.0), config=config)

    def step():
        engine.backward(engine(torch.ones(2, 16)).sum())
        engine.step()
    for access in ("read_write", "modifier"):
        step()
        assert any(p.ds_status.name == "AVAILABLE" for p in net.parameters())
        before = [whole(p) for p in net.parameters()]
        if access == "modifier":
            with unshard.GatheredParameters(net.parameters(), modifier_rank=0), torch.no_grad():
                for p in net.parameters():
                    p.mul_(2)
        else:
            with unshard.gathered(net.named_parameters(), unshard.MiB) as chunks:
                for chunk in chunks:
                    for piece in chunk:
                        piece.tensor.mul_(2)
        assert all(torch.equal(whole(p), 2 * b) for p, b in zip(net.parameters(), before)), access
        step()


def test_a_tensor_made_of_others_is_refused_by_name():
    from torch.testing._internal.two_tensor import TwoTensor
    tensor = torch.nn.Parameter(TwoTensor(torch.ones(4, 4), torch.ones(4, 4)), requires_grad=False)
    for access in ("read", "read_write"):
        with raises(unshard.BadLayout, "'w' is a TwoTensor"):
            unshard.gathered({"w": tensor}, unshard.MiB, access).__enter__()
