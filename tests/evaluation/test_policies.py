"""When each policy serves, given candidates of known similarity."""

import pytest
from fakes import WordEmbedder, calibrated, calibration
from semcache_core.decision.scoring import Neighbour
from semcache_core.errors import ArtefactError, TrainingError
from semcache_core.evaluation.policies import (
    ExactOnly,
    FixedThreshold,
    InHindsight,
    MaxErrorRate,
    artefact_arm,
)

NEAR, FAR = Neighbour(0, "near", 0, 0.9), Neighbour(0, "far", 0, 0.5)


class OtherEmbedder(WordEmbedder):
    fingerprint = "another"


def bounded(max_error_rate=0.02, **changes):
    return MaxErrorRate("bounded", calibration(**changes), WordEmbedder(), max_error_rate)


def test_exact_only_looks_at_nothing():
    def candidates():
        raise AssertionError("looked at a candidate")
        yield

    assert ExactOnly().pick("q", candidates()) is None


def test_a_fixed_threshold_serves_the_nearest_from_its_similarity_on():
    assert FixedThreshold("f", 0.9).pick("q", iter([NEAR, FAR])) == NEAR
    assert FixedThreshold("f", 0.90001).pick("q", iter([NEAR, FAR])) is None
    assert FixedThreshold("f", 0.1).pick("q", iter([])) is None


@pytest.mark.parametrize("threshold", [1.01, -1.01, float("nan")])
def test_a_threshold_that_is_no_cosine_is_refused(threshold):
    with pytest.raises(TrainingError, match="threshold is"):
        FixedThreshold("f", threshold)


def test_a_bound_serves_from_its_calibrated_threshold_on():
    # the double serves at a cosine of .90 for 2 %, and at .80 for 10 %
    assert bounded(0.02).pick("q", iter([Neighbour(0, "near", 0, 0.901)])) is not None
    assert bounded(0.02).pick("q", iter([Neighbour(0, "near", 0, 0.899)])) is None
    assert bounded(0.10).pick("q", iter([Neighbour(0, "near", 0, 0.801)])) is not None
    assert bounded(0.10).pick("q", iter([Neighbour(0, "near", 0, 0.799)])) is None


def test_a_bound_that_no_threshold_keeps_serves_exact_repeats_only():
    policy = bounded(0.001)
    assert policy.pick("q", iter([Neighbour(0, "near", 0, 1.0)])) is None
    assert "exact repeats only" in policy.setting


def test_a_stored_question_with_other_numbers_is_passed_over_for_the_next():
    nearest = [Neighbour(0, "order 1235", 0, 0.99), Neighbour(0, "order 1234 please", 0, 0.95)]
    assert bounded().pick("order 1234", iter(nearest)) == nearest[1]
    assert bounded().pick("order 1234", iter(nearest[:1])) is None


def test_the_next_one_too_must_reach_the_threshold():
    nearest = [Neighbour(0, "order 1235", 0, 0.99), Neighbour(0, "order 1234 please", 0, 0.85)]
    assert bounded().pick("order 1234", iter(nearest)) is None


def test_a_question_that_the_embedder_does_not_read_whole_is_never_served_by_meaning():
    long, short = Neighbour(0, "one two three four", 0, 1.0), Neighbour(0, "one two", 0, 1.0)
    assert bounded(max_tokens=3).pick("one two three", iter([short])) == short
    assert bounded(max_tokens=3).pick("one two three", iter([long])) is None
    assert bounded(max_tokens=3).pick("one two three four", iter([short])) is None


@pytest.mark.parametrize("bound", [0, 1, -0.1, float("nan")])
def test_a_bound_outside_0_to_1_is_refused(bound):
    with pytest.raises(TrainingError, match="max_error_rate is"):
        bounded(bound)


def test_a_calibration_of_another_embedder_is_refused():
    with pytest.raises(TrainingError, match="calibrate this embedder"):
        MaxErrorRate("bounded", calibration(), OtherEmbedder(), 0.02)


def test_hindsight_tries_exact_only_and_then_every_threshold_strictest_first():
    first, *others = InHindsight("oracle", 0.02, (0.5, 0.9, 0.7, 0.9)).tries()
    assert first == ExactOnly("oracle")
    assert [policy.threshold for policy in others] == [0.9, 0.7, 0.5]


def test_hindsight_says_that_it_is_an_oracle_and_what_it_chose():
    said = InHindsight("h", 0.02).setting_of(FixedThreshold("h", 0.93))
    assert "0.93" in said
    assert "oracle" in said
    assert "at most 2 %" in said


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_wrong_share_that_is_none_is_refused(share):
    with pytest.raises(TrainingError, match="max_wrong_share is"):
        InHindsight("oracle", share)


def test_hindsight_without_thresholds_is_refused():
    with pytest.raises(TrainingError, match="no thresholds"):
        InHindsight("oracle", 0.02, ())


def test_an_artefact_without_a_model_is_refused(tmp_path):
    with pytest.raises(ArtefactError, match=r"model\.onnx"):
        artefact_arm(calibrated(tmp_path / "a"), 0.02, "mine")


def test_the_shipped_artefact_makes_an_arm_of_its_own_embedder():
    from semcache_core.embedding.onnx import DEFAULT_ARTEFACT

    policy, embedder = artefact_arm(DEFAULT_ARTEFACT, 0.02, "shipped")
    assert policy.name == "shipped"
    assert policy.embedder is embedder
    assert "at most 2 %" in policy.setting
