"""How events come in: a FastStream broker over any connector, and the endless read beneath it."""
