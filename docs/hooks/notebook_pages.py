"""Notebooks are pages of the site: their text, code and outputs as Markdown, and the notebook itself to download."""

import html
import json
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

#: A link to another notebook, which has a page here.
_NOTEBOOK = re.compile(r"\]\((\S+?)\.ipynb\)")
#: Escapes that colour a terminal.
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each notebook below docs/."""
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        page = notebook.src_uri.removesuffix(".ipynb") + ".md"
        text = as_markdown(json.loads(Path(notebook.abs_src_path or "").read_text(encoding="utf-8")))
        name = notebook.src_uri.rsplit("/", 1)[-1]
        said = f'\n\n<p><a href="{name}" download>Download this notebook</a></p>\n'
        files.append(File.generated(config, page, content=text + said))
    return files


def as_markdown(notebook: dict) -> str:
    """A notebook's cells one below the other."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(_NOTEBOOK.sub(r"](\1.md)", source))
        elif cell["cell_type"] == "code":
            parts.append(f"```python\n{source}\n```")
            parts += [shown for output in cell["outputs"] if (shown := of_output(output))]
    return "\n\n".join(parts)


def of_output(output: dict) -> str:
    """What a cell printed or drew; progress bars and warnings (stderr) are left out."""
    if output["output_type"] == "stream":
        if output.get("name") == "stderr":
            return ""
        return f"<pre>{html.escape(_COLOURS.sub('', ''.join(output['text'])))}</pre>"
    data = output.get("data", {})
    if "image/png" in data:
        picture = "".join(data["image/png"]).replace("\n", "")
        return f'<img alt="output of the cell above" src="data:image/png;base64,{picture}">'
    if "text/html" in data:
        return "".join(data["text/html"])
    if "text/plain" in data:
        return f"<pre>{html.escape(''.join(data['text/plain']))}</pre>"
    return ""
