"""What all benchmarks and studies share.

corpus   synthetic questions and clustered vectors
fill     a ledger with many entries at once
instant  models that answer at once
pipe     a process that obeys orders, its memory and its event loop
results  hardware, versions, the JSON of a run, Markdown tables
timing   seconds of calls, gathered over rounds
"""
