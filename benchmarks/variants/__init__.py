"""The programs that are measured, one to a process: a coroutine function of a `Job` each, in the module named by it."""
