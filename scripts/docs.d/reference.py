#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""reference.py OUT: writes the reference, a page a header, from the comments of include/.

Every public name needs a comment: a name that lacks one fails the build, with its place. A comment covers the overloads
and the values that follow it without an empty line between. A member is covered, too, where its class's comment or
the comment of a concept says its name: a layout's `boxes_of` means what `shard_layout` says.
"""
import pathlib
import re
import subprocess
import sys

from clang import cindex
from clang.cindex import CursorKind as Kind

ROOT = pathlib.Path(__file__).resolve().parents[2]
INCLUDE = ROOT / 'include'
LIB = INCLUDE / 'unshard'
KEEP_GOING = 0x200  # CXTranslationUnit_KeepGoing: an engine's header that is not installed is no reason to stop

FUNCTIONS = {Kind.FUNCTION_DECL, Kind.FUNCTION_TEMPLATE, Kind.CXX_METHOD, Kind.CONSTRUCTOR, Kind.CONVERSION_FUNCTION}
CLASSES = {Kind.CLASS_DECL, Kind.STRUCT_DECL, Kind.CLASS_TEMPLATE, Kind.CLASS_TEMPLATE_PARTIAL_SPECIALIZATION}
NAMES = FUNCTIONS | CLASSES | {Kind.CONCEPT_DECL, Kind.ENUM_DECL, Kind.VAR_DECL, Kind.TYPE_ALIAS_DECL,
                               Kind.TYPE_ALIAS_TEMPLATE_DECL, Kind.FIELD_DECL, Kind.ENUM_CONSTANT_DECL}


def public_headers():
    """The public headers, in the order in which one reads them: a file in a room that has a header is a part of it."""
    first = ['version', 'error', 'index_space', 'shards', 'layout', 'parameter', 'communicator', 'memory', 'observe', 'options', 'plan',
             'schedule', 'agreement', 'gather', 'unshard']
    parts = re.compile(r'(base|testing/(mock_world|check_.*))(/|$)')
    names = [h.relative_to(LIB) for h in LIB.rglob('*.hpp')]
    alone = lambda h: h.parent.name == '' or h.parent.with_suffix('.hpp') not in names
    headers = [h for h in names if alone(h) and not parts.match(str(h.with_suffix('')))]
    rank = lambda h: (len(h.parts), first.index(h.stem) if str(h.parent) == '.' else 0, str(h))
    return sorted(headers, key=rank)


def direct_includes(header):
    text = (LIB / header).read_text()
    return [pathlib.Path(i) for i in re.findall(r'#include <unshard/([^>]+)>', text)]


def owners(headers):
    """Which page a part belongs to: that of the public header that reaches it first, through parts."""
    page = {h: h for h in headers}
    for header in headers:
        queue = direct_includes(header)
        while queue:
            inner = queue.pop(0)
            if inner not in headers and inner not in page and (LIB / inner).exists():
                page[inner] = header
                queue += direct_includes(inner)
    return page


def comment_lines(cursor, source):
    """The comment above, or behind on the same line; clang gives the second kind for data only."""
    raw = cursor.raw_comment or ''
    behind = re.match(r'[;,]?\s*(///<.*)', source.lines[cursor.extent.end.line - 1][cursor.extent.end.column - 1:])
    if not raw and behind:
        raw = behind[1]
    return [re.sub(r'^\s*///<? ?', '', line).rstrip() for line in raw.split('\n')] if raw.startswith('///') else []


class Source:
    """The text of one header, to print declarations as they are written."""

    def __init__(self, path):
        self.data = path.read_bytes()
        self.lines = self.data.decode().split('\n')

    def signature(self, cursor):
        start, end = cursor.extent.start.offset, cursor.extent.end.offset
        if cursor.kind in CLASSES or cursor.kind == Kind.ENUM_DECL:
            brace = self.data.find(b'{', start)
            end = brace if start < brace < end else end
        else:
            for child in cursor.get_children():
                if child.kind == Kind.COMPOUND_STMT and child.extent.start.offset > start:
                    end = child.extent.start.offset
        text = self.data[start:end].decode(errors='replace')
        text = re.sub(r'//.*', '', text)
        text = re.sub(r'\[\[[^\]]*\]\]\s*', '', text)
        text = re.sub(r'\s+', ' ', text).strip()
        if cursor.kind == Kind.CONSTRUCTOR or cursor.kind == Kind.FUNCTION_TEMPLATE:
            text = without_initialisers(text)
        return text.rstrip('{: ').strip()

    def follows_directly(self, above, below):
        """Whether nothing but one end of line is between the end of one declaration and the start of the next."""
        between = self.data[above.extent.end.offset:below.extent.start.offset].decode(errors='replace')
        return '\n\n' not in between and '///' not in re.sub(r'///<.*', '', between)


def without_initialisers(text):
    depth = 0
    for i, c in enumerate(text):
        depth += (c == '(') - (c == ')')
        if c == ')' and depth == 0 and re.match(r'\)\s*(noexcept\s*)?:(?!:)', text[i:]):
            return text[:i + 1]
    return text


def hidden(cursor):
    """What every class has: copies and moves, default constructors, destructors, assignment, deduction guides."""
    name = cursor.spelling.split('<')[0]
    if name.startswith('__'):  # the compiler's own functions
        return True
    if cursor.kind == Kind.DESTRUCTOR or name in {'', 'operator='}:
        return True
    own = cursor.semantic_parent.spelling
    if name == own:
        arguments = [c.type.spelling for c in cursor.get_children() if c.kind == Kind.PARM_DECL]
        return not arguments or (len(arguments) == 1 and re.fullmatch(rf'(const )?(\w+::)*{re.escape(own)}(<.*>)? ?&&?', arguments[0]))
    return False


def self_explanatory(cursor):
    """Operators, and what every container has."""
    names = {'begin', 'end', 'size', 'empty', 'data', 'iterator', 'npos'}
    return cursor.spelling.startswith('operator') or (cursor.spelling in names and cursor.kind != Kind.FIELD_DECL)


class Entry:
    def __init__(self, cursor, source, comment):
        self.name = cursor.spelling.split('<')[0]
        self.kind = cursor.kind
        self.signature = source.signature(cursor)
        self.comment = comment
        self.members = []
        self.clear = self_explanatory(cursor)
        self.where = f'{pathlib.Path(cursor.location.file.name).relative_to(ROOT)}:{cursor.location.line}'


class Reader:
    def __init__(self):
        self.sources = {}
        self.entries = {}  # header -> [Entry]
        self.seen = set()

    def source(self, path):
        return self.sources.setdefault(path, Source(path))

    def children(self, cursor, members=False):
        """(child, comment) for the named children; the comment of the one before, where that covers this one, too."""
        covered, before = [], None
        for child in cursor.get_children():
            if child.location.file is None:
                continue
            path = pathlib.Path(child.location.file.name).resolve()
            if LIB not in path.parents:
                continue
            if child.kind not in NAMES:
                if child.kind in {Kind.NAMESPACE, Kind.LINKAGE_SPEC}:
                    yield child, None
                continue
            if members and child.access_specifier != cindex.AccessSpecifier.PUBLIC and child.kind != Kind.ENUM_CONSTANT_DECL:
                before = None
                continue
            source = self.source(path)
            comment = comment_lines(child, source)
            overload = before is not None and before.spelling.split('<')[0] == child.spelling.split('<')[0]
            above = before is not None and (before.raw_comment or '///<').find('///<') != 0
            values = above and before.kind == child.kind and child.kind not in FUNCTIONS | CLASSES
            if not comment and (overload or values) and source.follows_directly(before, child):
                comment = covered
            covered, before = comment, child
            yield child, comment

    def walk(self, cursor):
        for child, comment in self.children(cursor):
            if child.kind in {Kind.NAMESPACE, Kind.LINKAGE_SPEC}:
                if child.spelling in {'', 'unshard', 'v0', 'testing', 'cuda'}:
                    self.walk(child)
                continue
            path = pathlib.Path(child.location.file.name).resolve()
            key = (path, child.extent.start.offset)
            forward = child.kind in CLASSES and not child.is_definition()
            special = child.kind == Kind.CLASS_TEMPLATE_PARTIAL_SPECIALIZATION or '<' in child.displayname and child.kind in {Kind.CLASS_DECL, Kind.STRUCT_DECL}
            if key in self.seen or forward or special or hidden(child) or child.semantic_parent != child.lexical_parent:
                continue
            self.seen.add(key)
            entry = Entry(child, self.source(path), comment)
            self.entries.setdefault(path.relative_to(LIB), []).append(entry)
            if child.kind in CLASSES or child.kind == Kind.ENUM_DECL:
                for member, text in self.children(child, members=True):
                    if member.kind != Kind.NAMESPACE and not hidden(member):
                        entry.members.append(Entry(member, self.source(path), text))
                        if member.kind in CLASSES:
                            entry.members += self.commented(member, path)

    def commented(self, inner, path):
        """What a class within a class says of its own members: chunks() refers to its iterator's ++."""
        for member, text in self.children(inner, members=True):
            if text and not hidden(member):
                yield Entry(member, self.source(path), text)


