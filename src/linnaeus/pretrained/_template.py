"""Names with places in them, `blocks.{i}.{rest...}`: can be read and written, so renaming has a way back.

`{i}` stands for one part of a name, without dots; `{rest...}` for any number of parts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_PLACE = re.compile(r"\{([a-z_]+)(\.\.\.)?\}")


@dataclass(frozen=True, slots=True)
class Template:
    """A name with places.

    Attributes:
        text: As it is written.
        pattern: What it matches; a name is matched whole.
        places: The names of its places.
    """

    text: str
    pattern: re.Pattern[str]
    places: frozenset[str]

    def read(self, name: str) -> dict[str, str] | None:
        """Return what stands in the places of a name; None for a name of another form."""
        found = self.pattern.fullmatch(name)
        return found.groupdict() if found else None

    def write(self, values: Mapping[str, str]) -> str:
        """Return the name with these values in its places."""
        return _PLACE.sub(lambda place: values[place[1]], self.text)


def template(text: str) -> Template:
    """Read a template.

    Raises:
        ValueError: A place is there twice, or a brace is no place.
    """
    rest = _PLACE.sub("", text)
    if "{" in rest or "}" in rest:
        raise ValueError(f"{text!r} has a brace that is no place such as {{i}} or {{rest...}}")
    places = [place[1] for place in _PLACE.finditer(text)]
    if len(places) != len(set(places)):
        raise ValueError(f"{text!r} has the same place twice")
    return Template(text, re.compile(_pattern(text)), frozenset(places))


def _pattern(text: str) -> str:
    parts: list[str] = []
    position = 0
    for place in _PLACE.finditer(text):
        parts.append(re.escape(text[position : place.start()]))
        parts.append(f"(?P<{place[1]}>{'.+' if place[2] else '[^.]+'})")
        position = place.end()
    return "".join([*parts, re.escape(text[position:])])


def same_places(one: Template, others: list[Template]) -> None:
    """Check that templates can be translated into one another.

    Raises:
        ValueError: One has a place that another has not.
    """
    for other in others:
        if other.places != one.places:
            raise ValueError(f"{one.text!r} and {other.text!r} have different places")
