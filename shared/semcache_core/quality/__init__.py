"""Were the served answers right?

- `monitor`: measures the error from audits and raises the threshold above the bound
- `comparisons`: compares fresh model answers with cached ones
- `verdicts`: served hits and verdicts on them, stored in the ledger
- `entry_trust`: lowers the probability of an entry that was wrong before
- `hubs`: finds entries that match unrelated questions
"""
