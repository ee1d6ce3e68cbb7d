#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""check_readme.py [--write]: what the pages show of the examples is what these are, and what they link to exists.

A block after '<!-- listing: FILE -->' is the code of FILE, one after '<!-- prints: FILE -->' its 'prints: ' lines, which
another test compares with what the program prints; --write copies both into the pages. Links are those of the plain
files, as one reads them in the tree: files and headings. README.md and docs/index.md begin alike.
"""
import re
import sys
from pathlib import Path

root = Path(__file__).resolve().parents[1]
pages = [root / name for name in ('README.md', 'CONTRIBUTING.md', 'SECURITY.md', 'CHANGELOG.md')]
pages += sorted([*(root / 'docs').glob('*.md'), *(root / 'examples').rglob('*.md'), *(root / '.github').rglob('*.md')])
pages = [page for page in pages if page.exists()]
failures = []
checked = 0


def check(good, what):
    global checked
    checked += 1
    if not good:
        failures.append(what)


def code_of(source):
    """Without the comment at its top."""
    return re.sub(r'\A((//|#(?!include))[^\n]*\n|\n)*', '', source)


def prints_of(source):
    return ''.join(line + '\n' for line in re.findall(r'^(?://|#) prints: (.*)$', source, re.M))


BLOCK = re.compile(r'(<!-- (listing|prints): (\S+) -->\n```\w+\n)(.*?)(^```$)', re.M | re.S)


def wanted(kind, name):
    source = (root / name).read_text()
    return code_of(source) if kind == 'listing' else prints_of(source)


def heading_ids(text):
    """As GitHub makes them; the site's are the same for the headings we have."""
    text = re.sub(r'^```.*?^```', '', text, flags=re.S | re.M)
    headings = re.findall(r'^#+ (.*)$', text, re.M)
    plain = (re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', h) for h in headings)
    return {re.sub(r'[^\w\- ]', '', h.lower()).strip().replace(' ', '-') for h in plain}


def first_screen(name):
    text = (root / name).read_text().split('\n', 1)[1]
    return text[:text.index('exception instead of hanging.')]


for page in pages:
    text = page.read_text()
    name = page.relative_to(root)
    if '--write' in sys.argv:
        text = BLOCK.sub(lambda m: m[1] + wanted(m[2], m[3]) + m[5], text)
        page.write_text(text)
    for _, kind, file, shown, _ in BLOCK.findall(text):
        check(shown == wanted(kind, file), f'{name} shows another {kind} than {file} has: {sys.argv[0]} --write')
    if name == Path('README.md'):
        for _, kind, file, shown, _ in BLOCK.findall(text):
            check(kind == 'prints' or len(shown.splitlines()) <= 15, f'{file} has more than 15 lines')
    prose = re.sub(r'^```.*?^```|`[^`\n]*`', '', text, flags=re.S | re.M)
    for link in re.findall(r'\]\(([^)\s]+)\)', prose):
        if ':' in link:
            continue
        target, _, anchor = link.partition('#')
        file = (page.parent / target).resolve() if target else page
        check(file.exists(), f'{name} links to {link}, which does not exist')
        if anchor and file.suffix == '.md' and file.exists():
            check(anchor in heading_ids(file.read_text()), f'{name} links to {link}: no such heading')
check(first_screen('README.md') == first_screen('docs/index.md'), 'README.md and docs/index.md begin differently')

print(*failures, sep='\n')
print(f'{checked - len(failures)} passed, {len(failures)} failed')
sys.exit(len(failures) > 0)
