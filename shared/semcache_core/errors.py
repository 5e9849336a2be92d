"""The errors semcache raises; each text names the problem, the value and the fix."""


class SemcacheError(Exception):
    """Base class of all errors of semcache."""


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
    """This process cannot call the vector index now: too many calls, no threads, or its own end."""


class IndexStalledError(IndexUnavailableError):
    """The vector index gave no answer in time; it need not be broken."""


class CollectionGoneError(IndexUnavailableError):
    """The collection of one partition was deleted; the others may still be there."""


class TrainingError(SemcacheError):
    """Training, export or calibration cannot be done as requested."""
