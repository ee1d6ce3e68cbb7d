#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Who may include whom, by one rule over the rooms of include/unshard.

A room is a public header and the folder of its name: `layout` is layout.hpp and layout/*.hpp; that of `base` is error.hpp.
A file may include the files of its own room, in no circle, and the public headers of the rooms below its own; of an
open room any file. ROOMS says on which rooms each stands;
nothing else is listed by hand. The last line is 'N passed, N failed', a case a header.
"""
import pathlib
import re
import sys

INCLUDE = pathlib.Path(__file__).parents[2] / 'include/unshard'

# Each room, and the rooms that it stands on; what those stand on is below it, too.
ROOMS = {
    'version': [],
    'base': [],
    'index_space': ['base'],
    'shards': ['index_space'],
    'layout': ['shards'],
    'memory': ['base'],
    'observe': ['base'],
    'parameter': ['layout'],
    'communicator': ['layout'],
    'options': ['observe'],
    'packing': ['layout', 'options'],
    'plan': ['parameter', 'options', 'communicator', 'packing'],
    'schedule': ['plan'],
    'agreement': ['plan'],
    'gather': ['schedule', 'agreement', 'memory'],
    'unshard': ['gather', 'version'],
    'comm/common': ['communicator'],
    'comm/threads': ['comm/common'],
    'comm/mpi': ['comm/common'],
    'comm/nccl': ['comm/common'],
    'cuda': ['communicator', 'memory'],
    'testing': ['gather'],
}
OPEN = {'base', 'packing', 'schedule', 'comm/common', 'cuda', 'testing'}
ENGINES = {'comm/common', 'comm/threads', 'comm/mpi', 'comm/nccl', 'cuda'}
MOST_LINES_OF_A_FILE, MOST_LINES_OF_A_ROOM, MOST_SHARE_OF_A_ROOM = 400, 1200, 0.15
# What is over these limits still, to be split: the list only gets shorter.
OVER = {'gather/session', 'testing/check_communicator', 'testing/mock', 'gather', 'comm/nccl', 'testing'}

# Standard headers that cost much to include: for all, and for the core.
NOBODY = {'iostream', 'regex', 'format', 'functional'}
NOT_CORE = NOBODY | {'algorithm', 'chrono', 'thread', 'mutex', 'condition_variable', 'memory', 'variant', 'ranges', 'future'}
# Foreign headers, by pattern, and the room that may include them.
FOREIGN = {
    r'mpi\.h': {'comm/mpi'},
    r'nccl\.h': {'comm/nccl'},
    r'(thrust|cub)/.*': {'cuda'},
    r'cuda_runtime(_api)?\.h': {'comm/nccl', 'cuda'},
}


def room_of(name):
    """The room of a header, named without .hpp: the longest room that is its path or its folder; None outside."""
    if name == 'error':
        return 'base'
    return next((r for r in sorted(ROOMS, key=len, reverse=True) if name == r or name.startswith(r + '/')), None)


def below(room):
    """All rooms that `room` stands on."""
    return set(ROOMS[room]).union(*(below(r) for r in ROOMS[room]))


def ours(text):
    """The headers of ours that a text includes, without .hpp."""
    return re.findall(r'^\s*#\s*include <unshard/(.*)\.hpp>', text, re.M)


def reached(name, texts, seen=None):
    """All of ours that including `name` brings in, itself left out unless there is a circle."""
    seen = set() if seen is None else seen
    for included in ours(texts.get(name, '')):
        if included not in seen:
            seen.add(included)
            reached(included, texts, seen)
    return seen


def problems(name, texts):
    room, text = room_of(name), texts[name]
    if room is None:
        yield 'is in no room of tests/includes/check_table.py'
        return
    if not text.startswith('// SPDX-License-Identifier: Apache-2.0\n#pragma once'):
        yield 'does not start with its licence and #pragma once'
    if text.count('\n') > MOST_LINES_OF_A_FILE and name not in OVER:
        yield f'has {text.count(chr(10))} lines, over {MOST_LINES_OF_A_FILE}'
    if name in reached(name, texts):
        yield 'includes itself, by way of others'
    for included in re.findall(r'^\s*#\s*include\s+(.*?)\s*(?://.*)?$', text, re.M):
        inner = included.strip('<>')
        own = re.fullmatch(r'unshard/(.*)\.hpp', inner)
        foreign = [who for pattern, who in FOREIGN.items() if re.fullmatch(pattern, inner)]
        if included != f'<{inner}>':
            yield f'includes {included}: write <unshard/...>'
        elif own:
            other = room_of(own[1])
            if other != room and other not in below(room):
                yield f'may not include {own[1]}: {room} does not stand on {other}'
            elif other != room and own[1] != other and other not in OPEN:
                yield f'may not include {own[1]}, a part of {other}: include {other}.hpp'
        elif foreign:
            if not any(room in who for who in foreign):
                yield f'may not include <{inner}>'
        elif not re.fullmatch(r'[a-z_]+', inner) and room not in ENGINES:
            yield f'may not include <{inner}>: not of the standard library'
        elif inner in (NOBODY if room in ENGINES or room == 'testing' else NOT_CORE):
            yield f'may not include <{inner}>: it costs too much'


def main():
    texts = {str(path.relative_to(INCLUDE).with_suffix('')): path.read_text() for path in INCLUDE.rglob('*.hpp')}
    failed = 0
    for name in sorted(texts):
        found = list(problems(name, texts))
        failed += bool(found)
        for line in found:
            print(f'{name}.hpp: {line}')
    lines = {room: sum(t.count('\n') for n, t in texts.items() if room_of(n) == room) for room in ROOMS}
    for room, count in lines.items():
        too_large = count > MOST_LINES_OF_A_ROOM or count > MOST_SHARE_OF_A_ROOM * sum(lines.values())
        if too_large and room not in OVER:
            failed += 1
            print(f'{room}: {count} lines, over {MOST_LINES_OF_A_ROOM} or {MOST_SHARE_OF_A_ROOM:.0%} of all')
    core = {r for r in ROOMS if r in below('unshard') and r in texts} | {'error'}
    for name in sorted(core - reached('unshard', texts)):
        failed += 1
        print(f'unshard.hpp: does not bring in {name}')
    print(f'{len(texts) - failed} passed, {failed} failed')
    return failed > 0


if __name__ == '__main__':
    sys.exit(main())
