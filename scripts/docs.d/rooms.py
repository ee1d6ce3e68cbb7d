#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""rooms.py [--check] FILE: draws which room of include/ includes which, with graphviz, as an SVG.

An arrow goes from a room down to one that it includes; where another path leads there, too, it is left out. With
--check it draws nothing: it fails where FILE was made of other arrows, or an arrow would run back up.
"""
import hashlib
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tests/includes'))
import check_table  # noqa: E402: its folder is known only now

LIGHT, DARK = {'line': '#57606a', 'text': '#1f2328', 'room': '#f6f8fa'}, {'line': '#8b949e', 'text': '#e6edf3', 'room': '#161b22'}


def graph():
    """{room: rooms that its files include}, from the include lines themselves."""
    edges = {}
    for path in sorted(check_table.INCLUDE.rglob('*.hpp')):
        name = str(path.relative_to(check_table.INCLUDE).with_suffix(''))
        room = check_table.room_of(name)
        others = {check_table.room_of(n) for n in check_table.ours(path.read_text())}
        edges.setdefault(room, set()).update(others - {room, None})
    return edges


def reach(edges, room, seen=()):
    """All rooms that `room` includes, directly or not. Exits where an arrow comes back."""
    if room in seen:
        sys.exit(f'rooms: {" includes ".join([*seen[seen.index(room):], room])}: an arrow runs back up')
    return edges[room].union(*(reach(edges, r, (*seen, room)) for r in edges[room]))


def main():
    check, file = '--check' in sys.argv, pathlib.Path(sys.argv[-1])
    edges = graph()
    below = {room: reach(edges, room) for room in sorted(edges)}
    arrows = [(room, other) for room in sorted(edges) for other in sorted(edges[room])
              if not any(other in below[third] for third in edges[room])]
    mark = f'<!-- arrows {hashlib.sha256(repr(arrows).encode()).hexdigest()[:16]} -->'
    if check:
        if mark not in file.read_text():
            sys.exit(f'{file} shows other arrows than include/ has: draw it with scripts/docs.d/rooms.py {file}')
        print(f'{len(arrows)} arrows, none runs back up')
        return
    lines = {room: 0 for room in edges}
    for path in check_table.INCLUDE.rglob('*.hpp'):
        lines[check_table.room_of(str(path.relative_to(check_table.INCLUDE).with_suffix('')))] += path.read_text().count('\n')
    total = sum(lines.values())
    dot = ['digraph { rankdir=TB; bgcolor="transparent"; nodesep=0.25; ranksep=0.35;',
           'node [shape=box, style="rounded,filled", fillcolor="#f6f8fa", color="#57606a", fontcolor="#1f2328",'
           ' fontname="sans-serif", fontsize=12, margin="0.12,0.06"]; edge [color="#57606a", arrowsize=0.6];']
    for room in sorted(edges):
        label = 'error, base' if room == 'base' else room
        dot.append(f'"{room}" [label="{label}\\n{lines[room]} lines, {lines[room] / total:.0%}"];')
    dot += [f'"{room}" -> "{other}";' for room, other in arrows] + ['}']
    svg = subprocess.run(['dot', '-Tsvg'], input='\n'.join(dot), capture_output=True, text=True, check=True).stdout
    svg = re.sub(r'<!--.*?-->\n?', '', svg, flags=re.S)
    svg = svg[svg.index('<svg'):]
    for part, colour in LIGHT.items():
        svg = svg.replace(colour, f'var(--{part})')
    svg = re.sub(r'(stroke|fill)="(var\([^"]*\))"', r'style="\1:\2"', svg)
    svg = re.sub(r'style="(fill:[^"]*)" style="(stroke:[^"]*)"', r'style="\1;\2"', svg)
    rules = lambda colours: ''.join(f'--{part}:{colour};' for part, colour in colours.items())
    style = (f'<style>svg{{{rules(LIGHT)}}}@media(prefers-color-scheme:dark){{svg{{{rules(DARK)}}}}}'
             'text:not([style]){fill:var(--text)}</style>')
    svg = re.sub(r'(<svg[^>]*>)', lambda m: f'{m[1]}\n{mark}\n{style}', svg, count=1)
    file.write_text(svg)
    print(f'{file}: {len(arrows)} arrows')


main()
