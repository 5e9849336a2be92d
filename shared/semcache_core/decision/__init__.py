"""Is this candidate a hit?

- `decide`: the rule: candidates in, decision and reason out
- `scoring`: scores a candidate: similarity, margin, guard penalties
- `calibration`: the artefact's weights and thresholds
- `guard`: finds differences that change an answer and hardly move a similarity
- `lexicon`: the words the guard knows
- `verifier`: a second opinion for uncertain candidates, with a timeout
- `cross_encoder`: a verifier on a sentence-transformers cross-encoder
- `same_answer`: whether two answers say the same
"""
