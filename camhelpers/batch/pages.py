"""Executed notebooks as pages that need no network, and the overview that links them."""

import datetime
import html
import re
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import Environment, FileSystemLoader, pass_context

from ..files import write_text

FIGURES = 3  # how many key figures the overview shows of one notebook
TEMPLATES = Path(__file__).parent


def lasting(outputs: list[Any]) -> list[Any]:
    """The outputs that mean something without a kernel: no widget, which a static picture follows, and no stderr."""
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
                    output.data["text/html"] = mathml(output.data.pop("text/latex").strip("$ \n"))
    exporter = HTMLExporter(embed_images=True, raw_template=(TEMPLATES / "page.html").read_text(encoding="utf-8"))
    exporter.register_filter("markdown2html", _markdown)
    resources = {"metadata": {"path": str(folder), "name": title(node) or Path(notebook).stem}}
    page, _ = exporter.from_notebook_node(node, resources)
    # Chapters link to each other as notebooks; here their pages stand side by side.
    return re.sub(r'(href="\d\d_[^"/]*)\.ipynb', r"\1.html", page)


@pass_context
def _markdown(context: Any, source: str) -> str:
    """Render Markdown as nbconvert does, with formulas as MathML."""
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    about = {"path": context["resources"]["metadata"]["path"], "attachments": context["cell"].get("attachments", {})}
    renderer = IPythonRenderer(escape=False, embed_images=True, **about)
    renderer.block_math, renderer.inline_math = mathml, partial(mathml, display="inline")
    renderer.latex_environment = lambda name, body: mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}")
    return MarkdownWithMath(renderer=renderer).render(source)


def mathml(tex: str, display: str = "block") -> str:
    """A formula as MathML, which browsers draw by themselves; what cannot be converted stays TeX."""
    from latex2mathml.converter import convert

    try:
        return convert(tex.replace("{aligned}", "{split}"), display=display)
    except Exception:  # its parser raises many kinds, and a formula must not cost the page
        return f"<code>{html.escape(tex)}</code>"


def _headings(notebook: Any) -> list[str]:
    """For each cell its last Markdown heading, without links and emphasis, or nothing."""
    lines = [re.findall(r"^#+ +(.+?)#*$", c.source, re.M) if c.cell_type == "markdown" else [] for c in notebook.cells]
    return [re.sub(r"!?\[([^\]]*)\]\([^)]*\)|[*_`]{1,3}", r"\1", found[-1]).strip() if found else "" for found in lines]


def title(notebook: Any) -> str:
    """The first heading of a notebook, or nothing."""
    return next(filter(None, _headings(notebook)), "")


def key_figures(notebook: Any) -> list[tuple[str, str]]:
    """The first pictures under cells tagged `key-figure`: caption and data address."""
    figures, caption = [], ""
    for cell, heading in zip(notebook.cells, _headings(notebook), strict=True):
        caption = heading or caption
        if "key-figure" in cell.metadata.get("tags", []):
            found = [output.get("data", {}) for output in cell.get("outputs", [])]
            pictures = [(kind, data[kind]) for data in found for kind in ("image/png", "image/jpeg") if kind in data]
            figures += [(caption, f"data:{kind};base64,{''.join(data.split())}") for kind, data in pictures]
    return figures[:FIGURES]


def write_overview(base: Path, records: dict[str, dict[str, Any]]) -> Path:
    """Write `base/index.html`: every executed notebook with its key figures, in one file without outside parts."""
    chapters = []
    for stem, record in records.items():
        chapter = {"stem": stem, "title": stem, **record}
        if (output := record.get("output")) and (base / output).exists():
            chapter["link"] = output.removesuffix(".ipynb") + ".html"
            node = nbformat.read(base / output, as_version=4)
            chapter |= {"title": title(node) or stem, "figures": key_figures(node)}
        chapters.append(chapter)
    templates = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    done = sum(record["status"] == "ok" for record in records.values())
    date = datetime.datetime.now().strftime("%d %B %Y")
    page = templates.get_template("overview.html").render(chapters=chapters, done=done, date=date)
    return write_text(base / "index.html", page)
