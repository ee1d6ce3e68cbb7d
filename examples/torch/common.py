# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: models, chunks, and the meters.

--json FILE adds a run to the file, as the other benchmarks write theirs: "cores", "machine", "torch" and so on, and
"runs": a list of {"command", "load", "rows", "ratios"}; "ratios" are pairs, of the medians and of the fastest. A row:
  case, ranks, runs   what ran; how many times, after one run that is not counted; the cases alternate in the same processes
  s_min, s_median     seconds, from a barrier before to a barrier after, of the slowest rank
  peak_mib_root       the rise of the resident set (VmHWM after a reset, over VmRSS after malloc_trim), the worst of all
  peak_mib_others     runs, of rank 0 and of the worst other rank: buffers, transport and what the allocator keeps
  loopback_mib        bytes on the loopback device, median; all ranks' together, and whatever else used it
  foreign_cpu         the share of the machine that other processes used in the worst run: 0.1 and more, trust the minimum
"""
import ctypes
import gc
import json
import os
import socket
import statistics
import sys
import time

import torch
import torch.distributed as dist

MiB = 2 ** 20


def moe():
    """1026 MiB of float32 in 200 parameters: 8 layers, each with one 64 MiB packed expert tensor."""
    layer = [(16, 1024, 1024), (2048, 1024), (512, 1024), (512, 1024), (1024, 2048), (2048, 1024), (2048, 1024),
             (1024, 2048), (5120, 1024), (16, 1024)] + [(1024,), (2048,), (4096,)] * 5
    return layer * 8


def small():
    """664 MiB of float32 in 20,000 parameters of 4 to 64 KiB."""
    return [(1024 * (1 + i % 16),) for i in range(20000)]


MODELS = {"moe": moe, "small": small}


def greedy(items, size_of, budget):
    """In order; a chunk is closed when the next item would overrun the budget."""
    out, held = [[]], 0
    for item in items:
        size = size_of(item)
        if out[-1] and held + size > budget:
            out.append([])
            held = 0
        out[-1].append(item)
        held += size
    return out


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def join(rank, world, port):
    # The interpreter's own ninja: another version would build DeepSpeed's operator anew, for minutes.
    os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", "")
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), DS_ACCELERATOR="cpu",
                      DS_BUILD_OPS="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)


def zero3(model, world):
    """Partitions a model by the real DeepSpeed."""
    import deepspeed
    from deepspeed.utils import logger
    logger.setLevel("ERROR")
    deepspeed.init_distributed("gloo", verbose=False)
    config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}}
    deepspeed.zero.Init(module=model, config_dict_or_path=config, dtype=torch.float32)
    return model


def _status(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def _loopback():
    with open("/proc/net/dev") as lines:
        return next(int(line.split(":")[1].split()[0]) / MiB for line in lines if line.strip().startswith("lo:"))


def _busy():
    with open("/proc/stat") as lines:
        user, nice, system = map(int, lines.readline().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


class Meter:
    """`with meter("name"):` on every rank; `report()` on every rank gives rank 0's rows."""

    def __init__(self):
        self.runs = {}
        self.load = os.getloadavg()[0]

    def __call__(self, name):
        self._name = name
        return self

    def __enter__(self):
        dist.barrier()
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)           # freed heap goes back: to use it again is new memory
        with open("/proc/self/clear_refs", "w") as refs:  # VmHWM := VmRSS
            refs.write("5")
        self._base = _status("VmRSS")
        dist.barrier()
        self._start = (_loopback(), _busy(), time.process_time(), time.perf_counter())

    def __exit__(self, *error):
        mine = time.perf_counter() - self._start[3]       # this rank's own
        dist.barrier()
        wire, busy, own, start = self._start
        row = (time.perf_counter() - start, _status("VmHWM") - self._base, _loopback() - wire, _busy() - busy,
               time.process_time() - own, mine)
        everyone = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, row)
        self.runs.setdefault(self._name, []).append(everyone)

    def report(self, **more):
        rows = []
        for name, runs in self.runs.items():
            times = [max(r[0] for r in run) for run in runs]
            foreign = [max(0, run[0][3] - sum(r[4] for r in run)) / (os.cpu_count() * t) for run, t in zip(runs, times)]
            rows.append({"case": name, "ranks": dist.get_world_size(), "runs": len(runs),
                         "s_min": round(min(times), 4), "s_median": round(statistics.median(times), 4),
                         "peak_mib_root": round(max(run[0][1] for run in runs), 1),
                         "peak_mib_others": round(max((r[1] for run in runs for r in run[1:]), default=0), 1),
                         "loopback_mib": round(statistics.median(run[0][2] for run in runs)),
                         "foreign_cpu": round(max(foreign), 2), **more})
        if dist.get_rank() == 0:
            for row in rows:
                print(json.dumps(row), flush=True)
        return rows


def publish(path, command, load, rows, ratios):
    """Adds a run to a JSON file; one of the same command is replaced. `load`: when it began."""
    import deepspeed
    import transformers
    result = {"runs": []}
    if os.path.exists(path):
        with open(path) as file:
            result = json.load(file)
    with open("/proc/cpuinfo") as lines:
        machine = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    result.update(benchmark="torch", about="examples/torch: real PyTorch, DeepSpeed and transformers over gloo",
                  cores=os.cpu_count(), machine=machine, torch=torch.__version__, deepspeed=deepspeed.__version__,
                  transformers=transformers.__version__, revision=os.environ.get("UNSHARD_REVISION", ""))
    result["runs"] = [r for r in result["runs"] if r["command"] != command]
    result["runs"].append({"command": command, "load": round(load, 2), "rows": rows, "ratios": ratios})
    with open(path, "w") as file:
        json.dump(result, file, indent=1)
        file.write("\n")


def print_ratios(rows, pairs):
    """{"a / b": [of the medians, of the fastest]} of the pairs that were both measured."""
    by = {r["case"]: r for r in rows}
    out = {"%s / %s" % (a, b): [round(by[a][key] / by[b][key], 3) for key in ("s_median", "s_min")]
           for a, b in pairs if a in by and b in by}
    for what, (median, fastest) in out.items():
        print("%s: %.2f of the medians, %.2f of the fastest" % (what, median, fastest))
    return out
