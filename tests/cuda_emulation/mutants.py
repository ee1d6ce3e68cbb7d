#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""mutants.py BUILD [COMPILER]: takes out each event, wait and synchronisation of the NCCL engine in turn, in a copy.

Each mutant is built with order.cpp under the thread sanitizer over the test double, and must be caught, by wrong bytes
or by the sanitizer, within 20 seeds; or it is listed as equivalent, with the reason, and must then NOT be caught. Every
call of the kinds in GUARDED that the headers make must be in a mutant. Last line: 'N passed, N failed', a case a mutant.
"""
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
FLIGHTS, WORDS, NCCL = 'comm/nccl/flights.hpp', 'comm/nccl/host_exchange.hpp', 'comm/nccl.hpp'
HANDLE, MEMORY, COPY = 'comm/nccl/handle.hpp', 'comm/nccl/memory.hpp', 'cuda/copy_boxes.hpp'

# name, file, what is there, what is left of it, and why it changes nothing, where it does not
MUTANTS = [
    ('the caller\'s stream is not marked at launch', FLIGHTS, 'flights_.back().submitted.record(caller_);', '', None),
    ('a batch does not wait for the caller\'s stream', FLIGHTS, 'f.submitted.order(own_.get());', '', None),
    ('the end of a batch is not marked', FLIGHTS, 'f.done.record(own_.get());', '', None),
    ('the caller\'s stream does not wait for a batch', FLIGHTS, 'f.done.order(caller_);', '', None),
    ('the host does not wait for a batch on host memory', FLIGHTS, '(comm_.settled("a batch") && f.done.passed())',
     'true', None),
    ('a group starts while NCCL has one in progress', FLIGHTS,
     'if (!comm_.settled("an earlier group")) return false;', '',
     'the batch before is always enqueued first, which takes that its group has settled; what remains is a '
     'registration or a group of the owner\'s, whose error it reports early'),
    ('work is put behind a group that NCCL still has in progress', FLIGHTS,
     'if (!comm_.settled("a group")) return false;', '', None),
    ('errors of the device are not asked for after a wait', FLIGHTS,
     'static_cast<void>(comm_.settled("a batch"));', '',
     'orders nothing: it reports an asynchronous error one call earlier (engine.cpp has a case)'),
    ('ready does not look at the event', FLIGHTS, '&& flights_[number - first_].done.passed();', ';',
     'ready is a hint, and wait is called all the same'),
    ('abort does not wait for the stream', FLIGHTS, 'static_cast<void>(cudaStreamSynchronize(own_.get()));', '', None),
    ('a destroyed communicator does not wait for its stream', FLIGHTS, 'return code == cudaSuccess;', 'return true;',
     'ncclCommFinalize waits for what is under way, and copies behind it are ordered before the caller\'s stream by '
     'wait(), which is called for every launch'),
    ('an exchange copies before NCCL has put its part on the stream', WORDS,
     'if (!comm.settled("an exchange\'s ncclAllGather")) return false;', '', None),
    ('the end of an exchange is not marked', WORDS, 'done.record(stream.get());', '', None),
    ('an exchange does not wait', WORDS, 'return done.passed();', 'return true;', None),
    ('an aborted exchange is not waited for', WORDS,
     '    comm.abort();\n    static_cast<void>(cudaStreamSynchronize(stream.get()));', '    comm.abort();',
     'the destructor waits for the same stream before it frees'),
    ('the buffers of an exchange are freed while in use', WORDS,
     'static_cast<void>(cudaStreamSynchronize(stream.get()));\n    static_cast<void>(cudaFreeHost(host));',
     'static_cast<void>(cudaFreeHost(host));',
     'close comes after an exchange that was waited for, and abort waits itself'),
    ('a group that settles is not waited for after construction', HANDLE,
     'if (!poll(timeout_ms, [&] { return settled(call); })) late(call, timeout_ms);', '', None),
    ('a split is not waited for', HANDLE,
     'return code != ncclInProgress || settled(parent, "ncclCommSplit");', 'return true;', None),
    ('nothing waits for the last batches in the destructor', NCCL,
     'return flights_.advance() && flights_.idle();', 'return true;',
     'ncclCommFinalize waits for what is under way; wait() was called for every launch'),
    ('an operation of an earlier batch is not asked about', NCCL,
     'static_cast<void>(comm_.settled("an operation of an earlier batch"));', '',
     'orders nothing: it reports an asynchronous error one call earlier (engine.cpp has a case)'),
    ('abort waits for nothing', NCCL, 'if (!abandoned_) flights_.synchronize();', '', None),
    ('memory goes back to NCCL while the caller\'s stream uses it', MEMORY,
     'static_cast<void>(cudaStreamSynchronize(comm_->stream()));', '', None),
    ('a table of copies is not marked as read', COPY,
     'detail::check_copy(cudaEventRecord(s.read, stream), "cudaEventRecord");', '', None),
    ('a table of copies is written while it is read', COPY, 'if (!s->in_use || cudaEventQuery(s->read) == cudaSuccess)',
     '', None),
    ('a table of copies is freed while it is read', COPY,
     'if (in_use && cudaEventQuery(read) != cudaSuccess) return;', '',
     'only for a borrowed communicator after a failure: else the stream is empty by then'),
]
GUARDED = re.compile(r'\.record\(|\.order\(|\.passed\(\)|\bsettled\("|settled\(parent|cudaStreamSynchronize\(|'
                     r'synchronize\(\)|cudaEventRecord\(s|cudaEventQuery\(s|cudaEventQuery\(read|idle\(\)')
# What the pattern finds beside the calls above.
NOT_CALLS = ['bool idle() const', 'void synchronize() const', 'void record(', 'abandoned_ = borrowed_ && !flights_.idle()']


def uncovered():
    for name in (FLIGHTS, WORDS, NCCL, HANDLE, MEMORY, COPY):
        text = (ROOT / 'include/unshard' / name).read_text()
        for _, file, there, _, _ in MUTANTS:
            if file == name:
                if text.count(there) != 1 and file != WORDS:
                    yield f'{name}: {text.count(there)} times: {there}'
                text = text.replace(there, '')
        for line in text.splitlines():
            if GUARDED.search(line) and not any(n in line for n in NOT_CALLS):
                yield f'{name}: in no mutant: {line.strip()}'


def caught(build, compiler, number, mutant):
    name, file, there, left, equivalent = mutant
    copy = build / f'mutant{number}'
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(ROOT / 'include', copy / 'include')
    path = copy / 'include/unshard' / file
    text = path.read_text()
    if there not in text:
        return None, f'not there: {there}'
    path.write_text(text.replace(there, left, 1))
    cuda = os.environ.get('CUDA_INCLUDE', '/usr/local/cuda/include')
    made = subprocess.run(
        [compiler, '-std=c++20', '-O1', '-g', '-fsanitize=thread', '-w', '-DTHRUST_DEVICE_SYSTEM=THRUST_DEVICE_SYSTEM_CPP',
         f'-I{copy}/include', f'-I{HERE}', '-isystem', cuda, '-isystem', cuda + '/cccl', HERE / 'order.cpp',
         build / 'cuda.o', build / 'nccl.o', '-pthread', '-o', copy / 'order'], capture_output=True, text=True)
    if made.returncode != 0:
        return None, 'does not compile: ' + made.stderr[:300]
    seeds = 20 if equivalent is None else 6
    env = dict(os.environ, TSAN_OPTIONS='halt_on_error=1 exitcode=66')
    for seed in range(1, seeds + 1):
        try:
            run = subprocess.run([copy / 'order', str(seed), '1'], capture_output=True, text=True, timeout=60, env=env)
        except subprocess.TimeoutExpired:
            return seed, 'hangs'
        if run.returncode != 0:
            how = 'the thread sanitizer' if run.returncode == 66 else f'exit {run.returncode}: ' + run.stderr[:80].strip()
            return seed, how
    return 0, ''


def main():
    build = pathlib.Path(sys.argv[1]).resolve()
    compiler = sys.argv[2] if len(sys.argv) > 2 else 'g++'
    cuda = os.environ.get('CUDA_INCLUDE', '/usr/local/cuda/include')
    build.mkdir(parents=True, exist_ok=True)
    failed = 0
    for line in uncovered():
        print('FAILED', line)
        failed += 1
    for part in ('cuda', 'nccl'):
        subprocess.run([compiler, '-std=c++20', '-O1', '-g', '-fsanitize=thread', '-isystem', cuda, '-c',
                        HERE / f'{part}.cpp', '-o', build / f'{part}.o'], check=True)
    # The code as it is must pass, or no mutant's failure says anything.
    everything = [('as it is', FLIGHTS, 'namespace unshard', 'namespace unshard', 'nothing is taken out'), *MUTANTS]
    with concurrent.futures.ThreadPoolExecutor(int(os.environ.get('JOBS', os.cpu_count()))) as pool:
        results = list(pool.map(lambda i: caught(build, compiler, i, everything[i]), range(len(everything))))
    passed = 0
    for (name, _, _, _, equivalent), (seed, how) in zip(everything, results):
        good = seed is not None and (seed > 0) == (equivalent is None)
        passed += good
        failed += not good
        says = how if seed is None else f'caught by seed {seed}, {how}' if seed else 'not caught'
        print('ok    ' if good else 'FAILED', name + ':', says + (f' (equivalent: {equivalent})' if equivalent else ''))
    print(f'{passed} passed, {failed} failed')
    return failed > 0


sys.exit(main())
