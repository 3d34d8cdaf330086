"""Parts of an HTML page: escaped text, tables, embedded images. No scripts, no links to other files."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; }
h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid var(--line); }
p.lead { margin-top: .2rem; opacity: .75; }
table { border-collapse: collapse; margin: .6rem 0; }
th, td { text-align: left; padding: .15rem .9rem .15rem 0; vertical-align: top; }
th { font-weight: 600; border-bottom: 1px solid var(--line); }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
pre { background: var(--soft); padding: .7rem; overflow-x: auto; font-size: 13px; }
figure { margin: .8rem 0; } figcaption { font-size: .85rem; opacity: .75; } img { max-width: 100%; background: white; }
nav a { margin-right: 1rem; } summary { cursor: pointer; }
"""
_TYPES = {".png": "image/png"}


def page(title: str, lead: str, sections: Mapping[str, str]) -> str:
    """Return a page with these sections by heading; empty ones are left out."""
    shown = {heading: content for heading, content in sections.items() if content}
    links = "".join(f'<a href="#{_anchor(heading)}">{escape(heading)}</a>' for heading in shown)
    body = "".join(
        f'<section id="{_anchor(heading)}"><h2>{escape(heading)}</h2>{content}</section>\n'
        for heading, content in shown.items()
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f'<body><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p><nav>{links}</nav>\n{body}</body></html>\n'
    )


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table; numbers are aligned to the right. Empty without rows."""
    if not rows:
        return ""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def paragraph(text: str) -> str:
    """Return a paragraph."""
    return f"<p>{escape(text)}</p>"


def code(text: str) -> str:
    """Return literal text."""
    return f"<pre>{escape(text)}</pre>"


def folded(summary: str, content: str) -> str:
    """Return content that is shown on a click."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def image(content: bytes, caption: str) -> str:
    """Return an embedded PNG."""
    data = base64.b64encode(content).decode("ascii")
    text = escape(caption, quote=True)
    return f'<figure><img src="data:image/png;base64,{data}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def image_file(path: Path, caption: str) -> str:
    """Return an embedded PNG file; empty if it cannot be read."""
    try:
        return image(path.read_bytes(), caption) if path.suffix in _TYPES else ""
    except OSError:
        return ""


def _cell(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"<td>{escape(str(value))}</td>"
    shown = "–" if value != value else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return f'<td class="number">{shown}</td>'


def _anchor(heading: str) -> str:
    return escape("".join(letter if letter.isalnum() else "-" for letter in heading.lower()), quote=True)
