"""A fault that is put into a source by hand, to see whether some test notices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """In `file`, the text between << and >> becomes `wrong`."""

    name: str
    file: str
    text: str
    wrong: str
    test: str = ""  # that must fail, a node of pytest; empty where one check is for all
    also: tuple[str, str] | None = None  # another text of the same file, and what is wrong there

    def edits(self, source: str) -> list[tuple[int, int, str]]:
        """(start, end, wrong) of each place in `source`."""
        pairs = [(self.text, self.wrong), *([self.also] if self.also else [])]
        return [(*self._place(source, text), wrong) for text, wrong in pairs]

    def _place(self, source: str, text: str) -> tuple[int, int]:
        before, _, rest = text.partition("<<")
        right, _, after = rest.rpartition(">>")
        context = before + right + after
        assert source.count(context) == 1, f"{self.name}: {context} is not there just once"
        start = source.index(context) + len(before)
        return start, start + len(right)

    def applied(self, source: str) -> str:
        for start, end, wrong in sorted(self.edits(source), reverse=True):
            source = source[:start] + wrong + source[end:]
        return source


def with_switches(mutations: Iterable[Mutation], file: str, source: str) -> str:
    """C++ that goes wrong while the variable `mutation` is the number, from 1, of one of them."""
    places: dict[tuple[int, int], list[tuple[int, str]]] = {}
    for number, mutation in enumerate(mutations, 1):
        if mutation.file == file:
            for start, end, wrong in mutation.edits(source):
                places.setdefault((start, end), []).append((number, wrong))
    for (start, end), wrongs in sorted(places.items(), reverse=True):
        cases = "".join(f"mutation == {number} ? ({wrong}) : " for number, wrong in wrongs)
        source = f"{source[:start]}({cases}({source[start:end]})){source[end:]}"
    return source
