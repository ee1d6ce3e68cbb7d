#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""errors.py OUT: writes the page "what failures look like": every error type, what provoked it, what each rank was told.

The types and their meaning are those of error.hpp; the code and the messages are those of tests/docs/errors.cpp, which
this script compiles and runs. A type that the program does not provoke, or that nobody is told, fails the build.
"""
import html
import pathlib
import re
import subprocess
import sys
import textwrap

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = ROOT / 'tests/docs/errors.cpp'
GROUPS = {
    'size_overflow': ('Before any byte moves', 'Found while planning or in the opening. The rank at fault gets the error; '
                      'where only some ranks can see it, the others get `peer_failed` with its message. Nothing was '
                      'gathered, nothing written, and the communicator stays usable.'),
    'peer_failed': ('At the end of a chunk', 'Found when the ranks vote. Nothing of that chunk was written on any rank; '
                    'earlier chunks are committed; the communicator stays usable, after a `peer_timeout` it does not.'),
    'batch_mismatch': ('From the transport', 'An engine that failed stays failed: every later call over that communicator throws.'),
}
ORDER = ['size_overflow', 'bad_layout', 'bad_shard', 'bad_options', 'budget_too_small', 'plan_mismatch', 'stale_plan',
         'aliased_parameters', 'overlapping_scope', 'out_of_memory', 'peer_failed', 'peer_timeout', 'unwritten_piece',
         'replicas_differ', 'batch_mismatch', 'device_failed', 'write_back_failed']


def meanings():
    """Type -> (sentence, members) from error.hpp."""
    text = (ROOT / 'include/unshard/error.hpp').read_text()
    found = {}
    for comment, name, base, body in re.findall(
            r'((?:^///[^\n]*\n)+)class [^\n]*?(\w+) : public ([\w:]+) \{\n(.*?)^\};', text, re.M | re.S):
        sentence = ' '.join(line[3:].strip() for line in comment.strip().split('\n'))
        members = re.findall(r'^  [\w:]+ (\w+)(?: = [^;]+)?;\s*///< (.*)$', body, re.M)
        found[name] = (sentence, members)
    found.pop('error')
    return found


def snippets():
    text = PROGRAM.read_text()
    return {name: textwrap.dedent(code).strip('\n')
            for name, code in re.findall(r'^ *// \[(\w+)\]\n(.*?)^ *// \[end\]', text, re.M | re.S) if name != 'end'}


def run(out):
    binary = out.parent.parent / 'errors'
    headers = [h.stat().st_mtime for h in (ROOT / 'include').rglob('*.hpp')] + [PROGRAM.stat().st_mtime]
    if not binary.exists() or binary.stat().st_mtime < max(headers):
        subprocess.run(['g++', '-std=c++20', '-O0', '-Wall', '-Wextra', '-pthread', f'-I{ROOT}/include', str(PROGRAM),
                        '-o', str(binary)], check=True)
    return subprocess.run([str(binary)], capture_output=True, text=True, timeout=120, check=True).stdout


def told(output):
    """Case -> [(type, message, [ranks])], ranks that were told the same but for their number together."""
    cases = {}
    for name, body in re.findall(r'^@case (\w+)\n(.*?)(?=^@case|\Z)', output, re.M | re.S):
        said = []
        for rank, kind, message in re.findall(r'^@rank (\d+) ([^\n]*)\n?(.*?)(?=^@rank|\Z)', body, re.M | re.S):
            message = message.strip('\n')
            same = lambda text: re.sub(r'\[rank \d+ of (\d+)\]', r'[rank R of \1]', text)
            for entry in said:
                if entry[0] == kind and same(entry[1]) == same(message):
                    entry[2].append(int(rank))
                    break
            else:
                said.append((kind, message, [int(rank)]))
        cases[name] = said
    return cases


def ranks_in_words(ranks):
    if len(ranks) == 1:
        return f'rank {ranks[0]}'
    return 'ranks ' + ', '.join(map(str, ranks[:-1])) + f' and {ranks[-1]}'


def main():
    out = pathlib.Path(sys.argv[1])
    types, code = meanings(), snippets()
    cases = told(run(out))
    for lost in sorted(set(types) ^ set(ORDER)) + sorted(set(types) - set(cases)) + sorted(set(types) - set(code)):
        sys.exit(f'errors: {lost} is not in error.hpp, in tests/docs/errors.cpp and in scripts/docs.d/errors.py alike')
    page = ['# What failures look like', '',
            'Every error type of the library, a few lines that provoke it, and what each rank is told. This page is made '
            'by running them: the program is `tests/docs/errors.cpp`. In it, `model(rank, ranks)` gives three sharded '
            'parameters, `layers.0.experts` (4 MiB), `layers.0.proj` (1 MiB) and `layers.0.norm` (4 KiB, replicated); '
            '`fill(chunk)` writes all pieces of a chunk.', '',
            'All errors derive from `unshard::error`, a `std::runtime_error`. Members give the numbers that the message '
            'has in words.', '']
    for name in ORDER:
        if name in GROUPS:
            title, about = GROUPS[name]
            page += [f'## {title}', '', about, '']
        sentence, members = types[name]
        page += [f'### {name}', '', sentence.replace('<', '&lt;').replace('_', '\\_'), '', '```cpp', code[name], '```', '']
        for kind, message, ranks in cases[name]:
            who = ranks_in_words(ranks)
            if kind == 'nothing':
                page += [f'What {who} is told: nothing.', '']
                continue
            wrapped = '\n'.join(line for part in message.split('\n') for line in (textwrap.wrap(part, 96, subsequent_indent='    ', break_on_hyphens=False) or ['']))
            kind = f'`{kind}`' if kind in types else kind
            page += [f'{who.capitalize()}: {kind}', '', '```text', wrapped, '```', '']
        if members:
            page += ['Members: ' + '; '.join(f'`{n}`, {html.escape(t, quote=False)}' for n, t in members) + '.', '']
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text('\n'.join(page))
    print(f'errors: {len(cases)} cases')


if __name__ == '__main__':
    main()
