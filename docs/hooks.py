"""What the site (mkdocs.yml) does with the pages and the docstrings.

Pages link to files of the repository outside of docs/. These lie below `project/` in the site, and links to
and from them are rewritten, so that the pages keep the links that work in the repository, and the strict
build checks them all.
"""

import posixpath
import re
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = ("*.md", "LICENSE", "configs/*.py", "launch/*.ipynb")
CODE = re.compile(r"(^```.*?^```)", flags=re.M | re.S)
DOCTEST = re.compile(r"^( *)(>>> .*(?:\n\1\S.*)*)", flags=re.M)
INDENTED = " " * 4  # in a module's docstring, which has no sections, Markdown's own way to write code
LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)\s#]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files outside of docs/."""
    for path in sorted(path for pattern in OUTSIDE for path in ROOT.glob(pattern)):
        name = f"project/{path.relative_to(ROOT).as_posix()}"
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with the links of the site."""
    here = posixpath.dirname(page.file.src_uri)
    there = posixpath.dirname(in_repository(page.file.src_uri))

    def rewritten(match: re.Match[str]) -> str:
        target = in_site(posixpath.normpath(posixpath.join(there, match[2])))
        return match[1] + posixpath.relpath(target, here or ".")

    parts = CODE.split(markdown)
    parts[::2] = [LINK.sub(rewritten, text) for text in parts[::2]]
    return "".join(parts)


def in_repository(path: str) -> str:
    """Where a file of the site is in the repository."""
    return path.removeprefix("project/") if path.startswith("project/") else f"docs/{path}"


def in_site(path: str) -> str:
    """Where a file of the repository is in the site."""
    return path.removeprefix("docs/") if path.startswith("docs/") else f"project/{path}"


class FencedExamples(griffe.Extension):
    """Examples of docstrings as code: Markdown takes a line that begins with `>>>` for a quotation."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Puts the examples of one docstring between fences."""

        def fenced(match: re.Match[str]) -> str:
            indent, code = match.groups()
            if obj.is_module and indent == INDENTED:
                return match[0]
            return f"{indent}```pycon\n{indent}{code}\n{indent}```"

        if obj.docstring:
            obj.docstring.value = DOCTEST.sub(fenced, obj.docstring.value)
