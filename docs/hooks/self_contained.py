"""The site needs no network: a page that would fetch something fails the build. Links may lead anywhere."""

import logging
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig

_log = logging.getLogger("mkdocs.hooks.self_contained")
_ADDRESS = r"(?:https?:)?//[\w.-]+"
#: What a browser fetches by itself: sources of scripts, pictures and frames, style sheets, and what styles name.
_FETCHED = re.compile(
    rf"""\ssrc(?:set)?=["']?\s*({_ADDRESS})"""
    rf"""|<link\b(?=[^>]*\brel=["']?(?:stylesheet|preload|preconnect|icon|manifest|modulepreload))[^>]*href=["']?({_ADDRESS})"""
    rf"""|url\(\s*["']?({_ADDRESS})|@import\s+["']({_ADDRESS})"""
)


def on_post_build(config: MkDocsConfig) -> None:
    """Warn of each address that is fetched; `--strict` makes that an error."""
    site = Path(config.site_dir)
    for path in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        found = {next(filter(None, match)) for match in _FETCHED.findall(path.read_text(encoding="utf-8"))}
        for address in sorted(found):
            _log.warning("%s fetches %s: the site must not need a network", path.relative_to(site), address)
