"""Objects of a Bokeh document, written as BokehJS reads them.

Bokeh's own Python classes take a second of CPU for the charts of a report, and 0.4 s to import.
Here an object is its name and the properties that differ from BokehJS's defaults. Tests read what
is written with Bokeh itself, which checks names and values.

References
----------
https://docs.bokeh.org/en/latest/docs/dev_guide/server.html#documents : a document and its models.
"""

import base64
import gzip
import importlib.metadata
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(eq=False)
class BokehObject:
    """An object of the document; the same object twice is written once, and referred to then.

    Parameters
    ----------
    name : str
        Of the class in BokehJS.
    attributes : dict
        Properties by name: numbers, texts, lists, dicts, arrays, `Field`, `Value`, other objects.
    """

    name: str
    attributes: dict[str, Any]


def new(kind: str, /, **attributes) -> BokehObject:
    """Return an object with some properties."""
    return BokehObject(kind, attributes)


@dataclass(frozen=True)
class Field:
    """A property that is a column of the data source."""

    column: str


@dataclass(frozen=True)
class Value:
    """A property that is the same everywhere, where Bokeh would take a text for a column."""

    value: str


def fields(**columns: str) -> dict[str, Field]:
    """Return properties that are columns of the data source, by name."""
    return {name: Field(column) for name, column in columns.items()}


def source(columns: dict[str, np.ndarray | list], name: str | None = None) -> BokehObject:
    """Return a data source with columns."""
    named = {"name": name} if name else {}
    return new("ColumnDataSource", data=columns, **named)


def drawn(data: BokehObject, glyph: str, **properties) -> BokehObject:
    """Return a glyph that is drawn from the columns of a data source.

    Parameters
    ----------
    data : BokehObject
    glyph : str
        Class of the glyph.
    **properties
        Of the glyph. `Field` for columns.
    """
    return new("GlyphRenderer", data_source=data, glyph=new(glyph, **properties))


def written(plots: list[BokehObject]) -> tuple[dict, list[str]]:
    """Return the document of some plots for JSON, and the ids of the plots in it."""
    writer = _Writer()
    roots = [writer.write(plot) for plot in plots]
    document = {
        "version": importlib.metadata.version("bokeh"),
        "title": "Charts",
        "config": writer.write(new("DocumentConfig")),
        "roots": roots,
    }
    return document, [root["id"] for root in roots]


class _Writer:
    """Numbers objects in the order in which they are met: the same page every time."""

    def __init__(self):
        self._ids: dict[int, str] = {}

    def write(self, value):
        """Return a value as JSON has it."""
        if isinstance(value, BokehObject):
            return self._object(value)
        if isinstance(value, Field):
            return {"type": "field", "field": value.column}
        if isinstance(value, Value):
            return {"type": "value", "value": value.value}
        if isinstance(value, np.ndarray):
            return _array(value)
        if isinstance(value, dict):
            entries = [[key, self.write(inner)] for key, inner in value.items()]
            return {"type": "map", "entries": entries}
        if isinstance(value, (list, tuple)):
            return [self.write(inner) for inner in value]
        return value

    def _object(self, value: BokehObject) -> dict:
        if known := self._ids.get(id(value)):
            return {"id": known}
        # before its properties, which may refer to it
        own = self._ids[id(value)] = f"x{len(self._ids) + 1}"
        attributes = {key: self.write(inner) for key, inner in value.attributes.items()}
        return {"type": "object", "name": value.name, "id": own, "attributes": attributes}


def _array(values: np.ndarray) -> dict:
    # BokehJS unpacks the bytes; with no time in them, the page is the same every time
    little = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False)
    packed = gzip.compress(little.tobytes(), 6, mtime=1)
    return {
        "type": "ndarray",
        "array": {"type": "bytes", "data": base64.b64encode(packed).decode()},
        "shape": list(values.shape),
        "dtype": values.dtype.name,
        "order": "little",
    }
