"""The handler ``governance``: changes of entities trigger declared workflows, which run as jobs."""
