"""The sidecar files that hold the attributes of a field's cells.

Owns where they lie, their form, and the name of the data YAML's section with their schema. Does
not own how they travel through training (see ``attributed_dataset``).

Beside ``images/a.jpg`` and the five-column ``labels/a.txt`` lies ``attributes/a.npy``: one
row of value indices per label row. Ultralytics must not see attributes in a label file: it
reads rows of more than six columns as polygons, and takes eleven columns for a wrong box
without a word.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_runtime.attributes import MISSING, AttributeSchema
from edge_runtime.errors import DataError
from edge_runtime.types import Int64Array

# Section of the data YAML; its ``attributes`` is the schema of the sidecars.
DATA_KEY = "attridet"


def attribute_file(image: Path) -> Path:
    """Where the attributes of an image's cells lie."""
    folders = list(image.parent.parts)
    # The last folder of that name counts, as where ultralytics looks for label files.
    for i in reversed(range(len(folders))):
        if folders[i] == "images":
            folders[i] = "attributes"
            break
    return Path(*folders, image.name).with_suffix(".npy")


def write_attributes(image: Path, values: Int64Array, schema: AttributeSchema) -> Path:
    """Writes the sidecar of one image, creating its folder.

    Args:
        image: the image; it need not exist yet.
        values: ``(cells, attributes)``, value indices or ``MISSING``, in the order of the
            label file's rows.
        schema: what the columns mean.

    Returns:
        The file written.

    Raises:
        DataError: values that the schema does not have.
    """
    path = attribute_file(image)
    _check(values, schema, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values.astype(np.int16), allow_pickle=False)
    return path


def read_attributes(image: Path, schema: AttributeSchema) -> Int64Array:
    """The sidecar of one image, int64 ``(cells, attributes)``.

    Raises:
        DataError: no such file, no array of whole numbers, or values that the schema does
            not have.
    """
    path = attribute_file(image)
    try:
        # Never pickles: a data set is somebody else's file.
        values = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such file; every image with cells needs its attributes "
            f"({MISSING} where nobody judged one)"
        ) from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not an array of attributes; write it again") from error
    if not np.issubdtype(values.dtype, np.integer):
        raise DataError(f"{path}: holds {values.dtype}; value indices are whole numbers")
    _check(values, schema, path)
    checked: Int64Array = values.astype(np.int64)
    return checked


def _check(values: Int64Array, schema: AttributeSchema, path: Path) -> None:
    if values.ndim != 2 or values.shape[1] != len(schema.attributes):
        raise DataError(
            f"{path}: table of shape {values.shape}; schema {schema.name!r} has "
            f"{len(schema.attributes)} attributes, one column each"
        )
    strange = (values < MISSING) | (values >= np.array(schema.widths))
    if strange.any():
        row, column = (int(index) for index in np.argwhere(strange)[0])
        attribute = schema.attributes[column]
        raise DataError(
            f"{path}: cell {row} has {attribute.name} = {int(values[row, column])}; "
            f"schema {schema.name!r} knows 0 to {len(attribute.values) - 1}, "
            f"and {MISSING} for not judged"
        )
