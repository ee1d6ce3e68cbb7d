# SPDX-License-Identifier: Apache-2.0
"""initialise_missing_keys against what transformers does itself, on a small Qwen3-MoE and on models of other kinds."""
import torch
import torch.distributed as dist
import unshard
from kinds import raises, shard, whole

ranks = (2, 3)
CONFIG = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}}


def qwen(seed=0):
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
    torch.manual_seed(seed)
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(
        vocab_size=256, hidden_size=64, intermediate_size=64, moe_intermediate_size=96, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_experts=4, num_experts_per_tok=2,
        decoder_sparse_step=1, tie_word_embeddings=True))


def forget(model, lacks):
    """Marks what a checkpoint had: all but the names that `lacks` says."""
    missing = []
    for name, p in model.named_parameters():
        p._is_hf_initialized = not lacks(name)
        missing += [name] if lacks(name) else []
    for module in model.modules():
        module._is_hf_initialized = False
    return missing


def values(model):
    return {name: whole(p) for name, p in model.named_parameters()}


LACKS = (lambda name: "experts." in name, lambda name: "mlp" in name or "norm" in name, lambda name: True)


def test_the_bits_are_those_of_transformers_own_for_every_budget():
    from transformers.integrations import HfDeepSpeedConfig
    enabled = HfDeepSpeedConfig(CONFIG)
    for lacks in LACKS:
        model = shard("zero3", qwen())
        before = values(model)
        missing = forget(model, lacks)
        torch.manual_seed(7)
        model._initialize_missing_keys(False)                       # what happens today
        today = values(model)
        assert any(not torch.equal(today[n], before[n]) for n in missing)
        for budget in (350 * unshard.KiB, unshard.MiB, 64 * unshard.MiB):
            model = shard("zero3", qwen())
            forget(model, lacks)
            torch.manual_seed(7)
            unshard.initialise_missing_keys(model, budget)
            after = values(model)
            assert [n for n in after if not torch.equal(after[n], today[n])] == []
            assert all(torch.equal(after[n], before[n]) for n in after if n not in missing)
    del enabled


def test_mean_and_deviation_are_those_that_the_initialisers_ask_for():
    model = shard("zero3", qwen())
    missing = forget(model, lambda name: "experts." in name or "layernorm" in name)
    unshard.initialise_missing_keys(model, unshard.MiB)
    for name, value in values(model).items():
        if name in missing and "norm" in name:
            assert bool((value == 1).all()), name
        elif name in missing:
            n, std = value.numel(), 0.02
            assert abs(value.mean()) < 5 * std / n ** 0.5 and abs(value.std() / std - 1) < 5 / (2 * n) ** 0.5, name


def test_fsdp2_gives_the_same_bits():
    for lacks in LACKS:
        results = []
        for kind, budget in (("plain", 64 * unshard.MiB), ("fsdp2", 350 * unshard.KiB), ("zero3", unshard.MiB)):
            model = shard(kind, qwen())
            forget(model, lacks)
            torch.manual_seed(3)
            unshard.initialise_missing_keys(model, budget)
            results.append(values(model))
        for other in results[1:]:
            assert all(torch.equal(other[n], results[0][n]) for n in other)


def initialised_at_once(model):
    """The values that a model's own initialisers give it, without unshard, after seed 1."""
    torch.manual_seed(1)
    with torch.no_grad():
        model.apply(lambda m: m.reset_parameters() if hasattr(m, "reset_parameters") else None)
    return values(model)


