"""Floor 8: the world around a hub, for our own tests and those of plugin authors.  Nothing of the product imports it.

Whatever stands in for a seam here implements its interface honestly: same rules, same errors, only in memory.
"""
