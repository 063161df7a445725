"""Input of every kind, spoilt by chance: what holds for all of it, whatever it is."""
