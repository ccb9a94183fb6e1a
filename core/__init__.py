"""Nouns and rules of Hearth: no I/O, standard library only."""
