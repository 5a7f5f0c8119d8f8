"""Executed notebooks as pages that need no network, and the overview that links them."""

import base64
import datetime
import html
import io
import re
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import Template, pass_context

from ..files import write_text

FIGURES = 3  # how many key figures the overview shows of one notebook

# nbconvert's own page without what it would fetch: require.js, MathJax, Mermaid, the widget manager.
TEMPLATE = """{% extends 'lab/index.html.j2' %}
{% block html_head_js_requirejs %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block jupyter_widgets %}{% endblock %}
{% block html_head_css %}<style>
  body.jp-Notebook { padding: 0 }
  main { max-width: 64rem; margin: 0 auto; padding: 1rem }
  nav.overview { font: 0.9rem system-ui, sans-serif; padding: 0.8rem 0 }
  nav.overview a { color: #3b5bdb; text-decoration: none }
  math[display=block] { margin: 0.8em 0 }
</style>{% endblock %}
{% block body_header %}{{ super() }}<nav class="overview"><a href="../index.html">&larr; all notebooks</a></nav>
{% endblock %}"""


def lasting(outputs: list[Any]) -> list[Any]:
    """The outputs that still mean something without a kernel: no widget views, no stderr.

    A widget has a static picture below it; stderr holds progress bars and goes to the log.
    """
    widget = "application/vnd.jupyter.widget-view+json"
    return [out for out in outputs if out.get("name") != "stderr" and widget not in out.get("data", {})]


def notebook_page(notebook: str | Path, folder: str | Path) -> str:
    """An executed notebook as HTML that is whole in itself; pictures of its text come from `folder`."""
    from nbconvert import HTMLExporter

    node = nbformat.read(notebook, as_version=4)
    node.metadata.pop("widgets", None)
    for cell in node.cells:
        if cell.cell_type == "code":
            cell.outputs = lasting(cell.outputs)
            for output in cell.outputs:
                if "text/latex" in output.get("data", {}):
                    output.data["text/html"] = mathml(output.data.pop("text/latex").strip("$ \n"), "block")
    exporter = HTMLExporter(embed_images=True, raw_template=TEMPLATE)
    exporter.register_filter("markdown2html", _markdown)
    resources = {"metadata": {"path": str(folder), "name": title(node) or Path(notebook).stem}}
    page, _ = exporter.from_notebook_node(node, resources)
    # Chapters link to each other as notebooks; here their pages stand side by side.
    return re.sub(r'(href="\d\d_[^"/]*)\.ipynb', r"\1.html", page)


@pass_context
def _markdown(context: Any, source: str) -> str:
    """Render Markdown as nbconvert does, with formulas as MathML."""
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def block_math(self, body: str) -> str:
            return mathml(body, "block")

        def inline_math(self, body: str) -> str:
            return mathml(body, "inline")

        def latex_environment(self, name: str, body: str) -> str:
            return mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", "block")

    renderer = Renderer(
        escape=False,
        embed_images=True,
        path=context["resources"]["metadata"]["path"],
        attachments=context.get("cell", {}).get("attachments", {}),
    )
    return MarkdownWithMath(renderer=renderer).render(source)


def mathml(tex: str, display: str) -> str:
    """A formula as MathML, which browsers draw by themselves; what cannot be converted stays TeX.

    >>> mathml("x^2", "inline").startswith("<math")
    True
    """
    from latex2mathml.converter import convert

    try:
        return convert(tex.replace("{aligned}", "{split}"), display=display)
    except Exception:  # its parser raises many kinds, and a formula must not cost the page
        return f"<code>{html.escape(tex)}</code>"


def title(notebook: Any) -> str:
    """The first heading of a notebook, or nothing."""
    return next((text for text in _headings(notebook) if text), "")


def _headings(notebook: Any) -> list[str]:
    """For each cell its last Markdown heading, plain, or nothing."""
    found = []
    for cell in notebook.cells:
        lines = re.findall(r"^#+ +(.+?)#*$", cell.source, re.M) if cell.cell_type == "markdown" else []
        found.append(_plain(lines[-1]) if lines else "")
    return found


