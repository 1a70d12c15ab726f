"""How far reasoning can be trusted: form, agreement of the modalities, effect on the answer. See README.md."""

from mllmrec.cot.assess.calibration import Calibration, Helping, Kept, calibrate
from mllmrec.cot.assess.confidence import FLOORS, WEIGHTS, confidence, keep, vetoes
from mllmrec.cot.assess.form import STEP_LABELS, form_scores
from mllmrec.cot.assess.modality import Idf, modality_scores
from mllmrec.cot.assess.prediction import lift, lift_score, modal_share, target_share

__all__ = [
    "FLOORS",
    "STEP_LABELS",
    "WEIGHTS",
    "Calibration",
    "Helping",
    "Idf",
    "Kept",
    "calibrate",
    "confidence",
    "form_scores",
    "keep",
    "lift",
    "lift_score",
    "modal_share",
    "modality_scores",
    "target_share",
    "vetoes",
]
