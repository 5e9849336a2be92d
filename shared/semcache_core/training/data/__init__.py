"""Training pairs: where they come from.

- `records`: pairs and questions as JSON lines
- `mining`: nearest-neighbour candidate pairs
- `labelling`: labels pairs by an LLM or by their answers
- `teacher`: the LLM that labels
- `splits`: training, calibration and test parts that share no question
- `augmentation`: synthetic pairs from real questions
- `word_edits`: edits that change an answer, and rewrites that do not
"""
