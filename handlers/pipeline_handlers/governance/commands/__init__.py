"""The commands of governance: look at what workflows do and leave, and steer them."""
