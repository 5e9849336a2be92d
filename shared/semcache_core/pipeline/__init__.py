"""One process at work.

- `lookup`: a lookup, by the exact key and by meaning
- `update`: storing an answer, the model's own answer beside a hit, feedback, imports
- `computation`: one `get_or_create`, the stored answer or a computed one
- `engine`: builds and holds the components of an open cache
- `process`: opens and closes the engine, threads for async calls, forks
- `counters`: counts, warnings logged once, the fail-open boundary
- `background`: the background thread: hit counts, eviction, index sync
- `single_flight`: one call for all who ask the same at the same time
- `explain`: what `explain()` and `stats()` return
"""
