# SPDX-License-Identifier: Apache-2.0
"""Runs the tests:  python run.py [FILE...]

A test is a function `test_*` of a module; all ranks run it. `ranks` in the module lists how many ranks there are, in
turn; its tests run one after the other in the same processes. Prints what failed and, last, 'N passed, N failed'."""
import datetime
import faulthandler
import importlib
import os
import pathlib
import subprocess
import sys
import traceback

here = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(here), str(here.parent)]
LIMIT_S = 300  # of one file with one number of ranks: a hang is a failure


def rank_main(rank, world, port, module):
    import common
    import torch.distributed as dist
    faulthandler.dump_traceback_later(LIMIT_S - 20)                  # where it hangs
    common.join(rank, world, port)
    store = dist.distributed_c10d._get_default_store()
    tests = importlib.import_module(module)
    for name in [n for n in vars(tests) if n.startswith("test_")]:
        try:
            said = getattr(tests, name)() or ""
        except Exception:
            said = traceback.format_exc()
        # Not by a collective: where one rank failed, the others may still wait in one for it.
        keys = ["%s/%d" % (name, r) for r in range(world)]
        store.set(keys[rank], said)
        try:
            store.wait(keys, datetime.timedelta(seconds=LIMIT_S if said in ("", "skipped") else 15))
        except dist.DistStoreError:
            print("FAILED %s.%s, %d ranks, and others still wait for rank %d: %s" % (module, name, world, rank, said),
                  flush=True)
            os._exit(1)
        everyone = [store.get(key).decode() for key in keys]
        if rank == 0:
            wrong = ["rank %d: %s" % (r, text) for r, text in enumerate(everyone) if text not in ("", "skipped")]
            print("%s %s.%s, %d ranks" % ("FAILED" if wrong else "skipped" if "skipped" in everyone else "ok", module, name,
                                         world), flush=True)
            print("".join(wrong), end="", flush=True)
    dist.barrier()
    dist.destroy_process_group()


def main(files):
    # DeepSpeed compiles an operator of its CPU backend when it is first used, for minutes on a busy machine: not within
    # the time of a test, which would end the compiler, too, and leave the work to the next one.
    subprocess.run([sys.executable, "-B", "-W", "ignore", "-c", "from deepspeed.comm.torch import build_shm_op; build_shm_op()"],
                   env={**os.environ, "DS_ACCELERATOR": "cpu", "DS_BUILD_OPS": "0",
                        "PATH": os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", "")}, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    passed = failed = 0
    for file in files:
        module = pathlib.Path(file).stem
        text = (here / (module + ".py")).read_text()
        worlds = next((eval(line.split("=")[1]) for line in text.splitlines() if line.startswith("ranks =")), (2,))
        for world in worlds:
            command = [sys.executable, "-B", "-W", "ignore", __file__, "--ranks", str(world), module]
            try:
                done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=LIMIT_S)
                out, err, code = done.stdout, done.stderr, done.returncode
            except subprocess.TimeoutExpired as e:
                out = (e.stdout or b"").decode()
                err, code = "%s\nit ran past %d s" % ((e.stderr or b"").decode(), LIMIT_S), 1   # with where it hung
            print(out, end="", flush=True)
            lines = out.splitlines()
            passed += sum(line.startswith("ok ") for line in lines)
            failed += sum(line.startswith("FAILED ") for line in lines)
            if code:
                failed += 1
                print("FAILED %s, %d ranks: exit status %d\n%s" % (module, world, code, err[-3000:]), flush=True)
    print("%d passed, %d failed" % (passed, failed))
    return failed > 0 or passed == 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--ranks"]:
        import common
        import torch
        world = int(sys.argv[2])
        torch.multiprocessing.spawn(rank_main, (world, common.free_port(), sys.argv[3]), nprocs=world)
    else:
        sys.exit(main(sys.argv[1:] or sorted(str(f) for f in here.glob("test_*.py"))))
