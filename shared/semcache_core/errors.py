"""Every error semcache raises on purpose. Its text says what was wrong, the value and the fix."""


class SemcacheError(Exception):
    """Base class: catch this to catch everything semcache raises."""


class SettingsError(SemcacheError):
    """A setting or a constructor argument is unusable."""


class RequestError(SemcacheError):
    """A request or a response handed to the cache has a wrong type or value."""


class ArtefactError(SemcacheError):
    """An artefact directory is incomplete, malformed, or belongs to another model."""


class EmbedderError(SemcacheError):
    """An embedder is missing, failed, or returned something that is not a unit vector."""


class LedgerError(SemcacheError):
    """The ledger cannot be opened, read or written."""


class IndexUnavailableError(SemcacheError):
    """The vector index cannot answer; lookups scan the ledger instead."""


class IndexBusyError(IndexUnavailableError):
    """So many calls to the vector index are under way that this one was not made."""


class IndexStalledError(IndexUnavailableError):
    """The vector index gave no answer in time; it need not be broken."""


class CollectionGoneError(IndexUnavailableError):
    """The collection of one partition is not there any more; the rest of the index may well be."""


class TrainingError(SemcacheError):
    """Training, export or calibration was asked for something that cannot be done."""
