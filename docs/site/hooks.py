"""What MkDocs does not do by itself: pages from outside docs/, formulas as MathML, the notebook.

Links in the Markdown files are those of the repository, so that they work there too; here they are
turned into links of the site.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "BENCHMARKS.md": "benchmarks.md",
    "docs/README.md": "index.md",
    "docs/tutorial.ipynb": "tutorial.md",
}
"""Files of the repository that are pages under another name. All others below docs/ keep theirs."""

COPIED = ("LICENSE", "cluster.yaml", "kuberay.yaml", "pyproject.toml", "studies/*.yaml")
"""Other files of the repository that pages link to."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill patterns in the navigation with the pages they stand for."""
    docs = Path(config.docs_dir)
    for section in config.nav or []:
        for name, entries in section.items():
            if not isinstance(entries, list):
                continue
            filled: list[Any] = []
            for entry in entries:
                if not isinstance(entry, str) or "*" not in entry:
                    filled.append(entry)
                    continue
                pages = sorted(page.relative_to(docs).as_posix() for page in docs.glob(entry))
                filled += [page for page in pages if page not in entries]
            section[name] = filled
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/, and the notebook as a page."""
    for path, name in PAGES.items():
        if path == "docs/README.md":
            continue
        source = ROOT / path
        text = _from_notebook(source) if source.suffix == ".ipynb" else source.read_text("utf-8")
        files.append(File.generated(config, name, content=text))
    for pattern in COPIED:
        for source in sorted(ROOT.glob(pattern)):
            name = source.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Mend the links of a page, and set its formulas."""
    original = _original(page.file.src_uri)
    # Code first, so that nothing in it is taken for a link.
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    for index, part in enumerate(parts):
        if part.startswith("```math\n"):
            parts[index] = _formula(part.removeprefix("```math\n").removesuffix("```"))
        elif not part.startswith("```"):
            parts[index] = re.sub(
                r"(\]\()([^)\s:]+)(\))",
                lambda link: link[1] + _mended(link[2], original, page.file.src_uri) + link[3],
                part,
            )
    return "".join(parts)


def _original(name: str) -> str:
    """The path in the repository of the page `name` of the site."""
    for path, page in PAGES.items():
        if page == name:
            return path
    return f"docs/{name}"


def _mended(link: str, original: str, name: str) -> str:
    """A link of the file `original` as a link of the page `name`."""
    path, mark, part = link.partition("#")
    if not path:
        return link
    target = posixpath.normpath(posixpath.join(posixpath.dirname(original), path))
    if target == "docs/decisions":
        target += "/README.md"
    target = PAGES.get(target, target.removeprefix("docs/"))
    return posixpath.relpath(target, posixpath.dirname(name) or ".") + mark + part


def _formula(latex: str) -> str:
    """MathML, which browsers show without a script."""
    known = latex.strip().replace(r"\Big\Vert", r"\parallel").replace(r"\Vert", r"\parallel")
    return convert(known, display="block") + "\n"


def _from_notebook(path: Path) -> str:
    """The cells of an executed notebook as Markdown."""
    lines = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            lines += [source, ""]
            continue
        lines += ["```python", source, "```", ""]
        for output in cell["outputs"]:
            lines += [_output(output), ""]
    return "\n".join(lines)


def _output(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        return f"```{{ .text .output }}\n{''.join(output['text']).rstrip()}\n```"
    data = output["data"]
    if "image/png" in data:
        png = "".join(data["image/png"]).replace("\n", "")
        return f'<img class="output" alt="Figure" src="data:image/png;base64,{png}">'
    if "text/html" in data:
        html = re.sub(r"<style scoped>.*?</style>", "", "".join(data["text/html"]), flags=re.DOTALL)
        html = re.sub(r"\n\s*\n", "\n", html).replace(' border="1" class="dataframe"', "")
        return f'<div class="output">\n{html}\n</div>'
    return f"```{{ .text .output }}\n{''.join(data['text/plain']).rstrip()}\n```"
