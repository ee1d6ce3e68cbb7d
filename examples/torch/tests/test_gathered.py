# SPDX-License-Identifier: Apache-2.0
"""What users of DeepSpeed's GatheredParameters rely on, restated for unshard.gathered, over three kinds of parameters."""
import torch
import torch.distributed as dist
import unshard
from kinds import parameters, raises, whole
from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh

ranks = (1, 2, 3)
KINDS = ("zero3", "fsdp2", "plain")
BUDGET = unshard.MiB


def values(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator) for s in shapes]


def rank():
    return dist.get_rank()


def shown(params, budget=BUDGET, **options):
    """{index: a copy of the value that the root sees}, and the number of chunks."""
    seen, chunks = {}, 0
    with unshard.gathered(params, budget, "read", **options) as gathered:
        for chunk in gathered:
            chunks += 1
            for piece in chunk:
                seen[piece.index] = piece.tensor.clone()
    return seen, chunks


def test_read_shows_the_whole_values_to_the_root_only():
    for kind in KINDS:
        for root in (0, dist.get_world_size() - 1):
            want = values((5, 3), (7,), (64, 33), (1,), (2, 3, 5))
            seen, _ = shown(parameters(kind, want), root=root)
            assert len(seen) == (5 if rank() == root else 0)
            assert all(torch.equal(seen[i], want[i]) for i in seen)


def test_what_the_root_modifies_reaches_every_shard():
    for kind in KINDS:
        for access in ("read_write", "overwrite"):
            params = parameters(kind, values((5, 3), (7,), (64, 33)))
            want = values((5, 3), (7,), (64, 33), seed=1)
            with unshard.gathered(params, BUDGET, access) as chunks:
                for chunk in chunks:
                    for piece in chunk:
                        piece.tensor.copy_(want[piece.index])
            assert all(torch.equal(whole(p), w) for p, w in zip(params, want)), kind


def test_a_modification_in_place_builds_on_the_gathered_value():
    for kind in KINDS:
        want = values((9, 2))
        params = parameters(kind, want)
        with unshard.gathered(params[0], BUDGET) as chunks:            # a single tensor
            for chunk in chunks:
                for piece in chunk:
                    piece.tensor.mul_(2)
        assert torch.equal(whole(params[0]), want[0] * 2)


def test_without_a_writing_access_a_modification_is_refused():
    for kind in KINDS:
        want = values((9, 2))
        params = parameters(kind, want)
        with raises((unshard.ReadOnly, unshard.PeerFailed)) as r:
            with unshard.gathered(params, BUDGET, "read") as chunks:
                for chunk in chunks:
                    for piece in chunk:
                        piece.tensor[0].zero_()
        assert isinstance(r.error, unshard.ReadOnly) == (rank() == 0), r.error
        assert torch.equal(whole(params[0]), want[0])


def test_tied_parameters_are_one_piece():
    for kind in KINDS:
        a, b = parameters(kind, values((6, 2), (3,)))
        count = 0
        with unshard.gathered([("a", a), ("b", b), ("tied", a)], BUDGET) as chunks:
            for chunk in chunks:
                for piece in chunk:
                    count += 1
                    piece.tensor.fill_(4)
        assert count == (2 if rank() == 0 else 0)
        assert torch.equal(whole(a), torch.full((6, 2), 4.0)) and torch.equal(whole(b), torch.full((3,), 4.0))


def test_parameters_that_are_not_partitioned_pass_through():
    want = values((6, 2), (3, 3))
    params = [parameters("zero3", want[:1])[0], torch.nn.Parameter(want[1].clone())]
    seen, _ = shown(params)
    assert all(torch.equal(seen[i], want[i]) for i in seen)
    with unshard.gathered(params, BUDGET) as chunks:
        for chunk in chunks:
            for piece in chunk:
                piece.tensor.add_(1)
    assert all(torch.equal(whole(p), w + 1) for p, w in zip(params, want))


def test_a_frozen_parameter_is_as_any_other_and_stays_frozen():
    for kind in KINDS:
        params = parameters(kind, values((6, 2)), trains=False)
        with unshard.gathered(params, BUDGET, "overwrite") as chunks:
            for chunk in chunks:
                for piece in chunk:
                    piece.tensor.fill_(3)
        assert torch.equal(whole(params[0]), torch.full((6, 2), 3.0)) and not params[0].requires_grad


def test_an_exception_inside_discards_the_chunk_on_every_rank():
    for kind in KINDS:
        want = values((6, 2), (4,))
        params = parameters(kind, want)
        with raises((KeyError, unshard.PeerFailed)) as r:
            with unshard.gathered(params, BUDGET) as chunks:
                for chunk in chunks:
                    for piece in chunk:
                        piece.tensor.fill_(9)
                    if rank() == 0:
                        raise KeyError("the body's own")
        assert isinstance(r.error, KeyError) == (rank() == 0), r.error
        assert all(torch.equal(whole(p), w) for p, w in zip(params, want)), kind
        seen, _ = shown(params)                                        # and the next range works
        assert all(torch.equal(seen[i], want[i]) for i in seen)


