# SPDX-License-Identifier: Apache-2.0
"""What initialisers of remote code do, against the same code on whole parameters without unshard: the same bits."""
import random

import common
import numpy
import torch
import torch.distributed as dist
import unshard
from kinds import raises, shard, whole
from torch import nn

ranks = (2, 3)
BUDGET = 2 * unshard.MiB


class Block(nn.Module):
    """`how` is the body of its initialiser. Two parameters are large enough to be hollow on the ranks that follow."""

    def __init__(self, how):
        super().__init__()
        self.how, self.calls, self.done, self.chosen = how, 0, False, None
        self.large, self.other = nn.Parameter(torch.zeros(160, 160)), nn.Parameter(torch.zeros(160, 160))
        self.small, self.loaded = nn.Parameter(torch.zeros(6, 6)), nn.Parameter(torch.ones(6, 6))
        self.child = nn.Linear(6, 6, bias=False)
        self.register_buffer("drawn", torch.zeros(5))
        self.register_buffer("statistics", torch.full((3,), 5.0))

    def reset_parameters(self):
        self.calls += 1
        for p in (self.large, self.other, self.small):
            p.normal_()
        self.how(self)


def numpy_values(m):
    m.small.data.numpy()[:] = numpy.random.randn(6, 6)
    m.small.numpy()[0, 0] += random.random()


def data(m):
    m.large.data.normal_(0, 0.02)
    m.large.data[3] = 4


def rebinding(m):
    m.small.data = m.small.data * 2 + torch.randn(6, 6)
    m.large = nn.Parameter(torch.randn(160, 160) + m.other)


def set_and_out(m):
    m.small.set_(torch.randn(6, 6))
    torch.add(m.other, 1, out=m.large.data)


def views(m):
    for part in m.large.chunk(4):
        nn.init.orthogonal_(part)
    nn.init.trunc_normal_(m.other.view(80, 320)[:, :7], std=0.1)


def foreach(m):
    torch._foreach_mul_([m.large, m.other], 3.0)
    torch._foreach_add_([m.small.data], 1.0)


def values_decide(m):
    while m.small[0, 0].item() < 0.5:
        m.small.uniform_()
    m.chosen = bool(m.small.sum() > 18)
    m.large.mul_(m.small.max())


def buffers(m):
    m.drawn.normal_()
    m.large.uniform_()
    m.drawn = m.drawn + torch.rand(5)


def reads_what_was_loaded(m):
    assert m.loaded.device == m.small.device and m.loaded.sum() == 36
    m.small.copy_(m.loaded * 3)
    m.large.add_(m.loaded.mean())


def only_once(m):
    if not m.done:
        m.done = True
        m.small.fill_(8)


def another_modules(m):
    nn.init.normal_(m.child.weight, std=5)


def initialisers_of_torch(m):
    for f in (nn.init.eye_, nn.init.orthogonal_, nn.init.trunc_normal_, nn.init.xavier_normal_, nn.init.kaiming_uniform_):
        f(m.large)
    nn.init.sparse_(m.other, 0.5)
    nn.init.dirac_(m.small.view(6, 6, 1))


IDIOMS = (numpy_values, data, rebinding, set_and_out, views, foreach, values_decide, buffers, reads_what_was_loaded,
          only_once, another_modules, initialisers_of_torch)


def seed():
    torch.manual_seed(4)
    random.seed(4)
    numpy.random.seed(4)


def states():
    return torch.get_rng_state().tolist(), random.getstate(), numpy.random.get_state()[1].tolist()


def on_whole_parameters(model):
    seed()
    with torch.no_grad():
        for m in model:
            m.child.reset_parameters()
            m.reset_parameters()
    return {n: p.detach().clone() for n, p in model.named_parameters()}, states()


def test_idioms_give_the_bits_that_whole_parameters_get():
    for how in IDIOMS:
        plain = nn.Sequential(Block(how), Block(how))
        want, after = on_whole_parameters(plain)
        for kind in ("zero3", "fsdp2", "plain"):
            model = shard(kind, nn.Sequential(Block(how), Block(how)))
            missing = [n for n, _ in model.named_parameters() if "loaded" not in n] + ["0.drawn", "1.drawn"]
            seed()
            unshard.initialise_missing_keys(model, BUDGET, missing=missing)
            for n, p in model.named_parameters():
                assert torch.equal(whole(p), want[n]), (how, kind, n)
            for mine, its in zip(model, plain):
                assert torch.equal(mine.drawn, its.drawn) and mine.calls == 1, (how, kind)
                assert mine.done == its.done and mine.chosen == its.chosen, (how, kind)
            assert states() == after, (how, kind)
            assert all(type(p).__name__ != "Tensor" and hasattr(p, "ds_tensor") == (kind == "zero3")
                       for p in model.parameters())


