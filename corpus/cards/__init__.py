"""Face cards: rendered facial clips whose truth is known, because it was drawn."""

from corpus.cards.render import Card, render
from corpus.cards.spec import CardSpec, draw_spec

__all__ = ["Card", "CardSpec", "draw_spec", "render"]
