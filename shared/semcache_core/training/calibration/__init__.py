"""From similarities to probabilities and thresholds.

- `streams`: simulated streams of questions over stored answers
- `calibrate`: fits the weights of the probability
- `risk_control`: thresholds that keep an error bound with 95 % confidence
- `model_card`: the card written beside an artefact
"""