def test_what_was_loaded_keeps_every_bit():
    def how(m):
        m.loaded.data.normal_()
        m.loaded.data = torch.zeros(6, 6)
        m.statistics.zero_()
        m.statistics = torch.ones(3)
    for kind in ("zero3", "fsdp2"):
        model = shard(kind, nn.Sequential(Block(how)))
        unshard.initialise_missing_keys(model, BUDGET, missing=["0.large", "0.other", "0.small"])
        assert torch.equal(whole(model[0].loaded), torch.ones(6, 6)) and bool((model[0].statistics == 5).all()), kind


def test_what_no_initialiser_fills_is_one_error_on_all_ranks_that_lists_it():
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.own = nn.MultiheadAttention(16, 2), nn.Parameter(torch.ones(5))
            self.also = nn.Parameter(torch.ones(200, 200))
    for kind in ("zero3", "fsdp2"):
        model = shard(kind, Holder())
        with raises(unshard.NotInitialised, "own") as r:
            unshard.initialise_missing_keys(model, BUDGET, missing=[n for n, _ in model.named_parameters()])
        assert sorted(r.error.names) == ["also", "own"]
        with raises(ValueError, "atention"):
            unshard.initialise_missing_keys(model, BUDGET, missing=["atention.weight"])


def test_a_failed_call_leaves_nothing_and_can_be_repeated():
    def how(m):
        m.drawn.normal_()
        if m.fails and dist.get_rank() in m.fails:
            raise KeyError("the initialiser's own")
    for fails in ({0}, {1}, {0, 1}):
        model = shard("zero3", nn.Sequential(Block(how), Block(how)))
        names = [n for n, p in model.named_parameters() if "loaded" not in n]
        for m in model:
            m.fails = ()
        model[1].fails = fails
        seed()
        before, drawn = states(), model[0].drawn.clone()
        with raises((KeyError, unshard.PeerFailed), "own") as r:
            unshard.initialise_missing_keys(model, BUDGET, missing=names)
        assert isinstance(r.error, KeyError) == (dist.get_rank() == min(fails)), r.error
        assert states() == before and torch.equal(model[0].drawn, drawn) and [m.calls for m in model] == [0, 0]
        model[1].fails = ()
        unshard.initialise_missing_keys(model, BUDGET, missing=names)
        plain = nn.Sequential(Block(how), Block(how))
        for m in plain:
            m.fails = ()
        want, _ = on_whole_parameters(plain)
        assert all(torch.equal(whole(p), want[n]) for n, p in model.named_parameters())


def test_ranks_that_lack_other_keys_are_told():
    model = shard("zero3", nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)))
    with raises(unshard.PlanMismatch, "0.weight"):
        unshard.initialise_missing_keys(model, BUDGET, missing=["%d.weight" % (dist.get_rank() > 0)])


def test_weight_and_spectral_norm_and_batch_norm():
    def build():
        torch.manual_seed(0)
        norms = torch.nn.utils.parametrizations
        return nn.Sequential(norms.weight_norm(nn.Linear(8, 9)), norms.spectral_norm(nn.Linear(9, 9)), nn.BatchNorm1d(9))

    def initialise(m):
        if isinstance(m, nn.Linear):
            m.weight = torch.randn(m.weight.shape) * 0.02
            m.bias.zero_()
        elif isinstance(m, nn.BatchNorm1d):
            m.reset_parameters()
    plain = build()
    seed()
    with torch.no_grad():
        plain.apply(initialise)
    for kind in ("zero3", "plain"):
        model = shard(kind, build())
        seed()
        missing = [n for n, _ in (*model.named_parameters(), *model.named_buffers())]
        unshard.initialise_missing_keys(model, BUDGET, missing=missing, initialise=initialise)
        for n, p in plain.named_parameters():
            assert torch.equal(whole(dict(model.named_parameters())[n]), p), (kind, n)
        for n, b in plain.named_buffers():
            assert torch.equal(dict(model.named_buffers())[n], b), (kind, n)


def test_peaks_of_a_large_parameter():
    """The root holds no more than the budget and 10 MiB, the others 10 MiB."""
    model = shard("zero3", nn.Sequential(nn.Linear(4096, 2048), nn.Linear(2048, 4096), nn.Embedding(8192, 1024)))
    for _ in range(2):
        meter = common.Meter()
        with meter("peak"):
            unshard.initialise_missing_keys(model, 40 * unshard.MiB, missing=[n for n, _ in model.named_parameters()])
    (row,) = meter.report()
    assert row["peak_mib_root"] <= 50 and row["peak_mib_others"] <= 10, row