def _plain(markdown: str) -> str:
    """Markdown without links, emphasis and code marks."""
    return re.sub(r"[*_`]{1,3}", "", re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", markdown)).strip()


def lead(notebook: Any) -> str:
    """The first paragraph of a notebook that is prose: no heading, list, table, picture or row of links."""
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for paragraph in text.split("\n\n"):
        unlinked = re.sub(r"\[[^\]]*\]\([^)]*\)", "", paragraph).strip()
        if len(unlinked) > 40 and unlinked[0].isalpha():
            return _plain(paragraph)
    return ""


def key_figures(notebook: Any) -> list[tuple[str, str, bool]]:
    """Pictures under cells tagged `key-figure`, else the first and the last: caption, data address, whether wide."""
    tagged, every, caption = [], [], ""
    for cell, heading in zip(notebook.cells, _headings(notebook), strict=True):
        caption = heading or caption
        for output in cell.get("outputs", []):
            for kind in ("image/png", "image/jpeg"):
                if kind in output.get("data", {}):
                    figure = (caption, output.data[kind])
                    every.append(figure)
                    tagged += [figure] if "key-figure" in cell.metadata.get("tags", []) else []
    chosen = tagged[:FIGURES] or every[:1] + every[1:][-1:]
    return [(caption, *_small(picture)) for caption, picture in chosen]


def _small(picture: str, width: int = 1000) -> tuple[str, bool]:
    """A picture as a light WebP data address, so that the overview stays light, and whether it is wide."""
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGBA")
    image.thumbnail((width, 2 * width))
    paper = Image.new("RGBA", image.size, "white")
    buffer = io.BytesIO()
    Image.alpha_composite(paper, image).convert("RGB").save(buffer, "WEBP", quality=88)
    wide = image.width > 2 * image.height
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode(), wide


def write_index(base: Path, records: dict[str, dict[str, Any]]) -> Path:
    """Write `base/index.html`: every executed notebook with its key figures, in one file without outside parts."""
    chapters = []
    for stem, record in records.items():
        output = record.get("output")
        chapter = {"stem": stem, "title": stem, "lead": "", "figures": [], "link": "", **record}
        given = record["parameters"].items()
        chapter["parameters"] = {
            k: ", ".join(map(str, v)) if isinstance(v, list) else v for k, v in given if k != "out"
        }
        if output and (base / output).exists():
            node = nbformat.read(base / output, as_version=4)
            chapter |= {"title": title(node) or stem, "lead": lead(node), "figures": key_figures(node)}
            chapter["link"] = output.removesuffix(".ipynb") + ".html"
        chapters.append(chapter)
    done = sum(record["status"] == "ok" for record in records.values())
    page = Template(INDEX, autoescape=True, trim_blocks=True, lstrip_blocks=True).render(
        chapters=chapters,
        done=done,
        seconds=sum(record["seconds"] for record in records.values()),
        date=datetime.datetime.now().strftime("%d %B %Y"),
    )
    return write_text(base / "index.html", page)


INDEX = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>What neural networks look at</title>
<style>
  :root { --paper: #f7f6f3; --card: #fff; --ink: #1f2328; --soft: #667085; --line: #e4e2dc; --link: #3b5bdb;
          --good: #2b8a3e; --bad: #c92a2a; color-scheme: light dark }
  @media (prefers-color-scheme: dark) {
    :root { --paper: #14161a; --card: #1d2026; --ink: #e6e8eb; --soft: #98a2b3; --line: #2c313a; --link: #91a7ff;
            --good: #69db7c; --bad: #ff8787 } }
  * { box-sizing: border-box }
  body { margin: 0; background: var(--paper); color: var(--ink); font: 17px/1.55 system-ui, "Segoe UI", sans-serif }
  main, header { max-width: 76rem; margin: 0 auto; padding: 0 clamp(1rem, 4vw, 3rem) }
  header { padding-top: clamp(2rem, 6vw, 4.5rem); padding-bottom: 1.5rem }
  h1 { font: 500 clamp(2rem, 5vw, 3.2rem)/1.1 Charter, "Iowan Old Style", Georgia, serif;
       letter-spacing: -.02em; margin: 0 }
  h2 { font: 500 1.55rem/1.2 Charter, "Iowan Old Style", Georgia, serif;
       letter-spacing: -.01em; margin: .15rem 0 .6rem }
  header p, .soft { color: var(--soft) }
  a { color: inherit; text-decoration: none }
  h2 a:hover, .open { color: var(--link) }
  .card { display: grid; grid-template-columns: minmax(15rem, 21rem) minmax(0, 1fr); gap: clamp(1.2rem, 3vw, 2.5rem);
          background: var(--card); border: 1px solid var(--line); border-radius: 16px; margin: 0 0 1.5rem;
          padding: clamp(1.1rem, 2.5vw, 2rem); align-items: start }
  .text { position: sticky; top: 1.5rem }
  @media (max-width: 56rem) { .card { grid-template-columns: minmax(0, 1fr) } .text { position: static } }
  .number { font: 600 .8rem/1 ui-monospace, monospace; color: var(--soft); letter-spacing: .08em }
  .status { float: right; font-size: .8rem; font-weight: 600; color: var(--good) }
  .status.failed, .status.timeout { color: var(--bad) }
  .lead { margin: 0 0 1rem;
          display: -webkit-box; -webkit-line-clamp: 6; -webkit-box-orient: vertical; overflow: hidden }
  .error { color: var(--bad); font: .85rem/1.45 ui-monospace, monospace; overflow-wrap: anywhere }
  dl { display: grid; grid-template-columns: auto minmax(0, 1fr); gap: .1rem .9rem; margin: 0 0 1rem;
       font: .8rem/1.5 ui-monospace, monospace }
  dt { color: var(--soft) } dd { margin: 0; overflow-wrap: anywhere }
  .figures { display: flex; flex-wrap: wrap; gap: 1rem }
  figure { margin: 0; flex: 1 1 40% } figure.wide { flex-basis: 100% }
  figure a { display: grid; place-items: center; background: #fff; border: 1px solid var(--line); border-radius: 10px;
             padding: .7rem }
  figure img { display: block; max-width: 100%; max-height: 26rem }
  figcaption { font-size: .82rem; color: var(--soft); padding: .35rem .2rem 0 }
</style>
</head>
<body>
<header>
  <h1>What neural networks look at</h1>
  <p>{{ done }} of {{ chapters|length }} notebook{{ "s" if chapters|length != 1 }} executed
     &middot; {{ "%.0f"|format(seconds) }} seconds of computing &middot; {{ date }}</p>
</header>
<main>
{% for chapter in chapters %}
<article class="card">
  <div class="text">
    <span class="status {{ chapter.status }}">{{ chapter.status }}</span>
    <span class="number">{{ chapter.stem.split("_")[0] }} &middot; {{ "%.0f"|format(chapter.seconds) }} s</span>
    <h2><a {% if chapter.link %}href="{{ chapter.link }}"{% endif %}>{{ chapter.title }}</a></h2>
    {% if chapter.lead %}<p class="lead">{{ chapter.lead }}</p>{% endif %}
    {% if chapter.error %}<p class="error">cell {{ chapter.error.cell }}: {{ chapter.error.message }}</p>{% endif %}
    <dl>
      {% for name, value in chapter.parameters.items() %}
      <dt>{{ name }}</dt><dd>{{ value }}</dd>
      {% endfor %}
    </dl>
    {% if chapter.link %}<a class="open" href="{{ chapter.link }}">Open the notebook &rarr;</a>{% endif %}
  </div>
  <div class="figures">
    {% for caption, picture, wide in chapter.figures %}
    <figure {% if wide %}class="wide"{% endif %}><a href="{{ chapter.link }}">
      <img src="{{ picture }}" alt="{{ caption or chapter.title }}"></a>
      {% if caption and caption != chapter.title %}<figcaption>{{ caption }}</figcaption>{% endif %}</figure>
    {% endfor %}
  </div>
</article>
{% endfor %}
</main>
</body>
</html>
"""
