"""One process at work.

- `engine`: builds and holds the components of an open cache
- `background`: the background thread: hit counts, eviction, index sync
- `single_flight`: one call for all who ask the same at the same time
- `explain`: what `explain()` and `stats()` return
"""
