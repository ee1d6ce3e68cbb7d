#!/usr/bin/env python3
"""Who may include whom: holds the include lines of include/unshard to the tables below.

A header may include what its line names, whatever those may include, their pieces and its own, and level 0. One that
no table names is an error. The last line is 'N passed, N failed', a case a header.
"""
import pathlib
import re
import sys

INCLUDE = pathlib.Path(__file__).parents[2] / 'include/unshard'

LEVELS = [
    {'version': [], 'detail/text': [], 'error': ['detail/text'], 'detail/checked': ['error'], 'detail/later': [], 'detail/sort': []},
    {'layout': [], 'memory': [], 'observe': []},
    {'parameter': ['layout'], 'communicator': ['layout'], 'options': ['observe']},
    {'plan': ['parameter', 'options', 'communicator']},
    {'schedule': ['plan', 'communicator'], 'agreement': ['plan', 'communicator']},
    {'gather': ['schedule', 'agreement', 'memory']},
]
CORE = {header: names for level in LEVELS for header, names in level.items()}
TESTING = {'testing/mock': list(CORE), 'testing/conformance': list(CORE)}
ENGINES = {
    'comm/threads': ['communicator'],
    'comm/mpi': ['communicator'],
    'comm/nccl': ['communicator'],
    'cuda/memory': ['memory'],
    'cuda/copy_boxes': ['communicator'],
}
HEADERS = {**CORE, **TESTING, **ENGINES, 'unshard': list(CORE)}

# Parts of a header that grew too long; each may include those that stand before it on the line.
PIECES = {
    'layout': ['detail/index_space', 'detail/basic_layouts', 'detail/mesh_layouts', 'detail/box_layouts'],
    'communicator': ['detail/stream_copy'],
    'plan': ['detail/best_fit', 'detail/packer'],
    'schedule': ['detail/strided', 'detail/transfer'],
    'gather': [
        'detail/handles',
        'detail/piece',
        'detail/fill',
        'detail/verify',
        'detail/buffers',
        'detail/open_scopes',
        'detail/listed',
        'detail/chunk_maker',
        'detail/session',
    ],
    'comm/threads': [
        'detail/kept_regions',
        'detail/threads_batch',
        'detail/threads_failure',
        'detail/threads_engine',
    ],
    'comm/mpi': [
        'detail/pacer',
        'detail/region_hull',
        'detail/mpi_runs',
        'detail/mpi_types',
        'detail/mpi_batch',
        'detail/mpi_engine',
    ],
    'comm/nccl': [
        'detail/paired_regions',
        'detail/memcpy_copier',
        'detail/cuda_handles',
        'detail/host_exchange',
        'detail/nccl_memory',
        'detail/nccl_batch',
        'detail/nccl_flights',
    ],
    'testing/mock': ['detail/mock_world'],
    'testing/conformance': ['detail/check_handle', 'detail/check_communicator'],
}
OWNER = {piece: header for header, pieces in PIECES.items() for piece in pieces}

# Standard headers that cost much to include: for all, and for the core.
NOBODY = {'iostream', 'regex', 'format', 'functional'}
NOT_CORE = NOBODY | {'algorithm', 'chrono', 'thread', 'mutex', 'condition_variable', 'memory', 'variant', 'ranges', 'future'}
# Foreign headers, by pattern, and who may include them.
FOREIGN = {
    r'mpi\.h': {'comm/mpi'},
    r'nccl\.h': {'comm/nccl'},
    r'(thrust|cub)/.*': {'cuda/copy_boxes'},
    r'cuda_runtime(_api)?\.h': {'comm/nccl', 'cuda/memory', 'cuda/copy_boxes'},
    r'nvtx3/.*': {'cuda/nvtx'},
    r'sanitizer/asan_interface\.h': {'gather'},
}


def allowed(name, seen=None):
    """All that `name` may include, level 0 apart."""
    seen = set() if seen is None else seen
    owner = OWNER.get(name, name)
    pieces = PIECES.get(owner, [])
    for n in HEADERS[owner] + (pieces[: pieces.index(name)] if name in pieces else pieces):
        if n not in seen:
            seen.add(n)
            allowed(n, seen)
    return seen


def reached(name, texts):
    """All of ours that including `name` brings in."""
    found = {name}
    for included in re.findall(r'^#include <unshard/(.*)\.hpp>', texts.get(name, ''), re.M):
        found |= reached(included, texts)
    return found


def problems(name, text):
    owner = OWNER.get(name, name)
    if owner not in HEADERS:
        yield 'is in no table of tests/includes/check_table.py'
        return
    if not text.startswith('#pragma once'):
        yield 'does not start with #pragma once'
    may = allowed(name) if name not in LEVELS[0] else set(HEADERS[name])
    for included in re.findall(r'^\s*#\s*include\s+(.*?)\s*(?://.*)?$', text, re.M):
        inner = included.strip('<>')
        own = re.fullmatch(r'unshard/(.*)\.hpp', inner)
        foreign = [who for pattern, who in FOREIGN.items() if re.fullmatch(pattern, inner)]
        if included != f'<{inner}>':
            yield f'includes {included}: write <unshard/...>'
        elif own:
            if own[1] not in may and (own[1] not in LEVELS[0] or name in LEVELS[0]):
                yield f'may not include {own[1]}'
        elif foreign:
            if not any(owner in who for who in foreign):
                yield f'may not include <{inner}>'
        elif not re.fullmatch(r'[a-z_]+', inner) and owner not in ENGINES:
            yield f'may not include <{inner}>: not of the standard library'
        elif inner in (NOBODY if owner in ENGINES or owner in TESTING else NOT_CORE):
            yield f'may not include <{inner}>: it costs too much'


def main():
    for level in LEVELS[1:]:
        for header in level:
            assert not allowed(header) & set(level), f'the table lets {header} include its own level'
    failed = 0
    texts = {str(path.relative_to(INCLUDE).with_suffix('')): path.read_text() for path in INCLUDE.rglob('*.hpp')}
    for name, text in sorted(texts.items()):
        found = list(problems(name, text))
        failed += bool(found)
        for line in found:
            print(f'{name}.hpp: {line}')
    if 'unshard' in texts:
        for name in sorted(CORE.keys() - reached('unshard', texts)):
            failed += 1
            print(f'unshard.hpp: does not bring in {name}')
    print(f'{len(texts) - failed} passed, {failed} failed')
    return failed > 0


sys.exit(main())
