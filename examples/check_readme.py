#!/usr/bin/env python3
"""check_readme.py: what README.md shows is what the examples are, and what it links to exists.

A block after '<!-- listing: FILE -->' is the code of FILE, one after '<!-- prints: FILE -->' its '// prints: ' lines,
which another test compares with what the program prints.
"""
import re
import sys
from pathlib import Path

root = Path(__file__).resolve().parents[1]
text = (root / 'README.md').read_text()
failures = []
checked = 0


def check(good, what):
    global checked
    checked += 1
    if not good:
        failures.append(what)


for kind, name, shown in re.findall(r'<!-- (listing|prints): (\S+) -->\n```\w+\n(.*?)^```$', text, re.M | re.S):
    source = (root / name).read_text()
    if kind == 'listing':
        code = re.sub(r'\A(//[^\n]*\n|\n)*', '', source)
        check(shown == code, f'README.md shows another program than {name}')
        check(len(code.splitlines()) <= 15, f'{name} has more than 15 lines')
    else:
        printed = re.findall(r'^// prints: (.*)$', source, re.M)
        check(shown.splitlines() == printed, f'README.md shows other output than {name}')
for link in re.findall(r'\]\(([^)#:]+)\)', text):
    check((root / link).exists(), f'README.md links to {link}, which does not exist')

print(*failures, sep='\n')
print(f'{checked - len(failures)} passed, {len(failures)} failed')
sys.exit(len(failures) > 0)
