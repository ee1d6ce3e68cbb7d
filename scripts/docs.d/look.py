#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""look.py SITE [SHOTS PAGE...]: opens every page of the site in headless Chromium, at 1440 and 390 px, light and dark.

A case is a page at a width and in a scheme: nothing is wider than the window but what scrolls in a frame of its own, and
no table is cut off. Then: a chart, whose texts do not overlap; a page's links, which all lead somewhere; a page's
programs, which are those of its plain file letter by letter; a word, which the search box finds. With SHOTS, a folder,
the named pages are kept as pictures. Ends with 'N passed, N failed'.
"""
import base64
import functools
import html
import http.server
import itertools
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import websocket

ROOT = pathlib.Path(__file__).resolve().parents[2]
WIDTHS = (1440, 390)
SCHEMES = ('light', 'dark')
WORDS = {'cmake': 'install.html', 'install': 'install.html', 'ZeRO-3': 'migrating.html', 'LoRA': 'cookbook.html'}

# No movement: what is looked at is where it comes to rest.
STILL = '''document.head.insertAdjacentHTML('beforeend', '<style>* {transition: none !important}</style>')'''

WIDE = r'''(async scheme => {
  document.body.dataset.mdColorScheme = scheme == 'dark' ? 'slate' : 'default';  // as the theme's own switch does
  await new Promise(r => setTimeout(r, 60));  // the theme's own scripts follow a new width
  const found = [], width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width + 1) found.push(`the page is ${document.documentElement.scrollWidth} px wide`);
  const scrolls = e => ['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e.getBoundingClientRect().right <= width + 1;
  for (const e of document.querySelectorAll('.md-content table, .md-content pre, .md-content img')) {
    if (e.getBoundingClientRect().right <= width + 1 && e.scrollWidth <= e.clientWidth + 1) continue;
    let frames = e.tagName == 'PRE' ? [...e.children] : [];
    for (let up = e; up && up != document.body; up = up.parentElement) frames.push(up);
    if (!frames.some(scrolls)) found.push(`${e.tagName.toLowerCase()} "${(e.innerText || e.alt || '').slice(0, 30)}" is cut off`);
  }
  return found;
})'''

TEXTS = r'''(async url => {
  const frame = document.createElement('div');
  frame.innerHTML = await (await fetch(url)).text();
  frame.style.cssText = 'position: absolute; top: 0; left: 0; width: 900px';
  document.body.append(frame);
  const texts = [...frame.querySelectorAll('text')].filter(t => t.textContent.trim()).map(t => {
    const r = t.getBoundingClientRect();  // a third of a line's height is no ink
    const upright = r.width >= r.height || t.textContent.trim().length < 3;
    const less = (upright ? r.height : r.width) / 6;
    return upright ? [r.left, r.top + less, r.right, r.bottom - less, t.textContent]
                   : [r.left + less, r.top, r.right - less, r.bottom, t.textContent];
  });
  const found = [];
  for (let i = 0; i < texts.length; i++)
    for (let j = 0; j < i; j++) {
      const [a, b] = [texts[i], texts[j]];
      if (Math.min(a[2], b[2]) - Math.max(a[0], b[0]) > 1 && Math.min(a[3], b[3]) - Math.max(a[1], b[1]) > 1)
        found.push(`"${a[4]}" over "${b[4]}"`);
    }
  frame.remove();
  return found;
})'''

SEARCH = r'''(async word => {
  document.querySelector('#__search').checked = true;
  const input = document.querySelector('[data-md-component="search-query"]');
  input.focus(); input.value = word;
  for (const kind of ['input', 'keyup', 'change']) input.dispatchEvent(new Event(kind, {bubbles: true}));
  for (let i = 0; i < 80; i++) {
    await new Promise(r => setTimeout(r, 100));
    const found = [...document.querySelectorAll('.md-search-result__link')].map(a => a.href);
    if (found.length && i > 5) return found;
  }
  return [];
})'''


class Browser:
    """One tab of a headless Chromium, by its DevTools protocol."""

    def __init__(self, folder):
        self.process = subprocess.Popen(
            ['chromium', '--headless', '--no-sandbox', '--disable-gpu', '--remote-debugging-port=0', '--remote-allow-origins=*',
             '--disable-dev-shm-usage', f'--user-data-dir={folder}', 'about:blank'],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port = pathlib.Path(folder) / 'DevToolsActivePort'
        for _ in range(300):
            if port.exists() and port.read_text().count('\n') >= 1:
                break
            time.sleep(.1)
        tabs = json.load(urllib.request.urlopen(f'http://127.0.0.1:{port.read_text().split()[0]}/json'))
        self.socket = websocket.create_connection(next(t for t in tabs if t['type'] == 'page')['webSocketDebuggerUrl'], timeout=60)
        self.ids = itertools.count(1)
        self.loaded = False
        self.call('Page.enable')

    def call(self, method, **parameters):
        number = next(self.ids)
        self.socket.send(json.dumps({'id': number, 'method': method, 'params': parameters}))
        while True:
            message = json.loads(self.socket.recv())
            self.loaded |= message.get('method') == 'Page.loadEventFired'
            if message.get('id') == number:
                return message['result']

    def open(self, url):
        self.loaded = False
        self.call('Page.navigate', url=url)
        while not self.loaded:
            self.loaded |= json.loads(self.socket.recv()).get('method') == 'Page.loadEventFired'

    def run(self, script):
        answer = self.call('Runtime.evaluate', expression=script, awaitPromise=True, returnByValue=True)
        if 'exceptionDetails' in answer:
            raise RuntimeError(answer['exceptionDetails'])
        return answer['result'].get('value')

    def look(self, width, scheme):
        self.call('Emulation.setDeviceMetricsOverride', width=width, height=900, deviceScaleFactor=1, mobile=width < 800)
        self.call('Emulation.setEmulatedMedia', features=[{'name': 'prefers-color-scheme', 'value': scheme}])


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


cases = []


def case(what, found):
    found = list(found)
    cases.append(not found)
    for line in found[:6]:
        print(f'{what}: {line}')


def dead_links(page, site, ids):
    for link in set(re.findall(r'<a [^>]*?href="([^"]+)"', page.read_text())):
        target, _, anchor = html.unescape(link).partition('#')
        if re.match(r'[a-z]+:', target):
            continue
        file = (page.parent / target).resolve() if target else page
        if file.is_dir():
            file /= 'index.html'
        if not file.exists():
            yield f'{link} leads nowhere'
        elif anchor and not anchor.startswith('__') and file.suffix == '.html' and anchor not in ids(file):
            yield f'{link}: no such place'


def programs(page):
    """The blocks of a page of the site, as one copies them."""
    blocks = re.findall(r'<div class="[^"]*highlight">.*?<code>(.*?)</code>', page.read_text(), re.S)
    return [html.unescape(re.sub(r'<[^>]*>', '', b)).strip('\n') for b in blocks]


def altered(page, plain):
    """Programs of the plain file, which a test runs, that the site does not show letter by letter."""
    shown = programs(page)
    for block in re.findall(r'^```(?:cpp|python)\n(.*?)^```', plain.read_text(), re.S | re.M):
        if block.strip('\n') not in shown:
            yield f'the site shows another program than "{block[:60]}"'


def main():
    site = pathlib.Path(sys.argv[1]).resolve()
    shots, kept = (pathlib.Path(sys.argv[2]), sys.argv[3:]) if len(sys.argv) > 2 else (None, [])
    pages = sorted(p for p in site.rglob('*.html') if p.name != '404.html')
    ids = functools.lru_cache(None)(lambda file: set(re.findall(r'\bid="([^"]+)"', file.read_text())))
    for page in pages:
        case(page.relative_to(site), dead_links(page, site, ids))
        plain = ROOT / 'docs' / page.relative_to(site).with_suffix('.md')
        if plain.exists():
            case(f'{page.name}: programs', altered(page, plain))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f'http://127.0.0.1:{server.server_address[1]}/'
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = Browser(folder)
        try:
            for page in pages:
                name = page.relative_to(site).as_posix()
                browser.look(WIDTHS[0], SCHEMES[0])
                browser.open(base + name)
                browser.run(STILL)
                for width, scheme in itertools.product(WIDTHS, SCHEMES):
                    browser.look(width, scheme)
                    case(f'{name} at {width} px, {scheme}', browser.run(f'({WIDE})({json.dumps(scheme)})'))
                    if name in kept:
                        picture = browser.call('Page.captureScreenshot', captureBeyondViewport=width == 390)['data']
                        shots.mkdir(exist_ok=True, parents=True)
                        (shots / f'{page.stem}-{width}-{scheme}.png').write_bytes(base64.b64decode(picture))
            browser.look(1440, 'light')
            browser.open(base + 'index.html')
            for chart in sorted(site.rglob('*.svg')):
                name = chart.relative_to(site).as_posix()
                if 'assets' not in name:
                    case(name, browser.run(f'({TEXTS})({json.dumps("/" + name)})'))
            for word, page in WORDS.items():
                found = browser.run(f'({SEARCH})({json.dumps(word)})')
                case(f'search for {word}', [] if any(page in link for link in found) else [f'finds {found[:5]}, not {page}'])
        finally:
            browser.process.terminate()
            browser.process.wait()
    print(f'{len(pages)} pages')
    print(f'{sum(cases)} passed, {len(cases) - sum(cases)} failed')
    return 0 if all(cases) else 1


if __name__ == '__main__':
    sys.exit(main())