def test_leaving_early_on_all_ranks_is_no_error():
    want = values((6, 2), (4,))
    params = parameters("zero3", want)
    with unshard.gathered(params, BUDGET) as chunks:
        for chunk in chunks:
            for piece in chunk:
                piece.tensor.fill_(9)
            break
    assert all(torch.equal(whole(p), w) for p, w in zip(params, want))


def test_nested_ranges_over_different_parameters():
    for kind in KINDS:
        want = values((6, 2), (4,))
        first, second = parameters(kind, want)
        with unshard.gathered(first, BUDGET) as outer:
            for chunk in outer:
                with unshard.gathered(second, BUDGET) as inner:
                    for other in inner:
                        for a, b in zip(chunk, other):
                            a.tensor.add_(b.tensor[0])
                            b.tensor.add_(1)
        assert torch.equal(whole(first), want[0] + want[1][0]) and torch.equal(whole(second), want[1] + 1)


def test_nested_ranges_over_the_same_parameter_are_refused():
    for kind in KINDS:
        want = values((6, 2))
        params = parameters(kind, want)
        with raises(unshard.OverlappingScope):
            with unshard.gathered(params, BUDGET) as outer:
                for _ in outer:
                    with unshard.gathered(params, BUDGET):
                        pass
        assert torch.equal(whole(params[0]), want[0])


def test_what_one_rank_cannot_list_leaves_no_rank_waiting():
    last = rank() == dist.get_world_size() - 1
    mine = torch.zeros(4, 6).t() if last else torch.zeros(6, 4)
    with raises((unshard.BadLayout, unshard.PeerFailed), "not contiguous") as r:
        with unshard.gathered({"w": mine}, BUDGET, timeout_ms=60_000):
            pass
    assert isinstance(r.error, unshard.BadLayout) == last
    seen, _ = shown({"w": mine})                                      # for reading its elements are put in order
    assert rank() != 0 or seen[0].shape == mine.shape
    seen, _ = shown([torch.ones(2)])                                  # by the same communicator
    assert rank() != 0 or seen[0].sum() == 2


def test_zero3_parameters_that_deepspeed_keeps_in_another_way_are_refused():
    import deepspeed
    params = parameters("zero3", values((5, 3), (7,)))
    with deepspeed.zero.GatheredParameters(params[1]):
        with raises(unshard.OverlappingScope, "gathered by DeepSpeed"):
            with unshard.gathered(params, BUDGET):
                pass
        assert len(shown(params)[0]) == (2 if rank() == 0 else 0)     # reading is fine
    params[1].ds_tensor.ds_quant_scale = torch.ones(1)
    with raises(unshard.BadLayout, "quantised"):
        shown(params)


def test_an_empty_list():
    for params in ([], {}, torch.nn.Module()):
        seen, chunks = shown(params)
        assert seen == {} and chunks == 0


def test_a_parameter_of_no_elements():
    for kind in ("zero3", "plain"):
        want = values((0, 4), (3,))
        params = parameters(kind, want)
        seen, _ = shown(params)
        assert all(torch.equal(seen[i], want[i]) for i in seen) and (rank() != 0 or len(seen) == 2)
        with unshard.gathered(params, BUDGET, "overwrite") as chunks:
            for chunk in chunks:
                for piece in chunk:
                    piece.tensor.fill_(1)
        assert torch.equal(whole(params[1]), torch.ones(3))


def test_a_dictionary_a_generator_and_a_module():
    module = torch.nn.Linear(3, 4)
    want = {n: p.detach().clone() for n, p in module.named_parameters()}
    for params in (dict(module.named_parameters()), module.named_parameters(), module, module.parameters()):
        seen, _ = shown(params)
        assert rank() != 0 or [s.shape for s in seen.values()] == [w.shape for w in want.values()]


def test_no_more_than_the_budget_and_the_order_of_the_list():
    for kind in KINDS:
        want = values(*[(1000 + i,) for i in range(40)])
        params = parameters(kind, want)
        largest, order = 0, []
        with unshard.gathered(params, 40 * unshard.KiB, "read") as chunks:
            for chunk in chunks:
                largest = max(largest, sum(p.tensor.nbytes for p in chunk))
                order += [p.index for p in chunk]
        assert largest <= 40 * unshard.KiB and order == (list(range(40)) if rank() == 0 else [])


def test_a_parameter_over_the_budget_is_refused_or_cut():
    for kind in KINDS:
        want = values((100, 333), (10,))
        params = parameters(kind, want)
        with raises(unshard.BudgetTooSmall) as r:
            shown(params, 64 * unshard.KiB)
        least = int(str(r.error).split("Set .budget to at least ")[1].split(",")[0])
        seen, chunks = shown(params, least)                           # the number that the error names works
        assert all(torch.equal(seen[i], want[i]) for i in seen)
        with unshard.gathered(params, 64 * unshard.KiB, cut="oversized") as chunks:
            for chunk in chunks:
                for p in chunk:
                    assert p.tensor.nbytes <= 64 * unshard.KiB
                    assert torch.equal(p.tensor.view(-1), want[p.index].view(-1)[p.first:p.first + p.elements])
                    p.tensor.neg_()
        assert all(torch.equal(whole(p), -w) for p, w in zip(params, want))