def parse(reader, headers):
    """All headers in one go: each is complete in itself, and which one declares a name is the name's location."""
    args = ['-x', 'c++', '-std=c++20', f'-I{INCLUDE}', '-D__extension__=']
    gcc = subprocess.run(['g++', '-print-file-name=include'], capture_output=True, text=True, check=False).stdout.strip()
    args += ['-isystem', gcc] if gcc else []
    for probe in ('/usr/lib/x86_64-linux-gnu/openmpi/include', '/usr/local/cuda/include'):
        args += ['-isystem', probe] if pathlib.Path(probe).exists() else []
    text = ''.join(f'#include <unshard/{h}>\n' for h in headers)
    unit = cindex.Index.create().parse('all.hpp', args=args, unsaved_files=[('all.hpp', text)], options=KEEP_GOING)
    reader.walk(unit.cursor)


def names_in(comment):
    """What a comment calls by name: in backticks, or with a parenthesis behind it."""
    quoted = ' '.join(re.findall(r'`([^`]*)`', comment))
    return set(re.findall(r'\w+', quoted)) | set(re.findall(r'(\w+)\(', comment))


def unexplained(pages):
    """The places of public names without a comment."""
    concepts = ' '.join(' '.join(e.comment) for page in pages.values() for e in page if e.kind == Kind.CONCEPT_DECL)
    vocabulary = names_in(concepts)
    missing = []
    for page in pages.values():
        commented = {e.name for e in page if e.comment}
        for entry in page:
            if not entry.comment and entry.name not in commented and not entry.clear:
                missing.append(f'{entry.where}: {entry.name}')
            words = names_in(' '.join(entry.comment or []))
            named = {m.name for m in entry.members if m.comment}
            for m in entry.members:
                if not (m.comment or m.clear) and m.name not in words | vocabulary | named and m.name != entry.name:
                    missing.append(f'{m.where}: {entry.name}::{m.name}')
    return missing


