"""Side-by-side measurements: this project beside what one would write by hand, in one run, on the same servers."""