def test_the_budget_may_be_the_bytes_of_the_largest_parameter_exactly():
    """Where a rank's part is one run nothing is staged: many messages, uneven parts, parts that are in two chunks."""
    large = 1537 * 1024                                                # odd rows; a rank's part takes several messages
    want = values((1537, 1024), (7,), (1001, 3), (1537, 1024), (5, 4), (99,))
    for kind in ("zero3", "fsdp2"):
        for in_flight in (1, 2):
            for cut in ("never", "oversized"):
                params = parameters(kind, want)
                with unshard.gathered(params, 4 * large * in_flight, cut=cut, in_flight=in_flight) as chunks:
                    for chunk in chunks:
                        for p in chunk:
                            assert torch.equal(p.tensor.view(-1), want[p.index].view(-1)[p.first:p.first + p.elements])
                            p.tensor.neg_()
                assert all(torch.equal(whole(p), -w) for p, w in zip(params, want)), (kind, in_flight, cut)


def test_neighbours_of_one_group_stay_together():
    want = values(*[(100_000,)] * 6)
    params = parameters("zero3", want)
    together = []
    with unshard.gathered(params, 850 * unshard.KiB, "read", group=[1, 1, 2, 2, 3, 3]) as chunks:
        for chunk in chunks:
            together.append([p.index for p in chunk])
    assert together == ([[0, 1], [2, 3], [4, 5]] if rank() == 0 else [[]] * 3), together


def test_module_by_module_children_come_first():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 5)))
    model.register_parameter("own", torch.nn.Parameter(torch.zeros(2)))
    names = []
    with unshard.gathered(model, BUDGET, "read", group="module") as chunks:
        for chunk in chunks:
            names += [p.name for p in chunk]
    assert rank() != 0 or names == ["0.weight", "0.bias", "1.0.weight", "1.0.bias", "1.1.weight", "1.1.bias", "own"], names


def test_all_ranks_see_the_values_where_there_is_no_root():
    for kind in KINDS:
        want = values((5, 3), (7,))
        params = parameters(kind, want)
        seen, _ = shown(params, root=None)
        assert len(seen) == 2 and all(torch.equal(seen[i], want[i]) for i in seen)
        with unshard.gathered(params, BUDGET, root=None) as chunks:
            for chunk in chunks:
                for piece in chunk:
                    piece.tensor.add_(1)
        assert all(torch.equal(whole(p), w + 1) for p, w in zip(params, want))


def test_a_chunks_tensors_raise_when_the_chunk_has_ended():
    for access in ("read", "read_write"):
        params = parameters("zero3", values((40_000,), (40_000,)))
        kept = []
        with unshard.gathered(params, 200 * unshard.KiB, access) as chunks:
            for chunk in chunks:
                for old in kept:
                    with raises(RuntimeError, "viewed a chunk that has ended"):
                        old.sum()
                    with raises(RuntimeError, "viewed a chunk that has ended"), torch.no_grad():
                        old.add_(1)
                for piece in chunk:
                    kept += [piece.tensor, piece.tensor[3:7], piece.tensor.detach(), torch.nn.Parameter(piece.tensor)]
        for old in kept:
            with raises(RuntimeError, "viewed a chunk that has ended"):
                print(old)


def test_memory_that_numpy_still_sees_stays_allocated():
    params = parameters("zero3", values((1000,)))
    kept = []
    with unshard.gathered(params, BUDGET, "read") as chunks:
        for chunk in chunks:
            kept += [piece.tensor.numpy() for piece in chunk]
    assert all(a.shape == (1000,) and a.sum() == a.sum() for a in kept)   # within the bytes that the budget counted


def test_all_element_types():
    for kind in ("fsdp2", "plain"):
        for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.float32):
            want = [v.to(dtype) for v in values((5, 3), (7,))]
            seen, _ = shown(parameters(kind, want))
            assert all(seen[i].dtype == dtype and torch.equal(seen[i], want[i]) for i in seen)


def test_dtensors_of_one_mesh_dimension():
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    want = values((5, 3), (4, 7, 2), (300, 500), (4, 9))
    params = [distribute_tensor(w.clone(), mesh, [placement])
              for w, placement in zip(want, (Shard(0), Shard(1), Shard(1), Replicate()))]
    for root in (0, None):
        seen, _ = shown(params, root=root)
        assert all(torch.equal(seen[i], want[i]) for i in seen)
    with unshard.gathered(params, 700 * unshard.KiB, "overwrite") as chunks:
        for chunk in chunks:
            for piece in chunk:
                piece.tensor.copy_(want[piece.index] * 3)
    assert all(torch.equal(p.full_tensor(), w * 3) for p, w in zip(params, want))
