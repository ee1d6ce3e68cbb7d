# SPDX-License-Identifier: Apache-2.0
"""MkDocs hooks: the generated pages join the written ones, links that are right in the tree become right in the site, and
comments that only the tests read are taken out."""
import pathlib
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parents[2]
GENERATED = ROOT / 'build/docs/generated'
# Files of the tree that are pages of the site.
PROJECT = {'CHANGELOG.md': 'changelog.md', 'CONTRIBUTING.md': 'contributing.md', 'SECURITY.md': 'security.md',
           'LICENSE': 'licence.md', 'README.md': 'index.md'}
PAGES = {'benchmarks': 'benchmarks.md', 'errors': 'errors.md', 'scaling': 'scaling.md', 'reference': 'reference/index.md'}


def reference():
    """In the order of the index, which is that in which one reads the headers."""
    index = (GENERATED / 'reference/index.md').read_text()
    pages = re.findall(r'^\| \[(.*?)\]\((.*?)\)', index, re.M)
    return [{'By header': 'reference/index.md'}] + [{header: f'reference/{page}'} for header, page in pages]


def with_reference(nav):
    filled = []
    for entry in nav:
        (title, target), = entry.items()
        if isinstance(target, list):
            target = with_reference(target)
        filled.append({title: reference() if target == 'reference' else target})
    return filled


def on_config(config):
    config.nav = with_reference(config.nav)
    return config


def project_page(name):
    text = (ROOT / name).read_text()
    if name == 'LICENSE':
        return f'# Licence\n\n```text\n{text}```\n'
    return re.sub(r'\]\(docs/', '](', text)


def linked_files(pages):
    """Files of the tree, neither pages nor folders, that the written pages link to."""
    for page in pages:
        for link in re.findall(r'\]\(((?:\.\./)?[\w./-]+)\)', page.read_text()):
            file = (page.parent / link).resolve()
            if file.is_file() and ROOT / 'docs' not in file.parents and str(file.relative_to(ROOT)) not in PROJECT:
                yield file


def on_files(files, config):
    for page in sorted(GENERATED.rglob('*')):
        if page.is_file():
            files.append(File.generated(config, page.relative_to(GENERATED).as_posix(), abs_src_path=str(page)))
    for name, page in PROJECT.items():
        if page != 'index.md':
            files.append(File.generated(config, page, content=project_page(name)))
    written = sorted((ROOT / 'docs').glob('*.md')) + [ROOT / name for name in PROJECT if name != 'LICENSE']
    for file in sorted(set(linked_files(written))):
        # As text, so that a browser shows it.
        files.append(File.generated(config, f'files/{file.relative_to(ROOT)}.txt', abs_src_path=str(file)))
    return files


def in_the_site(link):
    """What a link of a plain file in docs/, or beside it, is in the site."""
    target, _, anchor = link.partition('#')
    if ':' in link or not target:
        return link
    if target == 'generated.md':
        return PAGES[anchor]
    name = target.removeprefix('../')
    if name in PROJECT:
        return PROJECT[name] + ('#' + anchor if anchor else '')
    if (ROOT / name).is_file() and name != target:
        return f'files/{name}.txt'
    return link


def place(page, where):
    return page + where if where.startswith('#') else str(pathlib.PurePosixPath(page).parent / where)


def on_page_markdown(markdown, page, config, files):
    parts = re.split(r'(^[ ]*```.*?^[ ]*```|`[^`\n]+`)', markdown, flags=re.S | re.M)
    for i in range(0, len(parts), 2):
        # A place in the generated pages stands behind the link: [text](generated.md#benchmarks)<!-- #over-mpi -->
        parts[i] = re.sub(r'\]\(generated\.md#(\w+)\)<!-- (\S+) -->', lambda m: f']({place(PAGES[m[1]], m[2])})', parts[i])
        parts[i] = re.sub(r'<!--.*?-->\n?', '', parts[i], flags=re.S)
        parts[i] = re.sub(r'\]\(([^)\s]+)\)', lambda m: f']({in_the_site(m[1])})', parts[i])
    return ''.join(parts)
