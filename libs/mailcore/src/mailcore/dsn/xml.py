"""XML that strangers write, a piece at a time: no document type, no entities of its own, every size bounded.

    reader = XmlReader(("record",), max_octets=…)
    for name, node in reader.read(octets): …
    reader.wrong        why it ended early; empty: it did not

Expat is asked for nothing that it would fetch or expand. Names are taken without their namespace and in lower case. What is not
well-formed is tried once more with what real senders do mended: octets that are no text, an encoding of another name, a bare `&`,
tags of a schema in between.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from xml.parsers import expat

MAX_DEPTH = 20
MAX_CHILDREN = 500
"""Elements below one that is asked for."""
MAX_TEXT = 300
"""Characters of a text; the rest is cut off."""
_SCHEMA_TAG = re.compile(rb"</?(?:xsd?:)?schema\b[^>]{0,2000}>")
_BARE_AMPERSAND = re.compile(rb"&(?!(?:amp|lt|gt|quot|apos|#\d{1,7}|#x[0-9A-Fa-f]{1,6});)")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_DECLARATION = re.compile(rb"\s*<\?xml[^>]{0,200}\?>")
_PIECE = 64 * 1024


@dataclass(slots=True)
class Node:
    name: str = ""
    value: str = ""
    children: list[Node] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.name)

    def nodes(self, name: str) -> list[Node]:
        return [each for each in self.children if each.name == name]

    def node(self, name: str) -> Node:
        """The first of that name; an empty one where there is none."""
        return next((each for each in self.children if each.name == name), _EMPTY)

    def text(self, name: str) -> str:
        """Of the first of that name, without blanks at its ends; empty where there is none."""
        return self.node(name).value.strip()

    def texts(self, name: str) -> list[str]:
        return [text for each in self.nodes(name) if (text := each.value.strip())]


_EMPTY = Node()


class _Refused(Exception):
    pass


class XmlReader:
    def __init__(self, wanted: Sequence[str], *, max_octets: int) -> None:
        """`wanted`: names of the elements that are given out, each with all below it."""
        self._wanted = frozenset(wanted)
        self._max_octets = max_octets
        self.wrong = ""

    def read(self, octets: bytes) -> Iterator[tuple[str, Node]]:
        """Raises nothing. What was read before it went wrong has been given out by then, but never twice."""
        given = 0
        for mend in (_as_it_is, _mended):
            try:
                for n, found in enumerate(self._pass(mend(octets[: self._max_octets + 1]))):
                    if n >= given:
                        given += 1
                        yield found
            except _Refused as refused:
                self.wrong = str(refused)
                return
            except expat.ExpatError as error:
                self.wrong = f"the XML is broken in line {error.lineno}: {expat.ErrorString(error.code)}"
            except (LookupError, ValueError):
                # Expat asks Python's codecs about an encoding that it does not know itself
                self.wrong = "the XML says that it is in an encoding that cannot be read"
            else:
                self.wrong = ""
                return

    def _pass(self, octets: bytes) -> Iterator[tuple[str, Node]]:
        if len(octets) > self._max_octets:
            raise _Refused(f"the XML has more than {self._max_octets} octets")
        done: list[tuple[str, Node]] = []
        parser = _parser(_Builder(self._wanted, done.append))
        for at in range(0, len(octets) + 1, _PIECE):
            try:
                parser.Parse(octets[at : at + _PIECE], at + _PIECE > len(octets))
            finally:  # what was whole before it went wrong
                yield from done
                done.clear()


def _parser(builder: _Builder) -> expat.XMLParserType:
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
    parser.StartDoctypeDeclHandler = _no_document_type
    parser.EntityDeclHandler = _no_document_type
    parser.ExternalEntityRefHandler = _no_document_type
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.text
    return parser


def _no_document_type(*_: object) -> int:
    raise _Refused("the XML has a document type, which no report needs")


class _Builder:
    def __init__(self, wanted: frozenset[str], give: Callable[[tuple[str, Node]], None]) -> None:
        self._wanted = wanted
        self._give = give
        self._depth = 0
        self._open: list[Node] = []
        self._children = 0

    def start(self, name: str, _: object) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _Refused(f"the XML is deeper than {MAX_DEPTH} elements")
        name = name.rpartition(":")[2].lower()
        if not self._open:
            if name in self._wanted:
                self._open.append(Node(name))
                self._children = 0
            return
        self._children += 1
        if self._children > MAX_CHILDREN:
            raise _Refused(f"an element of the XML has more than {MAX_CHILDREN} below it")
        node = Node(name[:100])
        self._open[-1].children.append(node)
        self._open.append(node)

    def end(self, _: str) -> None:
        self._depth -= 1
        if self._open:
            node = self._open.pop()
            if not self._open:
                self._give((node.name, node))

    def text(self, text: str) -> None:
        if self._open and len(self._open[-1].value) < MAX_TEXT:
            node = self._open[-1]
            node.value = _CONTROL.sub("", node.value + text)[:MAX_TEXT]


def _as_it_is(octets: bytes) -> bytes:
    return octets.lstrip(b" \t\r\n")


def _mended(octets: bytes) -> bytes:
    """UTF-8 without what is no character in XML; its declaration goes, for the encoding is another one now."""
    start = octets.find(b"<")
    body = _DECLARATION.sub(b"", octets[max(start, 0) :], count=1)
    body = _BARE_AMPERSAND.sub(b"&amp;", _SCHEMA_TAG.sub(b"", body))
    return _CONTROL.sub("", body.decode("utf-8", "ignore")).encode()
