"""One family of errors: the message names the thing, its value, and what to do."""


class HeadlensError(Exception):
    """Base of every error that headlens raises on purpose."""


class HeadlensWarning(UserWarning):
    """What is done all the same, though it may not be what was meant."""


class ArchitectureError(HeadlensError):
    """A model that the towers cannot be true to, or a name that is not known."""


class CheckpointError(HeadlensError):
    """A weight file that is missing, broken, unsafe, or does not fit the architecture."""


class DownloadError(HeadlensError):
    """Weights that are not on this machine and could not be fetched."""


class DataError(HeadlensError):
    """A data set, a spec or a file that is not what it should be."""


class ShapeError(HeadlensError, ValueError):
    """A tensor or an index that does not fit the model it is given to."""


class HookNameError(ShapeError, KeyError):
    """An activation that a cache does not hold."""

    __str__ = Exception.__str__  # a KeyError's would quote the message


class MetricError(HeadlensError, ValueError):
    """Scores, labels or masks that no metric can be computed from."""


class ConfigError(HeadlensError, ValueError):
    """A setting that does not exist, or that contradicts another."""


class RunError(HeadlensError):
    """A run folder that is missing, damaged, cannot be written, or belongs to another backbone."""


class IdentityError(HeadlensError):
    """Parts that must add up to a whole and do not: a fault of headlens, or numbers that are not finite."""


class MemoryShortError(HeadlensError, MemoryError):
    """Less memory than was needed, on a CPU or a GPU."""
