"""All figures of an artefact: against the metrics themselves, by hand, and what is refused."""

import importlib
import json
import math
from functools import partial

import numpy as np
import pytest
from fakes import WordEmbedder, calibration
from semcache_core._utils import lazy
from semcache_core.embedding.batching import embed_texts
from semcache_core.errors import TrainingError
from semcache_core.evaluation import Figure, Interval, evaluate, metrics
from semcache_core.evaluation.evaluate import Evaluation
from semcache_core.evaluation.served import Streams, probabilities, stream_figures, streams_of
from semcache_core.training.calibration.streams import decide, domain_from_pairs, run_trials
from semcache_core.training.data.mining import matched_subset
from semcache_core.training.data.records import Pair

TOPICS = [f"topic{i}" for i in range(40)]


def pairs(domain: str = "", topics: list[str] = TOPICS) -> list[Pair]:
    """Rewordings share two words of three with their prompt, look-alikes one."""
    positive = [Pair(f"what a{t} b{t}", f"what a{t} c{t}", 1, domain) for t in topics]
    negative = [Pair(f"what a{t} b{t}", f"d{t} a{t} e{t}", 0, domain) for t in topics]
    return positive + negative


def made(some: list[Pair], **options: object) -> Evaluation:
    settings = {"seeds": 3, "resamples": 20, **options}
    return evaluate(some, WordEmbedder(), calibration(), **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return made(pairs())


def cosines(some: list[Pair]) -> np.ndarray:
    one, other = (
        embed_texts(WordEmbedder(), texts).astype(np.float64)
        for texts in ([p.prompt for p in some], [p.other for p in some])
    )
    return (one * other).sum(axis=1)


def labels(some: list[Pair]) -> np.ndarray:
    return np.array([pair.same_answer for pair in some], np.float64)


# -- what comes out ----------------------------------------------------------------------------


def test_figures_of_pairs_are_those_of_the_metrics(evaluation):
    similarity, label = cosines(pairs()), labels(pairs())
    probability = 1 / (1 + np.exp(-(similarity / 0.05 - 16)))
    np.testing.assert_allclose(evaluation.similarity, similarity, atol=1e-6)
    np.testing.assert_allclose(evaluation.probability, probability, atol=1e-5)
    found = evaluation.as_json()
    assert (found["n"], found["positives"]) == (80, 40)
    assert found["auc"] == pytest.approx(metrics.auc(similarity, label))
    assert found["average_precision"] == pytest.approx(metrics.average_precision(similarity, label))
    assert found["p_chr_auc"] == pytest.approx(metrics.p_chr_auc(similarity, label))
    assert found["brier"] == pytest.approx(metrics.brier(probability, label), abs=1e-5)
    error = metrics.expected_calibration_error(probability, label)
    assert found["ece"] == pytest.approx(error, abs=1e-5)
    assert found["ece_bins"] == 15


def test_figures_of_streams_are_means_over_the_seeds(evaluation):
    domain = domain_from_pairs("", pairs())
    vectors = embed_texts(WordEmbedder(), domain.texts)
    found = evaluation.as_json()

    def mean(missing: float, seeds: range, bound: float) -> float:
        met = [run_trials(domain, vectors, missing=missing, seeds=[s]) for s in seeds]
        streams = [decide("", one, calibration().judged_by) for one in met]
        return float(
            np.mean(
                [metrics.served_at_error(s.probability, s.right, s.answerable, bound)
                 for s in streams]
            )
        )  # fmt: skip

    for name in ("0.01", "0.02", "0.05", "0.10"):
        assert found["served_at_error"][name] == mean(0, range(1), float(name))
        halved = mean(0.5, range(3), float(name))
        assert found["served_at_error_half_missing"][name] == pytest.approx(halved)
    assert list(found["served_at_error"]) == ["0.01", "0.02", "0.05", "0.10"]
    assert found["asked"] == 40


def test_the_json_has_no_nan_and_an_interval_beside_every_figure(evaluation):
    found = json.loads(json.dumps(evaluation.as_json(), allow_nan=False))
    intervals = found["intervals"]
    for name in ("auc", "average_precision", "hard_auc", "p_chr_auc"):
        low, high = intervals[name]
        assert low <= found[name] <= high
    for form in ("served_at_error", "served_at_error_half_missing"):
        assert set(intervals[form]) == set(found[form])
    at_two = intervals["at_max_error_rate"]["0.02"]["half_missing"]
    assert set(at_two) == {"share_served", "rightly_served", "error"}
    assert set(intervals["slices"]["wh-word: what"]) == {"auc", "average_precision"}
    assert "n" not in intervals


def test_every_text_is_embedded_once():
    embedder = WordEmbedder()
    evaluate(pairs(), embedder, calibration(), seeds=1, resamples=1)
    assert sorted(embedder.calls) == sorted({t for p in pairs() for t in (p.prompt, p.other)})


def test_soft_labels_count_as_they_are_in_brier_and_above_a_half_in_the_rest():
    soft = [Pair(p.prompt, p.other, 0.6 if p.same_answer else 0.5) for p in pairs()]
    hard, found = made(pairs()), made(soft)
    assert found.positives == 40
    assert found.figures.auc == hard.figures.auc
    expected = metrics.brier(found.probability, labels(soft))
    assert found.figures.brier.value == expected != hard.figures.brier.value


def test_a_seed_repeats_every_figure_and_another_draws_others(evaluation):
    assert made(pairs()).as_json() == evaluation.as_json()
    other = made(pairs(), seed=1).as_json()
    assert other["auc"] == evaluation.as_json()["auc"]
    assert other["intervals"]["auc"] != evaluation.as_json()["intervals"]["auc"]
    mine, others = evaluation.half_missing, made(pairs(), seed=1).half_missing
    assert mine.answerable.tolist() != others.answerable.tolist()


def test_progress_tells_what_is_done_of_how_much():
    told: list[tuple[str, int, int]] = []
    made(pairs(), progress=lambda *what: told.append(what))
    texts = len({t for p in pairs() for t in (p.prompt, p.other)})
    assert told == [("embedding", 0, texts), ("embedding", texts, texts)] + [
        ("measuring", done, 3) for done in range(4)
    ]


# -- the hard subset ---------------------------------------------------------------------------


def test_the_hard_subset_is_matched_on_the_own_similarity_unless_a_base_is_given(evaluation):
    own = evaluation.as_json()
    assert own["hard_matched_on"] == "own similarity"
    rows = matched_subset(evaluation.similarity, evaluation.label, seed=0)
    assert own["hard_n"] == len(rows) < 80
    # a base that finds all alike matches everything
    alike = made(pairs(), base_similarities=[0.5] * 80).as_json()
    assert alike["hard_matched_on"] == "base similarities"
    assert (alike["hard_n"], alike["hard_auc"]) == (80, alike["auc"])


def test_a_hard_subset_without_pairs_has_no_figure():
    base = labels(pairs())
    found = made(pairs(), base_similarities=base).as_json()
    assert (found["hard_n"], found["hard_auc"], found["intervals"]["hard_auc"]) == (0, None, None)


# -- what the threshold serves -----------------------------------------------------------------


def figures(similarity: list[list[float]], right: list[list[int]], answerable: list[list[int]]):
    """20 questions: the given ones, [questions, streams], and others that nothing is near to."""
    streams = len(similarity[0])
    rest = 20 - len(similarity)
    asked = Streams(
        np.full(20, "", object),
        probabilities(calibration(), np.array(similarity + [[0.1] * streams] * rest)),
        np.array(right + [[0] * streams] * rest, bool),
        np.array(answerable + [[0] * streams] * rest, bool),
    )
    return stream_figures(asked, calibration(), partial(metrics.measured, seed=0, resamples=20))


def test_what_the_threshold_serves_and_errs_by_hand():
    # the fake serves from a cosine of .90 at 2 %, of .80 at 10 %
    found = figures(
        [[0.95, 0.95], [0.91, 0.85], [0.85, 0.95], [0.70, 0.70]],
        [[1, 1], [1, 0], [0, 1], [1, 1]],
        [[1, 1], [1, 0], [1, 1], [1, 1]],
    )
    at_two, at_ten = found.at_threshold["0.02"], found.at_threshold["0.10"]
    # 4 of 40 asked, all right, of 7 answerable
    assert (at_two.n, at_two.share_served.value) == (20, 4 / 40)
    assert at_two.rightly_served.value == 4 / 7
    assert at_two.error.value == 0
    # 6 of 40, of which the .85s are wrong
    assert at_ten.share_served.value == 6 / 40
    assert at_ten.rightly_served.value == 4 / 7
    assert at_ten.error.value == 2 / 6
    assert found.at_threshold["0.05"] == at_two, "a bound between two rows gets the stricter one"


def test_a_similarity_at_the_threshold_is_served():
    at = calibration().threshold(0.02)
    just = next(
        x for x in (0.9 + k * 1e-17 for k in range(100)) if calibration().probability(x) == at
    )
    assert figures([[just]], [[1]], [[1]]).at_threshold["0.02"].share_served.value == 1 / 20


def test_no_error_among_few_served_proves_little():
    # two different questions served, one of them twice
    found = figures([[0.95, 0.95], [0.5, 0.95]], [[1, 1], [1, 1]], [[1, 1], [1, 1]])
    error = found.at_threshold["0.02"].error
    assert error == Figure(0.0, Interval(0.0, pytest.approx(1 - math.sqrt(0.025))))


def test_a_bound_that_no_threshold_keeps_serves_nothing():
    found = figures([[0.99]], [[1]], [[1]]).at_threshold["0.01"]
    assert (found.share_served.value, found.rightly_served.value) == (0, 0)
    assert (found.error.value, found.error.interval) == (None, None)


def test_the_json_says_from_which_probability_each_bound_serves(evaluation):
    rows = evaluation.as_json()["at_max_error_rate"]
    assert rows["0.01"]["probability"] is None
    assert rows["0.01"]["all_answerable"]["share_served"] == 0
    assert rows["0.01"]["all_answerable"]["error"] is None
    assert rows["0.10"]["probability"] == calibration().threshold(0.10)
    assert rows["0.10"]["half_missing"]["n"] == 40


# -- domains, slices and too few ---------------------------------------------------------------


def test_domains_are_asked_by_themselves_and_pooled_under_one_threshold():
    easy, hard = pairs("easy"), pairs("hard", [f"other{i}" for i in range(25)])
    found = made(easy + hard)
    alone = made(hard)
    assert found.forms.all_answerable.asked == 65
    assert list(found.domains) == ["easy", "hard"]
    # the same stream as without the other domain: neither is in the other's store
    assert (
        found.domains["hard"].all_answerable.served_at_error["0.05"].value
        == alone.forms.all_answerable.served_at_error["0.05"].value
    )
    expected = metrics.served_at_error(
        *(vars(found.all_answerable)[k][:, 0] for k in ("probability", "right", "answerable")), 0.05
    )
    assert found.forms.all_answerable.served_at_error["0.05"].value == expected
    tree = found.as_json()
    assert tree["domains"]["hard"]["asked"] == 25
    assert tree["intervals"]["domains"]["easy"]["served_at_error"].keys() == {
        "0.01", "0.02", "0.05", "0.10",
    }  # fmt: skip
    assert tree["slices"]["source: hard"]["n"] == 50


def test_pairs_of_one_domain_are_not_listed_by_domain(evaluation):
    assert evaluation.domains == {}


def test_a_domain_too_small_for_a_store_asks_nothing():
    vectors = {text: np.array([1, 0], np.float32) for text in "abxy"}
    some = [Pair("a", "b", 1, "tiny"), Pair("x", "y", 1, "other"), Pair("x", "b", 0, "other")]
    streams = streams_of(some, vectors, calibration().judged_by, missing=0, seeds=[0])
    assert streams.domain.tolist() == ["other"]
    assert streams.probability.shape == (1, 1)


# half of the answers of one prompt leave a store too small for a stream, so that asks nothing
@pytest.mark.parametrize(("topics", "asked"), [(TOPICS[:1], 0), (TOPICS[:19], 19)])
def test_too_few_pairs_for_streams_are_said_and_not_a_crash(topics, asked):
    found = made(pairs(topics=topics))
    tree = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert f"ask {asked} questions" in tree["streams_note"]
    assert tree["served_at_error"] == dict.fromkeys(["0.01", "0.02", "0.05", "0.10"])
    assert tree["intervals"]["served_at_error_half_missing"]["0.05"] is None
    assert tree["at_max_error_rate"]["0.10"]["half_missing"] == {
        "n": asked, "share_served": None, "rightly_served": None, "error": None,
    }  # fmt: skip
    assert tree["auc"] is not None


def test_enough_pairs_for_streams_need_no_note():
    found = made(pairs(topics=TOPICS[:20]))
    assert found.streams_note is None
    assert found.forms.half_missing.served_at_error["0.10"].value is not None


def test_a_slice_has_figures_from_ten_of_either_label_on():
    some = pairs()
    # ten and nine prompts with another wh-word, on both sides
    asked = {**dict.fromkeys(TOPICS[:10], "why"), **dict.fromkeys(TOPICS[10:19], "who")}
    renamed = [
        Pair(p.prompt.replace("what", asked.get(t, "what")), p.other, p.same_answer)
        for p, t in zip(some, TOPICS * 2, strict=True)
    ]
    found = made(renamed)
    why, who = found.slices["wh-word: why"], found.slices["wh-word: who"]
    rows = np.array([p.prompt.startswith("why") for p in renamed])
    assert (why.n, why.positives) == (20, 10)
    assert why.auc.value == metrics.auc(found.similarity[rows], found.label[rows])
    assert why.auc.interval is not None
    assert (who.n, who.positives, who.auc.value, who.average_precision.value) == (18, 9, None, None)
    assert found.as_json()["slices"]["wh-word: who"]["auc"] is None


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("some", "options", "says"),
    [
        ([], {}, "there are no pairs"),
        ([*pairs(), Pair("a", "b", math.nan)], {}, "same_answer of pair 80 is nan"),
        ([*pairs(), Pair("a", "b", None)], {}, "same_answer of pair 80 is None"),  # type: ignore[arg-type]
        ([*pairs(), Pair("a", "b", 1.5)], {}, "same_answer of pair 80 is 1.5"),
        (pairs()[:40], {}, "40 of 40 pairs have the same answer"),
        ([Pair("a", "b", 0.5), Pair("a", "c", 0)], {}, "0 of 2 pairs have the same answer"),
        (pairs(), {"base_similarities": [0.5] * 79}, r"shape \[79\], but there are 80 pairs"),
        (pairs(), {"base_similarities": [0.5] * 79 + [math.nan]}, r"similarities\[79\] is nan"),
        (pairs(), {"seeds": 0}, "seeds is 0"),
        (pairs(), {"resamples": 0}, "resamples is 0"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_embedded(some, options, says):
    embedder = WordEmbedder()
    with pytest.raises(TrainingError, match=says):
        evaluate(some, embedder, calibration(), **options)
    assert embedder.calls == []


def test_a_calibration_of_another_model_is_refused():
    embedder = WordEmbedder()
    with pytest.raises(TrainingError, match="the calibration is for the model 000000000000"):
        evaluate(pairs(), embedder, calibration(fingerprint="0" * 64))
    assert embedder.calls == []


# -- the package -------------------------------------------------------------------------------


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    import semcache_core.evaluation as package

    monkeypatch.setattr(lazy, "find_spec", lambda name: None if name == "jinja2" else 1)
    with pytest.raises(TrainingError, match=r'needs jinja2; run: pip install "semcache-core'):
        importlib.reload(package)
