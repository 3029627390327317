"""What a class that judges pairs has from a score cache."""

import logging

from transformers import PreTrainedModel

from rank1_hf.decoding.loop import Decoder
from rank1_hf.decoding.plain import PlainDecoder
from rank1_hf.prompts.pair_encoder import PairEncoder
from rank1_hf.reranking.as_loaded import AsLoaded
from rank1_hf.reranking.cached_judgments import CachedJudgments, deciding_facts
from rank1_hf.reranking.call_options import CallOptions
from rank1_hf.reranking.score_cache import ScoreCache

logger = logging.getLogger(__name__)


class CachingMethods:
    """What makes a class that judges pairs find again what it has judged before.

    Attributes:
        model, decoder, pair_encoder: as in `InspectionMethods`.
    """

    model: PreTrainedModel
    decoder: Decoder | PlainDecoder
    pair_encoder: PairEncoder
    _cache: ScoreCache | None
    _weights: str
    _as_loaded: AsLoaded | None

    def cached_judgments(self, options: CallOptions, batch_size: int | None) -> CachedJudgments | None:
        """What the score cache has for a call; None where there is no cache, the call has options of its own, or the
        model is no longer what its weights and its config say.
        """
        if self._cache is None or self._as_loaded is None or options != CallOptions():
            return None
        if not self._as_loaded.holds():
            logger.warning("the score cache is not used: the model has hooks, or was changed since it was loaded")
            return None
        facts = deciding_facts(self._weights, self.model, self.decoder, self.pair_encoder, batch_size=batch_size)
        return CachedJudgments(self._cache, facts, self.pair_encoder, self._as_loaded)
