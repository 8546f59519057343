"""The test rig: real servers, the runner as a process of its own, and the books that everything is checked against."""
