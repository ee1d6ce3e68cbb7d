"""MkDocs hooks: the generated pages join the written ones; comments that only the tests read are taken out."""
import pathlib
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parents[2]
GENERATED = ROOT / 'build/docs/generated'


def exists(name, config):
    return (pathlib.Path(config.docs_dir) / name).exists() or (GENERATED / name).exists()


def reference():
    """In the order of the index, which is that in which one reads the headers."""
    index = (GENERATED / 'reference/index.md').read_text()
    pages = re.findall(r'^\| \[(.*?)\]\((.*?)\)', index, re.M)
    return [{'By header': 'reference/index.md'}] + [{header: f'reference/{page}'} for header, page in pages]


def pruned(nav, config):
    kept = []
    for entry in nav:
        (title, target), = entry.items()
        if target == 'reference':
            kept.append({title: reference()})
        elif isinstance(target, list):
            kept.append({title: pruned(target, config)})
        elif exists(target, config):
            kept.append(entry)
        else:
            print(f'docs: no {target} yet')
    return kept


def on_config(config):
    config.nav = pruned(config.nav, config)
    return config


def on_files(files, config):
    for page in sorted(GENERATED.rglob('*')):
        if page.is_file():
            files.append(File.generated(config, page.relative_to(GENERATED).as_posix(), abs_src_path=str(page)))
    return files


def on_page_markdown(markdown, page, config, files):
    parts = re.split(r'(^[ ]*```.*?^[ ]*```)', markdown, flags=re.S | re.M)
    return ''.join(p if i % 2 else re.sub(r'<!--.*?-->\n?', '', p, flags=re.S) for i, p in enumerate(parts))
