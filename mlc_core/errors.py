"""Everything that can go wrong with a photo or a model, in one place.

    photo bytes ── decode ──> image ── engine ──> probabilities ── labels
                     │
                     └─ PhotoFault: the caller's photo, nobody else's
                          UnsupportedFormat   bytes of no format we take
                          UndecodablePhoto    a format we take, broken
                          PhotoTooLarge       more pixels than the limit

    data set ── training ──> artifact ── load ──> engine
       │                        │
       └─ DataSetError          └─ ArtifactError: missing, altered or inconsistent

The ingress turns a PhotoFault into an HTTP status; the commands turn the others
into an exit code.
"""


class MlcError(Exception):
    """Base of every error this package raises on purpose; its text tells what to do."""


class PhotoFault(MlcError):
    """One photo can't be classified; the text is meant for who sent it."""


class UnsupportedFormat(PhotoFault):
    """The bytes are of no image format that is taken."""


class UndecodablePhoto(PhotoFault):
    """The bytes begin like an image but can't be decoded."""


class PhotoTooLarge(PhotoFault):
    """The photo has more pixels than the limit."""


class ArtifactError(MlcError):
    """A model artifact is missing, altered, or contradicts itself."""


class DataSetError(MlcError):
    """A data set can't be read, or holds too little to train on."""
