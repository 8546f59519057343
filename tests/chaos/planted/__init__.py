"""Runners with a planted bug each: the rig is only as good as its verdict on them."""
