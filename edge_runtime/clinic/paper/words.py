"""Every text of the printed report, in English; the catalogue's keys.

Owns the wording; values stand in braces. Does not own where a text stands (see
``clinic.film_pdf``), nor what the bundle says in its own language: model card, description.
"""

from __future__ import annotations

from typing import Protocol

from edge_runtime.film_report import RESEARCH_USE


class Translate(Protocol):
    """Says a message of this module in the reader's language.

    Names of classes are asked for as well; one that is not known is given back as it is.
    """

    def __call__(self, message: str, /, **values: object) -> str:
        """The text, with the values put in."""


def in_english(message: str, /, **values: object) -> str:
    """A message as it stands here."""
    return message.format(**values) if values else message


RESEARCH = RESEARCH_USE

TITLE = "Blood film report"
TITLE_OF = "Blood film report: slide {slide}"
SUBJECT = "White-cell differential proposed by software"
PAGE = "Page {page} of {pages}"
FOOT = "Film {film}, slide {slide}"
CONTINUED = "{what} (continued)"

# How far the review is.
PRELIMINARY = "PRELIMINARY"
FINAL = "FINAL"
AMENDED = "AMENDED"
PRELIMINARY_MEANS = (
    "Preliminary: proposed by software, not reviewed by a person. Every count below may change."
)
SIGNED_BY = "Reviewed and signed by {user}, {when}."
AMENDED_MEANS = "Signed before, reopened and signed anew: this report replaces earlier ones."
NO_LONGER = (
    "What is stored is not what was signed: its digest differs. Do not use this report; have the "
    "film reviewed again."
)
PARTIAL = (
    "Partial: the run was interrupted before the film ended. The counts cover only the fields "
    "examined until then."
)
OUTSIDE_DOMAIN = (
    "Outside the validated domain: this film looks unlike those the model was validated on "
    "(score {score}, outside above {threshold}). Its figures were not shown to hold here."
)

TRACK_LOST = (
    "Track lost: nobody knows where {lost} of {fields} fields lie on the film; the {finds} finds "
    "in them are not counted."
)
PARTS_APART = (
    "The fields lie in {parts} parts of which nobody knows how they lie to each other: of the "
    "{cells} cells outside the largest part some may be counted twice."
)
CAMERA_LOST = (
    "The camera gave no picture {times} times, for {seconds} s in all; what lay under it then was "
    "not seen."
)

# Film.
SLIDE = "Slide"
PATIENT = "Patient number"
FILM = "Film"
STARTED = "Started"
FINISHED = "Finished"
EXAMINED_BY = "Examined by"
NOTE = "Note"
FIELDS = "Fields"
FIELDS_COUNT = "{examined} examined, {skipped} skipped"
CELLS = "Cells"
CELLS_COUNT = "{cells} counted"
CORRECTIONS = "Corrected by people"
CORRECTIONS_COUNT = "{renamed} named anew, {rejected} rejected, {added} added"
NOBODY = "nobody was signed in"
NONE = "none"
NOT_GIVEN = "not given"

# Differential.
DIFFERENTIAL = "Differential"
CLASS = "Class"
COUNT = "Cells"
PERCENT = "%"
INTERVAL = "{confidence} % interval"
TOTAL = "Total"
BESIDE = "Beside the differential"
UNCLASSIFIED = "unclassified"
INTERVALS_MEAN = (
    "Exact binomial intervals, each by itself. They hold for cells drawn at random and named "
    "without error: what the model gets wrong is not in them."
)
NO_CLASSIFIER = "The bundle names no classes; cells are only counted."
NO_CELLS = "No cell was found in the examined fields."
FEW_CELLS = "Fewer than 100 cells: the shares are uncertain, as the intervals say."

# Screening.
SCREENING = "Screening for blasts"
SCREENING_BELOW = "Enough cells: the share of blasts is below {threshold} %."
SCREENING_ABOVE = "Enough cells: the share of blasts is {threshold} % or more."
SCREENING_GO_ON = "Not enough cells to tell whether the share of blasts is {threshold} % or more."
SCREENING_UNSETTLED = (
    "Not settled: the share of blasts lies too near to {threshold} %; a person must decide."
)
SCREENING_ABSTAINS = "No verdict on blasts."
SCREENING_OF = "{named} of {cells} white cells named blasts"
SCREENING_SHARE = (
    "{percent} % ({confidence} % interval {low} – {high} %), corrected for the classifier's "
    "measured errors"
)
SCREENING_COUNTED = "Counted"
SCREENING_SHARE_NAME = "Share of blasts"
SCREENING_WHY = "Why"
SCREENING_MEANS = (
    "It says when to stop scanning, not what a patient has. It stands as at the film's end, of the "
    "classes that the model gave: later corrections are in the differential and not in it."
)

# Description.
DESCRIPTION = "Description"

# Map.
MAP = "Map of the film"
MAP_IS = "Where on the film the counted cells lie; grey is what was seen. {cells} cells, each once."
MAP_ANOTHER_PART = "Another part of the film; where it lies to the one above is not known."
MAP_MORE_PARTS = "{count} smaller parts are not drawn."
MAP_LOST = "{count} fields are not on the map: their place is not known."

# Cells.
CELL_PICTURES = "Cells by class"
CELL_PICTURES_ARE = (
    "A sample from the surest to the least sure of each class; field and number of each cell, and "
    "how probable the model holds its class, or that a person named it (✓)."
)
CELLS_SHOWN = "{shown} of {count}"
CELL_PLACE = "{field} · {number}"
CELL_ALT = "{class_name}, cell {number} of field {field}"
NO_PICTURE = "no picture"
UNREADABLE = "{count} pictures could not be read from the store; check the store."

# Skipped fields.
SKIPPED = "Skipped fields"
REASON = "Reason"
MORE_REASONS = "{count} further reasons"

# What looked at it.
MODEL = "Model and limits"
BUNDLE = "Model bundle"
DIGEST = "SHA-256"
BUNDLE_SIGNED = "Bundle signed by"
NOT_CHECKED = "no signature was asked for"
DETECTOR = "Detector"
CLASSIFIER = "Classifier"
ATTRIBUTES = "Attribute head"
RAN = "{artifact}, {precision}, on {name} {version}, {device}"
DOMAIN = "Domain"
DOMAIN_INSIDE = "within the validated domain (score {score}, outside above {threshold})"
DOMAIN_OUTSIDE = "outside the validated domain (score {score}, outside above {threshold})"
DOMAIN_UNKNOWN = "not assessed"
PROGRAM = "Program"
LIMITS = "Limits, as the bundle states them"

# Signatures.
REVIEW = "Review"
UNSIGNED = "Not signed. Whoever reviews the film on paper signs here; it does not sign the record."
REVIEWED_BY = "Reviewed by"
DATE = "Date"
REMARKS = "Remarks"
SIGNED = "Signed"
COMMENT = "Comment"
WITHDRAWN = "Withdrawn"
WITHDRAWN_BY = "{when}, by {user}: {why}"
CONTENT = "Content (SHA-256)"
CONTENT_MEANS = (
    "The digest covers the film's label and times, the run's record, its fields, and every cell "
    "with its class and picture, as they were when this report was made."
)
CONTENT_HOLDS = "matches what is stored"
CONTENT_DIFFERS = "does not match what is stored"
UNDRAWN = (
    "The font of this report lacks some characters, drawn as □; the record itself holds them: "
    "{characters}"
)

MESSAGES: tuple[str, ...] = tuple(
    value for name, value in list(globals().items()) if name.isupper() and isinstance(value, str)
)
"""What a catalogue must hold to print the report in another language."""