def escape(text):
    """Prose for Markdown: what is between backticks stays."""
    parts = re.split(r'(`[^`]*`)', text)
    return ''.join(p if i % 2 else p.replace('\\', '\\\\').replace('<', '&lt;').replace('*', '\\*').replace('_', '\\_')
                   for i, p in enumerate(parts))


def prose(lines):
    """Paragraphs; lines that are indented are tables or code and stay as they are."""
    out, block = [], []

    def flush():
        if block:
            out.extend(['', '```text', *block, '```', ''])
            block.clear()

    for line in lines:
        if line.startswith('  ') or (block and not line.strip()):
            block.append(line)
        else:
            flush()
            out.append(escape(line))
    flush()
    return '\n'.join(out)


def wrapped(signature):
    """A signature over several lines where it is long: after the template head and the requires clause."""
    signature = re.sub(r'^(template <.*?>) (?=[\w(:\[])(?!class\b.*?>)', r'\1\n', signature, count=1)
    return re.sub(r' (requires\b)', r'\n  \1', signature, count=1) if len(signature) > 100 else signature


def macros_of(header):
    """The macros of a header, with the comments above them."""
    out, comment = [], []
    for line in (LIB / header).read_text().split('\n'):
        if line.startswith('///'):
            comment.append(line[3:].strip())
        elif found := re.match(r'#define (UNSHARD_\w+)', line):
            out += [f'- `{found[1]}`' + (f'<br>{escape(" ".join(comment))}' if comment else '')]
        if not line.startswith('///'):
            comment = []
    return out + [''] if out else []


def page_of(header, entries):
    about = re.search(r'^#pragma once\s*//\s*(?:\S+: )?(.*)$', (LIB / header).read_text(), re.M)[1]
    out = [f'# {header}', '', escape(about[:1].upper() + about[1:]), '', '```text', f'#include <unshard/{header}>', '```', '']
    out += macros_of(header)
    by_name = {}
    for e in entries:
        by_name.setdefault(e.name, []).append(e)
    for name, group in by_name.items():
        out += [f'## {name} {{: #{name} }}'.replace('operator', 'operator '), '']
        for e in group:
            out += ['```cpp', wrapped(e.signature), '```', '']
        shown = []
        for e in group:
            if e.comment and e.comment not in shown:
                shown.append(e.comment)
                out += [prose(e.comment), '']
        for e in group:
            for m in e.members:
                text = ' '.join(m.comment).strip() if m.comment else ''
                signature = m.signature.replace('`', '')
                out.append(f'- `{signature}`' + (f'<br>{escape(text)}' if text else ''))
            out.append('')
    return '\n'.join(out)


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    headers = public_headers()
    page_for = owners(headers)
    reader = Reader()
    parse(reader, headers)
    pages = {}
    for header, entries in reader.entries.items():
        pages.setdefault(page_for.get(header, header), []).extend(entries)
    missing = unexplained(pages)
    for name in missing:
        print(f'{name} has no comment', file=sys.stderr)
    for old in out.glob('*.md'):
        old.unlink()
    names = []
    for header in headers:
        if pages.get(header) or macros_of(header):
            name = str(header).replace('/', '-').replace('.hpp', '.md')
            (out / name).write_text(page_of(header, pages.get(header, [])))
            names.append((str(header), name))
    index = ['# Reference by header', '', 'Made from the comments in `include/unshard/`; all names are in namespace `unshard`.', '']
    index += ['| header | what it has |', '|---|---|']
    for header, name in names:
        listed = list(dict.fromkeys(e.name for e in pages.get(pathlib.Path(header), []) if not e.name.startswith('operator')))
        listed = listed or ['UNSHARD_VERSION']
        index.append(f'| [{header}]({name}) | ' + ', '.join(f'`{n}`' for n in listed) + ' |')
    (out / 'index.md').write_text('\n'.join(index) + '\n')
    count = sum(len(p) + sum(len(e.members) for e in p) for p in pages.values())
    print(f'reference: {len(names)} headers, {count} names, {len(missing)} without a comment')
    return 1 if missing else 0


if __name__ == '__main__':
    sys.exit(main())
