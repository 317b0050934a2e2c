"""Casualty statements in news text: who was harmed, how many, how, and who says so.

``Extractor`` loads a checkpoint and finds the entities; importing this package loads neither torch nor transformers.
"""

from casualty_ner.documents import Article, Entity, Span
from casualty_ner.errors import CasualtyNerError
from casualty_ner.extractor import Extractor
from casualty_ner.labels import LABELS

__all__ = ["LABELS", "Article", "CasualtyNerError", "Entity", "Extractor", "Span"]
__version__ = "0.1.0"
