"""From a log of questions to an artefact. Needs the extra `train`; only fine-tuning loads torch.

- `data`: labelled pairs: mined, labelled, split, augmented
- `batches`, `losses`, `trainer`, `checkpoint`: fine-tune an embedding model on them
- `onnx_export`: the int8 ONNX model of an artefact
- `calibration`: probabilities and thresholds
- `pipeline`: all of it, one after the other
"""

from typing import TYPE_CHECKING, Any

from semcache_core._utils.lazy import check_extra, lazy_names

if TYPE_CHECKING:
    from semcache_core.training.calibration.calibrate import calibrate, fit_probability
    from semcache_core.training.calibration.risk_control import threshold_table
    from semcache_core.training.calibration.streams import (
        Domain,
        domain_from_labels,
        domain_from_pairs,
    )
    from semcache_core.training.data.augmentation import synthetic_pairs
    from semcache_core.training.data.labelling import label_by_answers, label_with_teacher
    from semcache_core.training.data.mining import hard_subset, mine
    from semcache_core.training.data.records import (
        Pair,
        Question,
        read_pairs,
        read_questions,
        write_pairs,
    )
    from semcache_core.training.data.splits import split_pairs
    from semcache_core.training.data.teacher import Teacher
    from semcache_core.training.onnx_export import export_onnx
    from semcache_core.training.pipeline import train
    from semcache_core.training.trainer import FitOptions

__all__ = [
    "Domain",
    "FitOptions",
    "Pair",
    "Question",
    "Teacher",
    "calibrate",
    "domain_from_labels",
    "domain_from_pairs",
    "export_onnx",
    "fit_probability",
    "hard_subset",
    "label_by_answers",
    "label_with_teacher",
    "mine",
    "read_pairs",
    "read_questions",
    "split_pairs",
    "synthetic_pairs",
    "threshold_table",
    "train",
    "write_pairs",
]

FINE_TUNING = ("torch", "sentence_transformers", "onnx", "onnxscript")
"""What `train` and the export need beyond the rest of the package."""
check_extra(__name__, ("sklearn",), rest=FINE_TUNING)

_FINE_TUNED = {"FitOptions", "export_onnx", "train"}

# lazy: calibrating an embedder that is no torch model must not cost the seconds torch takes to load
_HOMES = {
    "calibration.calibrate": ("calibrate", "fit_probability"),
    "calibration.risk_control": ("threshold_table",),
    "calibration.streams": ("Domain", "domain_from_labels", "domain_from_pairs"),
    "data.augmentation": ("synthetic_pairs",),
    "data.labelling": ("label_by_answers", "label_with_teacher"),
    "data.mining": ("hard_subset", "mine"),
    "data.records": ("Pair", "Question", "read_pairs", "read_questions", "write_pairs"),
    "data.splits": ("split_pairs",),
    "data.teacher": ("Teacher",),
    "onnx_export": ("export_onnx",),
    "pipeline": ("train",),
    "trainer": ("FitOptions",),
}
_load = lazy_names(__name__, {name: home for home, names in _HOMES.items() for name in names})


def __getattr__(name: str) -> Any:
    if name in _FINE_TUNED:
        check_extra(f"{__name__}.{name}", FINE_TUNING)
    return _load(name)