class Parent(torch.nn.Module):
    """Its initialiser scales what its direct children's initialisers drew: they must be in one chunk, in that order."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Sequential(torch.nn.Linear(40, 50), torch.nn.Linear(50, 60))
        self.second = torch.nn.Linear(60, 70)
        self.scale = torch.nn.Parameter(torch.zeros(5))
        self.register_buffer("positions", torch.zeros(4))

    def reset_parameters(self):
        self.second.weight.mul_(self.scale.normal_().sum())
        self.positions.copy_(torch.arange(4.0))


def test_a_parents_initialiser_sees_what_its_childrens_made():
    results = []
    for kind in ("plain", "zero3", "fsdp2"):
        torch.manual_seed(0)
        model = shard(kind, torch.nn.Sequential(Parent(), Parent()))
        names = [n for n, _ in model.named_parameters()]
        torch.manual_seed(1)
        unshard.initialise_missing_keys(model, 128 * unshard.KiB, missing=names)
        results.append(values(model))
        assert all(torch.equal(m.positions, torch.arange(4.0)) for m in model)       # on every rank
    torch.manual_seed(0)
    model = torch.nn.Sequential(Parent(), Parent())
    want = initialised_at_once(model)
    for got in results:
        assert dist.get_rank() != 0 or all(torch.equal(got[n], want[n]) for n in want)


class Entangled(torch.nn.Module):
    """Initialisers whose parameters depend on each other: both are there at once, and it is called once."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.a, self.b = (torch.nn.Parameter(torch.zeros(64, 64)) for _ in range(2))
        self.register_buffer("drawn", torch.zeros(3))

    def reset_parameters(self):
        if self.how == "a seed of its own":
            torch.manual_seed(5)
        self.a.normal_()
        if self.how == "a buffer between":
            self.drawn.normal_()
        self.b.uniform_()
        if self.how == "back to the first":
            self.a.exponential_()
        if self.how == "a view of the first":
            self.a[3].normal_()
        if self.how == "from one to the other":
            self.b.add_(self.a)
        if self.how == "by way of a temporary":
            between = self.a * 2
            self.b.add_(between)


def test_initialisers_that_need_all_their_parameters_at_once_have_them():
    for how in ("a buffer between", "back to the first", "a view of the first", "from one to the other",
                "by way of a temporary", "a seed of its own"):
        results = []
        for kind in ("plain", "zero3"):
            torch.manual_seed(0)
            model = shard(kind, torch.nn.Sequential(Entangled(how), Entangled(how)))
            names = [n for n, _ in model.named_parameters()]
            with raises(unshard.BudgetTooSmall):
                unshard.initialise_missing_keys(model, 20 * unshard.KiB, missing=names)
            torch.manual_seed(1)
            unshard.initialise_missing_keys(model, 56 * unshard.KiB, missing=names)
            results.append(values(model))
        want = initialised_at_once(torch.nn.Sequential(Entangled(how), Entangled(how)))
        for got in results:
            assert dist.get_rank() != 0 or all(torch.equal(got[n], want[n]) for n in want), how


def test_only_what_is_missing_is_touched_even_by_initialisers_that_do_not_ask():
    torch.manual_seed(0)
    model = shard("zero3", torch.nn.Sequential(torch.nn.Linear(30, 30), torch.nn.Linear(30, 30)))
    before = values(model)
    unshard.initialise_missing_keys(model, unshard.MiB, missing=["1.weight"])
    after = values(model)
    assert [n for n in after if not torch.equal(after[n], before[n])] == ["1.weight"]


def test_nothing_missing_moves_nothing():
    model = shard("zero3", qwen())
    before = values(model)
    forget(model, lambda name: False)
    unshard.initialise_missing_keys(model, unshard.MiB)
    assert all(torch.equal(v, before[n]) for n, v in values(model).items())


def test_a_group_over_the_budget_is_an_error_and_the_model_is_as_before():
    model = shard("zero3", qwen())
    before = values(model)
    places = {n: id(p) for n, p in model.named_parameters()}
    forget(model, LACKS[0])
    with raises(unshard.BudgetTooSmall):
        unshard.initialise_missing_keys(model, 100 * unshard.KiB)
    assert places == {n: id(p) for n, p in model.named_parameters()}
    assert all(torch.equal(v, before[n]) for n, v in values(model).items())
