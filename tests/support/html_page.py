"""Pages of HTML as tests look at them."""

from __future__ import annotations

import base64
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

_SVG = "data:image/svg+xml;base64,"


class HtmlPage(HTMLParser):
    """Elements of a page with their attributes, its text, tables and drawings; every tag has to close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.text = ""
        self._tables: dict[str, list[list[str]]] = {}
        self._section = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []
        self.images = [attributes for name, attributes in self.elements if name == "img"]
        self.drawings = {
            str(image["alt"]): base64.b64decode(str(image["src"]).removeprefix(_SVG)).decode()
            for image in self.images
            if str(image["src"]).startswith(_SVG)
        }
        """SVG by title."""

    def rows(self, section: str) -> list[list[str]]:
        """Cells of all tables of a section, row by row."""
        return self._tables.get(section, [])

    def texts_of(self, title: str) -> list[str]:
        """All texts of a drawing."""
        root = ET.fromstring(self.drawings[title])
        return ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag == "section":
            self._section = str(dict(attrs)["id"])
        elif tag == "tr":
            self._tables.setdefault(self._section, []).append([])
        elif tag in ("td", "th"):
            self._tables[self._section][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open and self._open[-1] == "h2":
            self.headings.append(data)
        if {"td", "th"} & set(self._open):
            self._tables[self._section][-1][-1] += data
