"""What can go wrong, as the user reads it: one line that says what was expected, what came, and what would work."""


class PixeltrailError(Exception):
    """Base of every error that pixeltrail raises on purpose. ``exit_code`` is what the command line returns for it."""

    exit_code = 2


class InputError(PixeltrailError):
    """A file or value from the user that cannot be used: missing, empty, unreadable, of the wrong size or kind."""


class ShapeError(InputError):
    """An array whose shape, type or range is not the one that the docstring names."""


class UnknownNameError(InputError):
    """A method, protocol, dataset or setting that does not exist; the message names the nearest one that does."""


class WeightsError(InputError):
    """A weights file that is damaged, hostile, or does not fit the network."""


class DiskError(PixeltrailError):
    """Writing failed: the disk is full. Nothing half-written is left behind."""

    exit_code = 3


class DamagedInputError(PixeltrailError):
    """A video that could be read only in part. The work up to the damage is done and kept."""

    exit_code = 4
